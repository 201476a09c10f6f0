"""A stage from another package: found by its entry point, run, reused, and run again when its code changes."""
import importlib
import sys

from mlpipe.pipeline import stage as stages
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import TaskId

SOURCE = '''
from mlpipe.pipeline.stage import StageResult, register_stage

@register_stage("tops", after=("clean",), settings=("bars.minutes",))
def tops(task):
    bars = task.read("clean", "bars.parquet")
    task.write("tops.parquet", bars.nlargest({n}, "high")[["datetime", "high"]])
    return StageResult(rows={n})
'''


def test_a_plugin_stage(small, plugin):
    file = plugin(stages, "STAGES", "mlpipe.stages", "tops", "their_stages", SOURCE.replace("{n}", "5"))
    run = lambda name: PipelineRunner(small(), run_id=name, stages={k: v for k, v in stages.load_stages().items() if k in ("ingest", "clean", "tops")}).run()
    first = run("first")
    assert {o.status for o in first.outcomes.values()} == {"ran"} and first.outcomes[TaskId("tops", "MES")].record["rows"] == 5
    assert run("second").count("reused") == 3
    for name in [m for m in sys.modules if m.startswith("their_stages")]: del sys.modules[name]
    stages.STAGES.pop("tops")
    file.write_text(SOURCE.replace("{n}", "11"))
    importlib.invalidate_caches()
    third = run("third")
    assert third.outcomes[TaskId("tops", "MES")].record["rows"] == 11 and third.count("reused") == 2
