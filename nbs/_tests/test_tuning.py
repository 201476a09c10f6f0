"""A study sees the training span only, survives kill -9 without losing or repeating anything, and its result and its trials reach the next run."""
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mlpipe.config import merge, nest, PipelineConfig
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.runs import Run
from mlpipe.pipeline.stage import TaskId
from mlpipe.pipeline.tune import tune_folder, tune_run, tuned_from

pytest.importorskip("optuna")
RULES = {"tuning.folds": 2, "tuning.startup": 2, "tuning.trials": 4, "training.max_epochs": 2, "training.sequence_length": 4}


@pytest.fixture(scope="module")
def run_dir(finished, tmp_path_factory):
    """A copy of the finished run, to spoil."""
    runs = shutil.copytree(finished.run_dir.parent, tmp_path_factory.mktemp("tuned") / "runs", symlinks=True)
    return runs / finished.run_dir.name


def rules(run_dir): return PipelineConfig.model_validate(merge(Run(run_dir).config.model_dump(mode="json"), nest(RULES)))


def tuned(run_dir):
    found = tune_run(run_dir, "MES", "logistic", rules(run_dir))
    from mlpipe.tuning.study import finished_trials, open_study
    study = open_study(tune_folder(run_dir, "MES", "logistic") / "study.db", rules(run_dir).tuning)
    return found, [(t.state.name, t.params, t.value, t.intermediate_values) for t in finished_trials(study)]


@pytest.fixture(scope="module")
def first(run_dir): return tuned(run_dir)


def test_validation_and_test_do_not_matter(run_dir, first, tmp_path):
    """Every row from validation on is wrecked, in features, bars and targets; the study is the same to the bit."""
    other = shutil.copytree(run_dir, tmp_path / "runs" / "finished", ignore=shutil.ignore_patterns("tune"))
    border = pd.Timestamp(json.loads((other / "MES/split/out/boundaries.json").read_text())["val_start"])
    for name in ("features/out/features.parquet", "clean/out/bars.parquet"):
        frame = pd.read_parquet(other / "MES" / name)
        numbers = [c for c in frame if frame[c].dtype.kind == "f"]
        frame.loc[frame["datetime"] >= border, numbers] = 1e6
        frame.to_parquet(other / "MES" / name)
    for name in ("targets_val.parquet", "targets_test.parquet"): (other / "MES/split/out" / name).unlink()
    assert repr(tuned(other)) == repr(first)


def test_kill_9_and_resume(run_dir, first, tmp_path):
    other = shutil.copytree(run_dir, tmp_path / "runs" / "finished", ignore=shutil.ignore_patterns("tune"))
    sets = [part for k, v in RULES.items() for part in ("--set", f"{k}={v}")]
    command = [sys.executable, "-u", "-c", "from mlpipe.cli import main; main()", "tune", str(other), "--model", "logistic", "--symbols", "MES", *sets]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("MES logistic, trial 0: ")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found, trials = tuned(other)
    assert repr(trials) == repr(first[1])
    assert found["skill"] == first[0]["skill"] and found["trials"] in (4, 5)         # a trial that died in the middle was a look, too
    folder = tune_folder(other, "MES", "logistic")
    assert json.loads((folder / "best.json").read_text())["trials"] == found["trials"] and (folder / "trials.png").stat().st_size > 5000
    again = tune_run(other, "MES", "logistic", rules(other), fresh=True)
    assert again["trials"] == found["trials"] + 4 and again["skill"] == found["skill"]


def test_the_next_run_takes_it(run_dir, first):
    """What was tuned for one network on one symbol reaches its training, and no other task's key."""
    found = tuned_from(run_dir, ["MES", "MGC"])
    found["MES"]["logistic"]["training"]["learning_rate"] = 0.00321
    config = PipelineConfig.model_validate(merge(Run(run_dir).config.model_dump(mode="json"), {"models": ["logistic"], "tuned": found, "execution": {"runs_path": str(run_dir.parent)}}))
    plain = config.model_copy(update={"tuned": {}})
    keys = [{str(i.task): i.reason for i in PipelineRunner(c, run_id="next").plan() if i.action == "run"} for c in (config, plain)]
    assert set(keys[0]) == set(keys[1]) and {"MES/train/logistic", "MGC/train/logistic"} <= set(keys[0]) and not any("/scale" in k for k in keys[0])
    result = PipelineRunner(config, run_id="next").run(before=TaskId("ensemble", "MES"))
    assert result.ok, [o.error for o in result.failed]
    record = Run(result.run_dir).task("MES", "train", "logistic").record
    assert record["key_parts"]["settings"]["training.learning_rate"] == 0.00321
    history = Run(result.run_dir).task("MES", "train", "logistic").frame("history.parquet")
    assert np.isclose(history["learning_rate"].max(), 0.00321, rtol=0.5)
