"""The barrier search finds nothing where there is nothing, uses what there is, and repeats itself."""
import multiprocessing

import numpy as np
import pandas as pd
import pytest

from mlpipe.config import LabelSettings, SearchSettings
from mlpipe.data.bars import resample
from mlpipe.data.sessions import get_calendar
from mlpipe.data.synthetic import synthetic_market
from mlpipe.instruments import get_barrier_params, get_instrument
from mlpipe.labels.barriers import atr
from mlpipe.search.choice import Span, choose, influence, search_barriers, search_tables, session_numbers
from mlpipe.search.drift import barrier_drift, expectancy, from_warm, part
from mlpipe.search.surface import Grid, barrier_surface, first_touch_tables, genome_trades, trade_side

MES, LABELS, DEFAULT = get_instrument("MES"), LabelSettings(), get_barrier_params("MES", 20)
SEARCH = SearchSettings(k_step=0.25, bars_step=18, min_effective=100)


def market(seed, edge=0.0, days=40):
    minutes = synthetic_market(["MES"], "2024-01-02", days, seed=seed, edge=edge)["MES"]
    return Span(resample(minutes, 5, get_calendar(MES.calendar)), None, minutes)


def halves(span):
    cut = int(len(span.bars) * 0.7)
    return part(span, 0, cut), from_warm(span, cut, len(span.bars), 300)


def gross(span, barriers):
    """(mean, standard error by session) of the move per trade in ticks, own side: what is left of net ticks when each trade's costs are given back."""
    tables = search_tables(span, Grid.only(barriers), MES, LABELS, SEARCH)
    trades = genome_trades(tables, (0, 0, 0))
    moved = trades.side * (trades.exit_price - tables.entry[trades.row]) / MES.tick
    mean, parts = influence(trades.assign(net_ticks=moved), session_numbers(span.bars))
    return mean, float(np.sqrt(np.sum(parts ** 2)))


def test_chosen_barriers_earn_minus_costs_on_a_martingale():
    """Twenty driftless markets: what the search proposes, and what is used in the end, earns minus its costs on the test span, within two standard errors; those of sessions, so overlap counts once.

    A 5 % test fails once in twenty by definition: at most three of twenty may, and the mean over all must hold as well.
    """
    found = []
    for seed in range(20):
        train, test = halves(market(seed))
        searched = search_barriers(train, DEFAULT, MES, LABELS, SEARCH, 42)
        found.append([gross(test, b) for b in (searched.candidate, searched.barriers)])
    for means, errors in np.array(found).transpose(1, 2, 0):          # of what is proposed; of what is used in the end, the default where nothing is gained
        assert (np.abs(means) > 2 * errors).sum() <= 3, found
        assert abs(np.sum(means / errors ** 2) / np.sum(1 / errors ** 2)) <= 2 / np.sqrt(np.sum(1 / errors ** 2)), found


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_edge_is_used(seed):
    train, test = halves(market(seed, edge=0.15, days=60))
    searched = search_barriers(train, DEFAULT, MES, LABELS, SEARCH, 42)
    assert not searched.record["kept_default"], searched.record["reason"]
    chosen, usual = (expectancy(test, b, MES, LABELS, SEARCH) for b in (searched.barriers, DEFAULT))
    assert chosen.ticks > 0 and chosen.ticks > usual.ticks


def run_search(span, seed):
    searched = search_barriers(span, DEFAULT, MES, LABELS, SEARCH.model_copy(update={"method": "nsga2"}), seed)
    return searched.record, searched.surface, searched.history, searched.front


def test_a_spawned_process_repeats_every_bit():
    span = market(1, days=15)
    here = run_search(span, 42)
    with multiprocessing.get_context("spawn").Pool(1) as pool: there = pool.apply(run_search, (span, 42))
    assert here[0] == there[0]
    for a, b in zip(here[1:], there[1:]): pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_a_planted_spike_gives_way_and_a_planted_plateau_stays():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (20, 20, 6))
    plateau, every = np.zeros((20, 20, 6)), np.ones((20, 20, 6), bool)
    plateau[10:15, 4:9, 1:5] = 3.0
    spiked = plateau.copy()
    spiked[2, 17, 3] = 6.0
    inside = lambda cell: plateau.flat[cell] == 3.0
    i, j, h = np.indices(every.shape)
    hill = 3 * np.exp(-((i - 12) / 5) ** 2 - ((j - 6) / 5) ** 2 - ((h - 2) / 3) ** 2)
    assert not choose(hill, every, 0.7).plateau and choose(hill, every, 0.7).chosen == np.ravel_multi_index((12, 6, 2), every.shape)
    assert inside(choose(plateau + noise, every, 0.7).chosen)
    found = choose(spiked + noise, every, 0.7)
    assert found.plateau and found.optimum == np.ravel_multi_index((2, 17, 3), every.shape) and inside(found.chosen)
    hidden = every & (plateau == 0)                      # a spike among infeasible neighbours is one still
    assert choose(spiked + noise, hidden, 0.7).optimum == found.optimum


def test_nothing_is_left_of_an_infeasible_market():
    span = market(1, days=6)
    drift = barrier_drift(span, DEFAULT, MES, LABELS, SEARCH.model_copy(update={"min_effective": 1e6}), 42)
    assert not drift.feasible.any() and drift.kept_default.all()
    for method in ("fitness", "nsga2"):
        searched = search_barriers(span, DEFAULT, MES, LABELS, SEARCH.model_copy(update={"min_effective": 1e6, "method": method}), 42)
        assert searched.barriers == DEFAULT and searched.record["reason"] == "no genome is feasible" and searched.record["candidate"] is None


@pytest.mark.parametrize("rows", [4, 5, 12, 20])
def test_short_histories_are_searched_or_refused(rows):
    span = part(market(1, days=3), 0, rows)
    searched = search_barriers(span, DEFAULT, MES, LABELS, SEARCH, 42)
    assert searched.barriers == DEFAULT and not searched.surface.feasible.any()


def test_prices_too_wide_for_the_ticks_are_refused():
    bars = market(1, days=3).bars
    with pytest.raises(ValueError, match="prices must span less than .* ticks, got .* \\(MES\\). Check instruments.MES.tick"):
        first_touch_tables(bars, atr(bars, 14), Grid.of(SEARCH), MES.model_copy(update={"tick": 1e-12}), trade_side(bars, "trend", 20))


def test_the_surface_of_a_market_with_odd_prices():
    """Prices that are no multiples of the tick (mid prices, ratio-adjusted series) still sum to the same in both ways."""
    span = market(2, days=8)
    bars = span.bars.assign(**{c: span.bars[c] * 1.0371 for c in ("open", "high", "low", "close")})
    tables = search_tables(Span(bars), Grid.of(SEARCH), MES, LABELS, SEARCH)
    surface = barrier_surface(tables, SEARCH, exact=True)
    for cell in np.random.default_rng(0).integers(0, len(surface), 20):
        trades = genome_trades(tables, np.unravel_index(cell, tables.grid.shape))
        block = np.searchsorted(tables.starts, trades.row, side="right") - 1
        assert abs(trades.net_ticks.groupby(block).mean().mean() - surface.net_ticks[cell]) < 1e-4
