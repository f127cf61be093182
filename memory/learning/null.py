"""The null of recurrence: how well do arbitrary neighbourhoods of states "recur" from night to night?

Market states fill a continuum, so the nearest pattern of another night is always near. A cluster has recurred only
where it lies nearer to a known pattern than a set of states would that is nothing but close together: a random
k-nearest-neighbour ball of the same partition and of equal size.

What makes the comparison fair:

* **Same statistic.** Clusters and balls are matched to the known patterns by the same function, `mutual_nearest`:
  cosine of means, one to one, mutual nearest. Both statistics are conditional on a match.
* **Same competition.** Mutual nearest depends on how many sets compete: with more of them each match is closer and each
  single set is matched more rarely. So balls are drawn in *replicates*, each as many balls as there are clusters, one
  of each cluster's size, and each replicate is matched on its own.
* **Same density.** Centres are drawn among the states, so that dense places get as many balls as they hold states.
* **Not the clusters themselves.** A ball most of whose states belong to one cluster is that cluster again, or a part of
  it, and would be counted as chance although it is what is judged: of planted patterns that truly recur, such a null
  confirms one in five, without those balls nearly all. Leaving them out keeps the null a null: if clusters were but
  random balls, the other random balls would match known patterns as well as they do.
* **Honest rate.** By construction about 5 % of matched balls lie above the threshold that was read off them; the
  confirmation rate of the null is therefore computed for each replicate with the threshold of the other replicates.

A summary keeps the means of the balls, not the states: the fold can compute the threshold against the patterns known by
then, and again after a back-fill, without the window's states.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from memory.errors import InvalidRecordError
from memory.learning.neighbourhoods import Neighbourhoods

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

NULL_BALLS = 128
"""Balls a partition: about half are matched, so that the 95th percentile is read off some 60 cosines; 128 KB."""
NULL_QUANTILE = 0.95
MIN_REPLICATES = 2
"""The null's own confirmation rate needs replicates other than the one that is judged."""
BALL_ATTEMPTS = 100
"""Centres tried for one ball outside the clusters; even where nine states in ten are in clusters, one in 40,000 balls
needs more."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs of mutual nearest rows of two sets of vectors, in order of the left index.

    Attributes
    ----------
    left, right
        (pairs,) int64 positions; each occurs at most once.
    cosine
        (pairs,) float64 cosine of the pair.
    """

    left: IntArray
    right: IntArray
    cosine: FloatArray


def mutual_nearest(left: npt.ArrayLike, right: npt.ArrayLike) -> Matches:
    """Match two sets of means one to one: a pair matches if each is the other's nearest by cosine.

    Parameters
    ----------
    left, right
        (a, d) and (b, d) vectors of any length above zero; the cosine is taken in float64.

    Returns
    -------
    `Matches`; empty where a side is empty, at least one pair otherwise. Ties go to the lower position.
    Cost: O(a b d).
    """
    first, second = _unit(left, "left"), _unit(right, "right")
    if not len(first) or not len(second):
        nothing = np.zeros(0, dtype=np.int64)
        return Matches(left=nothing, right=nothing.copy(), cosine=np.zeros(0))
    cosines = first @ second.T
    nearest_right = np.argmax(cosines, axis=1)
    nearest_left = np.argmax(cosines, axis=0)
    matched = np.flatnonzero(nearest_left[nearest_right] == np.arange(len(first)))
    if not len(matched):
        # Ties alone can break the circle (a near b, b near a', a' as near to b as a is): the best pair still stands.
        best = np.unravel_index(int(np.argmax(cosines)), cosines.shape)
        pair = np.array(best, dtype=np.int64)
        return Matches(left=pair[:1], right=pair[1:], cosine=cosines[best].reshape(1))
    partners = nearest_right[matched]
    return Matches(
        left=matched.astype(np.int64),
        right=partners.astype(np.int64),
        cosine=np.clip(cosines[matched, partners], -1.0, 1.0),
    )


def null_balls(
    X: npt.ArrayLike,
    sizes: Sequence[int],
    random_state: np.random.Generator | int,
    *,
    labels: npt.ArrayLike | None = None,
) -> list[IntArray]:
    """One replicate: for each size a random state and its nearest states, itself included.

    Parameters
    ----------
    X
        (n, d) unit rows: all states of the partition, noise included, in canonical order.
    sizes
        Sizes of the clusters that the balls stand in for, each from 1 to n.
    random_state
        Generator or seed (`partitions.partition_seed`).
    labels
        (n,) cluster of each state, negative for noise. Balls with half of their states or more in one cluster are
        passed over (see the module's text). Left out, none are.

    Returns
    -------
    One ascending array of row positions a size. Centres differ until every state was tried. Where `BALL_ATTEMPTS`
    centres in a row give no ball outside the clusters, the last ball is taken: there is hardly anything but clusters,
    and the null then errs on the strict side. Cost: that of `neighbourhoods.Neighbourhoods.nearest` a centre tried;
    above `neighbourhoods.SCAN_LIMIT` states a ball is the centre's nearest states among the lists around it.
    """
    states = _rows(X)
    _check_sizes(sizes, len(states))
    clusters = _checked_labels(labels, len(states))
    with threadpool_limits(limits=1):
        return _replicate(Neighbourhoods(states), len(states), sizes, np.random.default_rng(random_state), clusters)


def null_replicates(
    X: npt.ArrayLike,
    sizes: Sequence[int],
    random_state: np.random.Generator | int,
    *,
    labels: npt.ArrayLike | None = None,
    n_balls: int = NULL_BALLS,
) -> list[list[IntArray]]:
    """Random balls in full replicates: each one ball of every cluster's size.

    Parameters
    ----------
    X, sizes, random_state, labels
        See `null_balls`.
    n_balls
        Balls wanted; as many full replicates are drawn as it takes, at least `MIN_REPLICATES`.

    Returns
    -------
    Replicates, each a list of row positions as `null_balls` returns it; empty without sizes. Cost: O(balls n d) time
    for up to `neighbourhoods.SCAN_LIMIT` states; above O(n sqrt(n) d) once and O((sqrt(n) + size) d) a centre tried.
    """
    states = _rows(X)
    _check_sizes(sizes, len(states))
    clusters = _checked_labels(labels, len(states))
    if not len(sizes):
        return []
    generator = np.random.default_rng(random_state)
    replicates = max(MIN_REPLICATES, math.ceil(n_balls / len(sizes)))
    # One thread of BLAS: the last bits of a cosine, and with them who is nearest, depend on their number.
    with threadpool_limits(limits=1):
        around = Neighbourhoods(states)
        return [_replicate(around, len(states), sizes, generator, clusters) for _ in range(replicates)]


def null_ball_means(
    X: npt.ArrayLike,
    sizes: Sequence[int],
    random_state: np.random.Generator | int,
    *,
    labels: npt.ArrayLike | None = None,
    n_balls: int = NULL_BALLS,
) -> Vectors:
    """Mean vectors of random balls of the clusters' sizes: the part of the null that a summary keeps.

    Parameters
    ----------
    X, sizes, random_state, labels, n_balls
        See `null_replicates`: the same arguments give the same balls.

    Returns
    -------
    (replicates, len(sizes), d) float32 means, taken in float64, not scaled to unit length; (0, 0, d) without sizes.
    Cost: that of `null_replicates`.
    """
    states = _rows(X)
    replicates = null_replicates(states, sizes, random_state, labels=labels, n_balls=n_balls)
    means = np.empty((len(replicates), len(sizes), states.shape[1]), dtype=np.float32)
    for replicate, balls in enumerate(replicates):
        for position, ball in enumerate(balls):
            means[replicate, position] = states[ball].mean(axis=0, dtype=np.float64)
    return means


def matching_null(ball_means: npt.ArrayLike, pattern_means: npt.ArrayLike) -> list[FloatArray]:
    """Cosines of the balls that find a pattern by the rule that clusters are matched by.

    Parameters
    ----------
    ball_means
        (replicates, clusters, d) as `null_ball_means` returns them.
    pattern_means
        (patterns, d) means of the patterns known before the window.

    Returns
    -------
    For each replicate the cosines of its matched balls. Cost: O(balls patterns d).
    """
    balls = np.asarray(ball_means)
    if balls.ndim != 3:
        raise InvalidRecordError(
            f"ball_means has the shape {balls.shape}.",
            remedy="Give what null_ball_means returned: (replicates, clusters, dimension).",
            field="ball_means",
        )
    return [mutual_nearest(replicate, pattern_means).cosine for replicate in balls]


def null_threshold(
    ball_means: npt.ArrayLike, pattern_means: npt.ArrayLike, *, quantile: float = NULL_QUANTILE
) -> float:
    """Cosine that a match must exceed (strictly) to confirm a pattern.

    Parameters
    ----------
    ball_means, pattern_means
        See `matching_null`.
    quantile
        Share of matched balls that must fall at or below the threshold.

    Returns
    -------
    The order statistic number ceil(quantile * (m + 1)) of the m matched cosines, so that one more ball would exceed
    it with a probability of at most 1 - quantile; the largest one where m is too small for that. Infinity where there
    is no ball or no pattern: nothing can be confirmed then.
    """
    return _order_statistic(matching_null(ball_means, pattern_means), quantile)


def null_confirmation_rate(
    ball_means: npt.ArrayLike,
    pattern_means: npt.ArrayLike,
    *,
    threshold: float | None = None,
    quantile: float = NULL_QUANTILE,
) -> float:
    """Share of random balls that would confirm a pattern: what the clusters' confirmation rate is read beside.

    Parameters
    ----------
    ball_means, pattern_means, quantile
        See `null_threshold`.
    threshold
        A threshold from elsewhere (a setting, another night's null). Left out, each replicate is judged by the
        threshold of the other replicates, never by its own.

    Returns
    -------
    Confirmed balls as a share of all balls, matched or not; 0 where there is no ball or no pattern.
    """
    cosines = matching_null(ball_means, pattern_means)
    n_balls = math.prod(np.asarray(ball_means).shape[:2])
    if not n_balls:
        return 0.0
    confirmed = 0
    for replicate, matched in enumerate(cosines):
        limit = threshold
        if limit is None:
            limit = _order_statistic(cosines[:replicate] + cosines[replicate + 1 :], quantile)
        confirmed += int(np.count_nonzero(matched > limit))
    return confirmed / n_balls


def _order_statistic(cosines: list[FloatArray], quantile: float) -> float:
    if not 0.0 < quantile < 1.0:
        raise InvalidRecordError(
            f"quantile is {quantile}.", remedy="Choose a share between 0 and 1, such as 0.95.", field="quantile"
        )
    pooled = np.sort(np.concatenate([*cosines, np.zeros(0)]))
    if not len(pooled):
        return math.inf
    rank = min(math.ceil(quantile * (len(pooled) + 1)), len(pooled))
    return float(pooled[rank - 1])


def _replicate(
    around: Neighbourhoods,
    n_states: int,
    sizes: Sequence[int],
    generator: np.random.Generator,
    clusters: IntArray | None,
) -> list[IntArray]:
    if not len(sizes):
        return []
    # Sorting uniforms rather than Generator.choice: the stream of `random` is the one that numpy keeps stable.
    centres = itertools.cycle(np.argsort(generator.random(n_states), kind="stable").tolist())
    return [_ball(around, size, clusters, centres) for size in sizes]


def _ball(around: Neighbourhoods, size: int, clusters: IntArray | None, centres: Iterator[int]) -> IntArray:
    ball = np.zeros(0, dtype=np.int64)
    for centre in itertools.islice(centres, BALL_ATTEMPTS):
        ball = around.nearest(centre, size)
        if clusters is None:
            break
        inside = clusters[ball]
        inside = inside[inside >= 0]
        if not len(inside) or 2 * np.bincount(inside).max() < size:
            break
    return ball


def _checked_labels(labels: npt.ArrayLike | None, n_states: int) -> IntArray | None:
    if labels is None:
        return None
    clusters = np.asarray(labels, dtype=np.int64)
    if clusters.shape != (n_states,):
        raise InvalidRecordError(
            f"labels has the shape {clusters.shape}, X has {n_states} rows.",
            remedy="Give the cluster of every state of the partition, -1 for noise.",
            field="labels",
        )
    return clusters


def _rows(X: npt.ArrayLike) -> Vectors:
    rows = np.asarray(X, dtype=np.float32)
    if rows.ndim != 2:
        raise InvalidRecordError(
            f"X has the shape {rows.shape}.", remedy="Give one row a state: (n, dimension).", field="X"
        )
    return rows


def _check_sizes(sizes: Sequence[int], n_states: int) -> None:
    for position, size in enumerate(sizes):
        if not 1 <= size <= n_states:
            raise InvalidRecordError(
                f"size {size} at position {position} is not between 1 and the {n_states} states.",
                remedy="Give the sizes of clusters of this partition, and all of its states.",
                field="sizes",
            )


def _unit(vectors: npt.ArrayLike, name: str) -> FloatArray:
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.size == 0:
        return rows.reshape(0, rows.shape[-1] if rows.ndim == 2 else 0)
    if rows.ndim != 2:
        raise InvalidRecordError(
            f"{name} has the shape {rows.shape}.", remedy="Give one row a mean: (n, dimension).", field=name
        )
    lengths = np.linalg.norm(rows, axis=1)
    unusable = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(unusable):
        raise InvalidRecordError(
            f"row {int(unusable[0])} of {name} is zero or not finite.",
            remedy="A mean of unit vectors is neither: look for a damaged summary.",
            field=name,
        )
    unit: FloatArray = rows / lengths[:, None]
    return unit
