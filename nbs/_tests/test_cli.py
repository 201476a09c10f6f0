"""Bad input at the command line: one line, exit code 2, inputs untouched, nothing half-written."""
import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest


def mlpipe(*args, cwd=None):
    done = subprocess.run([sys.executable, "-c", "from mlpipe.cli import main; main()", *map(str, args)], capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr.strip()


@pytest.fixture(scope="module")
def bars():
    from mlpipe.data.synthetic import synthetic_market
    return synthetic_market(("MES",), "2024-01-02", 12, 1)["MES"]


@pytest.fixture
def broken(bars, tmp_path):
    """Writes MES_1m.csv changed by a function and runs on it without notebooks; returns exit code, error text, run folder."""
    def run(change=lambda b: b, *options, frame=None):
        data = tmp_path / "data"; data.mkdir(exist_ok=True)
        table = change(bars.copy()) if frame is None else frame
        file = data / "MES_1m.csv"
        table.to_csv(file, index=False)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        code, out, err = mlpipe("run", "--data", data, "--symbols", "MES", "--no-reports", "--executor", "serial", "--set", f'execution.runs_path="{tmp_path / "runs"}"',
                                "--set", "tracking.backend=none", *options, cwd=tmp_path)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest, "the input was modified"
        left = [p for p in (tmp_path / "runs").rglob("*") if ".making-" in p.name]
        assert not left
        return code, err
    return run


def swap(frame, row, **values):
    for k, v in values.items(): frame[k] = frame[k].where(np.arange(len(frame)) != row, v)
    return frame


CASES = {
    "a missing column": (lambda b: b.drop(columns="high"), "high"),
    "unsorted stamps": (lambda b: pd.concat([b.iloc[:50], b.iloc[60:61], b.iloc[50:60], b.iloc[61:]]), "row"),
    "high below low in too many rows": (lambda b: b.assign(high=b.low - 1), "high"),
    "a wrong time zone": (lambda b: b.assign(datetime=b.datetime.dt.tz_convert("America/New_York").dt.tz_localize(None)), "zone"),
    "end stamps read as start stamps": (lambda b: b.assign(datetime=b.datetime + pd.Timedelta("1min")), "stamp"),
    "an empty file": (lambda b: b.iloc[:0], "at least 2 bars"),
    "too few rows": (lambda b: b.iloc[:600], "rows"),
    "duplicate stamps that differ": (lambda b: pd.concat([b, b.assign(close=b.close + 1, high=b.high + 1)]).sort_values("datetime", kind="stable"), "duplicate"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_data(broken, case):
    change, word = CASES[case]
    code, err = broken(change)
    assert code == 2, err
    lines = [line for line in err.splitlines() if "error:" in line or " failed: " in line]
    assert len(lines) == 1 and word in lines[0].lower(), err
    assert "Traceback" not in err


def test_missing_file(tmp_path):
    code, out, err = mlpipe("run", "--data", tmp_path, "--symbols", "MES", cwd=tmp_path)
    assert code == 2 and "MES" in err and err.count("\n") == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("args,word", [(("demo", "--symbols", "XYZ"), "instruments.XYZ.tick"), (("demo", "--models", "gpt"), "gpt"),
                                       (("demo", "--set", "labels.horizn=3"), "labels.horizn"), (("demo", "--set", "splits.train=0.9"), "must be 1"),
                                       (("status", "nothing"), "nothing"), (("rerun", "nothing", "--from", "label"), "nothing")])
def test_bad_settings(tmp_path, args, word):
    code, out, err = mlpipe(*args, cwd=tmp_path)
    assert code == 2 and word in err and err.count("\n") == 0, err
    assert not (tmp_path / "runs").exists()


def test_windows_longer_than_the_data(broken):
    code, err = broken(lambda b: b, "--set", "training.sequence_length=5000")
    assert code == 2 and ("sequence_length" in err or "rows" in err), err
