"""What W&B stored offline is what the run logged; nothing is asked, nothing is sent, nothing lies outside the run."""
import json

import numpy as np
import pandas as pd

from mlpipe.experiments.wandb_tracker import read_offline_run
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import TaskId


def test_the_offline_log_holds_the_training(small, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
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
