"""Paths cover every row once by networks that saw nothing of it, a split that leaks is an error, and nothing beyond the training span or already done is touched."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mlpipe.models.trainer.out_of_fold import fold_rows
from mlpipe.pipeline import cpcv as module
from mlpipe.pipeline.cpcv import cpcv_run, read_span
from mlpipe.pipeline.cpcv_trials import configuration, cpcv_folder
from mlpipe.pipeline.runs import Run
from mlpipe.splits.combinatorial import CombinatorialPurged

QUICK = {"training.max_epochs": 2, "training.sequence_length": 4, "training.learning_rate": 0.01}
FILES = ("cpcv.json", "paths.parquet", "skill.png")


@pytest.fixture(scope="module")
def run_dir(finished, tmp_path_factory):
    """A copy of the finished run, to spoil."""
    runs = shutil.copytree(finished.run_dir.parent, tmp_path_factory.mktemp("cpcv") / "runs", symlinks=True)
    return runs / finished.run_dir.name


@pytest.fixture
def other(run_dir, tmp_path): return shutil.copytree(run_dir, tmp_path / "runs" / "finished", ignore=shutil.ignore_patterns("cpcv"), symlinks=True)


def made(run_dir, **more): return configuration(Run(run_dir).config, "MES", "logistic", {**QUICK, **more})
def cross(run_dir, groups=3, tell=lambda line: None, **more): return cpcv_run(run_dir, "MES", [made(run_dir, **more)], groups, 2, tell)
def written(run_dir): return {name: (cpcv_folder(run_dir, "MES") / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def first(run_dir): return cross(run_dir)


def test_each_path_covers_every_row_once_by_networks_that_saw_nothing_of_it(run_dir, first):
    """From the recorded intervals alone, by clock time, row by row; the embargo in bars on both sides."""
    rows, span = pd.read_parquet(cpcv_folder(run_dir, "MES") / "paths.parquet"), read_span(Run(run_dir), "MES")
    cv, targets = CombinatorialPurged(3, 2, span.embargo), span.targets.set_index("datetime")
    part = next((cpcv_folder(run_dir, "MES") / "parts").glob("*/logistic-*"))
    opens = pd.DatetimeIndex(span.bars["datetime"]).as_unit("ns").asi8
    assert (first["n_splits"], first["n_paths"], first["networks_trained"], first["leaks"]) == (3, 2, 3, 0)
    for path in range(2):
        mine = rows[rows["path"] == path]
        assert mine["datetime"].is_unique and mine["datetime"].is_monotonic_increasing and len(mine) > 0.99 * len(targets)
        assert set(mine["datetime"]) <= set(targets.index)
        assert [set(mine.loc[mine["group"] == g, "split"]) for g in range(3)] == [{cv.paths()[path, g]} for g in range(3)]
    assert set(rows.loc[rows["path"] == 0, "datetime"]) == set(rows.loc[rows["path"] == 1, "datetime"])
    for k in range(3):
        seen = np.concatenate([np.array(s).reshape(-1, 2) for s in json.loads((part / f"{k:03d}.json").read_text())["seen"].values()])
        held = targets.loc[pd.DatetimeIndex(rows.loc[rows["split"] == k, "datetime"])]
        begin, end = (pd.DatetimeIndex(held[c]).as_unit("ns").asi8 for c in ("t0", "horizon_end"))
        for a, b in seen:
            assert not ((begin <= b) & (end >= a)).any()
            after, before = begin > b, end < a
            if after.any(): assert np.searchsorted(opens, begin[after].min()) - np.searchsorted(opens, b) >= span.embargo
            if before.any(): assert np.searchsorted(opens, a) - np.searchsorted(opens, end[before].max()) >= span.embargo


def test_a_split_that_leaks_is_an_error(run_dir, first, other, monkeypatch):
    def unpurged(first_bar, last_bar, groups, embargo, n_test):
        made = fold_rows(first_bar, last_bar, groups, embargo, n_test=n_test)
        rest = [np.setdiff1d(np.arange(len(first_bar)), np.concatenate([r.test, r.held])) for r in made]
        return [replace(r, train=rows) for r, rows in zip(made, rest)]
    monkeypatch.setattr(module, "fold_rows", unpurged)
    with pytest.raises(ValueError, match="held labels must not meet what their network saw, got .* rows that do .*split 1 of 3"): cross(other)
    assert not list(cpcv_folder(other, "MES").glob("parts/*/*/0*.json"))
    monkeypatch.undo()
    shutil.copytree(cpcv_folder(run_dir, "MES"), cpcv_folder(other, "MES"), dirs_exist_ok=True)
    note = sorted(cpcv_folder(other, "MES").glob("parts/*/logistic-*/0*.json"))[1]
    told = json.loads(note.read_text())
    held = pd.read_parquet(note.with_suffix(".parquet"))["datetime"].iloc[50].as_unit("ns").value
    told["seen"]["stop"].append([held, held + 10**9])
    note.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="split 2 of 3"): cross(other)


def test_only_what_is_left_is_trained(run_dir, first, other, monkeypatch):
    trained, whole = [], module.train_split
    def stopped(span, rows, made, where):
        if len(trained) == 1: raise KeyboardInterrupt
        trained.append(where)
        return whole(span, rows, made, where)
    monkeypatch.setattr(module, "train_split", stopped)
    with pytest.raises(KeyboardInterrupt): cross(other)
    monkeypatch.undo()
    told = []
    assert cross(other, tell=told.append) == first and trained == ["MES split 1 of 3"]
    assert [line.split(":")[0] for line in told] == ["MES logistic learning_rate=0.01 max_epochs=2 sequence_length=4, split 2 of 3, groups 1, 3 held",
                                                     "MES logistic learning_rate=0.01 max_epochs=2 sequence_length=4, split 3 of 3, groups 2, 3 held"]
    assert written(other) == written(run_dir)


def test_validation_and_test_do_not_matter(run_dir, first, other):
    """Every row from validation on is wrecked, in features, bars and targets; the result is the same to the bit."""
    border = pd.Timestamp(json.loads((other / "MES/split/out/boundaries.json").read_text())["val_start"])
    for name in ("features/out/features.parquet", "clean/out/bars.parquet"):
        frame = pd.read_parquet(other / "MES" / name)
        frame.loc[frame["datetime"] >= border, [c for c in frame if frame[c].dtype.kind == "f"]] = 1e6
        (other / "MES" / name).unlink()
        frame.to_parquet(other / "MES" / name)
    for name in ("targets_val.parquet", "targets_test.parquet"): (other / "MES/split/out" / name).unlink()
    assert cross(other) == first and written(other) == written(run_dir)


def test_what_can_be_known_is_found_on_every_path(other):
    """Features that lean on the label: every path is far above the prior, and of two configurations the one that learns is chosen and right to be."""
    file, targets = other / "MES/features/out/features.parquet", pd.read_parquet(other / "MES/split/out/targets_train.parquet")
    frame = pd.read_parquet(file)
    names = [c for c in frame if c != "datetime"][:60]
    label = frame[["datetime"]].merge(targets[["datetime", "label"]], how="left")["label"].fillna(0).to_numpy()
    frame[names] = label[:, None] + 2 * np.random.default_rng(0).normal(size=(len(frame), len(names)))
    file.unlink()
    frame.to_parquet(file)
    eager = {"training.learning_rate": 0.01, "training.sequence_length": 1, "training.max_epochs": 6}
    cross(other, **eager)
    found = cross(other, **{**eager, "training.learning_rate": 1e-7})
    deaf, good = found["found"] if "1e-07" in found["found"][0]["name"] else found["found"][::-1]
    assert good["above"] == good["splits_above"] == 1 and good["least"] > 0.05 and good["low"] > 0.05 and abs(deaf["median"]) < 0.01
    assert found["configurations_tried"] == 2 and found["networks_trained"] == 6
    assert [found["choice"][by][k] for by in ("train", "val") for k in ("pbo", "lost")] == [0, 0, 0, 0]


def test_the_command(run_dir, first):
    from mlpipe.cli import app
    sets = [part for k, v in QUICK.items() for part in ("--set", f"{k}={v}")]
    ran = CliRunner().invoke(app, ["cpcv", str(run_dir), "--symbol", "MES", "--models", "logistic", "--groups", "3", *sets])
    assert ran.exit_code == 0, ran.output
    assert "2 of 3 groups held, 2 paths; 0 leaks" in ran.output and "configurations tried: 1, networks trained: 3" in ran.output
    assert "MES: cross-validated 1 configuration: best logistic" in ran.output and "with the 1 that its verdict had not counted" in ran.output and f"report:  {run_dir / 'report.html'}" in ran.output
    for wrong in (["--models", "oracle"], ["--set", "labels.horizon=5"], ["--groups", "2", "--models", "logistic"], ["--symbol", "XYZ"]):
        refused = CliRunner().invoke(app, ["cpcv", str(run_dir), *wrong])
        assert refused.exit_code == 2, refused.output


def test_what_was_looked_at_counts(run_dir, first):
    """In the run that comes after it, by key and by number; the verdict of the run that was looked at stays, and what was tried since stands beside it."""
    from mlpipe.cli import verdicts
    from mlpipe.config import PipelineConfig, merge
    from mlpipe.pipeline.cpcv_trials import restated
    from mlpipe.pipeline.report import write_run_report
    from mlpipe.pipeline.runner import PipelineRunner
    from mlpipe.pipeline.tune import tuned_from
    run, out = Run(run_dir), run_dir / "MES/evaluate/out/verdict.json"
    before, told = out.read_bytes(), restated(run, "MES")
    said = json.loads(before)
    assert told["looked_at"] == told["added"] >= 1, "the run trained none of these"
    assert (told["trials"], told["trials_with"]) == (said["trials"], said["trials"] + told["added"]) and restated(run, "MGC") == {}
    page = write_run_report(run_dir).read_text()
    for text in (f"{told['trials_with']:,} trials", "Cross-validation on the training span"): assert text in page
    assert [line.split(":")[1].strip().split(" ")[0] for line in verdicts(run_dir)][1] == "cross-validated" and out.read_bytes() == before
    tuned = tuned_from(run_dir, ["MES", "MGC"])
    assert tuned == {"MES": {"logistic": {"crossed": told["looked_at"], "run": run.id}}}
    config = PipelineConfig.model_validate(merge(run.config.model_dump(mode="json"), {"tuned": tuned, "execution": {"runs_path": str(run_dir.parent)}}))
    after = PipelineRunner(config, run_id="after")
    assert [str(i.task) for i in after.plan() if i.action == "run"] == ["MES/evaluate"], "the trials are in the key of that evaluate, and in no other"
    after.run(quiet=True)
    found, metrics = (json.loads((after.run_dir / f"MES/evaluate/out/{name}.json").read_text()) for name in ("verdict", "metrics"))
    assert found["trials"] == told["trials_with"] and metrics["trials"]["cpcv"] == told["looked_at"]
    assert found["dsr"] == told["dsr_with"] or np.isclose(found["dsr"], told["dsr_with"])
