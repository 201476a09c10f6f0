"""Every check of the validate stage passes on an honest run, and speaks up on the run that is broken for it."""
from unittest.mock import patch

import pandas as pd
import pytest

from conftest import small_config
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import Task, TaskId
from mlpipe.scaling.convenience import scale_splits
from mlpipe.stages.validate import examine, load_inputs, validate
from mlpipe.validation.sabotage import sabotages, thinned


@pytest.fixture(scope="module")
def config(tmp_path_factory): return small_config(tmp_path_factory.mktemp("audits") / "runs", **{"search.enabled": False, "features.cross_asset": False})


@pytest.fixture(scope="module")
def given(config):
    runner = PipelineRunner(config, run_id="audits")
    result = runner.run(before=TaskId("validate", "MES"))
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    return load_inputs(Task(validate, config, runner.run_dir, "MES"), whole=True)


@pytest.fixture(scope="module")
def few(given): return thinned(given)


@pytest.fixture(scope="module")
def honest(few, config): return checks(few, config)


def checks(given, config): return {c.check: c for c in examine(given, config.validation, config.splits, "CME_Equity", 42).checks}


def test_an_honest_run_passes(given, honest, config):
    whole = checks(given, config)
    assert not [c for c in (*whole.values(), *honest.values()) if c.status == "fail"]
    assert set(whole) == set(honest) == {s.check for s in sabotages()} | {"scaler moves with later rows"}


@pytest.mark.parametrize("sabotage", sabotages(), ids=[s.name for s in sabotages()])
def test_what_is_broken_is_found(sabotage, few, honest, config):
    found = checks(sabotage.apply(few), config)[sabotage.check]
    assert found.status != "pass" and found.advice and found.value != honest[sabotage.check].value, (honest[sabotage.check], found)


def test_a_method_that_reads_later_rows_is_found(few, config):
    def greedy(*blocks_and_more):
        blocks, more = blocks_and_more[:3], blocks_and_more[3:]
        everything = pd.concat(blocks).assign(split="train")
        return scale_splits(everything, everything.tail(0), everything.tail(0), *more)
    with patch("mlpipe.validation.leakage.scale_splits", greedy): assert checks(few, config)["scaler moves with later rows"].status == "fail"
