"""A walk-forward run: folds tile the tested span, each is blind to what comes after it and fits everything anew; a killed one goes on."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mlpipe.data.synthetic import synthetic_market
from mlpipe.pipeline.manifest import ArtifactManifest
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import get_stage
from mlpipe.pipeline.walk import Fold, fold_config, plan_folds, plan_walk, common_sessions, read_plan, read_stretch, session_bars, walk_forward

CHEAP = {"models": "logistic", "features.cross_asset": False, "training.sequence_length": 8, "training.baselines": (), "search.folds": 0, "search.population": 8, "search.generations": 2, "search.min_effective": 50,
         "search.k_step": 0.5, "search.bars_step": 18, "validation.on_fail": "continue", "validation.sample": 500, "backtest.min_trades": 5, "backtest.deals": 30, "walk.folds": 3, "walk.first": 0.4}


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A walk over a file of 45 sessions that was interrupted in its second fold and went on: its configuration, its folder, the ends of both attempts."""
    from conftest import small_config
    root = tmp_path_factory.mktemp("walk")
    (root / "data").mkdir()
    synthetic_market(("MES",), "2024-01-02", 45, 7)["MES"].to_parquet(root / "data" / "MES_1m.parquet", index=False)
    config = small_config(root / "runs", **{**CHEAP, "data.source": "files", "data.path": str(root / "data")})
    folder, starts = root / "runs" / "walk", []
    def stop(event):
        starts.append(event)
        if sum(e["event"] == "ran" and e["task"] == "MES/scale" for e in starts) == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): walk_forward(folder, config, listener=stop)
    assert not (folder / "walk.json").exists() and not (folder / "walk" / "fold-3").exists()
    return config, folder, walk_forward(folder)


def parts(folder): return [read_stretch(folder, fold, "MES") for fold in read_plan(folder)]


def test_resume_does_only_the_rest(walk):
    _, _, result = walk
    status = {name: {str(t): o.status for t, o in run.outcomes.items()} for name, run in result.runs.items()}
    assert result.ok and set(status[""].values()) == set(status["fold-1"].values()) == {"kept"}
    second = status["fold-2"]
    assert second["MES/scale"] == second["MES/finalize"] == "kept" and second["MES/train/logistic"] == second["MES/evaluate"] == "ran"
    assert status["fold-3"]["MES/train/logistic"] == "ran" and result.summary["symbols"]["MES"]["test_reads"] == 3, "each test span is read once"


def test_folds_tile_the_tested_span(walk):
    config, folder, _ = walk
    bars, plan = session_bars(folder, "MES"), read_plan(folder)
    assert [f.end for f in plan[:-1]] == [f.test_from for f in plan[1:]] and pd.Timestamp(plan[-1].end) == bars.ts_close.iloc[-1]
    tested = bars[bars.datetime >= plan[0].test_from]
    equity, rows = (pd.read_parquet(folder / "walk/stitched/MES" / f"{name}.parquet") for name in ("equity", "test_rows"))
    assert equity.datetime.tolist() == tested.datetime.tolist(), "every bar after the first training span is tested, once"
    assert rows.datetime.is_monotonic_increasing and rows.datetime.is_unique and len(rows) > 0.9 * len(tested)
    assert (rows.fold.to_numpy() == 1 + np.searchsorted(pd.DatetimeIndex([f.end for f in plan]), pd.DatetimeIndex(rows.datetime), side="right")).all()


def test_each_fold_fits_anew_on_what_was_over_before_it(walk):
    _, folder, _ = walk
    seen = []
    for fold in read_plan(folder):
        out = folder / "walk" / fold.name / "MES"
        search, scaler = json.loads((out / "optimize/out/barriers.json").read_text()), (out / "scale/out/scaler.json").read_text()
        bars = pd.read_parquet(out / "clean/out/bars.parquet")
        assert bars.ts_close.max() <= pd.Timestamp(fold.end), "what comes after the fold is not there"
        assert pd.Timestamp(search["last_t1_seen"]) <= pd.Timestamp(search["train_end"]) < pd.Timestamp(fold.test_from)
        for block in ("train", "val"):
            assert pd.read_parquet(out / f"split/out/targets_{block}.parquet").horizon_end.max() < pd.Timestamp(fold.test_from) - pd.Timedelta("20h"), "an embargo lies between"
        assert not any(r["reused"] for r in ArtifactManifest.load(folder / "walk" / fold.name).records if r["stage"] != "ingest")
        seen.append((search["train_end"], search["candidate"]["fitness"] if search["candidate"] else None, scaler))
    assert all(len(set(column)) == 3 for column in zip(*seen)), "three searches, three scalers"


def test_changing_the_future_leaves_a_fold_alone(walk, tmp_path):
    config, folder, _ = walk
    fold = read_plan(folder)[1]
    bars = pd.read_parquet(folder.parent.parent / "data" / "MES_1m.parquet")
    later = (bars.datetime >= fold.end).to_numpy()
    prices = ["open", "high", "low", "close"]
    (tmp_path / "data").mkdir()
    spoiled = bars.assign(**{c: np.where(later, bars[c] * 1.5, bars[c]) for c in prices}, volume=np.where(later, bars.volume * 9, bars.volume))
    spoiled.to_parquet(tmp_path / "data" / "MES_1m.parquet", index=False)
    own = fold_config(config, fold, {})
    other = own.model_copy(update={"data": own.data.model_copy(update={"path": str(tmp_path / "data")})})
    PipelineRunner(other, run_dir=tmp_path / "runs" / "again").run(quiet=True)
    hashes = lambda run: {a["path"]: a["sha256"] for a in ArtifactManifest.load(run).artifacts()}
    mine, theirs = hashes(folder / "walk" / fold.name), hashes(tmp_path / "runs" / "again")
    told = {"MES/ingest/out/summary.json", "MES/report/out/card.html", "MES/report/out/card.md"}      # these name the file, whose hash is another
    assert mine.keys() == theirs.keys() and {k for k in mine if mine[k] != theirs[k]} <= told
    assert mine["MES/ingest/out/summary.json"] != theirs["MES/ingest/out/summary.json"], "the change was there to be seen"


def test_the_stitched_result_is_the_folds(walk):
    config, folder, result = walk
    singles, told = parts(folder), result.summary["symbols"]["MES"]
    trades, equity, daily, rows = (pd.read_parquet(folder / "walk/stitched/MES" / f"{name}.parquet") for name in ("trades", "equity", "daily", "test_rows"))
    own = pd.concat([p.trades for p in singles], ignore_index=True)
    same = [c for c in own if c not in ("entry_bar", "exit_bar")]
    pd.testing.assert_frame_equal(trades[same], own[same])
    assert (equity.datetime.iloc[trades.exit_bar].to_numpy() < trades.exit_time.to_numpy()).all() and (equity.datetime.iloc[trades.entry_bar].to_numpy() == trades.entry_time.to_numpy()).all()
    assert np.isclose(daily.net_dollars.sum(), trades.net_dollars.sum()) and np.isclose(equity.equity.iloc[-1], trades.net_dollars.sum()) and len(daily) == sum(f.sessions for f in read_plan(folder))
    verdict = told["verdict"]
    assert verdict["trades"] == len(trades) and verdict["sessions"] == len(daily)
    assert verdict["trials"] == sum(sum(p.trials[k] for k in ("genomes", "models", "thresholds")) for p in singles), "the trials of all folds"
    assert np.isclose(verdict["skill"], np.average([p.verdict["skill"] for p in singles], weights=[len(p.rows) for p in singles]))
    assert told["sentence"].startswith("MES: ") and "of 3 folds" in told["sentence"] and len(told["folds"]) == 3


def test_the_folds_can_slide(walk):
    config, folder, _ = walk
    table = common_sessions({"MES": session_bars(folder, "MES")})
    plan = plan_folds(table, config.walk.model_copy(update={"sliding": True}))
    assert {f.seen for f in plan} == {18} and len({f.start for f in plan}) == 3
    runner = PipelineRunner(fold_config(config, plan[2], {}), run_dir=folder.parent / "slid", stages={n: get_stage(n) for n in ("ingest", "clean")})
    runner.run(quiet=True)
    bars = pd.read_parquet(runner.run_dir / "MES/clean/out/bars.parquet")
    assert bars.datetime.iloc[0] == pd.Timestamp(plan[2].start) and bars.session.nunique() == 18 + plan[2].sessions


def test_the_command_line(walk):
    from mlpipe.cli import app
    _, folder, _ = walk
    page = (folder / "walk.html").read_bytes()
    done = CliRunner().invoke(app, ["resume", str(folder)])
    assert done.exit_code == 0, done.output
    assert "of 3 folds" in done.output and "walk.html" in done.output and (folder / "walk.html").read_bytes() == page
    assert "fold-3: ok" in CliRunner().invoke(app, ["status", str(folder)]).output
    for args, word in ((["rerun", str(folder), "--from", "train"], "walk-forward"), (["demo", "--walk-forward", "fold=3"], "walk.fold"), (["demo", "--walk-forward", "first=2"], "walk.first")):
        refused = CliRunner().invoke(app, args)
        assert refused.exit_code == 2 and word in refused.output, refused.output


def test_a_walk_keeps_its_folds(walk):
    _, folder, _ = walk
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    plan = [{**f, "end": f["end"].replace("2024", "2025")} for f in json.loads((copy / "walk/plan.json").read_text())]
    (copy / "walk/plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="must keep its folds"): walk_forward(copy)
    assert read_plan(copy)[0] != read_plan(folder)[0] and isinstance(read_plan(copy)[0], Fold)


def test_a_plan_knows_the_folds_and_writes_nothing(walk):
    config, folder, _ = walk
    files = lambda: sorted(str(p) for p in folder.parent.rglob("*") if ".cache" not in p.parts)        # hashes of raw files may be noted
    before = files()
    same = plan_walk(config)
    assert [p.fold for p in same] == [None, *read_plan(folder)] and all(i.action == "reuse" for p in same for i in p.items)
    other = plan_walk(config.model_copy(update={"scaling": config.scaling.model_copy(update={"clip": 3.0})}))
    for part in other[1:]:
        todo = {i.task.stage: i for i in part.items if i.action == "run"}
        assert set(todo) == {"scale", "validate", "report", "train", "ensemble", "evaluate"} and "scaling.clip" in todo["scale"].reason and "MES/scale" in todo["train"].reason
    assert files() == before, "a plan writes nothing"


def test_the_command_plan_lists_the_folds(walk, tmp_path):
    from mlpipe.cli import app
    _, folder, _ = walk
    asked = ["plan", "--symbols", "MES", "--models", "logistic", "--set", "synthetic.days=60", "--data", str(folder.parent.parent / "data"), "--walk-forward", "3,first=0.4", "--set"]
    told = CliRunner().invoke(app, [*asked, f'execution.runs_path="{folder.parent}"'])
    assert told.exit_code == 0, told.output
    for fold in read_plan(folder):
        assert f"fold {fold.number} of 3: trained on {fold.seen} sessions before {fold.test_from[:10]}, tested on {fold.sessions} to {fold.end[:10]}: " in told.output
    assert told.output.count("MES/train/logistic") >= 3
    unread = CliRunner().invoke(app, [*asked, f'execution.runs_path="{tmp_path / "runs"}"'])
    assert unread.exit_code == 0 and "3 folds of 13 tasks each: their stretches, after the first 40% of the sessions, are known when ingest and clean have run" in unread.output
    assert {p.name for p in (tmp_path / "runs").iterdir()} <= {".cache"}
