"""The whole job: reuse, reruns, resume after kill -9, the same bytes by every way."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from mlpipe.page import outside_files
from mlpipe.pipeline.manifest import ArtifactManifest, lineage, verify
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import TaskId


def statuses(result): return {str(t): o.status for t, o in result.outcomes.items()}


def artifacts(run_dir): return {a["path"]: a["sha256"] for a in ArtifactManifest.load(run_dir).artifacts()}


def test_every_stage_leaves_its_artifacts(finished):
    manifest = ArtifactManifest.load(finished.run_dir)
    assert len(manifest.records) == 26
    assert verify(manifest) == []
    assert manifest.test_reads() == {"MES": 1, "MGC": 1}, "the test span is read once per symbol, by evaluate"
    assert [r["stage"] for r in manifest.records if any("targets_test" in name for name in r["reads"])] == ["evaluate", "evaluate"]
    assert lineage(manifest, "evaluate", "MES")[-1].startswith("MES/ingest") or any(x.startswith("MES/ingest") for x in lineage(manifest, "evaluate", "MES"))
    assert (finished.run_dir / "report.html").stat().st_size > 10_000


def test_a_second_run_reuses_everything(finished):
    again = PipelineRunner(finished.config, run_id="again")
    assert {i.action for i in again.plan()} == {"reuse"}
    result = again.run()
    assert set(statuses(result).values()) == {"reused"}
    assert artifacts(again.run_dir) == artifacts(finished.run_dir)


def test_a_setting_reruns_exactly_its_dependents(finished):
    from mlpipe.config import PipelineConfig, merge
    values = merge(finished.config.model_dump(), {"ensemble": {"method": "hard"}})
    result = PipelineRunner(PipelineConfig.model_validate(values), run_id="hard").run()
    ran = {str(t) for t, o in result.outcomes.items() if o.status == "ran"}
    assert ran == {f"{s}/{stage}" for s in ("MES", "MGC") for stage in ("ensemble", "evaluate")}


def test_horizon_reruns_labels_and_nothing_before(finished):
    from mlpipe.config import PipelineConfig, merge
    values = merge(finished.config.model_dump(), {"labels": {"horizon": 5}})
    items = {str(i.task): i for i in PipelineRunner(PipelineConfig.model_validate(values), run_id="h5").plan()}
    assert all(items[f"MES/{s}"].action == "reuse" for s in ("ingest", "clean", "features"))
    assert items["MES/label"].action == "run" and "labels.horizon: 20 -> 5" in items["MES/label"].reason


def test_features_hold_no_outcome(finished):
    out = finished.run_dir / "MES"
    allowed = [c["name"] for c in json.loads((out / "features/out/catalogue.json").read_text())]
    frame = pd.read_parquet(out / "features/out/features.parquet")
    assert list(frame.columns) == ["datetime", *allowed] and len(allowed) >= 30
    outcomes = set(pd.read_parquet(out / "finalize/out/labels.parquet").columns) - {"datetime"}
    for file in (out / "scale/out").glob("*_scaled.parquet"):
        columns = list(pd.read_parquet(file).columns)
        assert columns == ["datetime", "split", *allowed]
        assert not outcomes & set(columns)


def test_splits_do_not_meet(finished):
    out = finished.run_dir / "MES/split/out"
    train, val, test = (pd.read_parquet(out / f"targets_{s}.parquet") for s in ("train", "val", "test"))
    assert train.horizon_end.max() <= val.t0.min() and val.horizon_end.max() <= test.t0.min()
    for frame in (train, val, test):
        assert frame.label.isin((-1, 0, 1)).all() and (frame.t0 >= frame.datetime).all() and (frame.t1 > frame.t0).all()


def test_entry_is_never_the_signal_bar(finished):
    labels = pd.read_parquet(finished.run_dir / "MES/finalize/out/labels.parquet")
    bars = pd.read_parquet(finished.run_dir / "MES/clean/out/bars.parquet")
    valid = labels.label != -99
    assert (labels.t0[valid] >= bars.ts_close[valid]).all()


def test_bars_are_their_minutes(finished):
    out = finished.run_dir / "MES/clean/out"
    bars, minutes = pd.read_parquet(out / "bars.parquet"), pd.read_parquet(out / "minutes.parquet")
    assert bars.n_minutes.min() >= 1 and bars.n_minutes.sum() == len(minutes)
    assert np.isclose(bars.volume.sum(), minutes.volume.sum())
    assert (bars.ts_close > bars.datetime).all() and bars.datetime.is_monotonic_increasing


@pytest.mark.slow
def test_notebooks_and_functions_give_the_same_bytes(finished, tmp_path):
    """Serial without notebooks against two processes with them."""
    from mlpipe.config import PipelineConfig, merge
    values = merge(finished.config.model_dump(), {"execution": {"runs_path": str(tmp_path / "runs"), "reports": True, "executor": "process"}})
    runner = PipelineRunner(PipelineConfig.model_validate(values), run_id="notebooks")
    result = runner.run()
    assert set(statuses(result).values()) == {"ran"}, [f"{o.task}: {o.error}" for o in result.failed]
    assert artifacts(runner.run_dir) == artifacts(finished.run_dir)
    for task in runner.graph:
        folder = runner.run_dir / task.folder()
        assert (folder / "executed.ipynb").exists()
        page = (folder / "executed.html").read_text()
        assert outside_files(page) == []
        assert "&lt;Figure size" not in page, f"{task} shows a figure as text"
    assert all("data:image/png" in (runner.run_dir / "MES" / stage / "executed.html").read_text() for stage in ("label", "features", "train/lstm", "evaluate"))


def test_papermill_by_hand(finished, tmp_path):
    from mlpipe.pipeline.execute import package_dir
    done = subprocess.run([sys.executable, "-m", "papermill", "--engine", "mlpipe", "--no-progress-bar", str(package_dir() / "notebooks/label.ipynb"),
                           str(tmp_path / "out.ipynb"), "-p", "symbol", "MGC", "-p", "run_dir", str(finished.run_dir)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    text = (tmp_path / "out.ipynb").read_text()
    assert "MGC" in text and "hypothesis" not in text
    wrong = subprocess.run([sys.executable, "-m", "papermill", "--engine", "mlpipe", "--no-progress-bar", str(package_dir() / "notebooks/label.ipynb"),
                            str(tmp_path / "out.ipynb"), "-p", "symbl", "MGC"], capture_output=True, text=True)
    assert wrong.returncode != 0 and "symbl" in wrong.stderr


def test_kill_and_resume(finished, tmp_path):
    """kill -9 of the run while it trains; resume runs only the rest; artifacts as in an undisturbed run."""
    config = finished.config.model_copy(update={"execution": finished.config.execution.model_copy(
        update={"runs_path": str(tmp_path / "runs"), "executor": "process"})})
    code = ("import sys; from mlpipe.config import PipelineConfig; from mlpipe.pipeline.runner import PipelineRunner\n"
            "if __name__ == '__main__': PipelineRunner(PipelineConfig.model_validate_json(sys.argv[1]), run_id='killed').run()")
    process = subprocess.Popen([sys.executable, "-c", code, config.model_dump_json()], start_new_session=True)
    events = tmp_path / "runs/killed/events.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (events.exists() and '"event": "progress", "task": "MES/train' in events.read_text()): time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.5)
    before = {r["stage"] + r["symbol"]: r["finished"] for r in ArtifactManifest.load(tmp_path / "runs/killed").records}
    assert "ingestMES" in before and "trainMES" not in before
    runner = PipelineRunner(run_dir=tmp_path / "runs/killed")
    result = runner.run(executor="serial")
    assert result.ok and result.count("kept") == len(before) and result.count("ran") == 26 - len(before)
    assert artifacts(runner.run_dir) == artifacts(finished.run_dir)
    assert not list(runner.run_dir.rglob(".making-*"))


def test_a_broken_stage_blocks_only_what_follows(small, monkeypatch):
    from mlpipe.pipeline import stage as stages
    runner = PipelineRunner(small(symbols="MES,MGC"), run_id="broken")
    real = stages.get_stage("label")
    def fail(task):
        if task.symbol == "MES": raise RuntimeError("disk on fire")
        return real.function(task)
    monkeypatch.setitem(stages.STAGES, "label", type(real)(**{**real.__dict__, "function": fail}))
    result = runner.run(before=TaskId("split", "MES"))
    state = statuses(result)
    assert state["MES/label"] == "failed" and state["MES/finalize"] == "blocked" and state["MES/features"] == "ran"
    assert not result.failed[0].bad_input and "disk on fire" in result.failed[0].error
    assert not (runner.run_dir / "MES/label/out").exists() and not (runner.run_dir / "MES/label/record.json").exists()


def test_a_trained_network_is_traced_to_the_raw_bars(finished):
    from mlpipe.pipeline.runs import Run
    run = Run(finished.run_dir)
    artifact = run.model("MES", "lstm")
    manifest = ArtifactManifest.load(finished.run_dir)
    hashes = {f["name"]: f["sha256"] for stage, model in (("scale", ""), ("train", "lstm")) for f in manifest.record(stage, "MES", model)["outputs"]}
    assert artifact.weights == hashes["weights.safetensors"] and artifact.scaler == hashes["scaler.json"]
    assert list(artifact.features) == [f["name"] for f in run.task("MES", "features").json("catalogue.json")]
    assert any(line.startswith("MES/ingest ") for line in artifact.lineage) and artifact.config["name"] == "lstm"
