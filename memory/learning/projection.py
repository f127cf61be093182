"""What the fold's state means to those who ask: pattern memories, and predictions to be scored.

A projection is a function of the state alone. A pattern that no window has changed since is projected to the same
content, so publishing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.learning.blocks import BlockSums, block_interval, block_mean
from memory.learning.conditions import FeatureText, conditions_in_words, sentence
from memory.learning.figures import Figures
from memory.learning.knowledge import FoldState, PatternState
from memory.learning.outcomes import FLAT, GROSS, LONG, LONG_NET, SCALED, SHORT, SHORT_NET, VOLATILITY
from memory.learning.predictions import COVERAGE_QUANTILE, HORIZONS, PatternPredictions
from memory.learning.settings import LearningSettings
from memory.learning.statistics import Moments, sharpe
from memory.learning.sums import RealisedSums
from memory.records import (
    LARGEST_COSINE_DISTANCE,
    Condition,
    Interval,
    Outcome,
    PatternMemory,
    VolatilityOutcome,
    from_ms,
)
from memory.tables import Floats

_NO_TEXTS: Mapping[str, FeatureText] = {}
_BASIS_POINTS = 1e4


def project_patterns(
    state: FoldState,
    *,
    valid_from: datetime,
    line: str,
    settings: LearningSettings,
    texts: Mapping[str, FeatureText] = _NO_TEXTS,
) -> list[PatternMemory]:
    """The patterns that stand, as records to publish, in order of ids.

    Parameters
    ----------
    state
        The fold's state after a window.
    valid_from
        When this knowledge counts as known (aware UTC): the window's end, or later where inputs or publication were.
        An unchanged pattern keeps the version that it has; the store compares content, not this time.
    line
        Knowledge line.
    settings
        Settings of the fold.
    texts
        What features are called, by name; features without a text are named in general words.

    Returns
    -------
    Records without vectors shared with the state. Cost: 0.5 ms a pattern.
    """
    patterns = list(state.live_patterns())
    return [
        _project(pattern, reading, valid_from, line, settings, texts)
        for pattern, reading in zip(patterns, _readings(patterns, settings), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Reading:
    """Means, interval ends and annualised Sharpe ratios of one pattern: (H, 5), (H, 5), (H, 5), (H, 3)."""

    mean: Floats
    low: Floats
    high: Floats
    sharpe: Floats


def _readings(patterns: Sequence[PatternState], settings: LearningSettings) -> list[_Reading]:
    """Read all patterns at once: quantiles of Student's t cost more than all the rest, one by one."""
    if not patterns:
        return []
    sums = BlockSums.stack([pattern.outcomes.blocks for pattern in patterns])
    returns = Moments.stack([pattern.outcomes.block_returns for pattern in patterns])
    low, high = block_interval(sums, confidence=settings.confidence, min_blocks=settings.min_blocks)
    periods = np.array([settings.periods_per_year(horizon) for horizon in HORIZONS])
    parts = (block_mean(sums), low, high, sharpe(returns, periods[:, None]))
    return [_Reading(*(part[row] for part in parts)) for row in range(len(patterns))]


def _project(
    pattern: PatternState,
    reading: _Reading,
    valid_from: datetime,
    line: str,
    settings: LearningSettings,
    texts: Mapping[str, FeatureText],
) -> PatternMemory:
    figures = figures_of(pattern)
    support = pattern.support
    conditions = conditions_in_words(figures.conditions, texts, settings)
    outcomes = _outcomes(pattern, figures, reading)
    volatility = _volatility(pattern, figures, reading)
    if support.first_ms is None or support.last_ms is None:
        raise AssertionError(f"the published pattern {pattern.pattern_id} never occurred")
    place = (pattern.place / np.linalg.norm(pattern.place)).astype(np.float32)
    return PatternMemory(
        memory_id=pattern.pattern_id,
        description=describe(pattern, conditions, outcomes, volatility, settings),
        encoder_id=pattern.encoder_id,
        line=line,
        created_at=from_ms(pattern.founded_ms),
        valid_from=valid_from,
        pattern_id=pattern.pattern_id,
        concept_vector=place / np.float32(np.linalg.norm(place)),
        source=pattern.source,
        regime=pattern.regime,
        product_ids=tuple(sorted(pattern.products)),
        conditions=conditions,
        support=support.count,
        effective_support=support.effective,
        states=pattern.states,
        windows_seen=len(pattern.sightings),
        first_seen=from_ms(support.first_ms),
        last_seen=from_ms(support.last_ms),
        broad=pattern.broad,
        status=pattern.status,
        outcomes=outcomes,
        volatility=volatility,
        # What failed out of sample is no advice.
        expected_return=0.0 if pattern.demoted else figures.best_mean,
        best_action=None if pattern.demoted else figures.best_action,
        realised=realised_by_agent(pattern.realised),
        demoted=pattern.demoted,
        aliases=pattern.aliases,
        reach=reach_of(pattern),
        split_from=pattern.split_from,
    )


def figures_of(pattern: PatternState) -> Figures:
    """Figures of a published pattern."""
    if pattern.figures is None:
        raise InvalidRecordError(
            f"{pattern.pattern_id} is a candidate: it has no figures.",
            remedy="Ask for patterns that stand (FoldState.live_patterns).",
            field="pattern",
        )
    return pattern.figures


def _outcomes(pattern: PatternState, figures: Figures, reading: _Reading) -> tuple[Outcome, ...]:
    sums, mean, low, high, ratios = pattern.outcomes.blocks, reading.mean, reading.low, reading.high, reading.sharpe
    # The gross moments are those of a long position; a short one has the same spread and the other sign.
    drawdown = pattern.drawdown
    outcomes: list[Outcome] = []
    for row, horizon in enumerate(HORIZONS):
        n, blocks = int(sums.n[row, GROSS]), int(sums.blocks[row, GROSS])
        if not n:
            continue
        for position, (action, column, sign) in enumerate(((LONG, LONG_NET, 1.0), (SHORT, SHORT_NET, -1.0))):
            interval = _interval(*sorted((sign * low[row, GROSS], sign * high[row, GROSS])))
            outcomes.append(
                Outcome(
                    action=action,
                    horizon_minutes=horizon,
                    n=n,
                    blocks=blocks,
                    gross_mean=sign * float(mean[row, GROSS]),
                    net_mean=float(mean[row, column]),
                    interval=interval,
                    win_rate=float(pattern.outcomes.wins[row, position] / n),
                    gross_sharpe=_optional(sign * ratios[row, GROSS]),
                    net_sharpe=_optional(ratios[row, column]),
                    max_drawdown=float(drawdown.worst[row, position]),
                    shrunk_net_mean=float(figures.shrunk[row, column]),
                    q_value=_optional(figures.q_value[row]),
                )
            )
        outcomes.append(
            Outcome(
                action=FLAT,
                horizon_minutes=horizon,
                n=n,
                blocks=blocks,
                gross_mean=0.0,
                net_mean=0.0,
                interval=None,
                win_rate=0.0,
                gross_sharpe=None,
                net_sharpe=None,
                max_drawdown=0.0,
                shrunk_net_mean=0.0,
            )
        )
    return tuple(outcomes)


def _volatility(pattern: PatternState, figures: Figures, reading: _Reading) -> tuple[VolatilityOutcome, ...]:
    sums = pattern.outcomes.blocks[:, VOLATILITY]
    mean, low, high = (table[:, VOLATILITY] for table in (reading.mean, reading.low, reading.high))
    return tuple(
        VolatilityOutcome(
            horizon_minutes=horizon,
            n=int(sums.n[row]),
            blocks=int(sums.blocks[row]),
            mean=float(mean[row]),
            interval=_interval(low[row], high[row]),
            base_mean=float(figures.base[row, VOLATILITY]),
        )
        for row, horizon in enumerate(HORIZONS)
        if sums.n[row]
    )


def describe(
    pattern: PatternState,
    conditions: tuple[Condition, ...],
    outcomes: tuple[Outcome, ...],
    volatility: tuple[VolatilityOutcome, ...],
    settings: LearningSettings,
) -> str:
    """A pattern in two or three plain sentences: what it is, what followed, how the market moved after it."""
    horizon = settings.reference_horizon_minutes
    parts = [sentence(pattern.regime, conditions)]
    for outcome in outcomes:
        if (outcome.action, outcome.horizon_minutes) != (LONG, horizon):
            continue
        base = figures_of(pattern).base[HORIZONS.index(horizon), GROSS]
        span = (
            f"95 % interval {_basis_points(outcome.interval.low)} to {_basis_points(outcome.interval.high)}"
            if outcome.interval
            else f"too few half-hours ({outcome.blocks}) for an interval"
        )
        parts.append(
            f"In the next {horizon} minutes the price moved {_basis_points(outcome.gross_mean)} bp on average "
            f"({span}; {_basis_points(base)} in all such markets)."
        )
    for moved in volatility:
        if moved.horizon_minutes == horizon:
            parts.append(_moved_sentence(moved))
    return " ".join(parts)


def _moved_sentence(moved: VolatilityOutcome) -> str:
    ratio = float(np.exp(moved.mean - moved.base_mean))
    how = f"{abs(ratio - 1):.0%} {'more' if ratio > 1 else 'less'} than is usual there"
    sure = moved.interval is not None and not moved.interval.low <= moved.base_mean <= moved.interval.high
    return f"Typically it moved {how}{'' if sure else ', which may be chance'}."


def realised_by_agent(realised: Mapping[str, RealisedSums]) -> dict[str, dict[str, float]]:
    """What agents realised in a pattern: agent -> {buy_n, buy_mean, buy_win_rate, sell_n, ...}; rewards, net."""
    by_agent: dict[str, dict[str, float]] = {}
    for name, sums in sorted(realised.items()):
        agent, _, side = name.rpartition("/")
        figures = by_agent.setdefault(agent, {})
        prefix = side.lower()
        figures[f"{prefix}_n"] = float(sums.n)
        figures[f"{prefix}_mean"] = sums.total / sums.n
        figures[f"{prefix}_win_rate"] = sums.wins / sums.n
    return by_agent


def reach_of(pattern: PatternState) -> float:
    """Cosine distance from its place within which a pattern covers a state: 1 - `COVERAGE_QUANTILE` of its members.

    Distances are those of the members from the mean of their own cluster, in the window in which they were seen.
    """
    farthest = float(pattern.cosine_distance.quantiles(1 - COVERAGE_QUANTILE)[0, 0])
    # The value that stands for a bin may lie beyond what a distance can be.
    return min(farthest, LARGEST_COSINE_DISTANCE)


def build_predictions(state: FoldState, *, source: str) -> PatternPredictions:
    """What the patterns of one source predict, to be scored on the next window before that is folded.

    Demoted patterns are among them, so that they can redeem themselves. The means are the shrunk ones.
    """
    patterns = [pattern for pattern in state.live_patterns() if pattern.source == source]
    horizons = len(HORIZONS)
    shrunk = [figures_of(pattern).shrunk for pattern in patterns]
    base = [block_mean(state.bases[pattern.partition].outcomes.blocks) for pattern in patterns]
    reach = [reach_of(pattern) for pattern in patterns]

    def column(tables: list[Floats], measure: int) -> Floats:
        return np.array([table[:, measure] for table in tables], dtype=np.float64).reshape(-1, horizons)

    return PatternPredictions(
        pattern_ids=tuple(pattern.pattern_id for pattern in patterns),
        partitions=tuple(pattern.partition for pattern in patterns),
        vectors=np.array([pattern.place for pattern in patterns], dtype=np.float32).reshape(len(patterns), -1)
        if patterns
        else np.zeros((0, 0), dtype=np.float32),
        cosine_floor=1.0 - np.array(reach, dtype=np.float64),
        states=np.array([pattern.states for pattern in patterns], dtype=np.int64),
        windows=np.array([len(pattern.sightings) for pattern in patterns], dtype=np.int64),
        scaled_return=column(shrunk, SCALED),
        volatility=column(shrunk, VOLATILITY),
        base_scaled_return=column(base, SCALED),
        base_volatility=column(base, VOLATILITY),
    )


class JudgedAction(msgspec.Struct, frozen=True, kw_only=True):
    """The best action of a pattern, named on earlier windows, in later ones: net, at the reference horizon.

    Attributes
    ----------
    pattern_id, action
        The pattern, and the action that is named now (an earlier window may have named another).
    windows, blocks, n
        Later windows, clock blocks and states that it was judged on.
    mean, interval
        Mean net return there; its interval, None under `min_blocks`.
    """

    pattern_id: str
    action: str
    windows: int
    blocks: int
    n: int
    mean: float
    interval: Interval | None


def judged_actions(state: FoldState, settings: LearningSettings) -> list[JudgedAction]:
    """Out-of-sample record of the patterns that stand and were judged at least once, in order of ids."""
    judged: list[JudgedAction] = []
    for pattern in state.live_patterns():
        sums = pattern.judged.sums
        if not sums.n:
            continue
        low, high = block_interval(sums, confidence=settings.confidence, min_blocks=settings.min_blocks)
        judged.append(
            JudgedAction(
                pattern_id=pattern.pattern_id,
                action=figures_of(pattern).best_action,
                windows=pattern.judged.windows,
                blocks=int(sums.blocks),
                n=int(sums.n),
                mean=float(block_mean(sums)),
                interval=_interval(float(low), float(high)),
            )
        )
    return judged


def _interval(low: float, high: float) -> Interval | None:
    return None if np.isnan(low) or np.isnan(high) else Interval(low=float(low), high=float(high))


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _basis_points(value: float) -> str:
    return f"{value * _BASIS_POINTS:+.1f}"
