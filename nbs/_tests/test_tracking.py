"""What a tracker stored is what was logged, whichever backend; nothing is asked, nothing is sent, nothing lies outside the run."""
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from mlpipe.config import PipelineConfig, TrackingSettings, merge
from mlpipe.experiments.evidence import offline_runs, sync_run
from mlpipe.experiments.tracker import get_tracker
from mlpipe.experiments.wandb_tracker import read_offline_run
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import TaskId

BACKENDS = [pytest.param("wandb"), pytest.param("mlflow", marks=pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra mlflow is not installed"))]
CONFIG = {"labels": {"horizon": 20, "k.up": None, "deep": {"er": {"still": [1, {"a": 2.5}]}}}, "note": "Größe ≥ 1, 日本", "on": True, "empty": {}, "none": [],
          "long": "x" * 6500, "features": list(range(900)), "seed": np.int64(3), "nothing": math.nan, "pools": (8, 4, 1)}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"): monkeypatch.delenv(name, raising=False)


def scenario(backend, folder):
    """One run with everything that is difficult; returns the record of its backend."""
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)))
    (folder / "notes.txt").write_text("Größe")
    tracker = get_tracker(TrackingSettings(backend=backend))
    tracker.start_run("20261128-mes-lstm", group="20261128", name="MES lstm, größer", job_type="train", tags=("MES", "lstm", "日本"), config=CONFIG, folder=folder)
    tracker.log({"loss": 1 / 3, "verlust/größe ≥ 1": 0.1 + 0.2, "val": {"skill": np.float32(0.1), "by class": {"up": 1}}}, step=0)
    tracker.log({"loss": math.nan, "peak": math.inf, "low": -math.inf}, step=1)
    tracker.log({"ece": 5e-324}, step=1)                              # the same row
    tracker.log({"loss": 1.7e308}, step=7)
    tracker.log({"loss": -0.0, "a.b": 2**53})                         # the next row
    tracker.summary({"val/skill": 0.0125, "verdict": "not distinguishable from luck", "best": {"epoch": 3}, "ece": math.nan})
    tracker.artifact({"weights.bin": folder / "weights.bin", "pages/größe.txt": folder / "notes.txt"}, "MES-lstm", "model", aliases=("best",))
    tracker.artifact(folder / "notes.txt", "notes", "page")
    tracker.artifact(folder / "weights.bin", "notes", "page")         # a second version of it
    tracker.finish()
    tracker.finish()
    return tracker.read_back()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_reads_back_as_it_was_logged(backend, tmp_path):
    before = set(tmp_path.parent.iterdir())
    record = scenario(backend, tmp_path / "run")
    rows = {row["step"]: row for row in record.history}
    assert list(rows) == [0, 1, 7, 8]
    assert rows[0] == {"step": 0, "loss": 1 / 3, "verlust/größe ≥ 1": 0.1 + 0.2, "val/skill": float(np.float32(0.1)), "val/by class/up": 1}
    assert math.isnan(rows[1].pop("loss")) and rows[1] == {"step": 1, "peak": math.inf, "low": -math.inf, "ece": 5e-324}
    assert rows[7]["loss"] == 1.7e308 and rows[8] == {"step": 8, "loss": 0.0, "a.b": 2**53}
    assert record.config == {**CONFIG, "seed": 3, "nothing": None, "pools": [8, 4, 1]}
    assert {k: record.summary[k] for k in ("val/skill", "verdict", "best", "ece", "peak")} == \
        {"val/skill": 0.0125, "verdict": "not distinguishable from luck", "best": {"epoch": 3}, "ece": None, "peak": math.inf}
    assert (record.run_id, record.project, record.group, record.name, record.job_type) == ("20261128-mes-lstm", "mlpipe", "20261128", "MES lstm, größer", "train")
    assert record.tags == ("MES", "lstm", "日本") and record.exit_code == 0
    assert [(a["name"], a["files"]) for a in record.artifacts] == [("MES-lstm", {"pages/größe.txt": 7, "weights.bin": 256}), ("notes", {"notes.txt": 7}), ("notes", {"weights.bin": 256})]
    assert record.artifacts[0]["aliases"] == ["best", "latest"] and set(tmp_path.parent.iterdir()) == before


@pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra mlflow is not installed")
def test_both_backends_give_the_same_record(tmp_path):
    told = lambda value: {k: told(v) for k, v in value.items()} if isinstance(value, dict) else [told(v) for v in value] if isinstance(value, list) else \
        "NaN" if value != value else value                            # NaN is not equal to itself
    wandb, mlflow = (told(asdict(scenario(backend, tmp_path / backend))) for backend in ("wandb", "mlflow"))
    assert wandb == mlflow and "NaN" in str(wandb)


CRASH = """
import os, sys, time
from mlpipe.config import TrackingSettings
from mlpipe.experiments.tracker import get_tracker
tracker = get_tracker(TrackingSettings(backend=sys.argv[1]))
tracker.start_run("killed", folder=sys.argv[2], config={"seed": 1})
for step in range(100_000):
    tracker.log({"loss": step / 7, "skill": step / 3}, step=step)
    if step == 3000: print("on", flush=True)
    time.sleep(0.0003)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_kill_9_leaves_a_prefix(backend, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", CRASH, backend, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    read = lambda: read_run(backend, tmp_path)
    record = read()
    deadline = time.monotonic() + 20
    while len(record.history) < 1000 and time.monotonic() < deadline: record = read()     # W&B's helper process writes what it was told
    assert len(record.history) >= 1000 and record.exit_code is None and record.config == {"seed": 1}
    assert record.history == [{"step": s, "loss": s / 7, "skill": s / 3} for s in range(len(record.history))]


def read_run(backend, folder):
    if backend == "wandb": return read_offline_run(folder)
    from mlpipe.experiments.mlflow_tracker import read_mlflow_run
    return read_mlflow_run(folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hundred_thousand_points(backend, tmp_path):
    tracker = get_tracker(TrackingSettings(backend=backend))
    tracker.start_run("long", folder=tmp_path)
    for step in range(1000): tracker.log({f"m{k}": step / 7 + k for k in range(100)}, step=step)
    tracker.finish("failed")
    record = tracker.read_back()
    assert len(record.history) == 1000 and record.exit_code == 1
    assert all(row == {"step": s, **{f"m{k}": s / 7 + k for k in range(100)}} for s, row in enumerate(record.history))


def test_the_offline_log_holds_the_training(small, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runner = PipelineRunner(small(**{"tracking.backend": "wandb"}), run_id="tracked")
    result = runner.run(before=TaskId("ensemble", "MES"))
    assert result.ok, [o.error for o in result.failed]
    folder = runner.run_dir / "MES/train/lstm"
    stored, logged = read_offline_run(folder / "work"), pd.read_parquet(folder / "out/history.parquet")
    assert (stored.group, stored.job_type, stored.tags, stored.exit_code) == ("tracked", "train", ("MES", "lstm"), 0)
    assert np.array_equal([v for _, v in stored.metric("val_loss")], logged["val_loss"])
    assert np.array_equal([v for _, v in stored.metric("train_loss")], logged["train_loss"].dropna())
    files = {name for a in stored.artifacts for name in a["files"]}
    assert {"weights.safetensors", "model.json"} <= files
    kept = read_offline_run(runner.run_dir / "tracking")
    assert kept.group == "tracked" and "manifest" in {a["kind"] for a in kept.artifacts}
    assert json.loads((runner.run_dir / "manifest.json").read_text())["status"] == "ok"
    assert not [p for p in tmp_path.rglob("*wandb*") if runner.run_dir not in p.parents], "tracker files outside of the run"
    sent = []
    def server(log, seconds): sent.append(log); log.with_name(f"{log.name}.synced").touch(); return ""
    with pytest.raises(ValueError, match="WANDB_API_KEY must be set"): sync_run(runner.run_dir, environment={})
    for _ in range(2): sync_run(runner.run_dir, environment={"WANDB_API_KEY": "x"}, upload=server)
    assert len(sent) == len(set(sent)) == 2 and {r.state for r in offline_runs(runner.run_dir)} == {"uploaded"}


@pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra mlflow is not installed")
def test_mlflow_through_spawned_workers(finished, monkeypatch, tmp_path):
    """Two trainings at once, each with a file of its own; one file for the run when it ends. Their data are reused from a finished run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.run_dir.parent, tmp_path / "runs", symlinks=True)
    values = merge(finished.config.model_dump(mode="json"), {"tracking": {"backend": "mlflow"}, "models": ["logistic", "nlinear"], "symbols": ["MES", "MGC"],
                                                             "execution": {"executor": "process", "runs_path": str(tmp_path / "runs")}})
    runner = PipelineRunner(PipelineConfig.model_validate(values), run_id="tracked")
    result = runner.run(before=TaskId("ensemble", "MES"))
    assert result.ok, [o.error for o in result.failed]
    from mlpipe.experiments.mlflow_tracker import database, open_client, read_mlflow_run
    for model in ("logistic", "nlinear"):
        folder = runner.run_dir / "MES/train" / model
        stored, logged = read_mlflow_run(folder / "work"), pd.read_parquet(folder / "out/history.parquet")
        assert np.array_equal([v for _, v in stored.metric("val_loss")], logged["val_loss"]) and stored.exit_code == 0
    client = open_client(database(runner.run_dir / "tracking"))
    joined = client.search_runs([client.get_experiment_by_name("mlpipe").experiment_id])
    assert {r.info.run_name for r in joined} >= {"MES-logistic", "MES-nlinear", "artifacts"}
    assert not [p for p in tmp_path.rglob("*mlflow*") if runner.run_dir not in p.parents], "tracker files outside of the run"
