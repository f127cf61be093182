"""Probabilities and durations of regimes, from the counts that `transitions` folds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from memory.errors import InvalidRecordError
from memory.learning.transitions import (
    DEFAULT_SETTINGS,
    REGIME_COUNT,
    Durations,
    DurationTally,
    ProductTransitions,
    TransitionSettings,
    TransitionState,
)
from memory.records import REGIMES
from memory.tables import Floats, Ints

ALL_PRODUCTS = "ALL"
"""Product of figures that pool all products."""


@dataclass(frozen=True, slots=True)
class TransitionMatrices:
    """What is known about the regimes of one product, or of all pooled; rows and columns in the order of REGIMES.

    Attributes
    ----------
    product
        Product id, or `ALL_PRODUCTS`.
    step_s
        Seconds a step of `step_probability`.
    step_probability
        float64 (K, K): next state's regime given this one's; rows sum to 1.
    transition_probability
        float64 (K, K): next regime once this one ends (embedded jump chain); zero diagonal, rows sum to 1.
    path_probability
        float64 (K, K, K): the same given the regime before as well, [before, current, next].
    step_count, jump_count
        int64 (K, K): the counts behind them.
    states
        int64 (K,): states in each regime.
    spells
        int64 (K,): spells with a known beginning, censored ones included.
    median_duration_s
        Kaplan-Meier median of each regime's spells in seconds; None where fewer than half are known to have ended.
    """

    product: str
    step_s: float
    step_probability: Floats
    transition_probability: Floats
    path_probability: Floats
    step_count: Ints
    jump_count: Ints
    states: Ints
    spells: Ints
    median_duration_s: tuple[float | None, ...]


def project_transitions(
    state: TransitionState, settings: TransitionSettings = DEFAULT_SETTINGS
) -> list[TransitionMatrices]:
    """Probabilities and durations: all products pooled first, then each product by name.

    The last spell of each product counts as censored at its last state. Without products the pooled one stands alone,
    with uniform rows.
    """
    single = [_matrices(item.product, (item,), state.step_ms, settings) for item in state.products]
    return [_matrices(ALL_PRODUCTS, state.products, state.step_ms, settings), *single]


def next_given_path(matrices: TransitionMatrices, path: Iterable[str]) -> dict[str, float]:
    """Probability of each next regime given the regimes so far, the current one last.

    Parameters
    ----------
    matrices
        From `project_transitions`.
    path
        Regimes in time order; only the last two count, equal neighbours count as one.

    Returns
    -------
    A probability for each regime, 0 for the current one; they sum to 1.
    """
    codes: list[int] = []
    for name in path:
        if name not in REGIMES:
            raise InvalidRecordError(
                f"regime {name!r} is not known.", remedy=f"Use one of {', '.join(REGIMES)}.", field="path"
            )
        code = REGIMES.index(name)
        if not codes or codes[-1] != code:
            codes.append(code)
    if not codes:
        raise InvalidRecordError("the path is empty.", remedy="Give at least the current regime.", field="path")
    row = (
        matrices.path_probability[codes[-2], codes[-1]]
        if len(codes) > 1
        else matrices.transition_probability[codes[-1]]
    )
    return {name: float(row[code]) for code, name in enumerate(REGIMES)}


def step_matrix(counts: Ints, alpha: float) -> Floats:
    """Rows (counts + alpha) / (sum + alpha K); uniform where nothing was seen and alpha is 0."""
    return _rows_to_one(np.asarray(counts, dtype=np.float64) + alpha, np.ones((REGIME_COUNT, REGIME_COUNT)))


def jump_matrix(counts: Ints, alpha: float) -> Floats:
    """The same over the K - 1 regimes that can follow; the diagonal is 0."""
    possible = 1.0 - np.eye(REGIME_COUNT)
    return _rows_to_one((np.asarray(counts, dtype=np.float64) + alpha) * possible, possible)


def path_tensor(paths: Ints, jump_probability: Floats, strength: float) -> Floats:
    """P(next | before, current), backed off to P(next | current) as a Dirichlet prior worth `strength` counts."""
    prior = np.broadcast_to(jump_probability, np.shape(paths))
    return _rows_to_one(np.asarray(paths, dtype=np.float64) + strength * prior, prior)


def kaplan_meier_median(ended: Durations, censored: Durations) -> float | None:
    """Smallest duration at which the Kaplan-Meier survival falls to one half; None where it never does.

    A spell censored at a duration was still at risk there (the usual convention for ties).
    """
    if not ended:
        return None
    times, events = (np.array(column, dtype=np.int64) for column in zip(*ended, strict=True))
    cut, cut_counts = (
        (np.array(column, dtype=np.int64) for column in zip(*censored, strict=True))
        if censored
        else (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    )
    events_before = np.concatenate([[0], np.cumsum(events)[:-1]])
    cut_before = np.concatenate([[0], np.cumsum(cut_counts)])[np.searchsorted(cut, times, side="left")]
    at_risk = events.sum() + cut_counts.sum() - events_before - cut_before
    survival = np.cumprod(1.0 - events / at_risk)
    # A survival of exactly one half must not be missed by rounding.
    below = np.flatnonzero(survival <= 0.5 + 1e-12)
    return float(times[below[0]]) if len(below) else None


def _matrices(
    product: str, items: tuple[ProductTransitions, ...], step_ms: int, settings: TransitionSettings
) -> TransitionMatrices:
    ended = DurationTally(*(item.ended for item in items)).result()
    cut = DurationTally(*(item.censored for item in items))
    for item in items:
        if item.tail_known:
            cut.add(item.tail_regime, item.last_ms - item.tail_first_ms)
    censored = cut.result()
    steps = sum((item.steps for item in items), np.zeros((REGIME_COUNT, REGIME_COUNT), dtype=np.int64))
    jumps = sum((item.jumps for item in items), np.zeros((REGIME_COUNT, REGIME_COUNT), dtype=np.int64))
    paths = sum((item.paths for item in items), np.zeros((REGIME_COUNT, REGIME_COUNT, REGIME_COUNT), dtype=np.int64))
    chain = jump_matrix(jumps, settings.alpha)
    medians = [kaplan_meier_median(ended[code], censored[code]) for code in range(REGIME_COUNT)]
    spells = [sum(count for _, count in (*ended[code], *censored[code])) for code in range(REGIME_COUNT)]
    return TransitionMatrices(
        product=product,
        step_s=step_ms / 1000,
        step_probability=step_matrix(steps, settings.alpha),
        transition_probability=chain,
        path_probability=path_tensor(paths, chain, settings.backoff_strength),
        step_count=steps,
        jump_count=jumps,
        states=sum((item.states for item in items), np.zeros(REGIME_COUNT, dtype=np.int64)),
        spells=np.array(spells, dtype=np.int64),
        median_duration_s=tuple(None if median is None else median / 1000 for median in medians),
    )


def _rows_to_one(weights: Floats, possible: Floats) -> Floats:
    totals = weights.sum(axis=-1, keepdims=True)
    uniform = possible / possible.sum(axis=-1, keepdims=True)
    rows: Floats = np.where(totals > 0, weights / np.where(totals > 0, totals, 1.0), uniform)
    return rows
