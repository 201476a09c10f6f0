"""The five networks beside neuralforecast's (3.3) of the same size: training steps and the answer for one window, in one process, in CPU seconds of one thread.

What is compared. A window is 60 bars x 32 inputs, an answer three numbers (our three logits; neuralforecast: horizon 1, a loss with three outputs). Both networks get
tensors that are ready; neither side's data loading, scaling or trainer is timed. A training step is forward, cross-entropy of the three numbers, backward, and
a step of torch's Adam, batch 256. Widths, layers, heads and the rate of dropout are the same (neuralforecast's default rate); the cells say what differs:

- lstm: 128 x 2. neuralforecast adds its default decoder, two layers of 128 on the last state.
- nhits: three stacks of 512 x 2, pools 2, 2, 1. neuralforecast reads all 32 inputs in each stack and takes a backcast of the target alone; ours takes one of all.
- transformer: width 128, 4 heads, feed-forward 256. neuralforecast has two encoder layers over 60 tokens and one decoder layer over 31, which cannot be left out; ours
  three encoder layers, of which the last answers for the last token: 36 million operations per window forward, theirs 46. Its dropout includes the attention weights,
  ours does not (our default).
- patchtst: 32 channels, each by itself (neuralforecast's has no other inputs: 32 windows of one); patches of 16 every 8, width 128, 16 heads, feed-forward 256, three layers,
  BatchNorm, residual attention, RevIN.
- tft: width 64, 4 heads. neuralforecast selects among the same 32 inputs at each bar (the target, 30 others, and the repeated target that it adds by itself), then
  runs a decoder step; ours asks from the last bar: 41 million operations to 93, because the selection's first products collapse.

neuralforecast is no dependency. In an environment of its own:

    python3 -m venv ../nf && ../nf/bin/pip install torch 'neuralforecast==3.3.*' .
    PYTHONPATH=. ../nf/bin/python nbs/_bench/bench.py train_step infer_one

Without it our own figures are printed, and no ratio.
"""
import importlib.util
import logging
import os
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.nn.functional import cross_entropy

from mlpipe.models.registry import ModelRegistry

BARS, INPUTS, BATCH, TFT_WIDTH = 60, 32, 256, 64
OURS = {
    "lstm": {"hidden_size": 128, "num_layers": 2, "dropout": 0.0},
    "nhits": {"pools": (2, 2, 1), "hidden_size": 512, "num_layers": 2, "dropout": 0.0},
    "transformer": {"d_model": 128, "n_heads": 4, "feed_forward": 256, "num_layers": 3, "dropout": 0.05},
    "patchtst": {"channel_mode": "independent", "patch_length": 16, "stride": 8, "d_model": 128, "n_heads": 16, "feed_forward": 256, "num_layers": 3, "norm": "batch",
                 "revin": True, "dropout": 0.2},
    "tft": {"d_model": TFT_WIDTH, "n_heads": 4, "dropout": 0.1}}
LEAST = {"lstm": 1.0, "nhits": 1.0, "transformer": 1.5, "patchtst": 1.5, "tft": 1.5}     # of our training throughput over theirs
HOW = "neuralforecast is not installed: see the head of nbs/_bench/networks.py"


def chosen(models):
    """The names in "a,b"; all where there is none."""
    names = tuple(models.split(",")) if models else tuple(OURS)
    for name in names:
        if name not in OURS: raise SystemExit(f"a network must be one of {', '.join(OURS)}, got {name!r}.")
    return names


def has_rival(): return importlib.util.find_spec("neuralforecast") is not None


def ours(name):
    torch.manual_seed(0)
    return ModelRegistry.get(name, n_features=INPUTS, sequence_length=BARS, **OURS[name])


def theirs(name):
    """neuralforecast's network `name` as a function of windows (B, 60, 32), and its parameters' owner."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast import models
    torch.manual_seed(0)
    common = {"h": 1, "input_size": BARS, "loss": MQLoss(quantiles=[.1, .5, .9])}
    others = [f"x{i}" for i in range(1, INPUTS)]
    network = {
        "lstm": lambda: models.LSTM(**common, encoder_hidden_size=128, encoder_n_layers=2, hist_exog_list=others),
        "nhits": lambda: models.NHITS(**common, mlp_units=3 * [[512, 512]], n_pool_kernel_size=[2, 2, 1], n_freq_downsample=[1, 1, 1], hist_exog_list=others),
        "transformer": lambda: models.VanillaTransformer(**common, hidden_size=128, n_head=4, conv_hidden_size=256, encoder_layers=2, decoder_layers=1, futr_exog_list=others),
        "patchtst": lambda: models.PatchTST(**common, hidden_size=128, n_heads=16, linear_hidden_size=256, encoder_layers=3, patch_len=16, stride=8, dropout=0.2),
        "tft": lambda: models.TFT(**common, hidden_size=TFT_WIDTH, n_head=4, dropout=0.1, hist_exog_list=others[:-1])}[name]()

    def run(x):
        y, rest = x[..., :1], x[..., 1:]
        if name == "patchtst": y = x.transpose(1, 2).reshape(-1, BARS, 1)
        batch = {"insample_y": y, "insample_mask": torch.ones_like(y), "hist_exog": None, "futr_exog": None, "stat_exog": None}
        if name in ("lstm", "nhits"): batch["hist_exog"] = rest
        if name == "tft": batch["hist_exog"] = rest[..., :-1]
        if name == "transformer": batch["futr_exog"] = torch.cat([rest, rest[:, -1:]], dim=1)
        return network(batch).flatten(1)
    return run, network


def step_of(run, network):
    """A training step of a network that `run` applies."""
    network.train()
    optimizer, x, y = torch.optim.Adam(network.parameters(), lr=1e-3), torch.randn(BATCH, BARS, INPUTS), torch.randint(3, (BATCH,))
    def step():
        optimizer.zero_grad()
        out = run(x)
        cross_entropy(out, y if len(out) == BATCH else y.repeat_interleave(INPUTS)).backward()
        optimizer.step()
    return step


def answer_of(run, network):
    """Twenty answers for one window."""
    network.eval()
    x = torch.randn(1, BARS, INPUTS)
    def answer():
        with torch.inference_mode():
            for _ in range(20): run(x)
    return answer


def fastest(works, rounds):
    """Smallest CPU seconds of each work; they take turns, so that a busy moment of the machine meets all of them."""
    best = [float("inf")] * len(works)
    for work in works: work()
    for _ in range(rounds):
        for i, work in enumerate(works):
            started = time.process_time()
            work()
            best[i] = min(best[i], time.process_time() - started)
    return best


def size(network): return f"{sum(p.numel() for p in network.parameters() if p.requires_grad):,} parameters"


def rows(what, unit, scale, bars, rounds, names=tuple(OURS)):
    """Bench rows: of each network theirs over ours, or ours alone where there is no rival."""
    torch.set_num_threads(1)
    for name in names:
        model = ours(name)
        if not has_rival():
            yield scale(fastest([what(model, model)], rounds)[0]), f"{unit}, {name} ({size(model)})", None, True, HOW
            continue
        run, rival = theirs(name)
        mine, other = fastest([what(model, model), what(run, rival)], rounds)
        yield other / mine, f"x neuralforecast, {name}: {scale(mine):.4g} {unit} ({size(model)})", bars[name], True, f"{scale(other):.4g} ({size(rival)})"


def train_step(names=tuple(OURS), rounds=4): return rows(step_of, "windows per CPU-s", lambda s: BATCH / s, LEAST, rounds, names)


def infer_one(names=tuple(OURS), rounds=15): return rows(answer_of, "CPU-ms per window", lambda s: s / 20 * 1000, dict.fromkeys(OURS, 1.0), rounds, names)
