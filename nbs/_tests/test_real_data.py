"""Real bars, where they are at hand: ES and NQ of 2015 through every stage."""
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "ES_1m.parquet").exists(), reason="the real bars are not at hand")


@pytest.mark.slow
def test_es_and_nq(tmp_path):
    from conftest import small_config
    from mlpipe.pipeline.manifest import ArtifactManifest
    from mlpipe.pipeline.runner import PipelineRunner
    config = small_config(tmp_path / "runs", symbols="ES,NQ", **{"data.source": "files", "data.path": str(DATA), "data.rolls.ES": ROLL})
    result = PipelineRunner(config, run_id="real").run()
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    records = {(r["symbol"], r["stage"]): r for r in ArtifactManifest.load(result.run_dir).records}
    assert records["ES", "ingest"]["rows"] > 90_000 and 12_000 < records["ES", "features"]["rows"] < 17_000


ROLL = "2015-03-23"
