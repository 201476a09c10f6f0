"""A small market that runs through all stages in seconds."""
import sys
from importlib.metadata import EntryPoint

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


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """plugin(module, registry, group, name, package, source) -> file: a package that `module` finds by its entry point, and whose source may be edited; `registry` is the
    name of the module's table, which is as before afterwards."""
    packages = []
    def make(module, registry, group, name, package, source):
        file = tmp_path / "site" / package / "__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text(source)
        packages.append(package)
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.setattr(module, "entry_points", lambda group=None, asked=group: [EntryPoint(name, package, group)] if group == asked else [])
        monkeypatch.setattr(module, registry, dict(getattr(module, registry)))
        monkeypatch.setattr("mlpipe.pipeline.cache.STARTED", 2**63)      # stands for the restarts that writing and editing code ask for
        return file
    yield make
    for m in [m for m in sys.modules if m.split(".")[0] in packages]: del sys.modules[m]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of two symbols, shared by the tests that only read it."""
    from mlpipe.pipeline.runner import PipelineRunner
    runs = tmp_path_factory.mktemp("finished") / "runs"
    runner = PipelineRunner(small_config(runs, symbols="MES,MGC"), run_id="finished")
    result = runner.run()
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    return runner
