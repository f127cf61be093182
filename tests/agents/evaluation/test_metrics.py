"""Figures of track records against figures made by hand, and intervals that behave like intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agents.evaluation.metrics import (
    CALMAR,
    DRAWDOWN,
    EXPOSED,
    GROSS,
    LATE,
    SHARPE,
    SORTINO,
    TOTAL,
    TURNOVER,
    Records,
    figures_of,
    gain_of,
    mean_over_days,
    ratios,
)
from agents.evaluation.resampling import Resampling
from agents.evaluation.tracks import DAY_MS, HOURS_A_DAY, Track, daily_ic
from memory.errors import InvalidRecordError
from memory.learning.predictions import HORIZONS

DAYS = 60


def track(net: np.ndarray, *, seed: int | None = None, fold: str = "a", first: int = 0, name: str = "x") -> Track:
    days = len(net) // HOURS_A_DAY
    return Track(
        contestant=name,
        fold=fold,
        cell="c",
        seed=seed,
        days=[(first + day) * DAY_MS for day in range(days)],
        net=net.tolist(),
        gross=(net + 1e-4).tolist(),
        late_net=(net - 1e-4).tolist(),
        turnover=[2.0] * days,
        exposed=[0.25] * days,
    )


@pytest.fixture
def noise() -> Callable[[int], np.ndarray]:
    """Hourly returns of a seed."""
    return lambda seed: np.random.default_rng(seed).normal(1e-4, 1e-3, DAYS * HOURS_A_DAY)


def drawn(days: int = DAYS, seeds: int = 1, resamples: int = 300) -> Resampling:
    return Resampling.draw(days, seeds, resamples=resamples, block_days=3, confidence=0.95, random_state=1)


def test_ratios_are_those_of_daily_returns() -> None:
    net = np.zeros((3, HOURS_A_DAY))
    net[:, 0] = 0.02, -0.01, 0.02
    found = ratios(net)
    daily = np.array([0.02, -0.01, 0.02])
    assert found[TOTAL] == pytest.approx(0.03)
    assert found[SHARPE] == pytest.approx(daily.mean() / daily.std(ddof=1) * np.sqrt(365))
    assert found[SORTINO] == pytest.approx(daily.mean() / np.sqrt(0.01**2 / 3) * np.sqrt(365))
    assert found[DRAWDOWN] == pytest.approx(0.01)
    assert found[CALMAR] == pytest.approx(0.01 * 365 / 0.01)


def test_drawdown_counts_from_the_start_and_within_the_day() -> None:
    net = np.zeros((1, HOURS_A_DAY))
    net[0, :3] = -0.01, 0.05, -0.03
    assert ratios(net)[DRAWDOWN] == pytest.approx(0.03)
    assert ratios(-net)[DRAWDOWN] == pytest.approx(0.05)


def test_one_who_never_trades_has_no_ratio() -> None:
    found = ratios(np.zeros((5, HOURS_A_DAY)))
    assert all(np.isnan(found[name]) for name in (SHARPE, SORTINO, CALMAR))
    assert found[TOTAL] == found[DRAWDOWN] == 0.0


def test_figures_hold_their_intervals(noise: Callable[[int], np.ndarray]) -> None:
    found = figures_of(Records([track(noise(1))]), drawn())
    for name in (TOTAL, SHARPE, SORTINO, GROSS, LATE):
        figure = found[name]
        assert figure.value is not None
        assert figure.interval is not None
        assert figure.interval.low < figure.value < figure.interval.high
    assert found[GROSS].value == pytest.approx(found[TOTAL].value + 1e-4 * DAYS * HOURS_A_DAY)
    assert found[LATE].value == pytest.approx(found[TOTAL].value - 1e-4 * DAYS * HOURS_A_DAY)
    assert (found[TURNOVER].value, found[EXPOSED].value) == (2.0, 0.25)


def test_too_few_days_give_no_interval(noise: Callable[[int], np.ndarray]) -> None:
    found = figures_of(Records([track(noise(1)[: 5 * HOURS_A_DAY])]), drawn(5))
    assert all(figure.interval is None for figure in found.values())


def test_the_gain_over_oneself_is_nothing(noise: Callable[[int], np.ndarray]) -> None:
    records = Records([track(noise(seed), seed=seed) for seed in range(3)])
    found = gain_of(records, records, drawn(seeds=3))
    assert {figure.value for figure in found.values()} == {0.0}
    assert all(figure.decided == 0 for figure in found.values())


def test_pairing_finds_a_small_gain_that_noise_would_hide(noise: Callable[[int], np.ndarray]) -> None:
    theirs = Records([track(noise(seed), seed=seed) for seed in range(3)])
    ours = Records([track(noise(seed) + 1e-6, seed=seed) for seed in range(3)])
    resampling = drawn(seeds=3)
    assert gain_of(ours, theirs, resampling)[TOTAL].decided == 1
    assert gain_of(theirs, ours, resampling)[TOTAL].decided == -1
    assert figures_of(ours, resampling)[TOTAL].interval.low < figures_of(theirs, resampling)[TOTAL].value


def test_noise_shows_no_gain_about_as_often_as_it_should() -> None:
    decided = []
    for trial in range(25):
        generator = np.random.default_rng(trial)
        sides = [Records([track(generator.normal(0, 1e-3, DAYS * HOURS_A_DAY))]) for _ in range(2)]
        decided.append(gain_of(*sides, drawn(resamples=100))[TOTAL].decided != 0)
    assert np.mean(decided) <= 0.2


def test_folds_follow_one_another_in_time(noise: Callable[[int], np.ndarray]) -> None:
    whole = noise(1)
    half = DAYS // 2 * HOURS_A_DAY
    parts = [track(whole[half:], fold="b", first=DAYS // 2), track(whole[:half], fold="a")]
    assert np.array_equal(Records(parts).net, Records([track(whole)]).net)


def test_seeds_of_other_days_are_refused(noise: Callable[[int], np.ndarray]) -> None:
    with pytest.raises(InvalidRecordError, match="same days"):
        Records([track(noise(1), seed=0), track(noise(2), seed=1, first=7)])


def test_blocks_stay_together_and_are_the_same_for_all() -> None:
    first, second = drawn(), drawn()
    assert np.array_equal(first.days, second.days)
    steps = np.diff(first.days, axis=1)
    assert (steps == 1).mean() > 0.6
    assert first.days.min() >= 0
    assert first.days.max() < DAYS


def test_mean_over_days_leaves_out_days_without_a_figure() -> None:
    values = np.array([0.1, np.nan, 0.3] * 10)
    figure = mean_over_days(values, confidence=0.95)
    assert figure.value == pytest.approx(0.2)
    assert figure.decided == 1
    assert mean_over_days(values[:6], confidence=0.95).interval is None


def test_rank_correlation_is_one_a_day() -> None:
    generator = np.random.default_rng(3)
    time = np.repeat(np.arange(2) * DAY_MS, 50) + np.tile(np.arange(50), 2) * 60_000
    outcomes = np.repeat(generator.standard_normal(100)[:, None], len(HORIZONS), axis=1)
    signal = np.where(time < DAY_MS, outcomes[:, 0], -outcomes[:, 0])
    found = daily_ic(signal, outcomes, time)
    assert found["15"] == pytest.approx([1.0, -1.0])
    few = daily_ic(signal[:60], outcomes[:60], time[:60])
    assert few["15"][1] is None
