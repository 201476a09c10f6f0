"""Null runs go on where they stopped, reuse what permuted labels leave alone, and stand beside the run's own result."""
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from mlpipe.pipeline import null_runs as module
from mlpipe.pipeline.null_runs import RESULTS, NullKind, null_runs, null_sentences, null_table, read_results, summarise_null

FOUND = {"class": "not distinguishable from luck", "skill": -0.001, "skill_low": -0.002, "skill_high": 0.0, "threshold": None, "trades": 0, "sessions": 9, "gross_ticks": None,
         "expectancy_ticks": None, "expectancy_low": None, "expectancy_high": None, "net_dollars": 0.0, "sharpe": None, "psr": None, "dsr": None, "dealt_share": None, "trials": 12}


@pytest.fixture
def run(tmp_path, small):
    """A run's folder with a verdict, without the rest."""
    from mlpipe.config import save_config
    from mlpipe.pipeline.stage import write_file
    folder = tmp_path / "runs" / "20240101-000000-mes"
    (folder / "MES/evaluate/out").mkdir(parents=True)
    save_config(small(), folder / "config.json")
    write_file(folder / "MES/evaluate/out/verdict.json", {**FOUND, "skill": 0.004, "sentence": "MES: not distinguishable from luck."})
    return folder


def test_an_interrupted_command_goes_on_seed_by_seed(run, monkeypatch):
    done, stops = [], iter([True])
    def repeat(run_dir, config, kind, seed, keep, listener):
        if seed == 3 and next(stops, False): raise KeyboardInterrupt
        done.append((config.seed, config.null.permute))
        return {"MES": {**FOUND, "skill": seed / 1000}}
    monkeypatch.setattr(module, "repeat", repeat)
    with pytest.raises(KeyboardInterrupt): null_runs(run, NullKind(), seeds=4)
    assert [e["seed"] for e in read_results(run)] == [1, 2]
    entries = null_runs(run, NullKind(), seeds=4)
    assert done == [(1, None), (2, None), (3, None), (4, None)] and [e["seed"] for e in entries] == [1, 2, 3, 4]
    null_runs(run, NullKind(permute=True), seeds=2)
    assert done[4:] == [(42, 1), (42, 2)]
    null_runs(run, NullKind(models=("logistic",)), seeds=1)
    assert len(done) == 7 and len({e["key"] for e in read_results(run)}) == 3, "other settings are noted apart"


def test_the_table_holds_the_runs_own_result(run, monkeypatch):
    skills = iter([-0.002, 0.004, 0.001, 0.009])
    monkeypatch.setattr(module, "repeat", lambda *args: {"MES": {**FOUND, "skill": next(skills), "dsr": 0.4, "trades": 5, "expectancy_ticks": -1.5}})
    entries = null_runs(run, NullKind(), seeds=4)
    s = summarise_null(run, "MES", entries)
    assert (s["repetitions"], s["skill"], s["skill_least"], s["skill_most"], s["edges"], s["traded"], s["dsr_most"]) == (4, 0.0025, -0.002, 0.009, 0, 4, 0.4)
    assert s["share_as_skilled"] == 3 / 5, "two of four, and the run itself"
    lines = null_table(run, read_results(run))
    assert [line[1] for line in lines] == ["the run itself", "driftless, lstm"] and lines[0][3].startswith("+0.0040 [")
    assert lines[1][2:] == ("4", "+0.0025 (-0.0020 .. +0.0090)", "4 of 4", "-1.50", "0.40", "0 / 4 / 0", "", "60%")
    assert null_sentences(run, entries) == ["MES: edge found on 0 of 4 driftless markets, median skill +0.0025 nats (-0.0020 .. +0.0090), largest deflated Sharpe ratio 0.40, 60% as skilled as the run."]


def test_found_against_planted_at_a_glance(run, monkeypatch):
    """Three planted markets: twice the edge is found, once its interval misses what was planted; the page shows it, and names no other file."""
    from mlpipe.page import outside_files
    told = iter([("edge found", 5.0, 3.0, 7.0), ("edge found", 4.0, 2.0, 6.0), ("not distinguishable from luck", 1.0, -1.0, 2.5)])
    def planted(*args):
        name, found, low, high = next(told)
        return {"MES": {**FOUND, "class": name, "trades": 30, "skill": 0.02, "dsr": 0.5, "expectancy_ticks": 2.0, "found": found, "found_low": low, "found_high": high, "planted": 4.5}}
    monkeypatch.setattr(module, "repeat", planted)
    entries = null_runs(run, NullKind(edge=0.15), seeds=3)
    assert null_table(run, entries)[1][1:] == ("planted 0.15, lstm", "3", "+0.0200 (+0.0200 .. +0.0200)", "3 of 3", "+2.00", "0.50", "2 / 1 / 0", "4.00 / 4.50 (2 of 3)", "")
    assert "edge found on 2 of 3 planted markets" in null_sentences(run, entries)[0] and "within the interval 2 of 3 times" in null_sentences(run, entries)[0]
    page = (run / "nullmarket.html").read_text()
    assert page.count("<img") == 1 and null_sentences(run, entries)[0] in page and outside_files(page) == []


def test_the_command(run, monkeypatch):
    from mlpipe.cli import app
    monkeypatch.setattr(module, "repeat", lambda *args: {"MES": FOUND})
    ran = CliRunner().invoke(app, ["nullmarket", str(run), "--seeds", "2", "--models", "logistic", "--set", "labels.horizon=5"])
    assert ran.exit_code == 0, ran.output
    assert "driftless 2: MES not distinguishable from luck, skill -0.0010" in ran.output and "edge found on 0 of 2 driftless markets" in ran.output
    assert json.loads((run / RESULTS).read_text())["repetitions"][0]["settings"] == {"labels.horizon": 5}
    for wrong in (["--permute", "--edge", "0.1"], ["--models", "oracle"], ["--set", "labels.horizn=5"]):
        refused = CliRunner().invoke(app, ["nullmarket", str(run), *wrong])
        assert refused.exit_code == 2, refused.output


def test_permuted_labels_reuse_all_that_comes_before(finished):
    from mlpipe.pipeline.manifest import ArtifactManifest, verify
    run = finished.run_dir
    entry = null_runs(run, NullKind(permute=True, models=("logistic",)), seeds=1, keep=True)[0]
    child = next((run / "nullmarket").glob(".permuted-*"))
    records = {(r["symbol"], r["stage"]): r for r in ArtifactManifest.load(child).records}
    assert {s for (_, s), r in records.items() if r["reused"]} == {"ingest", "clean", "features", "label", "optimize", "finalize"}
    for span in ("train", "val", "test"):
        own, dealt = (pd.read_parquet(folder / f"MES/split/out/targets_{span}.parquet") for folder in (run, child))
        assert own.datetime.equals(dealt.datetime) and own.t1.equals(dealt.t1) and sorted(own.weight) == sorted(dealt.weight)
        assert (own.weight == dealt.weight).mean() < 0.2
    assert set(entry["symbols"]) == {"MES", "MGC"} and all(v["class"] != "edge found" for v in entry["symbols"].values())
    assert verify(ArtifactManifest.load(run)) == [], "the run itself is as it was"


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A small walk of two folds, without a search."""
    from conftest import small_config
    from mlpipe.pipeline.walk import walk_forward
    runs = tmp_path_factory.mktemp("walked") / "runs"
    config = small_config(runs, **{"models": "logistic", "synthetic.days": 44, "features.cross_asset": False, "training.sequence_length": 8, "training.baselines": (), "search.enabled": False,
                                   "validation.on_fail": "continue", "validation.sample": 500, "backtest.min_trades": 5, "backtest.deals": 30, "walk.folds": 2})
    result = walk_forward(runs / "walk", config)
    assert result.ok
    return result.run_dir


def fold_records(child):
    from mlpipe.pipeline.manifest import ArtifactManifest
    return {fold: {r["stage"]: r for r in ArtifactManifest.load(child / "walk" / fold).records} for fold in ("fold-1", "fold-2")}


def test_a_walk_is_repeated_as_a_walk(walked):
    """On another market, every fold fitted anew; noted is the stitched verdict, beside the walk's own, and in its report."""
    before = (walked / "walk.json").read_bytes()
    entry = null_runs(walked, NullKind(), seeds=1, first=5, keep=True)[0]
    child = next((walked / "nullmarket").glob(".driftless-*-5"))
    told = json.loads((child / "walk.json").read_text())["symbols"]["MES"]
    assert entry["folds"] == 2 and entry["symbols"]["MES"]["skill"] == told["verdict"]["skill"] and entry["symbols"]["MES"]["sessions"] == 22 and len(told["folds"]) == 2
    for fold, records in fold_records(child).items():
        assert {s for s, r in records.items() if r["reused"]} <= {"ingest"} and {"label", "finalize", "scale", "train", "evaluate"} <= set(records), fold
    own, other = (pd.read_parquet(folder / "MES/clean/out/bars.parquet") for folder in (walked, child))
    assert not own.close.equals(other.close), "another market"
    assert (walked / "walk.json").read_bytes() == before
    lines = null_table(walked, [entry])
    assert lines[0][3].startswith(f"{json.loads(before)['symbols']['MES']['verdict']['skill']:+.4f}") and lines[1][1] == "driftless, logistic, 2 folds"
    from mlpipe.pipeline.walk_report import write_walk_report
    assert null_sentences(walked, [entry])[0] in write_walk_report(walked).read_text()


def test_a_walk_with_permuted_labels_and_with_an_edge(walked):
    entry = null_runs(walked, NullKind(permute=True), seeds=1, keep=True)[0]
    child = next((walked / "nullmarket").glob(".permuted-*"))
    for fold, records in fold_records(child).items():
        assert all(records[s]["reused"] for s in ("ingest", "clean", "features", "label", "finalize")) and not records["split"]["reused"] and not records["train"]["reused"]
        own, dealt = (pd.read_parquet(folder / "walk" / fold / "MES/split/out/targets_test.parquet") for folder in (walked, child))
        assert own.datetime.equals(dealt.datetime) and not own.label.equals(dealt.label)
    planted = null_runs(walked, NullKind(edge=0.2), seeds=1)[0]["symbols"]["MES"]
    assert planted["skill"] > 0.01 > entry["symbols"]["MES"]["skill"] and planted["found_low"] < planted["planted"] and planted["trades"] > 0


def test_a_failing_fold_is_named(walked):
    with pytest.raises(ValueError, match="fold-1, MES/.*must be at least"): null_runs(walked, NullKind(sets={"walk.first": 0.1, "walk.folds": 3}), seeds=1, first=9)
