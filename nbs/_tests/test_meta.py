"""Runs whose labels judge a primary signal: what they learn is when its trade pays, and nothing of them ever trades against it."""
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from mlpipe import primaries
from mlpipe.config import PipelineConfig, SettingsError, merge, nest
from mlpipe.data.synthetic import synthetic_market
from mlpipe.instruments import get_instrument
from mlpipe.labels.barriers import atr
from mlpipe.labels.meta import meta_labels
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.runs import Run
from mlpipe.primaries import primary_side

QUICK = {"symbols": "MES", "models": "logistic", "labels.primary": "momentum", "labels.horizon": 5, "search.k_max": 2.0, "search.k_step": 0.25, "search.bars_max": 18, "search.bars_step": 6,
         "search.folds": 1, "training.max_epochs": 10, "training.sequence_length": 4, "training.learning_rate": 0.01, "training.baselines": "", "validation.max_auc": 0.75, "validation.max_ic": 0.4}


def two_weathers(seed, days, strength, lookback=20):
    """Minutes of MES: over the next five minutes the price goes on as in the last `lookback` bars of five minutes while volume is high, and back as much while it is low; `strength` in its own deviations."""
    minutes, rng = synthetic_market(["MES"], "2024-01-02", days, seed=seed)["MES"], np.random.default_rng(seed)
    stamps = pd.DatetimeIndex(minutes["datetime"]).as_unit("ns").asi8
    bar = np.unique(stamps // 300_000_000_000, return_inverse=True)[1]
    high, count = np.cumsum(rng.random(bar.max() + 1) < 1 / 150) % 2, np.bincount(bar)
    moves = np.rint(rng.normal(0, 2.0, len(bar)))
    own, close, drift = np.bincount(bar, moves), np.zeros(len(count)), np.zeros(len(count))
    for b in range(len(count)):
        if b > lookback: drift[b] = strength * 2.0 * np.sqrt(5) * np.sign(close[b - 1] - close[b - 1 - lookback]) * (1 if high[b - 1] else -1)
        close[b] = (close[b - 1] if b else 0.0) + own[b] + drift[b]
    path = 20_000 + np.rint(np.cumsum(moves + (drift / count)[bar]))
    opened = np.r_[20_000, path[:-1]] + rng.integers(-1, 2, len(bar)) + np.r_[0, np.diff(stamps) > 1e12] * rng.integers(-9, 10, len(bar))
    reach = np.abs(rng.normal(0, 1, (2, len(bar)))).round()
    prices = {"open": opened, "high": np.maximum(opened, path) + reach[0], "low": np.minimum(opened, path) - reach[1], "close": path}
    return minutes.assign(**{name: 0.25 * x for name, x in prices.items()}, volume=np.ceil(minutes["volume"] * np.where(high[bar], 8.0, 1.0)))


def ran(folder, minutes, name, **more):
    from conftest import small_config
    folder.mkdir(exist_ok=True)
    minutes.to_parquet(folder / "MES_1m.parquet")
    runner = PipelineRunner(small_config(folder / "runs", **{**QUICK, "data": {"source": "files", "path": str(folder)}, **more}), run_id=name)
    result = runner.run()
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    return runner


@pytest.fixture(scope="module")
def planted(tmp_path_factory): return ran(tmp_path_factory.mktemp("planted") / "bars", two_weathers(1, 80, 0.2), "planted")


def read(runner, stage, name):
    file = runner.run_dir / "MES" / stage / "out" / name
    return pd.read_parquet(file) if name.endswith("parquet") else json.loads(file.read_text()) if name.endswith("json") else file.read_text()


def test_labels_are_the_librarys(planted):
    bars, minutes, final = read(planted, "clean", "bars.parquet"), read(planted, "clean", "minutes.parquet"), read(planted, "finalize", "labels.parquet")
    summary, mes = read(planted, "finalize", "summary.json"), get_instrument("MES")
    side, b = primary_side(bars, "momentum", 20), summary["barriers"]
    answers = meta_labels(bars, side, atr(bars, 14), b["k_up"], b["k_down"], b["max_bars"], tick=mes.tick, cost=mes.cost_ticks * mes.tick, minutes=minutes)
    for c in ("meta", "side", "t0", "t1", "horizon_end", "entry_price", "exit_price", "touch_type", "bars_to_hit", "ambiguous"): assert final[c].tolist() == answers[c].tolist() or final[c].fillna(0).equals(answers[c].fillna(0)), c
    assert (final["label"] == answers["touch_type"]).all() and (final["event"] == (side != 0)).all() and summary["primary"] == {"name": "momentum", "lookback": 20}
    features = read(planted, "features", "features.parquet").merge(final[["datetime", "side"]], on="datetime")
    assert (features["primary_side"] == features["side"]).all() and set(features["side"]) == {-1, 0, 1}
    for span in ("train", "val", "test"):
        targets = read(planted, "split", f"targets_{span}.parquet")
        assert (targets["side"] != 0).all() and targets["label"].isin((-1, 0, 1)).all()


def test_the_search_counts_the_primarys_trades(planted):
    """The chosen barriers' net ticks per trade on the training span, from the slow definition."""
    found, bars, minutes = read(planted, "optimize", "barriers.json"), read(planted, "clean", "bars.parquet"), read(planted, "clean", "minutes.parquet")
    from mlpipe.config import BarrierParams, LabelSettings, SearchSettings, SplitSettings
    from mlpipe.search.choice import search_tables
    from mlpipe.search.surface import Grid, genome_trades
    from mlpipe.stages.optimize import searched_span
    mes, span = get_instrument("MES"), searched_span(bars, SplitSettings(), minutes)
    chosen = BarrierParams(**{k: found[k] for k in ("k_up", "k_down", "max_bars")})
    trades = genome_trades(search_tables(span, Grid.only(chosen), mes, LabelSettings(primary="momentum"), SearchSettings()), (0, 0, 0))
    side = primary_side(span.bars, "momentum", 20)
    answers = meta_labels(span.bars, side, atr(span.bars, 14), found["k_up"], found["k_down"], found["max_bars"], tick=mes.tick, minutes=minutes).loc[trades["row"]]
    paid = mes.commission / mes.tick_value + mes.slippage_ticks * np.where(answers["touch_type"] == 1, 1, 2)
    np.testing.assert_allclose(trades["net_ticks"], answers["side"] * (answers["exit_price"] - answers["entry_price"]) / mes.tick - paid, atol=1e-9)
    assert (trades["label"].to_numpy() == answers["touch_type"].to_numpy()).all() and found["primary"]["name"] == "momentum" and found["trials"] > 1


def test_when_the_primary_pays_is_found(planted):
    """The primary alone loses its costs; told from the weather it earns. Its judge takes no trade against it."""
    said, board = read(planted, "evaluate", "verdict.json"), read(planted, "evaluate", "leaderboard.parquet").set_index("name")
    assert said["skill"] > 0.01 and said["skill_low"] > 0 and said["direction_low"] > 0, said["sentence"]
    assert "meta-labels of the primary momentum (with the move of the last 20 bars)" in said["sentence"]
    assert board.loc["primary", "expectancy_ticks"] < 0 < board.loc["ensemble", "expectancy_ticks"] - 1 and board.loc["primary", "trades"] > board.loc["ensemble", "trades"] > 50
    bars, trades, rows = read(planted, "clean", "bars.parquet"), read(planted, "evaluate", "trades.parquet"), read(planted, "evaluate", "test_rows.parquet")
    sides = pd.Series(primary_side(bars, "momentum", 20), bars["ts_close"])
    assert (sides.reindex(trades["signal_time"]).to_numpy() == trades["side"]).all() and set(trades["side"]) == {-1, 1}
    by_open = pd.Series(primary_side(bars, "momentum", 20), bars["datetime"])
    assert (by_open.reindex(rows["datetime"]).to_numpy() == rows["side"]).all()
    leans = pd.Series(rows["lean"].to_numpy(), bars.set_index("datetime")["ts_close"].reindex(rows["datetime"]))
    assert (leans.reindex(trades["signal_time"]) > said["threshold"]).all()


def test_nothing_is_found_where_there_is_nothing(tmp_path):
    runner = ran(tmp_path / "bars", two_weathers(1, 80, 0.0), "nothing")
    said, board = read(runner, "evaluate", "verdict.json"), read(runner, "evaluate", "leaderboard.parquet").set_index("name")
    assert said["class"] != "edge found" and said["skill"] < 0.003 and board.loc["primary", "expectancy_ticks"] < 0


def test_reports_say_whose_trades_were_judged(planted):
    words = "momentum (with the move of the last 20 bars)"
    assert f"meta-labels of the primary {words}" in read(planted, "report", "card.md") and "| labels | lost | neither | paid |" in read(planted, "report", "card.md")
    page = (planted.run_dir / "report.html").read_text()
    assert f"Meta-labels of the primary {words}: whether its trade paid." in page and f": meta-labels of the primary {words}: " in page
    checks = {c["check"]: c["status"] for c in read(planted, "validate", "checks.json")}
    assert {k: v for k, v in checks.items() if k.endswith("market's view")} == {"feature alone, AUC, market's view": "pass", "feature alone, |IC|, market's view": "pass", "copy of an outcome, market's view": "pass"}


@pytest.mark.parametrize("leak, caught", [("the market's move", "feature alone, AUC, market's view"), ("the trade's move", "feature alone, AUC"), ("the market's path", "copy of an outcome, market's view"),
                                          ("the trade's label", "copy of an outcome")])
def test_a_leak_in_either_frame_is_caught(planted, leak, caught):
    from mlpipe.pipeline.stage import Task, get_stage
    from mlpipe.stages.validate import examine, load_inputs
    task = Task(get_stage("validate"), planted.config, planted.run_dir, "MES")
    given = load_inputs(task)
    from mlpipe.validation.leakage import free_move
    targets = given["targets"]["train"]
    move = free_move(given["bars"], targets)
    noise = np.random.default_rng(0).normal(size=len(targets))
    planted_values = {"the market's move": move + 2 * move.std() * noise, "the trade's move": move * targets["side"].to_numpy() + 2 * move.std() * noise,
                      "the market's path": targets["mae_long"].to_numpy(), "the trade's label": targets["label"].to_numpy(float)}[leak]
    values = pd.Series(planted_values, targets["datetime"])
    given["features"] = given["features"].assign(return_5=values.reindex(given["features"]["datetime"]).fillna(0.0).to_numpy())
    found = {c.check: c for c in examine(given, planted.config.validation.model_copy(update={"max_auc": 0.6}), planted.config.splits, "CME_Equity", 0).checks}
    assert found[caught].status == "fail" and "return_5" in found[caught].detail, found[caught]
    if leak == "the market's move": assert "return_5" not in found["feature alone, AUC"].detail, "the trade's own frame alone does not see it"


def test_predictions_take_its_side_or_none(planted):
    from mlpipe.inference import predictor
    live, bars = predictor(Run(planted.run_dir), "MES"), read(planted, "clean", "bars.parquet")
    said, own = live.predict(bars), read(planted, "ensemble", "ensemble_test_preds.parquet")
    again = said.set_index("datetime").loc[own["datetime"]]
    assert (again[["p_down", "p_flat", "p_up"]].to_numpy() == own[["p_down", "p_flat", "p_up"]].to_numpy()).all()
    assert (said["primary"] == pd.Series(primary_side(bars, "momentum", 20), bars["datetime"]).reindex(said["datetime"]).to_numpy()).all()
    assert (said["side"] == np.where(said["lean"] > live.threshold, said["primary"], 0)).all() and set(said["side"]) == {-1, 0, 1}
    few = live.predict(bars, last=50)
    assert few[["primary", "side"]].equals(said[["primary", "side"]].tail(50).reset_index(drop=True))


def test_leakcheck_cpcv_and_permuted_labels_run(planted, tmp_path):
    from mlpipe.pipeline.cpcv import cpcv_run
    from mlpipe.pipeline.cpcv_trials import configuration
    from mlpipe.pipeline.null_runs import NullKind, null_runs
    from mlpipe.validation.leakcheck import leakcheck_run
    assert leakcheck_run(planted.run_dir, "MES", cuts=4).ok
    runs = shutil.copytree(planted.run_dir.parent, tmp_path / "runs", symlinks=True)
    found = cpcv_run(runs / "planted", "MES", [configuration(Run(runs / "planted").config, "MES", "logistic")], 3, 2)
    assert found["leaks"] == 0 and found["found"][0]["median"] > 0.003
    dealt = null_runs(runs / "planted", NullKind(permute=True), seeds=1, keep=True)[0]["symbols"]["MES"]
    assert dealt["class"] != "edge found" and dealt["skill"] < 0.003
    folder = next((runs / "planted" / "nullmarket").glob(".permuted-*"))
    mine, theirs = (pd.read_parquet(f / "MES/split/out/targets_train.parquet") for f in (runs / "planted", folder))
    assert (mine["side"] == theirs["side"]).all() and (mine["label"] != theirs["label"]).mean() > 0.3


def test_a_walk_judges_the_primary(planted, tmp_path):
    from mlpipe.pipeline.walk import walk_forward
    values = merge(planted.config.model_dump(), nest({"walk.folds": 2, "walk.first": 0.6, "search.enabled": False, "training.max_epochs": 2, "execution.runs_path": str(tmp_path / "runs"), "validation.on_fail": "continue"}))
    result = walk_forward(tmp_path / "runs" / "walk", PipelineConfig.model_validate(values))
    assert result.ok and "meta-labels of the primary momentum" in result.summary["symbols"]["MES"]["sentence"]
    rows = pd.read_parquet(tmp_path / "runs/walk/walk/stitched/MES/test_rows.parquet")
    assert set(rows["side"]) == {-1, 1}


def test_a_primary_reruns_what_depends_on_it(planted):
    def plan(**change):
        config = PipelineConfig.model_validate(merge(planted.config.model_dump(), nest(change)))
        return {i.task.stage: i for i in PipelineRunner(config, run_id="plan").plan()}
    assert {i.action for i in plan().values()} == {"reuse"}
    for change, told in (({"labels.primary": "reversal"}, "labels.primary: momentum -> reversal"), ({"labels.primary_lookback": 5}, "labels.primary_lookback: 20 -> 5"), ({"labels.primary": "none"}, "labels.primary: momentum -> none")):
        items = plan(**change)
        assert {name for name, i in items.items() if i.action == "reuse"} == {"ingest", "clean"}
        for stage in ("features", "label", "optimize"): assert told in items[stage].reason


SOURCE = "from mlpipe.primaries import register_primary\n\n@register_primary('dips', memory=1)\ndef dips(bars, lookback): return (bars['close'].diff() < {n}).astype(int)\n"


def test_a_plugins_primary(small, plugin):
    """Found by its entry point, checked by name alone, and part of the key of the stages that ask it."""
    from mlpipe.pipeline.cache import stage_code
    from mlpipe.pipeline.stage import get_stage
    file = plugin(primaries, "PRIMARIES", "mlpipe.primaries", "dips", "their_primaries", SOURCE.replace("{n}", "0"))
    with pytest.raises(SettingsError, match=r"labels.primary must be none or the name of a primary signal, got 'dip'. Did you mean 'dips'\?"): small(**{"labels.primary": "dip"})
    config = small(**{"labels.primary": "dips"})
    assert "their_primaries" not in sys.modules
    before, clean = (stage_code(get_stage(s), primary=config.labels.primary if s == "label" else "none") for s in ("label", "clean"))
    assert primary_side(pd.DataFrame({"close": [3.0, 2, 4, 1]}), "dips", 20).tolist() == [0, 1, 0, 1] and "their_primaries" in before and "their_primaries" not in clean
    file.write_text(SOURCE.replace("{n}", "-1.5"))
    assert stage_code(get_stage("label"), primary="dips")["their_primaries"] != before["their_primaries"]


def test_a_primary_with_events_asks_for_both(small):
    from mlpipe.config import LabelSettings
    from mlpipe.data.bars import resample
    from mlpipe.data.sessions import get_calendar
    from mlpipe.instruments import get_barrier_params
    from mlpipe.labels.events import cusum_events
    from mlpipe.stages.label import label_bars
    mes = get_instrument("MES")
    bars = resample(synthetic_market(["MES"], "2024-01-02", 10, seed=1)["MES"], 5, get_calendar(mes.calendar))
    record = label_bars(bars, None, get_barrier_params("MES", 20), mes, LabelSettings(primary="reversal", primary_lookback=3, events="cusum"))
    asked = (cusum_events(bars, atr(bars, 14), 2.0) != 0) & (primary_side(bars, "reversal", 3) != 0)
    assert (record["event"] == asked).all() and (record["label"] != -99)[asked].mean() > 0.9 and (record["label"][~asked] == -99).all()
