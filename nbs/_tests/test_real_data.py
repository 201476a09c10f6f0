"""Real bars, where they are at hand: every file through ingest and clean; ES and NQ of 2015 through every stage; index and gold up to the data card."""
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "ES_1m.parquet").exists(), reason="the real bars are not at hand")
ROLL = "2015-03-23T05:00:00Z"


@pytest.mark.slow
def test_es_and_nq(tmp_path):
    from conftest import small_config
    from mlpipe.pipeline.manifest import ArtifactManifest
    from mlpipe.pipeline.runner import PipelineRunner
    config = small_config(tmp_path / "runs", symbols="ES,NQ", **{"data.source": "files", "data.path": str(DATA), "data.rolls.ES": ROLL, "data.rolls.NQ": ROLL})
    result = PipelineRunner(config, run_id="real").run()
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    records = {(r["symbol"], r["stage"]): r for r in ArtifactManifest.load(result.run_dir).records}
    assert records["ES", "ingest"]["rows"] > 90_000 and 12_000 < records["ES", "features"]["rows"] < 17_000


MARKETS = {"three minutes": {"symbols": "MES,MGC", "bars.minutes": 15, "data.max_bad_share": 0.02, "data.files.MES": "SPX500_3m.parquet", "data.files.MGC": "XAUUSD_3m.parquet"},
           "five minutes, no volume": {"symbols": "MNQ,MGC", "data.series": "unadjusted", "data.files.MNQ": "NQ_5m.parquet", "data.files.MGC": "GC_5m.parquet"}}


@pytest.mark.slow
@pytest.mark.parametrize("market", MARKETS)
def test_no_check_fails_on_an_honest_market(tmp_path, market):
    """Ingest to report; volume features drop out by rule where there is no volume, and no few labels carry the weight."""
    import pandas as pd
    from mlpipe.config import get_config, package_dir
    from mlpipe.labels.weights import equal_labels
    from mlpipe.pipeline.runner import PipelineRunner
    from mlpipe.pipeline.stage import BUILT_IN, load_stages, read_file
    stages = {name: stage for name, stage in load_stages().items() if name in BUILT_IN[:BUILT_IN.index("report") + 1]}
    config = get_config("dev", package_dir() / "settings.ini", **{"data.source": "files", "data.path": str(DATA), "execution.runs_path": str(tmp_path), "tracking.backend": "none"}, **MARKETS[market])
    run = PipelineRunner(config, run_id="real", stages=stages).run(executor="serial", reports=False, quiet=True).run_dir
    for symbol in config.symbols:
        assert not [c for c in read_file(run / symbol / "validate/out/checks.json") if c["status"] == "fail"]
        families = [c["family"] for c in read_file(run / symbol / "features/out/catalogue.json")]
        assert ("volume" in families) == (market != "five minutes, no volume")
        weight = pd.read_parquet(run / symbol / "split/out/targets_train.parquet")["weight"]
        assert equal_labels(weight) > 0.15 * len(weight)
        assert (run / symbol / "report/out/card.html").stat().st_size > 50_000


# ---- every file, with what it holds: rows set aside by reason, rolls (before New York's next session), whether the clock is proved

CLOCK = {"data.profile": "own", "profile.own.timezone": "UTC", "profile.own.stamping": "start"}
THREE = {"bars.minutes": 15, "data.max_bad_share": 0.02}
UNADJUSTED = {"data.series": "unadjusted"}
GC_ROLLS = ["2019-01-30", "2019-03-28", "2019-05-29", "2019-07-30", "2019-11-27"]
FILES = {"ES_1m": ("ES", {"data.rolls.ES": ROLL}, {"outside session": 72}, ["2015-03-23"], True),
         "NQ_1m": ("NQ", {"data.rolls.NQ": ROLL}, {"outside session": 60}, ["2015-03-23"], True),
         "SPX500_3m": ("ES", THREE, {"open or close outside": 420, "outside session": 14}, [], True),
         "XAUUSD_3m": ("GC", THREE, {"open or close outside": 402, "high below low": 1, "outside session": 160}, [], True),
         "NQ_5m": ("NQ", UNADJUSTED, {}, [], True),
         "GC_5m": ("GC", UNADJUSTED, {}, GC_ROLLS, True),
         "lean/ES_1m": ("ES", {}, {"bad tick": 1}, [], True),
         "lean/GC_1m": ("GC", {}, {}, [], True),
         "lean/ES_1m_contracts": ("ES", {}, {"bad tick": 5}, ["2013-12-19", "2020-01-06"], True),
         "lean/GC_1m_contracts": ("GC", {}, {}, ["2020-01-06"], True),
         "yahoo/MNQ_5m": ("MNQ", {}, {}, [], True),
         "yahoo/GC_5m": ("GC", {}, {"bad tick": 48, "outside session": 1}, [], True),
         "ticks/ES_trades": ("ES", {}, {}, [], False),
         "ticks/GC_trades": ("GC", {}, {}, [], True)}


def cleaned(name, folder):
    """The summaries of ingest and clean of one file, and the folder of the symbol's artifacts."""
    from conftest import small_config
    from mlpipe.pipeline.runner import PipelineRunner
    from mlpipe.pipeline.stage import get_stage, read_file
    symbol, settings, *_ = FILES[name]
    file = (DATA / name).with_suffix(".parquet")
    config = small_config(folder, symbols=symbol, **{"data.source": "files", "data.path": str(file), f"data.files.{symbol}": file.name, "bars.minutes": 5, **CLOCK, **settings})
    result = PipelineRunner(config, run_id="file", stages={n: get_stage(n) for n in ("ingest", "clean")}).run()
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    out = result.run_dir / symbol
    return read_file(out / "ingest/out/summary.json"), read_file(out / "clean/out/summary.json"), out


@pytest.mark.parametrize("name", FILES)
def test_every_file_through_ingest_and_clean(tmp_path, name):
    import pandas as pd
    _, _, aside, rolls, proved = FILES[name]
    ingest, clean, out = cleaned(name, tmp_path)
    assert ingest["clock"]["proved"] == proved and ingest["clock"]["share_in_break"] == 0
    assert {**ingest["quarantined"], **clean["quarantined"]} == aside
    if ingest["kind"] == "bars": assert ingest["rows_in"] == ingest["rows_out"] + sum(r["rows"] for r in ingest["reasons"])
    assert clean["rows_in"] == ingest["rows_out"] == clean["rows_out"] + clean["filler"] + sum(clean["quarantined"].values())
    moments = pd.to_datetime([r["roll"] for r in clean["rolls"]], utc=True).tz_convert("America/New_York")
    assert [str(d.date()) for d in moments + pd.Timedelta("8h")] == rolls          # from 16:00 New York on it is the next day's
    bars = pd.read_parquet(out / "clean/out/bars.parquet")
    minutes = pd.read_parquet(out / "clean/out/minutes.parquet")
    assert bars["segment"].nunique() == len(rolls) + 1 and bars["volume"].sum() == minutes["volume"].sum()
    assert (bars["high"] >= bars[["open", "low", "close"]].max(axis=1)).all() and bars["datetime"].is_monotonic_increasing


def test_trades_rebuild_the_minutes():
    """Every contract, every minute: the prices as they are; the volume once the last trade of a contract's day, which the vendor's files hold twice, counts once."""
    import pandas as pd
    from mlpipe.data.ticks import trades_to_bars
    trades, minutes = (pd.read_parquet(DATA / f) for f in ("ticks/GC_trades.parquet", "lean/GC_1m_contracts.parquet"))
    minutes = minutes[minutes["datetime"] <= trades["datetime"].max()]
    trades = trades.assign(ns=trades["datetime"].dt.as_unit("ns").astype("int64"), day=trades["datetime"].dt.strftime("%Y-%m-%d")).drop(columns="datetime")
    of_a_day = trades.groupby(["contract", "day"])
    again = trades[["ns", "price", "volume"]].eq(of_a_day[["ns", "price", "volume"]].shift()).all(axis=1) & (of_a_day.cumcount(ascending=False) == 0)
    bars = lambda t: trades_to_bars(t["ns"].to_numpy(), t["price"].to_numpy(), t["volume"].to_numpy(float), 1)
    for contract, expected in minutes.groupby("contract"):
        mine = trades["contract"] == contract
        raw, once = bars(trades[mine]), bars(trades[mine & ~again])
        expected = expected.drop(columns="contract").reset_index(drop=True)
        pd.testing.assert_frame_equal(once[expected.columns], expected, check_dtype=False, check_exact=True)
        pd.testing.assert_frame_equal(raw[expected.columns[:-1]], expected[expected.columns[:-1]], check_dtype=False, check_exact=True)
    assert len(minutes) == 4681 and 0 < again.sum() <= of_a_day.ngroups
