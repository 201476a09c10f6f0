"""Each form of a source is read right, or refused in a sentence that says what to do; nothing is misread in silence."""
import gzip
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from formats import OHLCV, PRICES, READ, REFUSED
from mlpipe.config import get_config, merge, nest
from mlpipe.data.formats import ReadRules, read_bars
from mlpipe.data.inspect import inspect_file
from mlpipe.data.synthetic import synthetic_market
from mlpipe.instruments import get_instrument
from mlpipe.pipeline.execute import package_dir
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import TaskId
import mlpipe.stages.ingest as ingest
from mlpipe.stages.ingest import Files, Span, rolls_within, summarise

MES = get_instrument("MES")
HOUSE = re.compile(r"[^\n]+ must [^\n]+, got [^\n]+[.)\w'\"] ?[.?] [A-Z][^\n]+[.?]")


@pytest.fixture(scope="module")
def truth():
    """Six sessions of minutes, over a change of the clocks of New York."""
    return synthetic_market(["MES"], "2024-03-06", 6, seed=3)["MES"]


def config_of(path, settings):
    return get_config("dev", package_dir() / "settings.ini", **nest({"data.source": "files", "data.path": str(path.parent), "data.files.MES": path.name, **settings}))


@pytest.fixture(scope="module", autouse=True)
def proofs():
    """The same bars on the same clock are proved once: the forms differ before that."""
    known, prove = {}, ingest.prove_clock
    def once(ts, volume, calendar, zone, stamping, readings):
        key = hash((ts.tobytes(), volume.tobytes(), calendar, zone, stamping))
        if key not in known: known[key] = prove(ts, volume, calendar, zone, stamping, readings)
        return known[key]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest, "prove_clock", once)
        yield


def ingested(config):
    """What the stage makes of a source: bars, summary and quarantine."""
    source, span = Files(config, MES), Span(config.data.start, config.data.end, "MES")
    bars = pd.concat(list(span.cut(source)), ignore_index=True)
    facts = source.facts()
    return bars, summarise(facts, span, "files", rolls_within(source.rolls, span)), source.quarantine()


def check_bars(bars):
    """What every series of bars must satisfy."""
    assert list(bars.columns) == ["datetime", *OHLCV] and str(bars["datetime"].dtype) == "datetime64[ns, UTC]"
    assert bars["datetime"].is_monotonic_increasing and bars["datetime"].is_unique and len(bars) >= 2
    prices, volume = bars[PRICES].to_numpy(), bars["volume"].to_numpy()
    assert np.isfinite(prices).all() and (prices > 0).all()
    assert (bars["high"] >= prices.max(axis=1)).all() and (bars["low"] <= prices.min(axis=1)).all()
    assert np.isnan(volume).all() or (np.isfinite(volume).all() and (volume >= 0).all())


def check_counts(summary, bars, quarantine):
    """Every row is one bar, or in one reason."""
    gone = [r for r in summary["reasons"] if r["what"] in ("quarantined", "dropped", "left out")]
    assert summary["rows_out"] == len(bars) and len(quarantine) == sum(r["rows"] for r in gone if r["what"] == "quarantined")
    if summary["kind"] == "bars": assert summary["rows_in"] == len(bars) + sum(r["rows"] for r in gone), summary["reasons"]


@pytest.mark.parametrize("name", READ)
def test_read_right(name, truth, tmp_path):
    form = READ[name]
    made = form.write(truth, tmp_path)
    path, expected = made if isinstance(made, tuple) else (made, truth)
    config = config_of(path, form.settings)
    bars, summary, quarantine = ingested(config)
    check_bars(bars)
    check_counts(summary, bars, quarantine)
    expected = expected[["datetime", *OHLCV]].reset_index(drop=True)
    if form.tolerance: pd.testing.assert_frame_equal(bars, expected, check_exact=False, rtol=form.tolerance, atol=0)
    else: pd.testing.assert_frame_equal(bars, expected, check_exact=True)
    if form.clock == "truth": assert summary["clock"]["proved"], summary["clock"]

    columns = [k for k in form.settings if k.startswith(("data.columns", "data.contract"))]
    if columns or "data.start" in form.settings or summary["kind"] == "trades": return          # inspect looks at the file, not at settings of the data
    named = "" if form.guessed or config.data.profile == "" else config.data.profile
    seen = inspect_file(path, named, "MES", config.profile)
    assert seen.profile == summary["profile"]["name"]
    if form.clock == "truth": assert not seen.problem, seen.problem
    asked = dict(line.split(" = ") for line in seen.settings)
    again = config_of(path, {k: v for k, v in form.settings.items() if not k.startswith("data.")} | {
        k: v for k, v in form.settings.items() if k in ("data.trust_clock", "data.repair", "data.adjust", "data.timezone" if form.clock == "open" else "")} | asked)
    if again != config: pd.testing.assert_frame_equal(ingested(again)[0], bars, check_exact=True)
    if "data.adjust" not in form.settings:
        ends = [f[["datetime", *PRICES]].reset_index(drop=True) for f in (seen.first, seen.last)]
        pd.testing.assert_frame_equal(pd.concat(ends, ignore_index=True), pd.concat([bars.head(3), bars.tail(3)], ignore_index=True)[["datetime", *PRICES]])


def told(error, folder):
    """The message, after it was held against the form of the house: one sentence, a file or a setting by name, and what to do."""
    text = str(error)
    assert HOUSE.fullmatch(text) and len(text) < 900, text
    assert any(f.name in text for f in folder.rglob("*")) or re.search(r"\b(data|profile)\.\w|\bMES\b", text), text
    return text


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, truth, tmp_path):
    form = REFUSED[name]
    path = form.write(truth, tmp_path)
    try: bars, *_ = ingested(config_of(path, form.settings))
    except ValueError as e: error = e
    else: pytest.fail(f"this had to be refused, got {len(bars)} bars:\n{bars.head(3)}")
    assert re.search(form.error, told(error, tmp_path)), str(error)
    if "profile" in str(error).split(",")[0]: return
    try: inspect_file(path, "own" if "data.profile" in form.settings else "", "MES", config_own(form.settings))
    except ValueError as e: told(e, tmp_path)


def config_own(settings):
    return nest({k: v for k, v in settings.items() if k.startswith("profile.")}).get("profile", {})


# ---- in a run

def test_a_run_over_contract_files(small, truth, tmp_path):
    path, expected = READ["zip of contract files"].write(truth, tmp_path)
    runner = PipelineRunner(small(**{"data.source": "files", "data.path": str(tmp_path), "data.files.MES": path.name}), run_id="contracts")
    result = runner.run(before=TaskId("clean", "MES"))
    assert result.ok, [f"{o.task}: {o.error}" for o in result.failed]
    out = runner.run_dir / "MES" / "ingest" / "out"
    pd.testing.assert_frame_equal(pd.read_parquet(out / "bars.parquet"), expected.reset_index(drop=True), check_exact=True)
    rolls, summary = pd.read_parquet(out / "rolls.parquet"), json.loads((out / "summary.json").read_text())
    assert rolls[["before", "after", "difference"]].to_numpy().tolist() == [["MESH4", "MESM4", 50.0]] and summary["rolls"] == 1
    assert {(r["reason"], r["what"]): r["rows"] for r in summary["reasons"]} == {("other contract", "left out"): len(truth)}
    assert pd.read_parquet(out / "quarantine.parquet").empty


def test_a_run_that_is_refused_names_the_row(small, truth, tmp_path):
    path = REFUSED["a text among prices"].write(truth, tmp_path)
    result = PipelineRunner(small(**{"data.source": "files", "data.path": str(path)}), run_id="refused").run(before=TaskId("clean", "MES"))
    assert [o.task.stage for o in result.failed] == ["ingest"]
    assert "'not a number' (MES.csv, row 99)" in result.failed[0].error and "Traceback" not in result.failed[0].error


# ---- what no generator of a form can show

BOUNDED = """
import resource, sys
from mlpipe.data.formats import read_bars
from mlpipe.data.inspect import inspect_file
inspect_file(sys.argv[1])                # what is compiled or imported on the way is none of the file's memory
room = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for name in sys.argv[2:]:
    for read in (read_bars, inspect_file):
        try: print("read:", name, read(name))
        except ValueError as e: print(e)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is bounded here by Linux's own means")
def test_lines_without_an_end_take_no_memory(tmp_path):
    """2 GB of header in a gzip file, and 300 MB of one line in the middle of others, read with 256 MB of room."""
    block, head = b"volume," * (1 << 21), b"datetime,open,high,low,close,volume\n2024-03-06T10:00:00Z,1,1,1,1,1\n2024-03-06T10:01:00Z,1,1,1,1,1\n"
    (tmp_path / "header.csv.gz").write_bytes(gzip.compress(b"datetime,") + gzip.compress(block, 1) * 146)
    with (tmp_path / "middle.csv").open("wb") as file: [file.write(part) for part in (head, *[block] * 21)]
    with (tmp_path / "row.jsonl").open("wb") as file: [file.write(part) for part in (b'{"datetime": "', *[block] * 5)]
    (tmp_path / "array.json.gz").write_bytes(gzip.compress(b'[{"a": [') + gzip.compress(b"1, " * (1 << 22), 1) * 20)
    (tmp_path / "sound.csv").write_bytes(head + b"2024-03-06T10:02:00Z,1,1,1,1,1\n" * 3)
    names = ["header.csv.gz", "middle.csv", "row.jsonl", "array.json.gz"]
    done = subprocess.run([sys.executable, "-c", BOUNDED, *(str(tmp_path / n) for n in ("sound.csv", *names))], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 8 and all(len(line) < 400 and HOUSE.fullmatch(line) for line in lines), lines
    for name, pair in zip(names, zip(lines[::2], lines[1::2])): assert all(name in line for line in pair)
    assert all("must be shorter than 1 MB, got one without an end" in line for line in lines[:4]), lines[:4]


def test_a_file_that_may_not_be_read(truth, tmp_path, monkeypatch):
    def denied(*args, **kwargs): raise PermissionError(13, "Permission denied")
    file = READ["comma"].write(truth[:100], tmp_path)
    monkeypatch.setattr("mlpipe.data.dialects.open", denied, raising=False)
    for look in (read_bars, inspect_file):
        with pytest.raises(ValueError, match=r"a file must be readable, got Permission denied \(MES.csv\)") as e: look(file)
        told(e.value, tmp_path)


def test_paths_that_lead_nowhere(tmp_path):
    (tmp_path / "MES.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone.csv")
    for name in ("gone.csv", "MES.csv", "link.csv", "", "."):
        for look in (read_bars, inspect_file):
            with pytest.raises(ValueError) as e: look(tmp_path / name)
            assert HOUSE.fullmatch(str(e.value)), e.value


# ---- mutations of a sound file: what is accepted satisfies the rules of bars, and lines that nobody touched are read as before

LINES = [b"datetime,open,high,low,close,volume", *(f"2024-03-06T{14 + k // 60}:{k % 60:02d}:00Z,{5000 + k % 9}.25,{5001 + k % 9}.5,{4999 + k % 9}.75,{5000 + k % 9}.00,{10 + k}".encode() for k in range(80))]
SOUND = {line: line.decode().split(",") for line in LINES[1:]}
place, line = st.integers(0, 5000), st.integers(0, len(LINES) - 1)
mutation = st.one_of(st.tuples(st.just("byte"), place, st.integers(0, 255)), st.tuples(st.just("digit"), place, st.integers(48, 57)), st.tuples(st.just("insert"), place, st.sampled_from(b'\n\r",;.-# \0\xff09eE+')),
                     st.tuples(st.just("delete"), line, line), st.tuples(st.just("double"), line, line), st.tuples(st.just("swap"), line, line), st.tuples(st.just("move"), line, line),
                     st.tuples(st.just("separator"), line, st.sampled_from(b";\t| .")), st.tuples(st.just("separators"), line, st.sampled_from(b";\t| ")), st.tuples(st.just("cut"), place, line))


def mutated(mutations):
    lines, text = list(LINES), None
    for kind, a, b in (m for m in mutations if m[0] in ("delete", "double", "swap", "move", "separator")):
        a, b = a % len(lines), (b % len(lines) if kind != "separator" else b)
        if kind == "delete" and len(lines) > 1: del lines[a]
        elif kind == "double": lines.insert(a, lines[a])
        elif kind == "swap": lines[a], lines[b] = lines[b], lines[a]
        elif kind == "move": lines.insert(b, lines.pop(a))
        elif kind == "separator": lines[a] = lines[a].replace(b",", bytes([b]))
    text = bytearray(b"\n".join(lines) + b"\n")
    for kind, a, b in (m for m in mutations if m[0] in ("byte", "digit", "insert", "separators", "cut")):
        if not text: break
        a %= len(text)
        if kind in ("byte", "digit"): text[a] = b
        elif kind == "insert": text.insert(a, b)
        elif kind == "separators": text = text.replace(b",", bytes([b]))
        elif kind == "cut": del text[a:]
    return bytes(text)


def accepted(file, share, size=262_144):
    """A source whose bars and counts are as they must be, or None where it was refused in the form of the house."""
    try: source = read_bars(file, rules=ReadRules(max_bad_share=share), size=size)
    except ValueError as e: return told(e, file.parent) and None
    check_bars(source.bars)
    check_counts({**source.facts, "rows_out": len(source.bars)}, source.bars, source.quarantine)
    return source


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(mutation, min_size=1, max_size=4), st.sampled_from([0.0, 0.05, 1.0]))
@example([("insert", 400, 34)], 1.0)
@example([("insert", 400, 34), ("insert", 900, 34)], 1.0)
def test_mutations(tmp_path, mutations, share):
    text = mutated(mutations)
    file = tmp_path / "MES.csv"
    file.write_bytes(text)
    source = accepted(file, share)
    if source is None: return
    left = text.split(b"\n")
    bars = {k.isoformat()[:19] + "Z": tuple(v) for k, *v in source.bars.itertuples(index=False)}
    foreign = sum(1 for x in left[1:] if x.strip() and x not in SOUND)
    odd = [k for k, v in bars.items() if not any(c[0] == k and tuple(map(float, c[1:])) == v for c in SOUND.values())]
    if not any(m[0] == "separators" for m in mutations): assert len(odd) <= foreign, (odd, foreign)
    assert source.facts["rows_in"] <= len(left)


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(mutation, min_size=1, max_size=3))
def test_mutations_under_inspection(tmp_path, mutations):
    file = tmp_path / "MES.csv"
    file.write_bytes(mutated(mutations))
    try: seen = inspect_file(file, symbol="MES")
    except ValueError as e: seen = told(e, tmp_path) and None
    if seen is None: return
    source = accepted(file, 1.0)
    assert source is not None and seen.profile == "plain"
    assert "\n".join(seen.lines()) and seen.markdown()


# ---- small tables of anything, against a reader that looks at one cell at a time

PRICE = st.sampled_from(["100", "100.5", "101", "99.75", "100", "101", "+100", "1e2", "100.", ".5", " 100 ", "", "nan", "inf", "-inf", "-1", "0", "-0", "abc", "0x64", "1_00", "１００", "1e999", "1e-999",
                         "100 000", '"1,000"', '"100"', "100%", "$100", "1e2.5", "--1", "NULL", "9" * 40, "١٠٠"])
STAMP = st.sampled_from(["", "soon", "2024-03-06T14:61:00Z", "2024-02-30T10:00:00Z", "2024-03-06T14:00:30Z", "2024-03-06T14:00:00.000Z", "1709733600", "2024-03-06"])
row = st.tuples(st.one_of(*[st.integers(0, 12)] * 4, STAMP), PRICE, PRICE, PRICE, PRICE, st.sampled_from(["1", "10", "0", "1.5", "-1", "", "x", "nan"]))
good = st.tuples(st.integers(0, 12), st.just("100"), st.sampled_from(["101", "102"]), st.just("99"), st.sampled_from(["100", "100.5"]), st.sampled_from(["1", "2"]))
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)


def slowly(rows):
    """Sound bars by stamp, by the rules as they are written: a set of values for each stamp, and how often a stamp was read."""
    found = {}
    for stamp, *cells in rows:
        if not isinstance(stamp, int) and stamp != "2024-03-06T14:00:00.000Z": continue
        cells = [c.strip().strip('"').strip() for c in cells]
        if not all(NUMBER.fullmatch(c) for c in cells): continue
        o, h, l, c, v = map(float, cells)
        if np.isfinite([o, h, l, c, v]).all() and min(o, h, l, c) > 0 and v >= 0 and h >= max(o, c) and l <= min(o, c):
            found.setdefault(stamp if isinstance(stamp, int) else 0, []).append((o, h, l, c, v))
    return {k: v[0] for k, v in sorted(found.items()) if len(set(v)) == 1}


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(good, good, row), min_size=0, max_size=20), st.sampled_from([",", ";", "\t", "|"]), st.permutations(range(6)), st.sampled_from([True] * 5 + [False]), st.sampled_from([3, 262_144]))
def test_small_tables(tmp_path, rows, separator, order, in_order, size):
    if in_order: rows = sorted(rows, key=lambda r: r[0] if isinstance(r[0], int) else 0)
    names = ("datetime", *OHLCV)
    text = lambda r: [f"2024-03-06T14:{r[0]:02d}:00Z" if isinstance(r[0], int) else r[0], *r[1:]]
    file = tmp_path / "MES.csv"
    file.write_text("\n".join(separator.join(cells[k] for k in order) for cells in (names, *map(text, rows))) + "\n")
    source = accepted(file, 1.0, size)
    if source is None: return
    assert source.facts["rows_in"] == sum(any(c for c in text(r)) for r in rows)
    minutes = ((source.bars["datetime"] - pd.Timestamp("2024-03-06T14:00Z")) // pd.Timedelta(minutes=1)).tolist()
    assert dict(zip(minutes, map(tuple, source.bars[OHLCV].to_numpy()))) == slowly(rows)
