#!/usr/bin/env python
"""Measures what the project promises on speed: CPU seconds, or rates per CPU second, inside one process.

    python nbs/_bench/bench.py [NAME ...] [--json]
    python nbs/_bench/bench.py ett [--file ETTh1] [--horizon 96] [--model patchtst] [--seeds 3]      # see ett.py
    python nbs/_bench/bench.py train_step infer_one [--model lstm,nhits]                              # see networks.py

Prints a table, or one JSON object a line: name, value, unit, bar, ok, reference (bar and ok are null where there is none). The machine's own
speed (a reference GEMM and copy) is printed beside it, because the same code reads differently on a busy machine.
"""
import argparse
import json
import os
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd


def cpu(work, repeat=3):
    """Smallest CPU seconds of `repeat` calls, after one that compiles."""
    work()
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def walk(n, seed=1):
    """Five-minute bars of a random walk with 276-bar sessions."""
    rng = np.random.default_rng(seed)
    close = 5000 + np.cumsum(rng.normal(0, 8, n)).round() * 0.25
    opened = np.append(close[0], close[:-1])
    start = pd.date_range("2000-01-03", periods=n, freq="5min", tz="UTC").as_unit("ns")
    return pd.DataFrame({"datetime": start, "open": opened, "high": np.maximum(opened, close) + 0.25 * rng.integers(0, 8, n),
                         "low": np.minimum(opened, close) - 0.25 * rng.integers(0, 8, n), "close": close, "volume": rng.integers(1, 900, n) * 1.0,
                         "ts_close": start + pd.Timedelta("5min"), "session": (np.arange(n) // 276).astype(np.int32), "segment": np.int32(0)})


def market(days):
    from mlpipe.data.synthetic import synthetic_market
    return synthetic_market(("MES",), "2020-01-02", days, 1)["MES"]


def triple_barrier():
    from mlpipe.labels import barriers
    bars = walk(1_000_000)
    width, prices = barriers.atr(bars, 14), barriers.checked_prices(bars)
    limits, none = barriers.trade_limits(bars, None, True), barriers.minute_arrays(bars, None)
    took = cpu(lambda: barriers._labels(*prices, width, 2.0, 2.0, 12, 0.25, *limits, True, *none), 7)
    whole = cpu(lambda: barriers.triple_barrier(bars, width, 2.0, 2.0, 12, tick=0.25), 5)
    return 1.0 / took, "M bars per CPU-s", 40, True, f"public call {1.0 / whole:.0f}; reference kernel 45; best public library 3.7"


def features_100k():
    from mlpipe.data.bars import resample
    from mlpipe.data.sessions import get_calendar
    from mlpipe.features.engineer import FeatureEngineer
    bars = resample(market(365), 5, get_calendar("CME_Equity"))
    engineer = FeatureEngineer().fit(bars)
    took = cpu(lambda: engineer.transform(bars), 2) * 100_000 / len(bars)
    return took, f"CPU-s per 100k bars ({len(engineer.catalogue())} features)", 0.5, False, "8.0 for 101 features"


PEAK = """
def peak_mb():      # a process that was forked starts with its parent's peak in ru_maxrss, but not there
    import resource
    from pathlib import Path
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024 if status.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""

MILLION = PEAK + """
import json, time
from mlpipe.features.engineer import FeatureEngineer
from mlpipe.features.view import random_bars
bars = random_bars(days=3800, start="2021-07-05")[:1_000_000]
engineer = FeatureEngineer().fit(bars[:250_000])
engineer.transform(bars[:5_000])
took = []
for _ in range(2):
    start = time.process_time()
    engineer.transform(bars)
    took.append((time.process_time() - start) * 1e6 / len(bars))
print(json.dumps({"cpu": min(took), "features": len(engineer.catalogue()), "peak_mb": peak_mb()}))
"""


def fresh(script, *args):
    """What `script` prints as JSON, in a process of its own that keeps compiled modules, as Python does unless it is told not to."""
    import os, subprocess
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, env=env)
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def features_1m():
    found = fresh(MILLION)
    return found["cpu"], f"CPU-s per 1M bars ({found['features']} features); peak {found['peak_mb']:.0f} MB (bar 1,500)", 5.0, False, "80 for 101 features"


INGEST = PEAK + """
import json, sys, time
from pathlib import Path
from mlpipe.config import get_config, package_dir
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import get_stage
root = Path(sys.argv[1])
config = get_config("dev", package_dir() / "settings.ini", symbols="ES", data={"source": "files", "path": str(root / sys.argv[2])},
                    execution={"runs_path": str(root / "runs")}, tracking={"backend": "none"})
start = time.process_time()
result = PipelineRunner(config, run_id=Path(sys.argv[2]).parent.name, stages={"ingest": get_stage("ingest")}).run(executor="serial", reports=False, quiet=True)
assert result.ok, [o.error for o in result.failed]
print(json.dumps({"cpu": time.process_time() - start, "peak_mb": peak_mb()}))
"""


def ingest_5m():
    """The peak of a process that reads a csv of five million minutes, proves its clock and writes parquet; and of one that reads its first fifth."""
    import pyarrow as pa
    import pyarrow.csv as pcsv
    from mlpipe.data.sessions import get_calendar
    days, rng, left = get_calendar("CME_Equity").sessions("2005-01-03", "2024-12-31"), np.random.default_rng(1), 5_000_000
    with tempfile.TemporaryDirectory() as root:
        os.mkdir(f"{root}/whole"); os.mkdir(f"{root}/fifth")
        with open(f"{root}/whole/ES.csv", "wb") as whole, open(f"{root}/fifth/ES.csv", "wb") as fifth:
            for file in (whole, fifth): file.write(b"datetime,open,high,low,close,volume\n")
            for k in range(0, len(days), 250):
                ts = np.concatenate([np.arange(a, b, 60_000_000_000) for a, b in zip(days["open_ns"][k:k + 250], days["close_ns"][k:k + 250])])[:left]
                text = pa.array(pd.to_datetime(ts, utc=True).strftime("%Y-%m-%dT%H:%M:%SZ").to_numpy(dtype=object), pa.string())
                close = 5000 + 0.25 * rng.integers(0, 8, len(ts))
                table = pa.table({"t": text, "o": close, "h": close + 0.25, "l": close - 0.25, "c": close, "v": rng.integers(1, 900, len(ts))})
                for file in (whole, fifth) if left > 4_000_000 else (whole,): pcsv.write_csv(table, file, pcsv.WriteOptions(include_header=False, quoting_style="none"))
                left -= len(ts)
        small, found = fresh(INGEST, root, "fifth/ES.csv"), fresh(INGEST, root, "whole/ES.csv")
    return found["peak_mb"], f"MB peak for a csv of 5M rows ({found['cpu']:.1f} CPU-s); {small['peak_mb']:.0f} MB for a fifth of it", 1000, False, "-"


def resample_5m():
    from mlpipe.data.bars import resample
    from mlpipe.data.sessions import get_calendar
    minutes, calendar = market(730), get_calendar("CME_Equity")
    return cpu(lambda: resample(minutes, 5, calendar)) * 4.9e6 / len(minutes) * 1000, "CPU-ms per 4.9M rows", 120, False, "pandas 120, kernel alone 55"


def read_csv():
    """A csv of a million bars with ISO stamps: our chunks and stamps against pyarrow's whole-file reader and its cast of text to times, the fastest it has."""
    import pyarrow as pa
    import pyarrow.csv as pcsv
    from mlpipe.data.profiles import get_profile
    from mlpipe.data.stamps import StampReader
    from mlpipe.data.tables import open_table
    bars, numbers = walk(1_000_000), ("open", "high", "low", "close", "volume")
    stamps = pa.array(bars["datetime"].dt.strftime("%Y-%m-%dT%H:%M:%SZ").to_numpy(dtype=object), pa.string())
    with tempfile.TemporaryDirectory() as root:
        file = f"{root}/bars.csv"
        pcsv.write_csv(pa.table({"datetime": stamps, **{n: bars[n].to_numpy() for n in numbers}}), file, pcsv.WriteOptions(quoting_style="none"))
        types = {"datetime": pa.string(), **{n: pa.float64() for n in numbers}}
        def theirs():
            table = pcsv.read_csv(file, convert_options=pcsv.ConvertOptions(column_types=types))
            return table["datetime"].cast(pa.timestamp("ns", "UTC"))
        def ours():
            reader, rows = StampReader(), 0
            for chunk in open_table(file, get_profile("plain"), numbers).chunks(): rows += len(reader.read(chunk.table["datetime"]))
            assert rows == len(bars)
        reference = cpu(theirs, 5)
        return cpu(ours, 5) / reference, f"x pyarrow's reader and time parser ({reference:.2f} CPU-s)", 1.3, False, "1.0"


def search_input(n):
    from mlpipe.config import SearchSettings
    from mlpipe.instruments import get_instrument
    from mlpipe.labels.barriers import atr
    from mlpipe.search.surface import Grid, trade_side
    bars, settings = walk(n), SearchSettings()
    return bars, atr(bars, 14), Grid.of(settings), get_instrument("MES"), trade_side(bars, "trend", 20), settings


def surface():
    from mlpipe.search.surface import barrier_surface, first_touch_tables
    bars, width, grid, instrument, side, settings = search_input(100_000)
    took = cpu(lambda: barrier_surface(first_touch_tables(bars, width, grid, instrument, side, settings.blocks), settings), 1)
    return took, f"CPU-s for {grid.size:,} cells on 100k bars", 4.0, False, "4.2"


def search():
    from mlpipe.config import SearchSettings
    from mlpipe.search.genetic import evaluator, evolve
    from mlpipe.search.surface import first_touch_tables
    bars, width, grid, instrument, side, settings = search_input(64_000)
    settings = SearchSettings(patience=30)
    def work():
        tables = first_touch_tables(bars, width, grid, instrument, side, settings.blocks)
        return evolve(evaluator(tables, settings), grid.shape, settings, 42)
    return cpu(work, 2), "CPU-s, 50 x 30 genomes on 64k bars", 0.5, False, "1.3 to 1.9"


def uniqueness():
    from mlpipe.labels.weights import average_uniqueness
    rng = np.random.default_rng(1)
    t0 = np.arange(1_000_000)
    t1 = t0 + rng.integers(0, 50, len(t0))
    return cpu(lambda: average_uniqueness(t0, t1, int(t1.max()) + 1)) * 1000, "CPU-ms per 1M labels", 30, False, "4,300"


def purge():
    from mlpipe.splits.intervals import purge as legal
    rng = np.random.default_rng(1)
    t0 = np.arange(100_000)
    t1 = t0 + rng.integers(1, 50, len(t0))
    return cpu(lambda: legal(t0, t1, t0[60_000:70_000], t1[60_000:70_000], 276)), "CPU-s per 100k rows", 0.2, False, "1.0"


def train_step(args):
    import networks
    return networks.train_step(networks.chosen(args.model))


def infer_one(args):
    import networks
    return networks.infer_one(networks.chosen(args.model))


def ett(args):
    """Errors and CPU seconds of a forecaster on ETT; the published numbers are the reference."""
    import ett
    for model in ett.chosen(args.model or "patchtst"):
        m, said = ett.medians(args.file, args.horizon, model, args.seeds, args.data or ett.DATA), ett.published(model, args.file, args.horizon)
        bar, seconds = ett.BARS.get((model, args.file, args.horizon), (None, None))
        what = f"{model} on {args.file}, horizon {args.horizon}, L {m['L']}, median of {args.seeds}"
        yield m["mse"], f"MSE of {what}", bar, False, f"published {said[0]:.3f}" if said else "none published"
        yield m["mae"], f"MAE of {what}", None, False, f"published {said[1]:.3f}" if said else "none published"
        yield m["cpu_s"], f"CPU-s of {what}", seconds, False, f"MSE by seed {m['by_seed']}"


def windows():
    import torch
    from mlpipe.models.datasets import TimeSeriesDataset
    from mlpipe.models.datasets.windows import WindowLoader
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    data = TimeSeriesDataset(rng.normal(size=(100_059, 32)).astype(np.float32), rng.integers(-1, 2, 100_059), 60)
    def work():
        for _ in WindowLoader(data, batch_size=256, seed=1, shuffle=True): pass
    return len(data) / cpu(work) / 1e6, "M windows per CPU-s, 60 x 32, batch 256", 3.0, True, "stock DataLoader 0.24"


def tracking():
    """What a tracker adds to a training step that logs three metrics every time, the dearer of W&B and MLflow; writes of rows that waited and the end of the run are in it.

    The step is that of the default LSTM on 60 x 32 windows, batch 256. W&B's helper process is counted, too.
    """
    import resource
    from importlib.util import find_spec
    import torch
    from mlpipe.config import TrackingSettings
    from mlpipe.experiments.tracker import get_tracker
    from mlpipe.models.registry import ModelRegistry
    torch.set_num_threads(1)
    model = ModelRegistry.get("lstm", n_features=32, sequence_length=60)
    optimizer = torch.optim.AdamW(model.parameters())
    x, y = torch.randn(256, 60, 32), torch.randint(0, 3, (256,))
    def step():
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step(); optimizer.zero_grad()
    used = lambda: sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    took, costs, n = cpu(step, 20), {}, 20_000
    for backend in ("wandb", "mlflow"):
        if find_spec(backend) is None: continue
        def logged(rows):
            with tempfile.TemporaryDirectory() as folder:
                tracker = get_tracker(TrackingSettings(backend=backend, mode="offline"))
                tracker.start_run("bench", folder=folder)
                started = used()
                for k in range(rows): tracker.log({"loss": k / 7, "skill": k / 3, "learning_rate": 1e-3}, step=k)
                tracker.finish()
                return used() - started
        logged(10)
        costs[backend] = logged(n) / n
    told = ", ".join(f"{k} {1e6 * v:.0f}" for k, v in costs.items())
    return 100 * max(costs.values()) / took, f"% of a step of {1e3 * took:.1f} CPU-ms; us a row: {told}", 1.0, False, "W&B 60-290, MLflow's log_metric 2,350 us"


def backtest():
    from mlpipe.backtest.trades import Costs, simulate
    from mlpipe.instruments import BarrierParams, get_instrument
    from mlpipe.labels.barriers import atr
    bars, rng = walk(1_000_000), np.random.default_rng(2)
    side, width = rng.choice([-1, 0, 0, 0, 1], len(bars)), atr(bars, 14)
    costs = Costs.of(get_instrument("MES"))
    return cpu(lambda: simulate(bars, side, BarrierParams(k_up=2, k_down=2, max_bars=12), width, costs)), "CPU-s per 1M bars", 0.2, False, "-"


def runner():
    from mlpipe.config import get_config
    from mlpipe.pipeline.runner import PipelineRunner
    from mlpipe.pipeline.stage import Stage, StageResult
    names = [f"toy{i}" for i in range(50)]
    def nothing(task): return StageResult()
    toys = {n: Stage(n, nothing, (names[i - 1],) if i else (), module="mlpipe.config") for i, n in enumerate(names)}
    from mlpipe.pipeline.stage import STAGES
    STAGES.update(toys)
    def work():
        with tempfile.TemporaryDirectory() as root:
            config = get_config(symbols="MES", execution={"runs_path": root}, tracking={"backend": "none"})
            PipelineRunner(config, run_id="toy", stages=toys).run(executor="serial", reports=False)
    return cpu(work, 2) / len(names) * 1000, "CPU-ms per task", 5.0, False, "dask 1.7, pool 0.05"


PREPARE = PEAK + """
import json, resource, sys
from pathlib import Path
from mlpipe.config import get_config, package_dir
from mlpipe.pipeline.manifest import ArtifactManifest
from mlpipe.pipeline.runner import PipelineRunner
from mlpipe.pipeline.stage import BUILT_IN, load_stages
root = Path(sys.argv[1])
stages = {name: stage for name, stage in load_stages().items() if name in BUILT_IN[:BUILT_IN.index("report") + 1]}
config = get_config("dev", package_dir() / "settings.ini", symbols="MES,MGC", data={"source": "files", "path": str(root)},
                    execution={"runs_path": str(root / sys.argv[2])}, tracking={"backend": "none"})
result = PipelineRunner(config, run_id="prepare", stages=stages).run(executor="serial", reports=False, quiet=True)
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"cpu": sum(u.ru_utime + u.ru_stime for u in used), "peak_mb": peak_mb(),
                  "stages": {f"{r['symbol']}/{r['stage']}": round(r["seconds"], 2) for r in ArtifactManifest.load(result.run_dir).records}}))
"""


def prepare_500k():
    """Ingest to report in a fresh process, imports and all; the first of two runs compiles what is not in numba's cache."""
    from mlpipe.data.synthetic import synthetic_market
    with tempfile.TemporaryDirectory() as root:
        for symbol, bars in synthetic_market(("MES", "MGC"), "2020-01-02", 364, 1).items(): bars.iloc[:500_000].to_parquet(f"{root}/{symbol}_1m.parquet")
        for folder in ("first", "second"): found = fresh(PREPARE, root, folder)
    if "--stages" in sys.argv: print(found)
    return found["cpu"], f"CPU-s, two symbols of 500k minutes; peak {found['peak_mb']:.0f} MB (bar 900)", 8.0, False, "70.5 CPU-s, 2,857 MB"


def predict_one():
    """One new bar: features from the shortest history, scaler, five networks, ensemble; all loaded."""
    import torch
    from pathlib import Path
    from mlpipe.config import get_config, package_dir
    from mlpipe.inference import clean_bars, predictor
    from mlpipe.pipeline.execute import DEMO
    from mlpipe.pipeline.runner import PipelineRunner
    from mlpipe.pipeline.runs import Run
    with tempfile.TemporaryDirectory() as root:
        few = {**DEMO, "training": {"max_epochs": 1, "sequence_length": 32, "windows_per_epoch": 512, "baselines": []}, "search": {"enabled": False}}
        config = get_config("dev", package_dir() / "settings.ini", **{**few, "symbols": "MES,MGC", "execution": {"runs_path": root + "/runs", "executor": "serial", "reports": False}})
        run = Run(PipelineRunner(config, run_id="live").run(quiet=True).run_dir)
        torch.set_num_threads(1)
        for symbol in config.symbols:
            (Path(root) / "new").mkdir(exist_ok=True)
            run.frame(symbol, "ingest").to_parquet(f"{root}/new/{symbol}_1m.parquet")
        live = predictor(run, "MES")
        bars = clean_bars(config, live.symbols, root + "/new")
        others = {s: b for s, b in bars.items() if s != "MES"}
        took = cpu(lambda: live.predict(bars["MES"], others, last=1), 10)
        return took * 1000, f"CPU-ms for one new bar, {len(live.members)} networks, {len(live.history(bars['MES'], 1))} bars of history", 50, False, "-"


def demo():
    """The wall seconds of a second `mlpipe demo`, all reused."""
    import subprocess
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-c", "from mlpipe.cli import main; main()", "demo", "--set", f'execution.runs_path="{root}/runs"']
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started, "s for a second demo, everything reused", 2.0, False, "-"


BENCHES = {f.__name__: f for f in (triple_barrier, features_100k, features_1m, resample_5m, read_csv, ingest_5m, surface, search, uniqueness, purge, windows, tracking, backtest, runner,
                                  prepare_500k, predict_one, demo)}
WITH_OPTIONS = {f.__name__: f for f in (train_step, infer_one, ett)}     # give a row per network; the others one tuple


def machine():
    """Reference speeds: float32 GEMM in GFLOP/s and copy in GB/s, one thread."""
    a = np.ones((1024, 1024), np.float32)
    block = np.ones(20_000_000)
    return {"gemm_gflops": round(2 * 1024**3 / cpu(lambda: a @ a) / 1e9, 1), "copy_gbs": round(block.nbytes * 2 / cpu(block.copy) / 1e9, 1)}


def told(name, row, speed, as_json):
    """One line of the table, or of JSON."""
    value, unit, bar, more_is_better, reference = row
    ok = None if bar is None else bool(value >= bar if more_is_better else value <= bar)
    if as_json: return json.dumps({"name": name, "value": value, "unit": unit, "bar": bar, "ok": ok, "reference": reference, **speed})
    asked = "no bar          " if bar is None else f"bar {'>=' if more_is_better else '<='} {bar:<6g} {'ok  ' if ok else 'MISS'}"
    return f"{name:<16} {value:>10.4g}  {unit:<46} {asked}  reference: {reference}"


def parsed(args):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("names", nargs="*", metavar="NAME", help=", ".join({**BENCHES, **WITH_OPTIONS}))
    p.add_argument("--json", action="store_true")
    p.add_argument("--stages", action="store_true", help="prepare_500k: the seconds of each stage")
    p.add_argument("--model", help="train_step, infer_one, ett: the networks, with commas; ett also: all")
    p.add_argument("--file", default="ETTh1", choices=("ETTh1", "ETTh2", "ETTm1", "ETTm2"))
    p.add_argument("--horizon", default=96, type=int)
    p.add_argument("--seeds", default=3, type=int)
    p.add_argument("--data", help="ett: the folder of the csv files")
    args = p.parse_args(args)
    known = {**BENCHES, **WITH_OPTIONS}
    unknown = [n for n in args.names if n not in known]
    if unknown: sys.exit(f"a benchmark must be one of {', '.join(known)}, got {unknown[0]!r}.")
    return args


def main(args):
    args = parsed(args)
    speed = machine()
    if not args.json: print(f"machine: GEMM {speed['gemm_gflops']} GFLOP/s, copy {speed['copy_gbs']} GB/s (one thread)")
    for name in args.names or [*BENCHES, *WITH_OPTIONS]:
        for row in WITH_OPTIONS[name](args) if name in WITH_OPTIONS else [BENCHES[name]()]: print(told(name, row, speed, args.json), flush=True)


if __name__ == "__main__": main(sys.argv[1:])
