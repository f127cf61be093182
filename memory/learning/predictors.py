"""Ways to predict the outcomes of states from what is remembered: patterns, and what patterns must beat.

All predict the same two figures at each horizon, in units of the state's own trailing volatility: the scaled forward
return, and the volatility that follows. A prediction array has the shape (n, H, 2), NaN where nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.learning.outcomes import SCALED, VOLATILITY, compute_outcomes
from memory.learning.partitions import MIN_PARTITION_STATES
from memory.learning.predictions import COVERAGE_QUANTILE, HORIZONS, PatternPredictions
from memory.learning.settings import LearningSettings
from memory.records import MIXED, REGIMES
from memory.tables import Floats, Ints, StateTable

RETURN_COLUMN, VOLATILITY_COLUMN = 0, 1
"""Last axis of predictions and targets."""

NO_PATTERN = -1

NEARNESS = 0.05
"""Cosine by which a pattern may be further than the nearest one and still count 1/e of it in a prediction."""
_ROWS_AT_ONCE = 256
"""Rows of a similarity matrix that are held at once."""
_LARGEST_DEVIATION = 5.0
"""Features are clipped at so many standard deviations, so that no single minute steers the regression."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """States of earlier windows with what came of them.

    Attributes
    ----------
    states
        In canonical order.
    targets
        (m, H, 2): scaled returns and volatilities; NaN where unknown.
    """

    states: StateTable
    targets: Floats


def targets_of(states: StateTable, settings: LearningSettings) -> Floats:
    """What predictions are compared with: (n, H, 2), from the given states alone."""
    return compute_outcomes(states, settings).measures[:, :, [SCALED, VOLATILITY]]


def assign(predictions: PatternPredictions, states: StateTable) -> Ints:
    """Pattern of each state: the nearest by cosine, among those of its regime and the mixed ones, that covers it.

    Returns
    -------
    int64 (n,): positions in `predictions`, `NO_PATTERN` where none covers the state. Cost: O(n patterns dimension).
    """
    chosen = np.full(len(states), NO_PATTERN, dtype=np.int64)
    for rows, own, cosine in _near_patterns(predictions, states):
        floors = predictions.cosine_floor[own]
        best = np.where(cosine >= floors, cosine, -np.inf).argmax(axis=1)
        covered = cosine[np.arange(len(rows)), best] >= floors[best]
        chosen[rows[covered]] = own[best[covered]]
    return chosen


def predict_by_patterns(predictions: PatternPredictions, states: StateTable, chosen: Ints) -> Floats:
    """What the patterns around each covered state predict, the nearer ones more.

    Patterns are pieces of one landscape: their edges are where a night's sample happened to be thin. A state is
    therefore given the mean over the patterns of its home, weighted by exp(cosine / `NEARNESS`): a kernel regression on
    patterns (Nadaraya 1964, Watson 1964). One that is `NEARNESS` further than the nearest counts 1/e of it.

    Parameters
    ----------
    predictions
        The patterns.
    states
        What is predicted.
    chosen
        (n,) pattern that covers each state, from `assign`.

    Returns
    -------
    (n, H, 2), NaN for states that no pattern covers. Cost: O(n patterns dimension).
    """
    predicted = np.full((len(chosen), len(HORIZONS), 2), np.nan)
    said = np.stack([predictions.scaled_return, predictions.volatility], axis=-1).reshape(
        len(predictions), 2 * len(HORIZONS)
    )
    known = np.isfinite(said)
    filled = np.where(known, said, 0.0)
    for rows, own, cosine in _near_patterns(predictions, states):
        covered = chosen[rows] != NO_PATTERN
        near = cosine[covered].astype(np.float64)
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / NEARNESS)
        total, held = weight @ filled[own], weight @ known[own]
        mean = np.divide(total, held, out=np.full(total.shape, np.nan), where=held > 0)
        predicted[rows[covered]] = mean.reshape(-1, len(HORIZONS), 2)
    return predicted


def _near_patterns(
    predictions: PatternPredictions, states: StateTable
) -> Iterator[tuple[Ints, Ints, npt.NDArray[np.float32]]]:
    """States a few at a time, with the patterns of their regime and the mixed ones, and the cosines between them."""
    if not len(predictions):
        return
    regimes = np.array([key.rpartition("/")[2] for key in predictions.partitions])
    for code in np.unique(states.regime).tolist():
        own = np.flatnonzero((regimes == REGIMES[code]) | (regimes == MIXED))
        if not len(own):
            continue
        vectors = predictions.vectors[own]
        rows = np.flatnonzero(states.regime == code)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            yield some, own, states.vectors[some] @ vectors.T


def random_balls(
    predictions: PatternPredictions,
    remembered: Remembered,
    random_state: np.random.Generator,
    *,
    window_ms: int,
    most: int,
) -> PatternPredictions:
    """The null of the patterns: for each a random state of its home and the states nearest to it, out of one window.

    A pattern is as dense as a cluster of one window is; balls out of many windows at once would be far smaller than the
    patterns that they stand in for. The ball of a pattern that is at home in a regime is drawn among that regime's
    states, whether the window pooled them or not; that of a MIXED one among all the states that its window pooled.

    Parameters
    ----------
    predictions
        The patterns that the balls stand in for: number, sizes and homes are theirs.
    remembered
        States that the balls are drawn from, window by window. A ball holds at most all states of its home there.
    random_state
        Chooses the centres.
    window_ms
        Length of a window; windows begin at multiples of it.
    most
        Balls at most; with more patterns, an even choice of them is stood in for.

    Returns
    -------
    Balls in the form of patterns: mean vector, coverage by the same rule, mean outcomes of the members. Patterns of a
    home that no remembered window has a state of get none. Cost: O(m + balls * states of a window * dimension).
    """
    picked = np.arange(len(predictions))
    if len(picked) > most:
        picked = np.unique(np.linspace(0, len(picked) - 1, most).round().astype(np.int64))
    draws = random_state.random(len(picked))
    homes = [predictions.partitions[position].rpartition("/")[2] for position in picked.tolist()]
    window = remembered.states.timestamp_ms // window_ms
    rows_of = {home: _rows_of_home(remembered.states, window, home) for home in sorted(set(homes))}
    kept, vectors, floors, means = [], [], [], []
    for place, position in enumerate(picked.tolist()):
        candidates = rows_of[homes[place]]
        if not len(candidates):
            continue
        centre = candidates[int(draws[place] * len(candidates))]
        pool = candidates[window[candidates] == window[centre]]
        size = int(min(predictions.states_a_window[position], len(pool)))
        similarity = remembered.states.vectors[pool] @ remembered.states.vectors[centre]
        members = np.sort(pool[np.argpartition(-similarity, size - 1)[:size]])
        mean = remembered.states.vectors[members].mean(axis=0, dtype=np.float64)
        mean /= np.linalg.norm(mean)
        kept.append(position)
        vectors.append(mean)
        floors.append(np.quantile(remembered.states.vectors[members] @ mean, COVERAGE_QUANTILE))
        means.append(_known_means(remembered.targets[members]))
    outcome = np.array(means).reshape(-1, len(HORIZONS), 2)
    rows = np.array(kept, dtype=np.int64)
    return PatternPredictions(
        pattern_ids=tuple(f"ball-{position}" for position in kept),
        partitions=tuple(predictions.partitions[position] for position in kept),
        vectors=np.array(vectors, dtype=np.float32).reshape(len(kept), predictions.vectors.shape[1]),
        cosine_floor=np.array(floors, dtype=np.float64),
        states=predictions.states_a_window[rows],
        scaled_return=outcome[:, :, RETURN_COLUMN],
        volatility=outcome[:, :, VOLATILITY_COLUMN],
        base_scaled_return=predictions.base_scaled_return[rows],
        base_volatility=predictions.base_volatility[rows],
    )


def _rows_of_home(states: StateTable, window: Ints, home: str) -> Ints:
    """States that are at home in a regime; for MIXED those of all regimes that their window pooled."""
    if home != MIXED:
        return np.flatnonzero(states.regime == REGIMES.index(home))
    pooled = [np.zeros(0, dtype=np.int64)]
    for number in np.unique(window).tolist():
        rows = np.flatnonzero(window == number)
        codes, counts = np.unique(states.regime[rows], return_counts=True)
        pooled.append(rows[np.isin(states.regime[rows], codes[counts < MIN_PARTITION_STATES])])
    return np.sort(np.concatenate(pooled))


def predict_by_neighbours(remembered: Remembered, states: StateTable, *, neighbours: int, most: int) -> Floats:
    """Mean outcome of the nearest remembered states, by cosine.

    Parameters
    ----------
    remembered
        Where neighbours are looked for; with more than `most` states, in an even choice of them.
    states
        What is predicted.
    neighbours
        How many are averaged.
    most
        Bounds the cost: O(n most dimension).
    """
    known = np.flatnonzero(np.isfinite(remembered.targets).any(axis=(1, 2)))
    if len(known) > most:
        known = known[np.unique(np.linspace(0, len(known) - 1, most).round().astype(np.int64))]
    predicted = np.full((len(states), len(HORIZONS), 2), np.nan)
    if not len(known):
        return predicted
    pool, targets = remembered.states.vectors[known], remembered.targets[known].reshape(len(known), -1)
    finite = np.isfinite(targets)
    filled = np.where(finite, targets, 0.0)
    count = min(neighbours, len(known))
    for start in range(0, len(states), _ROWS_AT_ONCE):
        similarity = states.vectors[start : start + _ROWS_AT_ONCE] @ pool.T
        nearest = np.argpartition(similarity, len(known) - count, axis=1)[:, len(known) - count :]
        # Sums in the order of the states, so that equal neighbours give equal bits.
        nearest.sort(axis=1)
        held = finite[nearest].sum(axis=1)
        total = filled[nearest].sum(axis=1)
        mean = np.divide(total, held, out=np.full(total.shape, np.nan), where=held > 0)
        predicted[start : start + _ROWS_AT_ONCE] = mean.reshape(-1, len(HORIZONS), 2)
    return predicted


def predict_by_ridge(remembered: Remembered, states: StateTable, *, penalty: float) -> Floats:
    """Ridge regression of the outcomes on the named features.

    Parameters
    ----------
    remembered
        What it is fitted to; features are standardised on it, missing ones set to their mean.
    states
        What is predicted.
    penalty
        Added to the diagonal of the features' correlation matrix: 0 is least squares.
    """
    predicted = np.full((len(states), len(HORIZONS), 2), np.nan)
    shared = [name for name in remembered.states.feature_names if name in states.feature_names]
    columns = np.column_stack([remembered.states.feature(name) for name in shared]) if shared else np.zeros((0, 0))
    held = np.isfinite(columns)
    count = np.maximum(held.sum(axis=0), 1)
    mean = np.where(held, columns, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(held, (columns - mean) ** 2, 0.0).sum(axis=0) / count)
    useful = spread > 0
    if not useful.any():
        return predicted

    def standardised(table: Floats) -> Floats:
        scaled = (table[:, useful] - mean[useful]) / spread[useful]
        clipped: Floats = np.clip(np.nan_to_num(scaled, nan=0.0), -_LARGEST_DEVIATION, _LARGEST_DEVIATION)
        return clipped

    known = standardised(columns)
    wanted = standardised(np.column_stack([states.feature(name) for name in shared]))
    for horizon in range(len(HORIZONS)):
        for column in (RETURN_COLUMN, VOLATILITY_COLUMN):
            target = remembered.targets[:, horizon, column]
            rows = np.isfinite(target)
            if rows.sum() <= known.shape[1]:
                continue
            x, y = known[rows], target[rows]
            centre = x.mean(axis=0)
            x = x - centre
            gram = x.T @ x / len(x) + penalty * np.eye(x.shape[1])
            weights = np.linalg.solve(gram, x.T @ (y - y.mean()) / len(x))
            predicted[:, horizon, column] = y.mean() + (wanted - centre) @ weights
    return predicted


def predict_by_base_rate(remembered: Remembered, states: StateTable) -> Floats:
    """Mean outcome of the state's regime; of all states where the regime is not remembered."""
    overall = _known_means(remembered.targets)
    rates = np.repeat(overall[None], len(REGIMES), axis=0)
    for code in np.unique(remembered.states.regime).tolist():
        own = _known_means(remembered.targets[remembered.states.regime == code])
        rates[code] = np.where(np.isfinite(own), own, overall)
    return rates[states.regime]


def _known_means(values: Floats) -> Floats:
    """Mean along the first axis without NaN; NaN where there is no value."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean
