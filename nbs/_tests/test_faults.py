"""What must not be forgotten, reused or lost when something unusual happens."""
import multiprocessing
import os
import shutil
import signal

import pytest

from mlpipe.pipeline.manifest import ArtifactManifest
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import TaskId


def copy_of(finished, tmp_path):
    run = tmp_path / "runs" / "copy"
    shutil.copytree(finished.run_dir, run)
    return run


def test_a_second_look_at_the_test_span_is_counted(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    result = PipelineRunner(run_dir=run, force=("evaluate",)).run(executor="serial", reports=False)
    assert result.count("ran") == 2
    assert ArtifactManifest.load(run).test_reads() == {"MES": 2, "MGC": 2}


def test_a_changed_artifact_is_made_anew(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    before = {a["path"]: a["sha256"] for a in ArtifactManifest.load(run).artifacts()}
    shutil.rmtree(run.parent / ".cache", ignore_errors=True)
    (run / "MES/scale/out/scaler.json").write_text("{}")
    result = PipelineRunner(run_dir=run).run(executor="serial", reports=False)
    assert {str(t) for t, o in result.outcomes.items() if o.status == "ran"} == {"MES/scale"}
    assert {a["path"]: a["sha256"] for a in ArtifactManifest.load(run).artifacts()} == before


def test_a_run_keeps_its_settings(finished):
    config = finished.config.model_copy(update={"seed": 7})
    with pytest.raises(ValueError, match="must keep its settings"): PipelineRunner(config, run_dir=finished.run_dir).run(executor="serial")


def test_a_killed_worker_costs_its_tasks_and_nothing_else(small):
    runner = PipelineRunner(small(symbols="MES,MGC", **{"execution.executor": "process"}), run_id="killed")
    def kill(event):
        if event["event"] == "start" and event["task"] == "MES/clean":
            for child in multiprocessing.active_children()[:1]: os.kill(child.pid, signal.SIGKILL)
    result = runner.run(before=TaskId("scale", "MES"), listener=kill)
    assert result.failed and all("worker process died" in o.error for o in result.failed)
    again = PipelineRunner(run_dir=runner.run_dir).run(before=TaskId("scale", "MES"))
    assert again.ok and again.count("kept") >= 1


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(small):
    options = {"execution.executor": "process", "training.max_epochs": 12, "training.patience": 12}
    runner, seen = PipelineRunner(small(**options), run_id="killed"), []
    def kill(event):
        seen.append(event)
        if event["event"] == "progress" and event["task"] == "MES/train/lstm" and event["message"] == "epoch 3/12":
            for child in multiprocessing.active_children(): os.kill(child.pid, signal.SIGKILL)
    assert runner.run(before=TaskId("ensemble", "MES"), listener=kill).failed
    left = list((runner.run_dir / "MES/train/lstm/work/checkpoints").glob("*/last.ckpt"))
    assert len(left) == 1
    seen.clear()
    again = PipelineRunner(run_dir=runner.run_dir).run(before=TaskId("ensemble", "MES"), listener=seen.append)
    told = [e["message"] for e in seen if e["event"] == "progress" and e["task"] == "MES/train/lstm"]
    assert again.ok and told[0] == "goes on from its last checkpoint" and "epoch 1/12" not in told and told[-1] == "epoch 12/12"
    assert not left[0].exists()
    whole = PipelineRunner(small(**options), run_id="whole", force=("train",))
    assert whole.run(before=TaskId("ensemble", "MES")).ok
    hashes = lambda r: {f["name"]: f["sha256"] for f in ArtifactManifest.load(r.run_dir).record("train", "MES", "lstm")["outputs"]}
    assert hashes(runner) == hashes(whole)


def test_features_from_elsewhere_are_refused(small):
    """Their code is in no module that the key could cover."""
    from mlpipe.features.registry import REGISTRY, feature
    @feature("of_my_own", family="returns", category="returns", inputs=("close",), description="The close's change.", warmup=1)
    def of_my_own(view): return view.log_close * 0.0
    try: result = PipelineRunner(small(), run_id="own").run(before=TaskId("split", "MES"))
    finally: del REGISTRY._specs["of_my_own"]
    assert [o.task.stage for o in result.failed] == ["features"] and "of_my_own" in result.failed[0].error


def test_networks_from_elsewhere_enter_the_key(small):
    from mlpipe.models.registry import ModelRegistry, network_home
    from mlpipe.pipeline.cache import stage_code
    from mlpipe.pipeline.stage import get_stage
    class Config: pass
    @ModelRegistry.register("homemade", config=Config)
    class Homemade: pass
    try:
        Homemade.__module__ = "nowhere.to_be_found"
        assert network_home("homemade") == "nowhere.to_be_found"
        one, two = (stage_code(get_stage("train"), "homemade") for _ in range(2))
        assert one != two, "a network without a source file is never reused"
    finally: del ModelRegistry._specs["homemade"]
