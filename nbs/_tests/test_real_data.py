"""Real bars, where they are at hand: ES and NQ of 2015 through every stage; index and gold, in minutes of three and five, up to the data card."""
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
