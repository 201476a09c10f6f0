"""Planted leaks are caught and their honest twins are not; features of one's own join a run, and are held to the same proofs."""
import shutil

import numpy as np
import pandas as pd
import pytest

from conftest import small_config
from mlpipe.data.bars import resample
from mlpipe.data.synthetic import synthetic_market
from mlpipe.features.engineer import FeatureEngineer
from mlpipe.features.registry import REGISTRY
from mlpipe.features.view import random_bars
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import TaskId, load_stages
from mlpipe.validation.leakcheck import leakcheck, leakcheck_run
from mlpipe.validation.planted import planted_leaks

LEAKS = planted_leaks(random_bars(days=5, seed=2))


@pytest.fixture(scope="module")
def market():
    bars, other = random_bars(days=7), random_bars(days=7, seed=1, price=2000.0)
    return bars.assign(segment=(bars.index >= 900).astype(np.int32)), {"MGC": other.assign(datetime=other["datetime"] + pd.Timedelta(minutes=2))}


@pytest.mark.parametrize("leak", LEAKS, ids=[p.name for p in LEAKS])
def test_a_planted_leak_is_caught_and_its_twin_passes(leak, market):
    bars, others = market
    found = leakcheck(bars, others, leak.leak, cuts=20)
    assert leak.proof in set(found.violations["proof"]), found.markdown()
    assert set(found.violations["feature"]) == {"x"} and (found.proofs.query("proof == 'truncation'")["times"] == 20).all()
    twin = leakcheck(bars, others, leak.honest, cuts=8)
    assert twin.ok, twin.markdown()


@pytest.mark.parametrize("minutes", [5, 15])
def test_every_registered_feature_on_the_embedded_market(minutes):
    made = synthetic_market(["MES", "MGC"], "2024-02-26", 45, seed=3)                # the clocks change on 10 March
    bars = {s: resample(b, minutes, c) for (s, b), c in zip(made.items(), ("CME_Equity", "CME_Metals"))}
    own = bars["MES"].assign(segment=(bars["MES"].index >= len(bars["MES"]) // 2).astype(np.int32))
    report = leakcheck(own, {"MGC": bars["MGC"]}, FeatureEngineer(), name="MES")
    assert report.ok, report.markdown()
    expected = {n for n, s in REGISTRY.items() if not s.timeframe or s.timeframe > minutes}
    assert set(report.features) == expected


@pytest.fixture(scope="module")
def scaled_run(tmp_path_factory):
    """A run in which MES is scaled; MGC is clean, for the features across markets."""
    config = small_config(tmp_path_factory.mktemp("scaled") / "runs", symbols="MES,MGC", **{"search.enabled": False})
    runner = PipelineRunner(config, run_id="scaled")
    result = runner.run(before=TaskId("validate", "MES"))
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    return runner.run_dir


def test_a_finished_run_and_its_files(scaled_run, tmp_path):
    report = leakcheck_run(scaled_run, cuts=20)
    assert report.ok, report.markdown()
    assert {"files of the run", "fit"} <= set(report.proofs["proof"])
    for error, folder, symbol in (("config.json", tmp_path, ""), ("symbol must be one of", scaled_run, "ES")):
        with pytest.raises(ValueError, match=error): leakcheck_run(folder, symbol)


def test_a_file_that_was_made_with_the_future_is_caught(scaled_run, tmp_path):
    copy = tmp_path / "tampered"
    for stage in ("clean", "features", "scale"): shutil.copytree(scaled_run / "MES" / stage / "out", copy / "MES" / stage / "out")
    for part in ("MGC/clean/out",): shutil.copytree(scaled_run / part, copy / part)
    shutil.copy(scaled_run / "config.json", copy / "config.json")
    file = copy / "MES" / "scale" / "out" / "MES_5m_train_scaled.parquet"
    scaled = pd.read_parquet(file)
    scaled["return_1"] = scaled["return_1"].shift(-1, fill_value=0.0)
    scaled.to_parquet(file)
    report = leakcheck_run(copy, "MES", cuts=4)
    assert set(report.violations["feature"]) == {"scaled return_1"} and set(report.violations["proof"]) == {"files of the run"}
    file.unlink()
    with pytest.raises(ValueError, match="a run must have finished scale of MES"): leakcheck_run(copy, "MES")


OWN = '''
import numpy as np
from mlpipe.features.registry import feature

@feature("own_place", family="own", category="bounded", inputs=("high", "low", "close"), warmup=1, description="Where the bar closes in its range.")
def own_place(view):
    return np.where(view.high > view.low, (view.close - view.low) / np.maximum(view.high - view.low, 1e-9), 0.5) * {factor}
'''
LEAKY = '''
import numpy as np
from mlpipe.features.registry import feature

@feature("own_leak", family="own", category="returns", inputs=("close",), warmup=1, description="The next bar's return.")
def own_leak(view):
    return np.append(view.returns[1:], 0.0)
'''


def to_features(small, name, executor="serial", **settings):
    stages = {k: v for k, v in load_stages().items() if k in ("ingest", "clean", "features")}
    return PipelineRunner(small(**settings), run_id=name, stages=stages).run(executor=executor)


def test_features_of_your_own_in_a_run(small, tmp_path):
    file = tmp_path / "own_features.py"
    file.write_text(OWN.format(factor=1))
    given = {"features.modules": [str(file)]}
    task = TaskId("features", "MES")
    plain = to_features(small, "plain").outcomes[task].record
    first = to_features(small, "first", **given)
    assert first.count("reused") == 2 and first.outcomes[task].record["metrics"]["features"] == plain["metrics"]["features"] + 1
    frame = lambda run: pd.read_parquet(tmp_path / "runs" / run / "MES" / "features" / "out" / "features.parquet")
    assert "own_place" in frame("first") and "own_place" not in frame("plain") and "own_place" not in REGISTRY
    assert to_features(small, "again", **given).count("reused") == 3
    file.write_text("# a comment\n" + OWN.format(factor=3))
    edited = to_features(small, "edited", **given)
    assert edited.outcomes[task].status == "ran" and edited.count("reused") == 2
    np.testing.assert_allclose(frame("edited")["own_place"], 3 * frame("first")["own_place"], rtol=1e-6)
    assert to_features(small, "gone").count("reused") == 3


def test_features_of_your_own_in_a_worker(small, tmp_path):
    (tmp_path / "own_features.py").write_text(OWN.format(factor=1))
    result = to_features(small, "worker", executor="process", **{"features.modules": [str(tmp_path / "own_features.py")], "execution.workers": 1})
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]


def test_a_leaky_feature_of_your_own_stops_the_run_and_is_named(small, tmp_path):
    (tmp_path / "own_leak.py").write_text(LEAKY)
    given = {"features.modules": [str(tmp_path / "own_leak.py")]}
    failed = to_features(small, "leaky", **given).outcomes[TaskId("features", "MES")]
    assert failed.status == "failed" and "features must be made of the past alone, got own_leak = " in failed.error
    from mlpipe.features.assembly import run_registry
    bars = pd.read_parquet(tmp_path / "runs" / "leaky" / "MES" / "clean" / "out" / "bars.parquet")
    report = leakcheck(bars, engineer=FeatureEngineer(cross_asset=False, registry=run_registry(given["features.modules"])))
    assert set(report.violations["feature"]) == {"own_leak"} and {"truncation", "future corruption"} <= set(report.violations["proof"])


def test_broken_modules_are_refused_before_anything_runs(small, tmp_path):
    with pytest.raises(ValueError, match="features.modules must name files that exist"): PipelineRunner(small(**{"features.modules": [str(tmp_path / "none.py")]})).plan()
    (tmp_path / "clash.py").write_text(OWN.format(factor=1).replace('"own_place"', '"rsi_14"'))
    result = to_features(small, "clash", **{"features.modules": [str(tmp_path / "clash.py")]})
    assert "feature name must be free, got 'rsi_14'" in result.outcomes[TaskId("features", "MES")].error
    (tmp_path / "fails.py").write_text(OWN.format(factor="view.nothing"))
    result = to_features(small, "fails", **{"features.modules": [str(tmp_path / "fails.py")]})
    error = result.outcomes[TaskId("features", "MES")].error
    assert "must compute without an error, got AttributeError" in error and "(fails.py, line 7). Correct the file." in error
