"""What scorecards hold, and how they are pooled over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from memory.learning.agreement import Agreement
from memory.learning.predictions import PredictionGain
from memory.records import Interval

PATTERNS, BALLS, NEIGHBOURS, RIDGE, BASE = "patterns", "balls", "neighbours", "ridge", "base"
PREDICTORS = (PATTERNS, BALLS, NEIGHBOURS, RIDGE, BASE)
RETURN, VOLATILITY = "return", "volatility"
OUTCOMES = (RETURN, VOLATILITY)
OWN, COVERED = "own", "covered"
"""Scopes: all states that the predictor has something to say about; those that a pattern covers."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How one predictor did.

    Attributes
    ----------
    predictor
        One of `PREDICTORS`.
    scope
        `OWN` or `COVERED`.
    outcome, horizon_minutes
        One of `OUTCOMES`, and its horizon.
    agreement
        Rank correlation and calibration.
    """

    predictor: str
    scope: str
    outcome: str
    horizon_minutes: int
    agreement: Agreement


class Scorecard(msgspec.Struct, frozen=True, kw_only=True):
    """One window's scorecard.

    Attributes
    ----------
    algorithm_version, settings_hash
        What it was computed with.
    window, start_ms, end_ms, encoder_id, source
        What was scored.
    states, scored
        Distinct states of the window, and those of them that were scored.
    remembered
        States of earlier windows that the null, the neighbours and the regression had.
    patterns, balls
        How many there were.
    covered, covered_by_balls
        Share of the scored states that a pattern (a ball) covers; None without states.
    confirmation_rate, null_confirmation_rate
        Share of the window's clusters that matched a pattern, and of random balls that would have; filled in once the
        window is folded (`with_confirmation`).
    unmistakable_share
        Of the clusters that matched, the share that did so by the rule of the unmistakable alone, not above the null's
        threshold (`matching`); None where none matched.
    scores
        By predictor, scope, outcome and horizon.
    gains
        For each pattern that covers a scored state, how its predictions did against its base rate.
    """

    algorithm_version: str
    settings_hash: str
    window: str
    start_ms: int
    end_ms: int
    encoder_id: str
    source: str
    states: int
    scored: int
    remembered: int
    patterns: int
    balls: int
    covered: float | None
    covered_by_balls: float | None
    confirmation_rate: float | None = None
    null_confirmation_rate: float | None = None
    unmistakable_share: float | None = None
    scores: tuple[Score, ...] = ()
    gains: tuple[PredictionGain, ...] = ()

    def with_confirmation(
        self, rate: float | None, null_rate: float | None, unmistakable_share: float | None = None
    ) -> Scorecard:
        """The scorecard with what the fold confirmed, and by which rule."""
        return msgspec.structs.replace(
            self, confirmation_rate=rate, null_confirmation_rate=null_rate, unmistakable_share=unmistakable_share
        )

    def score(self, predictor: str, outcome: str, horizon_minutes: int, scope: str = OWN) -> Agreement | None:
        """One score; None where there is none."""
        for item in self.scores:
            if (item.predictor, item.outcome, item.horizon_minutes, item.scope) == (
                predictor,
                outcome,
                horizon_minutes,
                scope,
            ):
                return item.agreement
        return None


class PooledScore(msgspec.Struct, frozen=True, kw_only=True):
    """One predictor over several windows: mean rank correlation, each window counting once.

    Attributes
    ----------
    predictor, scope, outcome, horizon_minutes
        As in `Score`.
    windows
        Windows with a rank correlation.
    rank_correlation, interval
        Their mean, and 1.96 standard errors of it either way; no interval under two windows.
    """

    predictor: str
    scope: str
    outcome: str
    horizon_minutes: int
    windows: int
    rank_correlation: float
    interval: Interval | None


def pool_scorecards(scorecards: Sequence[Scorecard]) -> list[PooledScore]:
    """Mean rank correlation of each predictor over windows, in order of predictor, scope, outcome and horizon.

    Days are the sample: they share less with one another than the minutes of one day do.
    """
    found: dict[tuple[str, str, str, int], list[float]] = {}
    for card in scorecards:
        for item in card.scores:
            if item.agreement.rank_correlation is not None:
                key = (item.predictor, item.scope, item.outcome, item.horizon_minutes)
                found.setdefault(key, []).append(item.agreement.rank_correlation)
    return [_pooled(key, found[key]) for key in sorted(found, key=_in_order)]


def pool_differences(scorecards: Sequence[Scorecard]) -> list[PooledScore]:
    """How much more patterns know than each other predictor, day by day on the same states: mean difference of IC.

    Paired by day, since a day that is easy for one predictor is easy for the others: the interval of the difference is
    far narrower than those of the two means suggest. Both are taken on the states that patterns cover.

    Returns
    -------
    One figure for each other predictor, outcome and horizon, under the name of that predictor; above 0 where patterns
    do better. Windows in which either has no rank correlation are left out.
    """
    found: dict[tuple[str, str, str, int], list[float]] = {}
    for card in scorecards:
        for item in card.scores:
            own = card.score(PATTERNS, item.outcome, item.horizon_minutes)
            other = item.agreement.rank_correlation
            if item.scope == COVERED and own is not None and own.rank_correlation is not None and other is not None:
                key = (item.predictor, COVERED, item.outcome, item.horizon_minutes)
                found.setdefault(key, []).append(own.rank_correlation - other)
    return [_pooled(key, found[key]) for key in sorted(found, key=_in_order)]


def _pooled(key: tuple[str, str, str, int], values: Sequence[float]) -> PooledScore:
    mean = float(np.mean(values))
    interval = None
    if len(values) > 1:
        reach = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        interval = Interval(low=mean - reach, high=mean + reach)
    predictor, scope, outcome, horizon = key
    return PooledScore(
        predictor=predictor,
        scope=scope,
        outcome=outcome,
        horizon_minutes=horizon,
        windows=len(values),
        rank_correlation=mean,
        interval=interval,
    )


def _in_order(key: tuple[str, str, str, int]) -> tuple[int, str, int, int]:
    predictor, scope, outcome, horizon = key
    return PREDICTORS.index(predictor), scope, OUTCOMES.index(outcome), horizon
