"""Training on several devices: two processes share the windows, agree on everything, and go on after a cut as if nothing had happened."""
import json
import os
import socket
import subprocess
import sys

import pytest

SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import lightning.pytorch as L
import numpy as np, pandas as pd
from mlpipe.config import TrainingSettings
from mlpipe.models.datasets.datamodule import FinancialDataModule
from mlpipe.models.trainer.training import ModelTrainer

def market(n=1500, seed=3):
    r = np.random.default_rng(seed)
    f = r.normal(size=(n, 2)).astype(np.float32)
    label = np.where(r.random(n) < .2, 0, np.where(r.random(n) < 1 / (1 + np.exp(-2 * f[:, 0])), 1, -1))
    start = pd.Series(pd.date_range("2024-01-02", periods=n, freq="5min", tz="UTC"))
    split = np.where(np.arange(n) < .7 * n, "train", np.where(np.arange(n) < .85 * n, "val", "test"))
    frame = pd.DataFrame({"datetime": start, "split": split, "f0": f[:, 0], "f1": f[:, 1]})
    targets = pd.DataFrame({"datetime": start, "label": label, "weight": r.uniform(.5, 1.5, n), "t0": start + pd.Timedelta("5min"),
                            "t1": start + pd.Timedelta("15min"), "horizon_end": start + pd.Timedelta("20min")})
    cut = lambda t, s: t[split == s].reset_index(drop=True)
    return FinancialDataModule({s: cut(frame, s) for s in ("train", "val", "test")}, {s: cut(targets, s) for s in ("train", "val")}, 6, batch_size=32, where="MES")

class Cut(L.Callback):
    def __init__(self, steps): self.steps, self.rows = steps, []
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.rows.append([int(r) for r, w in zip(batch.row, batch.w) if w > 0])
        if len(self.rows) == self.steps: raise KeyError("power cut")

folder, steps, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
spy, rank = Cut(steps), int(os.environ.get("RANK", 0))
settings = TrainingSettings(sequence_length=6, max_epochs=2, learning_rate=1e-2)
try:
    result = ModelTrainer("lstm", settings, {"hidden_size": 8, "dropout": .3}, seed=5, folder=folder, callbacks=[spy], checkpoint_seconds=0).fit(market(), resume=resume)
    said = {"weights": hashlib.sha256(result.weights()).hexdigest(), "history": result.history["val_loss"].tolist(), "train": result.history["train_loss"].tolist()[1:]}
except KeyError: said = {}
(folder / f"rank{rank}.json").write_text(json.dumps({**said, "rows": spy.rows}))
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def train(folder, steps=-1, resume="", processes=2):
    """What each process said; started as `torchrun` starts them: by environment variables."""
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    common = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    if processes > 1:
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0"}
    ranks = [{"RANK": str(r), "LOCAL_RANK": str(r)} if processes > 1 else {} for r in range(processes)]
    running = [subprocess.Popen([sys.executable, str(script), str(folder), str(steps), resume], env={**common, **rank}, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True) for rank in ranks]
    try: said = [p.communicate(timeout=120)[0] for p in running]
    finally:
        for p in running: p.kill()
    assert all(p.returncode == 0 for p in running), "\n".join(said)[-3000:]
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in range(processes)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory): return train(tmp_path_factory.mktemp("ddp"))


def test_two_processes_share_each_epoch_and_agree(shared):
    one, two = shared
    assert one["weights"] == two["weights"] and one["history"] == two["history"] and one["train"] == two["train"]
    steps = len(one["rows"]) // 2
    for epoch in range(2):
        seen = [row for rank in shared for batch in rank["rows"][epoch * steps:(epoch + 1) * steps] for row in batch]
        assert len(seen) == len(set(seen)) == 1050 - 5, "each training window once"
    assert one["history"][-1] < one["history"][0] - .05


def test_one_process_finds_the_same_start(shared, tmp_path):
    alone = train(tmp_path / "alone", processes=1)[0]
    assert abs(alone["history"][0] - shared[0]["history"][0]) < 1e-6, "the stop slice is summed over both, fillers weigh nothing"
    assert abs(alone["history"][-1] - shared[0]["history"][-1]) < .05


def test_a_cut_shared_training_goes_on(shared, tmp_path):
    cut = train(tmp_path / "cut", steps=20)
    assert "weights" not in cut[0] and (tmp_path / "cut" / "last.ckpt").exists()
    resumed = train(tmp_path / "cut", resume="resume")
    assert [r["weights"] for r in resumed] == [r["weights"] for r in shared]
    assert resumed[0]["history"] == shared[0]["history"] and resumed[0]["train"] == shared[0]["train"]
