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
    assert [line[1] for line in lines] == ["the run", "driftless, lstm"] and lines[0][3] == "+0.0040" and lines[1][7] == "0 of 4"
    assert null_sentences(run, entries) == ["MES: edge found on 0 of 4 driftless markets, median skill +0.0025 nats."]


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
