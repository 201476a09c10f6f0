"""What every registered network has to hold, built in or not: `ModelRegistry.names()` is the list, nothing is left out.

Tags and what is tested for them: "causal": no (B, L, ...) tensor inside the network depends at bar t on bars after t; what the head reads is then the state at
the last bar, which may depend on the whole window. Export is `torch.export`, with the batch size left open.
"""
import io
import json

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from mlpipe.models.base import ClassHead, predict_logits  # noqa: E402
from mlpipe.models.calibration import Calibrator  # noqa: E402
from mlpipe.models.datasets.windows import TimeSeriesDataset  # noqa: E402
from mlpipe.models.losses import WeightedCrossEntropy  # noqa: E402
from mlpipe.models.prior import ClockPrior  # noqa: E402
from mlpipe.models.registry import ModelRegistry  # noqa: E402
from mlpipe.models.saving import load_model, model_facts, weights_bytes  # noqa: E402

NAMES = ModelRegistry.names()
F, L = 5, 13                                                   # no other dimension of the small networks has this length
SMALL = {"lstm": {"hidden_size": 8}, "transformer": {"d_model": 8, "n_heads": 2, "feed_forward": 16}, "nhits": {"hidden_size": 8},
         "tft": {"d_model": 8, "n_heads": 2}, "patchtst": {"d_model": 8, "n_heads": 2, "feed_forward": 16}}
VARIANTS = [("lstm", {"num_layers": 2}), ("lstm", {"readout": "attention"}), ("transformer", {"causal": False, "readout": "mean"}),
            ("transformer", {"positions": "sinusoidal", "readout": "attention"}), ("transformer", {"embedding_bars": 3}), ("nhits", {"blocks": 2}), ("nhits", {"pools": (3, 3, 2, 1)}),
            ("tft", {"lstm_layers": 2}), ("patchtst", {"channel_mode": "independent"}), ("patchtst", {"revin": True, "readout": "mean"}),
            ("patchtst", {"norm": "batch"}), ("patchtst", {"residual_attention": False, "stride": 3, "readout": "last"}), ("dlinear", {"kernel": 3, "steps": 2})]
CASES = [(name, {}) for name in NAMES] + VARIANTS
every_case = pytest.mark.parametrize("name, options", CASES, ids=[f"{n}{''.join(f'-{k}={v}' for k, v in o.items())}" for n, o in CASES])
every_name = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name, features=F, length=L, awake=True, seed=0, **options):
    """A small network; `awake`: its zeros (the head's weights above all) made random, as training would."""
    torch.manual_seed(seed)
    model = ModelRegistry.get(name, n_features=features, sequence_length=length, **{**SMALL.get(name, {}), **options})
    with torch.no_grad():
        for p in model.parameters() if awake else ():
            if not p.any(): nn.init.normal_(p, std=.3)
    return model


def windows(n, features=F, length=L, seed=1):
    return torch.randn(n, length, features, generator=torch.Generator().manual_seed(seed))


def gradients(model, x, y, w):
    """The loss' gradient of every parameter, summed over rows (the mean over the batch times the rows)."""
    model.zero_grad(set_to_none=True)
    (WeightedCrossEntropy()(model(x), y, w) * len(x)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def close(a, b, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def test_the_list():
    assert {"lstm", "transformer", "nhits", "tft", "patchtst", "logistic", "dlinear", "nlinear"} <= set(NAMES)


@every_case
def test_shapes(name, options):
    model, x = build(name, **options), windows(6)
    for rows in (6, 2, 1):
        assert model(x[:rows]).shape == (rows, 3) and model.encode(x[:rows]).shape == (rows, model.encoder.width)
    assert isinstance(model.head, ClassHead) and model(x).dtype == torch.float32
    assert build(name, n_classes=5, **options)(x).shape == (6, 5)
    for wrong in (x[:, 1:], x[..., 1:], x[0]):
        with pytest.raises(ValueError, match=r"windows must have shape \(B, 13, 5\)"): model(wrong)


@every_name
def test_default_options(name):
    torch.manual_seed(0)
    model = ModelRegistry.get(name, n_features=7, sequence_length=32)
    logits = model(windows(4, 7, 32))
    cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert torch.isfinite(logits).all() and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_case
def test_gradients_reach_every_parameter(name, options):
    model = build(name, **options).train()
    cross_entropy(model(windows(48)), torch.arange(48) % 3).backward()
    unreached = [k for k, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.abs().max() < 1e-9)]
    assert not unreached


@every_case
def test_untrained_is_the_prior(name, options):
    model, prior = build(name, awake=False, **options), np.array([.2, .5, .3])
    model.set_prior(prior)
    for mode in (True, False):
        np.testing.assert_allclose(model.train(mode)(windows(8)).softmax(dim=1).detach().numpy(), np.tile(prior, (8, 1)), atol=1e-6)


@every_case
def test_eval_is_deterministic_and_remembers_nothing(name, options):
    model, x = build(name, **options).eval(), windows(16)
    with torch.no_grad():
        state, first = torch.get_rng_state(), model(x)
        model(windows(16, seed=2) * 50)
        assert torch.equal(model(x), first) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[0], first[1])


@every_case
def test_a_seed_gives_the_same_training(name, options):
    def trained():
        model = build(name, **options).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=.1)
        for step in range(3):
            loss = cross_entropy(model(windows(16, seed=step)), torch.arange(16) % 3)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.equal(trained(), trained())


@every_case
def test_batch_composition_does_not_matter(name, options):
    model, x = build(name, **options).eval(), windows(9)
    with torch.no_grad():
        whole = model(x)
        close(torch.cat([model(x[i:i + 1]) for i in range(9)]), whole)
        close(model(x.flip(0)).flip(0), whole)
        close(model(torch.cat([x[:4], 100 * windows(5, seed=3)]))[:4], whole[:4])


@pytest.mark.parametrize("length", [24, 32, 48])
@pytest.mark.parametrize("name", ["lstm", "transformer", "nhits", "tft", "patchtst"])
def test_a_window_predicted_alone_has_the_bits_it_has_among_others(name, length):
    """At default sizes, wherever it stands, with whatever number of threads: a live prediction can be held against the backtest's."""
    torch.manual_seed(0)
    model = ModelRegistry.get(name, n_features=164, sequence_length=length)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any(): nn.init.normal_(p, std=.3)
    rows = np.random.default_rng(0).normal(size=(length + 69, 164)).astype(np.float32)
    said = lambda first, last: predict_logits(model, TimeSeriesDataset(rows[first:last + length], None, length))
    torch.set_num_threads(2)
    among = said(0, 69)
    assert torch.get_num_threads() == 2
    for first, last in ((0, 0), (17, 17), (69, 69), (1, 40), (13, 69)): np.testing.assert_array_equal(said(first, last), among[first:last + 1])


def over_time(model, x):
    """Every tensor (B, L, ...) that a part of the network puts out for windows x, in order."""
    seen, hooks = [], []
    def keep(part, _, out):
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if torch.is_tensor(value) and value.ndim >= 2 and value.shape[:2] == x.shape[:2]: seen.append((type(part).__name__, value))
    for part in model.modules(): hooks.append(part.register_forward_hook(keep))
    try:
        with torch.no_grad(): model(x)
    finally:
        for hook in hooks: hook.remove()
    return seen


CAUSAL = [(n, o) for n, o in CASES if o.get("causal", "causal" in ModelRegistry.spec(n).tags)]


@pytest.mark.parametrize("name, options", CAUSAL, ids=str)
def test_no_look_ahead_where_causal(name, options):
    model, x = build(name, **options).eval(), windows(3)
    for t in (1, 6, L - 1):
        later = x.clone()
        later[:, t:] += 5.0
        before, after = over_time(model, x), over_time(model, later)
        assert before and len(before) == len(after)
        ahead = [part for (part, a), (_, b) in zip(before, after) if not torch.allclose(a[:, :t], b[:, :t], rtol=1e-5, atol=1e-6)]
        assert not ahead, f"bars before {t} know of later ones in {ahead}"
        assert any(not torch.equal(a[:, t:], b[:, t:]) for (_, a), (_, b) in zip(before, after))
    with torch.no_grad(): assert not torch.equal(model(x), model(later))


def test_the_look_ahead_test_finds_a_look_ahead():
    both_ways, x = nn.Sequential(nn.LSTM(F, 4, batch_first=True, bidirectional=True)), windows(3)
    later = x.clone()
    later[:, 6:] += 5.0
    assert any(not torch.equal(a[:, :6], b[:, :6]) for (_, a), (_, b) in zip(over_time(both_ways, x), over_time(both_ways, later)))


@every_case
def test_weights_mean_what_they_say(name, options):
    model = build(name, **{**options, "dropout": 0.0})
    model.train(options.get("norm") != "batch")                # the statistics of a batch do not know weights
    x, y = windows(6), torch.arange(6) % 3
    assert (gradients(model, x, y, torch.zeros(6)) == 0).all()
    scale = float(gradients(model, x, y, torch.ones(6)).abs().max())
    without = gradients(model, x[1:], y[1:], torch.ones(5))
    close(gradients(model, x, y, torch.tensor([0., 1, 1, 1, 1, 1])), without, atol=1e-5 * scale)
    twice = gradients(model, x[[0, 0, 1, 2, 3, 4, 5]], y[[0, 0, 1, 2, 3, 4, 5]], torch.ones(7))
    close(gradients(model, x, y, torch.tensor([2., 1, 1, 1, 1, 1])), twice, atol=1e-5 * scale)
    assert float((twice - without).abs().max()) > 1e-3 * scale


@every_case
def test_saved_and_loaded_is_the_same(name, options):
    model, x = build(name, **options).train(), windows(12)
    model(x)                                                   # what a batch leaves in buffers is saved too
    model.eval()
    facts = json.loads(json.dumps(model_facts(name, model, Calibrator(), [f"f{i}" for i in range(F)], ClockPrior(((.3, .4, .3),)))))
    loaded = load_model(facts, weights_bytes(model))
    assert torch.equal(loaded.model(x), model(x)) and weights_bytes(loaded.model) == weights_bytes(model)
    rows = np.random.default_rng(0).normal(size=(40, F))
    np.testing.assert_array_equal(predict_logits(model, TimeSeriesDataset(rows, None, L)), predict_logits(loaded.model, TimeSeriesDataset(rows, None, L)))
    frame = pd.DataFrame(rows, columns=facts["features"]).assign(datetime=pd.date_range("2024-01-02", periods=40, freq="5min", tz="UTC"))
    assert len(loaded.predict(frame)) == 40 - L + 1
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = build(name, seed=9, **options).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), model(x))


@every_name
def test_learns_32_windows_by_heart(name):
    model = build(name, features=40, length=8, awake=False, dropout=0.0)
    x, y = windows(32, 40, 8), torch.randint(3, (32,), generator=torch.Generator().manual_seed(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=.02)
    for step in range(300):
        loss = cross_entropy(model(x), y)
        if step == 0: assert abs(loss.item() - np.log(3)) < 1e-5
        if loss.item() < .05: break
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert loss.item() < .05 and (model.eval()(x).argmax(dim=1) == y).all()


@every_name
@pytest.mark.parametrize("features, length", [(1, 1), (1, 2), (3, 1), (2, 3), (1, 7), (6, 8), (2, 31), (31, 9), (1, 65)])
def test_any_size_works_or_says_why_not(name, features, length):
    try: model = build(name, features, length)
    except ValueError as error:
        assert name in str(error) and "must be" in str(error) and str(length) in str(error)
        return
    x = windows(4, features, length)
    logits = model.train()(x)
    cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert logits.shape == (4, 3) and torch.isfinite(logits).all() and model.eval()(x[:1]).shape == (1, 3)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_name
@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights")              # torch's own, of its LSTM
def test_exports(name):
    model = build(name).eval()
    program = torch.export.export(model, (windows(4),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},)).module()
    for rows in (1, 4, 11): close(program(windows(rows)), model(windows(rows)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
@every_case
def test_a_gpu_says_the_same(name, options):
    model, x = build(name, **options).eval(), windows(7)
    with torch.no_grad(): here, there = model(x), model.cuda()(x.cuda()).cpu()
    close(there, here, rtol=1e-2, atol=1e-2)
