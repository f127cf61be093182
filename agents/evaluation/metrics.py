"""What a track record comes to: returns, risk-adjusted figures, drawdown, turnover and knowledge, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray
from agents.evaluation.resampling import LEAST_BLOCKS, Resampling
from agents.evaluation.tracks import HOURS_A_DAY, Track
from memory.errors import InvalidRecordError
from memory.learning.blocks import block_interval, block_mean, block_sums
from memory.records import Interval
from memory.reporting.evaluation_data import Figure

PERIODS_A_YEAR = 365.0
"""Days: crypto trades on all of them. Ratios are of daily returns."""

TOTAL, SHARPE, SORTINO, CALMAR, DRAWDOWN = "total return", "Sharpe", "Sortino", "Calmar", "maximum drawdown"
LATE = "total return, filled a bar late"
GROSS, TURNOVER, EXPOSED = "total return before costs", "turnover a day", "share of time in a position"
RATIOS = (SHARPE, SORTINO, CALMAR)

_NO_RISK = 1e-12
"""Deviations below this are rounding, and no ratio is formed of them."""


class Records:
    """Tracks of one contestant over all folds: arrays over seeds and days.

    Attributes
    ----------
    net, gross, late_net
        Hourly returns, (S, D, 24).
    turnover, exposed
        Daily figures, (S, D).
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        seeds = sorted({-1 if track.seed is None else track.seed for track in tracks})
        by_seed = [
            sorted((t for t in tracks if (-1 if t.seed is None else t.seed) == seed), key=lambda t: t.days[0])
            for seed in seeds
        ]
        spans = {tuple(day for track in own for day in track.days) for own in by_seed}
        if len(spans) != 1:
            raise InvalidRecordError(
                "the seeds of a contestant were not tested on the same days.",
                remedy="Evaluate all folds with all seeds.",
                field="days",
            )
        self.seeds = seeds
        self.days: tuple[int, ...] = spans.pop()

        def joined(name: str) -> FloatArray:
            return np.array([np.concatenate([getattr(track, name) for track in own]) for own in by_seed])

        shape = (len(seeds), len(self.days), HOURS_A_DAY)
        self.net, self.gross = joined("net").reshape(shape), joined("gross").reshape(shape)
        self.late_net = joined("late_net").reshape(shape)
        self.turnover, self.exposed = joined("turnover"), joined("exposed")

    @property
    def daily(self) -> FloatArray:
        """Net returns a day, (S, D)."""
        out: FloatArray = self.net.sum(axis=2)
        return out


def ratios(net: FloatArray) -> dict[str, FloatArray]:
    """Figures of hourly returns (..., D, 24), each of shape (...); NaN where one is not defined.

    Sharpe is mean by standard deviation of daily returns, Sortino mean by the root mean square of the negative ones
    (about 0), both times the root of 365; Calmar is the annualised return by the maximum drawdown of the hourly curve.
    The notional is constant: returns add up, and drawdown is a share of it.
    """
    daily = net.sum(axis=-1)
    days = daily.shape[-1]
    mean = daily.mean(axis=-1)
    deviation = daily.std(axis=-1, ddof=1) if days > 1 else np.full(mean.shape, np.nan)
    downside = np.sqrt(np.mean(np.minimum(daily, 0.0) ** 2, axis=-1))
    curve = np.cumsum(net.reshape(*net.shape[:-2], -1), axis=-1)
    peak = np.maximum(np.maximum.accumulate(curve, axis=-1), 0.0)
    drawdown = (peak - curve).max(axis=-1)
    year = np.sqrt(PERIODS_A_YEAR)
    return {
        TOTAL: daily.sum(axis=-1),
        SHARPE: _ratio(mean, deviation) * year,
        SORTINO: _ratio(mean, downside) * year,
        CALMAR: _ratio(mean * PERIODS_A_YEAR, drawdown),
        DRAWDOWN: drawdown,
    }


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    out: FloatArray = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > _NO_RISK)
    return out


def figures_of(records: Records, resampling: Resampling) -> dict[str, Figure]:
    """All figures of a contestant: the mean over seeds, and its interval over blocks of days and seeds."""
    found = {name: float(_mean(values)) for name, values in ratios(records.net).items()}
    rows = range(len(resampling.days))
    resampled = [
        {name: float(_mean(values)) for name, values in ratios(resampling.of(records.net, row)).items()} for row in rows
    ]
    out = {
        name: Figure(_known(value), resampling.interval_of(np.array([sample[name] for sample in resampled])))
        for name, value in found.items()
    }
    sums = {
        GROSS: records.gross.sum(axis=2),
        LATE: records.late_net.sum(axis=2),
        TURNOVER: records.turnover,
        EXPOSED: records.exposed,
    }
    for name, values in sums.items():
        total = name in (GROSS, LATE)
        scale = values.shape[1] if total else 1.0
        interval = resampling.interval_of(
            np.array([float(resampling.of(values, row).mean()) * scale for row in rows], dtype=np.float64)
        )
        out[name] = Figure(float(values.mean()) * scale, interval)
    return out


def gain_of(ours: Records, theirs: Records, resampling: Resampling) -> dict[str, Figure]:
    """What one contestant does better than another: paired by day and, where both have them, by seed.

    Returns
    -------
    Differences of the total return, of that with late fills, and of the Sharpe ratio; 0 is no difference. A contestant
    of one seed is compared with each seed of the other.
    """
    if ours.days != theirs.days:
        raise InvalidRecordError(
            "two contestants were not tested on the same days.", remedy="Compare within one evaluation.", field="days"
        )

    def figures(row: int | None) -> tuple[float, float, float]:
        """Of the sample itself where there is no row."""
        sides = [
            [values if row is None else resampling.of(values, row) for values in (side.net, side.late_net)]
            for side in (ours, theirs)
        ]
        (left, left_late), (right, right_late) = sides
        return (
            _total(left) - _total(right),
            _total(left_late) - _total(right_late),
            _sharpe(left) - _sharpe(right),
        )

    found = figures(None)
    resampled = np.array([figures(row) for row in range(len(resampling.days))])
    return {
        name: Figure(_known(value), resampling.interval_of(resampled[:, column]))
        for column, (name, value) in enumerate(zip((TOTAL, LATE, SHARPE), found, strict=True))
    }


def _total(net: FloatArray) -> float:
    return float(net.sum(axis=(1, 2)).mean())


def _sharpe(net: FloatArray) -> float:
    daily = net.sum(axis=2)
    if daily.shape[1] < 2:
        return float("nan")
    return _mean(_ratio(daily.mean(axis=1), daily.std(axis=1, ddof=1)) * np.sqrt(PERIODS_A_YEAR))


def _mean(values: FloatArray) -> float:
    """Mean over seeds; a policy that never traded has no ratio, and counts as 0: it took no risk and earned nothing."""
    return float(np.nan_to_num(values, nan=0.0).mean()) if np.isfinite(values).any() else float("nan")


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


# --- knowledge -----------------------------------------------------------------------------------------------


def mean_over_days(values: npt.ArrayLike, *, confidence: float) -> Figure:
    """Mean of one figure a day and its interval, a day a block (Student's t); NaN days are left out.

    Paired differences are the mean of differences by day.
    """
    sample = np.asarray(values, dtype=np.float64)
    sums = block_sums(sample, np.arange(len(sample)))
    mean = float(block_mean(sums))
    low, high = block_interval(sums, confidence=confidence, min_blocks=LEAST_BLOCKS)
    interval = Interval(low=float(low), high=float(high)) if np.isfinite(low) else None
    return Figure(_known(mean), interval)
