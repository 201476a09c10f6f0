#!/usr/bin/env python
"""Forecasts the ETT series by the published protocol, through the project's own windows, networks and trainer.

    python nbs/_bench/ett.py [--file ETTh1] [--horizon 96] [--model patchtst] [--seeds 3] [--data DIR] [--set NAME=VALUE ...] [--val]

--model: one of the names in RECIPES, several with commas, or all. --set: an option of training or network instead of the recipe's. --val: only the
validation error, for choosing options: test is not read.

Protocol: rows [0, 8640) train, [8640, 11520) validation, [11520, 14400) test (x4 for the minute files); 7 channels, scaled by train's mean and population
standard deviation; windows at every row, none dropped; squared and absolute error over all windows, bars and channels. The epoch with the least validation
error is kept, and test is read once, after training. The published errors of PatchTST and DLinear leave out the last, incomplete batch of test windows; ours
do not. CPU-s are of one training, the scores included, with one thread.
"""
import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch

from mlpipe.config import TrainingSettings
from mlpipe.models.architectures import linear, lstm, nhits, patchtst, tft, transformer
from mlpipe.models.layers import ForecasterConfig
from mlpipe.models.trainer.forecasting import ForecastDataModule, fit_forecaster, forecast_errors

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ett"
FILES = ("ETTh1", "ETTh2", "ETTm1", "ETTm2")
HORIZONS = (96, 192, 336, 720)

FORECASTERS = {
    "patchtst": (patchtst.PatchTSTForecaster, patchtst.PatchTSTForecasterConfig),
    "nlinear": (linear.NLinearForecaster, ForecasterConfig),
    "dlinear": (linear.DLinearForecaster, linear.DLinearForecasterConfig),
    "nhits": (nhits.NHiTSForecaster, nhits.NHiTSForecasterConfig),
    "lstm": (lstm.LSTMForecaster, lstm.LSTMForecasterConfig),
    "transformer": (transformer.TransformerForecaster, transformer.TransformerForecasterConfig),
    "tft": (tft.TFTForecaster, tft.TFTForecasterConfig)}

# Chosen by validation error on ETTh1, horizon 96; used as they are for every file and horizon.
PLAIN = {"weight_decay": 0.0, "gradient_clip": 1.0, "schedule": "onecycle", "loss": "mse", "sequence_length": 336}
RECIPES = {
    "patchtst": {"max_epochs": 4, "learning_rate": 1e-3, "batch_size": 128},
    "nlinear": {"max_epochs": 8, "learning_rate": 0.01, "batch_size": 256},
    "dlinear": {"max_epochs": 8, "learning_rate": 0.01, "batch_size": 256},
    "nhits": {"max_epochs": 3, "learning_rate": 6e-4, "batch_size": 64, "weight_decay": 3.0, "pools": (8, 4, 1), "rates": (24, 12, 1)},
    "lstm": {"max_epochs": 4, "learning_rate": 2e-3, "batch_size": 128, "sequence_length": 96},
    "transformer": {"max_epochs": 4, "learning_rate": 1e-3, "batch_size": 128, "sequence_length": 96},
    "tft": {"max_epochs": 4, "learning_rate": 2e-3, "batch_size": 128, "sequence_length": 96}}

# Bars: mean squared error and CPU seconds.
BARS = {("patchtst", "ETTh1", 96): (.378, 120), ("nlinear", "ETTh1", 96): (.376, 10), ("dlinear", "ETTh1", 96): (.380, 10), ("nhits", "ETTh1", 96): (.395, 40),
        ("patchtst", "ETTh2", 96): (.280, None)}

# Published MSE/MAE by file, horizons 96, 192, 336, 720. PatchTST/42: Nie et al. 2023, table 3; DLinear, NLinear: Zeng et al. 2023, table 2; N-HiTS: Nixtla, long-horizon
# experiments (20 trials each); LSTM: LSTMa of Zhou et al. 2021, table 2, other horizons only. For the Transformer and the TFT there are none.
PUBLISHED = {
    "patchtst": {"ETTh1": ".375/.399 .414/.421 .431/.436 .449/.466", "ETTh2": ".274/.336 .339/.379 .331/.380 .379/.422",
                 "ETTm1": ".290/.342 .332/.369 .366/.392 .420/.424", "ETTm2": ".165/.255 .220/.292 .278/.329 .367/.385"},
    "dlinear": {"ETTh1": ".375/.399 .405/.416 .439/.443 .472/.490", "ETTh2": ".289/.353 .383/.418 .448/.465 .605/.551",
                "ETTm1": ".299/.343 .335/.365 .369/.386 .425/.421", "ETTm2": ".167/.260 .224/.303 .281/.342 .397/.421"},
    "nlinear": {"ETTh1": ".374/.394 .408/.415 .429/.427 .440/.453", "ETTh2": ".277/.338 .344/.381 .357/.400 .394/.436",
                "ETTm1": ".306/.348 .349/.375 .375/.388 .433/.422", "ETTm2": ".167/.255 .221/.293 .274/.327 .368/.384"},
    "nhits": {"ETTh1": ".378/.393 .427/.436 .458/.484 .561/.501", "ETTh2": ".274/.345 .353/.401 .382/.425 .625/.557",
              "ETTm1": ".302/.350 .347/.383 .369/.402 .431/.441", "ETTm2": ".176/.255 .245/.305 .295/.346 .401/.413"}}


def published(model, file, horizon):
    """The published (MSE, MAE), or None."""
    if model not in PUBLISHED or horizon not in HORIZONS: return None
    return tuple(map(float, PUBLISHED[model][file].split()[HORIZONS.index(horizon)].split("/")))


def load(file, folder=DATA):
    """Series (n, 7) of a file, and the rows at which train, validation and test end."""
    path = Path(folder) / f"{file}.csv"
    if not path.exists(): raise SystemExit(f"ETT file must exist, got {path}. Give its folder by --data.")
    month = 30 * 24 * (4 if file.startswith("ETTm") else 1)
    return pd.read_csv(path).iloc[:, 1:].to_numpy(), (12 * month, 16 * month, 20 * month)


def score(file, horizon, model, seed, folder=DATA, changes=None, test=True):
    """Trains once: sequence length, kept epoch, errors on validation ("val") and test ("mse", "mae"), and CPU seconds."""
    recipe = {**PLAIN, **RECIPES[model], **(changes or {})}
    settings = TrainingSettings(**{"patience": recipe["max_epochs"], **{k: v for k, v in recipe.items() if k in TrainingSettings.model_fields and k not in ("sequence_length", "loss")}})
    network, options = FORECASTERS[model]
    config = options(n_channels=7, horizon=horizon, **{k: v for k, v in recipe.items() if k in options.model_fields})
    series, borders = load(file, folder)
    started = time.process_time()
    data = ForecastDataModule(series, borders, config.sequence_length, horizon, settings.batch_size, seed)
    torch.manual_seed(seed)
    result = fit_forecaster(network(config), data, settings, recipe["loss"], seed, f"{file} {model}")
    errors = forecast_errors(result.model, data.datasets["test"]) if test else {}
    return {"L": config.sequence_length, "epoch": result.best_epoch, "epochs": settings.max_epochs, "val": result.val_loss, **errors, "cpu_s": time.process_time() - started}


def medians(file, horizon, model, seeds, folder=DATA, changes=None, test=True):
    """Medians over seeds 0, 1, ... of `score`, and the test errors by seed."""
    scores = [score(file, horizon, model, seed, folder, changes, test) for seed in range(seeds)]
    return {**{k: statistics.median(s[k] for s in scores) for k in scores[0]}, "by_seed": [round(s.get("mse", s["val"]), 4) for s in scores]}


def parser():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--file", default="ETTh1", choices=FILES)
    p.add_argument("--horizon", default=96, type=int)
    p.add_argument("--model", default="patchtst", help=f"{', '.join(FORECASTERS)}; several with commas, or all")
    p.add_argument("--seeds", default=3, type=int)
    p.add_argument("--data", default=DATA)
    p.add_argument("--set", nargs="*", default=(), metavar="NAME=VALUE")
    p.add_argument("--val", action="store_true")
    return p


def chosen(models):
    """The names in "a,b" or "all"."""
    names = list(FORECASTERS) if models == "all" else models.split(",")
    for name in names:
        if name not in FORECASTERS: raise SystemExit(f"a forecaster must be one of {', '.join(FORECASTERS)}, got {name!r}.")
    return names


def main():
    import json
    args = parser().parse_args()
    def value(text):
        try: return json.loads(text)
        except ValueError: return text
    changes = {name: value(text) for name, text in (pair.split("=", 1) for pair in args.set)}
    for name in chosen(args.model):
        m = medians(args.file, args.horizon, name, args.seeds, args.data, changes, not args.val)
        print(f"{args.file}-{args.horizon} {name:<11} L {m['L']}, epoch {m['epoch']:g} of {m['epochs']}, validation {m['val']:.4f}", end="")
        if not args.val:
            said = published(name, args.file, args.horizon)
            print(f", test {m['mse']:.4f}/{m['mae']:.4f} (published {'{:.3f}/{:.3f}'.format(*said) if said else 'none'})", end="")
        print(f", {m['cpu_s']:.1f} CPU-s; by seed {m['by_seed']}", flush=True)


if __name__ == "__main__": main()
