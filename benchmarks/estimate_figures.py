"""What `benchmarks/estimates.py` prints: correlations, calibration, and the constants that some days would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from memory.learning.estimation import BASE, BETWEEN, FROM_NEIGHBOURS, INFLATION, RETURN, VOLATILITY
from memory.learning.evidence import ESTIMATE_HORIZONS, MIN_BLOCKS, block_mean, student_t
from memory.tables import Floats, StateTable

GROUPS = 3
SHARES = (0.90, 0.95)
ESTIMATE, PATTERNS, RIDGE = "estimate", "patterns", "ridge"
PREDICTORS = (ESTIMATE, PATTERNS, FROM_NEIGHBOURS, BASE, RIDGE)
OUTCOMES = (RETURN, VOLATILITY)
Predictions = dict[str, Floats]


@dataclass(frozen=True)
class Day:
    """One day's questions and answers; returns are in trailing volatilities * sqrt(horizon).

    Attributes
    ----------
    asked
        The states.
    realised
        (n, H, 2): return and volatility that came.
    predicted
        (n, H, 2) by predictor; NaN where it says nothing.
    error
        (n, H, 2): half width of the estimate's interval as it ships.
    reach
        (n, H, 2): half widths of the intervals that 90 and 95 % of the returns shall fall into.
    plain
        (n, H, 2): the same, were the volatility that followed always the base rate.
    neighbours
        (n, H, 2, 2): deviation of the neighbours' mean from the base rate; variance of outcomes.
    known
        (n, H): whether anything was known.
    """

    asked: StateTable
    realised: Floats
    predicted: Predictions
    error: Floats
    reach: Floats
    plain: Floats
    neighbours: Floats
    known: np.ndarray


def daily_correlations(days: Sequence[Day], predictor: str, column: int, outcome: int) -> Floats:
    """Spearman's correlation on each day; NaN where there are fewer than 30 pairs, or nothing varies."""
    found = []
    for day in days:
        x, y = day.predicted[predictor][:, column, outcome], day.realised[:, column, outcome]
        both = np.isfinite(x) & np.isfinite(y)
        varies = both.sum() >= 30 and np.ptp(x[both]) > 0
        found.append(stats.spearmanr(x[both], y[both]).statistic if varies else np.nan)
    return np.array(found)


def show_correlations(days: Sequence[Day]) -> None:
    """Print the table of rank correlations."""
    print(f"\nRank correlation with what came; mean over {len(days)} days and 1.96 standard errors")
    print(f"{'':18}" + "".join(f"{name:>17}" for name in PREDICTORS))
    for outcome, name in enumerate(OUTCOMES):
        for column, horizon in enumerate(ESTIMATE_HORIZONS):
            cells = []
            for predictor in PREDICTORS:
                values = daily_correlations(days, predictor, column, outcome)
                values = values[np.isfinite(values)]
                if len(values) < 2:
                    cells.append("-")
                    continue
                error = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
                cells.append(f"{values.mean():+.3f} ± {error:.3f}")
            print(f"{name:11}{horizon:>3} min" + "".join(f"{cell:>17}" for cell in cells))


@dataclass(frozen=True)
class Group:
    """A group's mean error, the variance of the mean of its outcomes, and the variance that its intervals state."""

    error: float
    noise: float
    stated: float
    blocks: int


def groups_of(day: Day, column: int, outcome: int) -> list[Group]:
    """Thirds of one day's estimates; stated variances without the factors that ship."""
    x, y, reach = (table[:, column, outcome] for table in (day.predicted[ESTIMATE], day.realised, day.error))
    rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(reach))
    factor = INFLATION[OUTCOMES[outcome]][column]
    found = []
    for part in np.array_split(rows[np.argsort(x[rows], kind="stable")], GROUPS):
        error = block_mean(y[part] - x[part], day.asked.timestamp_ms[part], ESTIMATE_HORIZONS[column])
        if error is None or error.blocks < MIN_BLOCKS:
            continue
        # The estimates of a group rest on much the same neighbours: their errors are taken for one.
        stated = float(np.mean(reach[part] / factor / student_t(30)) ** 2)
        found.append(Group(error.mean, error.variance, stated, error.blocks))
    return found


def inflation_of(groups: Sequence[Group]) -> float:
    """Factor on the stated standard errors that explains the groups' squared errors, by moments; at least 1."""
    left = sum(group.error**2 - group.noise for group in groups)
    stated = sum(group.stated for group in groups)
    return math.sqrt(max(left / stated, 1.0)) if stated > 0 else 1.0


def covered(groups: Sequence[Group], factor: float, confidence: float) -> float:
    """Share of the groups whose mean error lies within the interval."""
    return float(
        np.mean(
            [
                abs(group.error)
                <= student_t(group.blocks - 1, confidence) * math.sqrt(group.noise + factor**2 * group.stated)
                for group in groups
            ]
        )
    )


def show_calibration(days: Sequence[Day]) -> None:
    """Print how often means and outcomes lie in their intervals."""
    print("\nMeans of groups within the 90 % and 95 % interval, and 1.96 standard errors over the days")
    print(
        f"{'':18}{'raw 90':>9}{'raw 95':>9}{'ships 90':>10}{'ships 95':>10}{'':8}{'factor':>8}{'here':>7}{'groups':>8}"
    )
    for outcome, name in enumerate(OUTCOMES):
        for column, horizon in enumerate(ESTIMATE_HORIZONS):
            groups = [group for day in days for group in groups_of(day, column, outcome)]
            factor = INFLATION[name][column]
            shares = [covered(groups, by, level) for by in (1.0, factor) for level in (0.90, 0.95)]
            by_day = [covered(own, factor, 0.95) for day in days if (own := groups_of(day, column, outcome))]
            error = 1.96 * np.std(by_day, ddof=1) / math.sqrt(len(by_day))
            print(
                f"{name:11}{horizon:>3} min {shares[0]:>9.1%}{shares[1]:>9.1%}{shares[2]:>10.1%}{shares[3]:>10.1%}"
                f" ± {error:>5.1%}{factor:>8.2f}{inflation_of(groups):>7.2f}{len(groups):>8}"
            )
    print(
        "\nReturns within the interval that shall hold 90 % and 95 % of them; mean excess over its width, as estimated"
    )
    print("and with the base rate's volatility (pinball loss of |return|, in trailing volatilities; less is better)")
    for column, horizon in enumerate(ESTIMATE_HORIZONS):
        cells = []
        for place, share in enumerate(SHARES):
            by_day = [_outcomes_within(day, column, place, share) for day in days]
            held, loss, plain = np.array(by_day).T
            gain = 1.96 * np.std(loss - plain, ddof=1) / math.sqrt(len(days))
            error = 1.96 * np.std(held, ddof=1) / math.sqrt(len(days))
            cells.append(f"{held.mean():.1%} ± {error:.1%}, {loss.mean():.4f} ({plain.mean():.4f} ± {gain:.4f})")
        print(f"{horizon:>14} min   " + "   ".join(cells))


def _outcomes_within(day: Day, column: int, place: int, share: float) -> tuple[float, float, float]:
    """Share of the returns within their interval; pinball loss of its half width, and of the plain one's."""
    size = np.abs(day.realised[:, column, 0] - day.predicted[ESTIMATE][:, column, 0])
    reach, plain = day.reach[:, column, place], day.plain[:, column, place]
    both = np.isfinite(size) & np.isfinite(reach)

    def loss(width: Floats) -> float:
        beyond = size[both] - width[both]
        return float(np.mean(np.where(beyond > 0, share * beyond, (share - 1.0) * beyond)))

    return float(np.mean(size[both] <= reach[both])), loss(reach), loss(plain)


def show_fit(days: Sequence[Day]) -> None:
    """Print the constants that these days would give."""
    print("\nConstants by the moments of these days")
    for outcome, name in enumerate(OUTCOMES):
        between, inflation = [], []
        for column in range(len(ESTIMATE_HORIZONS)):
            said = np.concatenate([day.neighbours[:, column, outcome] for day in days])
            came = np.concatenate([day.realised[:, column, outcome] for day in days])
            if name == VOLATILITY:
                came = came - np.concatenate([day.predicted[BASE][:, column, 1] for day in days])
            both = np.isfinite(said).all(axis=1) & np.isfinite(came)
            between.append(float(np.mean(said[both, 0] * came[both] / said[both, 1])))
            inflation.append(inflation_of([group for day in days for group in groups_of(day, column, outcome)]))
        print(f"BETWEEN {name}: {[round(value, 4) for value in between]}, in use {BETWEEN[name]}")
        print(f"INFLATION {name}: {[round(value, 2) for value in inflation]}, in use {INFLATION[name]}")
