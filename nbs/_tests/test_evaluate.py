"""The last stage on a finished run: who competes, what is counted, what a setting of the backtest changes."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def judge(finished, tmp_path_factory):
    """Runs evaluate of MES on a copy of the finished run with other settings; `edit` may change the copy's ensemble before. Returns the outputs' folder and the task."""
    from mlpipe.config import PipelineConfig, merge, nest
    from mlpipe.pipeline.stage import Task, get_stage
    def run(edit=lambda folder: None, **settings):
        root = tmp_path_factory.mktemp("judged")
        copy, out = root / "run", root / "out"
        shutil.copytree(finished.run_dir, copy)
        out.mkdir()
        edit(copy / "MES/ensemble/out")
        config = PipelineConfig.model_validate(merge(finished.config.model_dump(), nest(settings)))
        task = Task(get_stage("evaluate"), config, copy, "MES", out=out)
        get_stage("evaluate").function(task)
        return out, task
    return run


def other_method(folder):
    """A second method of the same members, which leans the other way."""
    told = json.loads((folder / "ensemble.json").read_text())
    (folder / "ensemble.json").write_text(json.dumps({**told, "judged": "voting", "methods": {"voting": {}, "stacking": {}, "greedy": {}}}))
    for span in ("val", "test"):
        frame = pd.read_parquet(folder / f"ensemble_{span}_preds.parquet")
        frame.assign(p_up=frame.p_down, p_down=frame.p_up).to_parquet(folder / f"stacking_{span}_preds.parquet")


def test_every_ensemble_competes_and_is_counted(judge):
    out, task = judge(other_method, **{"backtest.trials_before": 7, "backtest.deals": 20})
    board = pd.read_parquet(out / "leaderboard.parquet")
    assert board["name"].tolist() == ["ensemble", "stacking", "lstm", "logistic", "prior", "class shares", "always flat", "buy and hold per session"]
    assert board["kind"].tolist()[:4] == ["ensemble", "ensemble", "member", "baseline"]
    trials = json.loads((out / "metrics.json").read_text())["trials"]
    assert trials["models"] == 4 and trials["thresholds"] == 44 and trials["before"] == 7 and trials["tuning"] == 0
    assert trials["total"] == sum(v for k, v in trials.items() if k != "total")
    assert [r for r in task.reads if r.endswith("targets_test.parquet")] == ["MES/split/targets_test.parquet"], "the sealed targets are opened once"
    said = json.loads((out / "verdict.json").read_text())
    assert said["trials"] == trials["total"] and said["sentence"].startswith(f"MES: {said['class']}: ")
    assert {p.name for p in out.glob("*.png")} == {"equity.png", "calibration.png", "sources.png", "days.png"}


def leaning(folder):
    """An ensemble that knows the validation span, so that a threshold is chosen, and throws coins of all sizes on the test span."""
    rng, targets = np.random.default_rng(3), pd.read_parquet(folder.parents[1] / "split/out/targets_val.parquet").set_index("datetime")["label"]
    for span in ("val", "test"):
        frame = pd.read_parquet(folder / f"ensemble_{span}_preds.parquet")
        lean = 0.9 * targets.reindex(frame["datetime"]).to_numpy() if span == "val" else rng.uniform(-0.9, 0.9, len(frame))
        frame.assign(p_down=(1 - lean) / 2, p_flat=0.0, p_up=(1 + lean) / 2).to_parquet(folder / f"ensemble_{span}_preds.parquet")


@pytest.fixture(scope="module")
def sizes(judge):
    """Trades, verdict and leaderboard of the leaning ensemble with one contract, three, and up to thirty by probability."""
    settings = {"one": {}, "three": {"backtest.contracts": 3}, "sized": {"backtest.contracts": 30, "backtest.sizing": "probability"}}
    made = {name: judge(leaning, **{**s, "backtest.deals": 0})[0] for name, s in settings.items()}
    return {name: (pd.read_parquet(out / "trades.parquet"), json.loads((out / "verdict.json").read_text()), pd.read_parquet(out / "leaderboard.parquet").set_index("name"))
            for name, out in made.items()}


def test_size_moves_dollars_not_ticks(sizes):
    """Three contracts earn three times the dollars of one with the same trades; sizing by probability holds more where the lean is larger."""
    (one, said, board), (three, said3, board3), (sized, _, _) = sizes.values()
    assert len(one) > 50 and len(three) == len(one) and np.isclose(said3["net_dollars"], 3 * said["net_dollars"])
    for same in ("expectancy_ticks", "expectancy_low", "sharpe", "psr", "dsr", "profit_factor", "exposure"): assert np.isclose(said3[same], said[same]), same
    hold = "buy and hold per session"
    assert np.isclose(board3.loc[hold, "net_dollars"], 3 * board.loc[hold, "net_dollars"]) and np.isclose(said3["turnover_per_session"], 3 * said["turnover_per_session"])
    assert (one["contracts"] == 1).all() and (three["contracts"] == 3).all() and sized["contracts"].between(1, 30).all() and sized["contracts"].nunique() > 10
    assert [c["name"] for c in said["criteria"]][-1] == "probabilistic Sharpe ratio", "no dealt days were asked for"


def test_the_judged_trades_are_the_labels(sizes, finished):
    """A long that is taken ends where its label ends: same bars, minutes, barriers and rules."""
    labels = pd.read_parquet(finished.run_dir / "MES/finalize/out/labels.parquet").set_index("t0")
    trades = sizes["one"][0]
    longs = trades[(trades["side"] == 1) & trades["entry_time"].isin(labels.index[labels["label"] != -99])]
    own = labels.loc[longs["entry_time"]]
    assert len(longs) > 20 and (own["t1"].to_numpy() == longs["exit_time"].to_numpy()).all()
    assert np.allclose((own["exit_price"] - own["entry_price"]).to_numpy() / 0.25, longs["gross_ticks"])
