"""Six leak tests of ensembles, each on markets where nothing can be known, and each with the leak that it is there to catch.

The bases are cheap: a logistic regression on windows' last row, and one with a memory, which knows the labels it was trained on and those of rows beside them.
"""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conftest import small_config
from mlpipe.ensemble import METHODS, HoldOutPredictions, InSamplePredictions, OutOfFoldPredictions, StackingEnsemble, fit_ensemble
from mlpipe.ensemble.audit import another_day, audit_ensembles, audit_symbol, check_intervals, check_optimism, check_oracle, check_time_travel, cross_fit, gain_of, learn_by, optimism_table, oracle
from mlpipe.labels.barriers import atr, triple_barrier
from mlpipe.models.predictions import PRIORS, Fold, prediction_frame, probabilities
from mlpipe.splits.combinatorial import CombinatorialPurged

GATE = 0.03          # nats: what a claim on a market without an edge may reach
LEARNING = ("weighted", "greedy", "stacking", "blending")
DAY = pd.Timedelta(days=1)


def random_walk(seed, n=3000):
    """Features, targets (triple barrier, up to 20 bars) and times of a driftless walk with sessions of 75 five-minute bars."""
    r = np.random.default_rng(seed)
    days = pd.bdate_range("2024-01-02", periods=n // 75 + 1, tz="UTC")
    times = pd.DatetimeIndex(np.concatenate([pd.date_range(d + pd.Timedelta("14h30min"), periods=75, freq="5min") for d in days])[:n]).as_unit("ns")
    step = r.normal(size=(n, 4)) * 0.25
    path = 1000 * 4 + np.cumsum(step.sum(axis=1))
    before = path - step.sum(axis=1)
    inner = before[:, None] + np.cumsum(step, axis=1)
    bars = pd.DataFrame({"datetime": times, "ts_close": times + pd.Timedelta("5min"), "open": before, "high": np.maximum(inner.max(axis=1), before), "low": np.minimum(inner.min(axis=1), before),
                         "close": path, "volume": 100})
    labels = triple_barrier(bars, atr(bars, 14), 2.0, 2.0, 20, tick=0.25)
    close = bars["close"]
    features = pd.DataFrame({f"move_{k}": close.diff(k) / atr(bars, 14) for k in (1, 3, 6, 12, 24, 48)}).assign(clock=np.arange(n) % 75 / 75, level=close)
    legal = (labels["label"] != -99).to_numpy() & features.notna().all(axis=1).to_numpy()
    return features[legal].to_numpy(), labels.loc[legal, ["datetime", "label", "t0", "t1", "horizon_end"]].reset_index(drop=True)


def logistic(x, y, xt):
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression(C=0.1, max_iter=200).fit(x[:, :7], y).predict_proba(xt[:, :7])


def remembers(x, y, xt):
    """Nearest neighbours by the level of prices and the moves of the last hours: in sample it knows the answer, and beside a training row nearly."""
    from sklearn.neighbors import KNeighborsClassifier
    a, b = x[:, [4, 5, 7]], xt[:, [4, 5, 7]]
    return 0.94 * KNeighborsClassifier(8, weights="distance").fit(a, y).predict_proba(b) + 0.02


BASES = {"logistic": logistic, "remembers": remembers}


def folds_of(targets, kind, k=4):
    """(training rows, test rows) of each fold: purged as it should be, contiguous without a purge, shuffled, or none at all (in sample)."""
    n = len(targets)
    if kind == "purged": return list(CombinatorialPurged(k, 1, DAY).split(targets["t0"], targets["horizon_end"]))
    if kind == "in sample": return [(np.arange(n), np.arange(n))]
    fold = np.random.default_rng(0).permutation(n) % k if kind == "shuffled" else np.arange(n) * k // n
    return [(np.flatnonzero(fold != j), np.flatnonzero(fold == j)) for j in range(k)]


def level_one(x, targets, kind, bases=BASES):
    """What the bases say of each row by the folds of `kind`: per base a frame with label intervals and fold; and the folds' honest records."""
    y, out, records = targets["label"].to_numpy() + 1, {}, []
    begin, end = (targets[c].astype("int64").to_numpy() for c in ("t0", "horizon_end"))
    folds = folds_of(targets, kind)
    records = tuple(Fold.of(begin[train], end[train]) for train, _ in folds)
    for name, base in bases.items():
        p, fold, prior = np.empty((len(y), 3)), np.empty(len(y), int), np.empty((len(y), 3))
        for j, (train, test) in enumerate(folds):
            p[test], fold[test] = base(x[train], y[train], x[test]), j
            prior[test] = np.bincount(y[train], minlength=3) / len(train)
        out[name] = prediction_frame(targets["datetime"], p).assign(t0=targets["t0"], t1=targets["horizon_end"], fold=fold, **dict(zip(PRIORS, prior.T)))
    return out, records


class Unproven(OutOfFoldPredictions):
    """The planted leak: predictions with the right type's name and no proof."""
    def check(self): pass


def claims(level, records, targets, method):
    """Out-of-fold skill that the ensemble claims, whatever the folds were."""
    trusted = {m: Unproven(f, records, model=m) for m, f in level.items()}
    said = cross_fit(method, trusted, targets) if len(records) > 1 else fit_ensemble(method, trusted, targets).predict(level)
    one = next(iter(level.values()))
    prior = prediction_frame(one["datetime"], one[list(PRIORS)].to_numpy())
    return gain_of(said, targets, prior).skill


@pytest.fixture(scope="module")
def walks():
    return [random_walk(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def honest(walks):
    """Level-1 predictions of the first walk, proven."""
    x, targets = walks[0]
    level, records = level_one(x, targets, "purged")
    return {m: OutOfFoldPredictions(f, records, model=m) for m, f in level.items()}, targets


@pytest.fixture(scope="module")
def purged(walks):
    """Level-1 predictions and records of every walk by purged folds."""
    return [level_one(x, t, "purged") for x, t in walks]


# 1. Null market

@pytest.mark.parametrize("method", LEARNING)
def test_null_market_claims_nothing(walks, purged, method):
    skills = [claims(*level, t, method) for level, (_, t) in zip(purged, walks)]
    assert np.median(skills) <= 0.01 and max(skills) <= GATE, skills


@pytest.mark.parametrize("kind", ["in sample", "shuffled"])
def test_null_market_catches_leaking_folds(walks, kind):
    skills = [claims(*level_one(x, t, kind), t, "stacking") for x, t in walks[:2]]
    assert min(skills) > 3 * GATE, (kind, skills)                      # the machinery makes this up: nothing can be known here


# 2. Permuted labels

def test_permuted_labels_claim_nothing(walks):
    for x, t in walks[:2]:
        world = another_day(t, seed=1, permute=True)
        rows = t["datetime"].isin(world["datetime"]).to_numpy()
        assert claims(*level_one(x[rows], world, "purged"), world, "stacking") <= GATE
        assert claims(*level_one(x[rows], world, "in sample"), world, "stacking") > 3 * GATE


# 3. Intervals

@pytest.mark.parametrize("kind", ["in sample", "shuffled", "unpurged"])
def test_recorded_intervals_catch_what_skill_cannot(walks, kind):
    """Unpurged contiguous folds leak too little to be seen in the skill; the audit sees each of their rows."""
    x, targets = walks[0]
    level, records = level_one(x, targets, kind, {"logistic": logistic})
    unproven = {"logistic": Unproven(level["logistic"], records)}
    leaks = check_intervals(unproven)[0]
    assert leaks["status"] == "fail" and leaks["value"] >= {"in sample": len(targets), "shuffled": len(targets), "unpurged": 20}[kind]
    with pytest.raises(ValueError, match="must be out of fold"):
        OutOfFoldPredictions(level["logistic"], records)


def test_early_stopping_inside_the_fold_is_seen(honest):
    one = honest[0]["logistic"]
    inside = one.frame[one.frame["fold"] == 2].iloc[-30:]
    stop = Fold.of(*(inside[c].astype("int64").to_numpy() for c in ("t0", "t1")), use="stop").spans
    folds = tuple(Fold({**f.spans, **stop}) if k == 2 else f for k, f in enumerate(one.folds))
    with pytest.raises(ValueError, match="must be out of fold, got"):
        replace(one, folds=folds)


def test_an_embargo_that_is_promised_is_kept(honest):
    one = honest[0]["logistic"]
    with pytest.raises(ValueError, match="embargo 3 days"):
        replace(one, embargo=3 * DAY)


def test_in_sample_predictions_are_another_type(honest):
    predictions, targets = honest
    for given in (InSamplePredictions(predictions["logistic"].frame), predictions["logistic"].frame):
        for method in LEARNING:
            with pytest.raises(TypeError, match="must be"):
                fit_ensemble(method, {"logistic": given}, targets)
    with pytest.raises(TypeError, match="must be OutOfFoldPredictions, got HoldOutPredictions"):
        StackingEnsemble().fit({"logistic": HoldOutPredictions.of(predictions["logistic"])}, targets)


# 4. Time travel

def test_time_travel(honest, walks):
    predictions, targets = honest
    later_x, later = walks[1]
    shift = targets["datetime"].max().normalize() + 7 * DAY - later["datetime"].min().normalize()
    later = later.assign(**{c: later[c] + shift for c in ("datetime", "t0", "t1", "horizon_end")})
    frames = {m: prediction_frame(later["datetime"], base(walks[0][0], targets["label"].to_numpy() + 1, later_x)) for m, base in BASES.items()}
    known = pd.concat([targets, later], ignore_index=True)
    assert {check_time_travel(m, learn_by(m), predictions, known, frames)["status"] for m in METHODS} == {"pass"}

    def on_validation(level, t, f):                                    # the planted leak: weights from rows that are judged later
        rows = t[t["datetime"].isin(next(iter(f.values()))["datetime"])]
        held = {m: HoldOutPredictions(frame.merge(rows[["datetime", "t0", "t1"]], on="datetime"), rows["t0"].min() - DAY) for m, frame in f.items()}
        fitted = fit_ensemble("weighted", held, rows)
        return fitted.state(), fitted.predict(f)
    assert check_time_travel("on validation", on_validation, predictions, known, frames)["status"] == "fail"


def test_time_travel_of_the_bases(walks):
    """Labels of a block are turned over: what was said of that block does not move, everything else does."""
    x, targets = walks[0]
    before, _ = level_one(x, targets, "purged")
    block = (before["logistic"]["fold"] == 1).to_numpy()
    after, _ = level_one(x, targets.assign(label=np.where(block, -targets["label"], targets["label"])), "purged")
    for m in BASES:
        assert (probabilities(before[m])[block] == probabilities(after[m])[block]).all()
        assert (probabilities(before[m])[~block] != probabilities(after[m])[~block]).any(axis=1).mean() > 0.1


# 5. Planted oracle

def test_planted_oracle(honest, walks):
    predictions, targets = honest
    assert {line["status"] for line in check_oracle(predictions, targets)} == {"pass"}
    x, _ = walks[0]
    told = np.column_stack([targets["label"].to_numpy() + 0.5 * np.random.default_rng(0).normal(size=len(x)), x])      # the outcome as a feature
    level, records = level_one(told, targets, "purged", {"logistic": logistic})
    caught = check_oracle({"logistic": OutOfFoldPredictions(level["logistic"], records)}, targets)
    assert caught[0]["status"] == "fail", caught
    assert check_oracle({"logistic": oracle(predictions["logistic"], targets)}, targets)[0]["status"] == "fail"


def test_a_row_in_two_folds(honest):
    one = honest[0]["logistic"]
    row = one.frame[one.frame["fold"] == 0].iloc[100:101]
    for seconds in (0, 1):                                             # as it is, and disguised by another time
        twice = pd.concat([one.frame, row.assign(fold=1, datetime=row["datetime"] + pd.Timedelta(seconds=seconds))], ignore_index=True)
        with pytest.raises(ValueError, match="once|out of fold"):
            replace(one, frame=twice)


# 6. Optimism

def test_optimism(walks):
    x, targets = walks[0]
    cut = len(targets) * 2 // 3
    early, late = targets[:cut], targets[cut + 60:].reset_index(drop=True)
    y = targets["label"].to_numpy() + 1
    frames = {m: prediction_frame(late["datetime"], base(x[:cut], y[:cut], x[cut + 60:])) for m, base in BASES.items()}
    prior = prediction_frame(targets["datetime"], np.tile(np.bincount(y[:cut], minlength=3) / cut, (len(y), 1)))
    found = {}
    for kind in ("purged", "shuffled"):
        level, records = level_one(x[:cut], early, kind)
        found[kind] = optimism_table({m: Unproven(f, records) for m, f in level.items()}, early, frames, late, prior, ("stacking",)).set_index("name")
    assert found["purged"].loc["stacking", "low"] <= 0.01
    assert {line["status"] for line in check_optimism(found["shuffled"].reset_index()) if line["subject"] == "stacking"} == {"warn"}
    assert found["shuffled"].loc["stacking", "low"] > GATE, found["shuffled"]


# On a run

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from mlpipe.pipeline.runner import PipelineRunner
    from mlpipe.pipeline.runs import Run
    config = small_config(tmp_path_factory.mktemp("ensembles") / "runs", models="logistic,nlinear", **{
        "ensemble.method": "stacking", "ensemble.methods": "voting,geometric,weighted,greedy,blending", "ensemble.folds": 3, "features.exclude": "regime,distribution", "search.enabled": False})
    result = PipelineRunner(config, run_id="ensembles").run()
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    return Run(result.run_dir)


def test_every_method_of_a_run(run):
    out = run.folder / "MES/ensemble/out"
    for method in (*run.config.ensemble.every, "ensemble"):
        for span in ("val", "test"): probabilities(pd.read_parquet(out / f"{method}_{span}_preds.parquet"))
    assert (out / "ensemble_test_preds.parquet").read_bytes() == (out / "stacking_test_preds.parquet").read_bytes()
    state = json.loads((out / "ensemble.json").read_text())
    assert state["judged"] == "stacking" and set(state["methods"]) == set(run.config.ensemble.every)
    limit = run.frame("MES", "split", "targets_val.parquet")["t0"].min()
    for s in state["methods"].values(): assert s["last_t1_ns"] is None or pd.Timestamp(s["last_t1_ns"], tz="UTC") < limit
    assert not any("targets_test" in r for r in run.manifest.record("ensemble", "MES")["reads"])


def test_lineage_holds_the_manifest_s_hashes(run):
    known = {a["path"].rsplit("/", 1)[1] + "@" + a["task"]: a["sha256"] for a in run.manifest.artifacts()}
    found = json.loads((run.folder / "MES/ensemble/out/lineage.json").read_text())
    for name, sha in found["features"].items(): assert known[f"{name}@MES/scale"] == sha
    for m, facts in found["models"].items():
        assert known[f"weights.safetensors@MES/train/{m}"] == facts["weights"]
        for name, sha in facts["predictions"].items(): assert known[f"{name}@MES/train/{m}"] == sha
    for method, facts in found["ensembles"].items():
        for name, sha in facts["predictions"].items(): assert known[f"{name}@MES/ensemble"] == sha


def test_audit_of_a_run(run):
    report = audit_ensembles(run, seeds=1)
    assert set(report["test"]) == {"intervals", "null market", "permuted labels", "time travel", "planted oracle", "optimism"}
    assert not (report["status"] == "fail").any(), report[report["status"] == "fail"].to_string()


def test_audit_of_a_run_sees_a_leak(run):
    """The run's files with a member that was made in sample, recorded as it was, and one that was told a third of the labels."""
    read = lambda stage, name, m="": run.frame("MES", stage, name, m)
    facts = run.task("MES", "train", "logistic").json("logistic_oof.json")
    frame, targets = read("train", "logistic_oof_preds.parquet", "logistic"), {s: read("split", f"targets_{s}.parquet") for s in ("train", "val")}
    with pytest.raises(ValueError, match="must be out of fold"):
        OutOfFoldPredictions.of(frame, {**facts, "folds": facts["folds"][1:] + facts["folds"][:1]})
    told = {"logistic": oracle(OutOfFoldPredictions.of(frame, facts), targets["train"])}
    report = audit_symbol(told, targets, {"logistic": read("train", "logistic_val_preds.parquet", "logistic")}, read("train", "prior.parquet", "logistic"), ("stacking",), seeds=1)
    caught = report[report["status"] != "pass"]
    assert {"planted oracle", "optimism"} <= set(caught["test"])
