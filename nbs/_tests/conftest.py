"""A small market that runs through all stages in seconds."""
import pytest

from mlpipe.config import get_config
from mlpipe.pipeline.execute import package_dir

SMALL = {"models": ("lstm",), "synthetic": {"days": 60}, "training": {"max_epochs": 2, "sequence_length": 16}, "backtest": {"bootstrap": 300},
         "search": {"population": 20, "generations": 6}, "tracking": {"backend": "none"}, "model": {"lstm": {"hidden_size": 16, "num_layers": 1}}}


def small_config(runs, **overrides):
    from mlpipe.config import merge, nest
    values = merge(SMALL, nest({"symbols": "MES", "execution.runs_path": str(runs), "execution.executor": "serial", "execution.reports": False, **overrides}))
    return get_config("dev", package_dir() / "settings.ini", **values)


@pytest.fixture
def small(tmp_path):
    return lambda **overrides: small_config(tmp_path / "runs", **overrides)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of two symbols, shared by the tests that only read it."""
    from mlpipe.pipeline.runner import PipelineRunner
    runs = tmp_path_factory.mktemp("finished") / "runs"
    runner = PipelineRunner(small_config(runs, symbols="MES,MGC"), run_id="finished")
    result = runner.run()
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    return runner
