"""Which of tonight's clusters are patterns seen before: one to one, mutual nearest, and nearer than chance.

A match counts by either of two rules:

* **nearer than chance**: its cosine exceeds the null threshold, the 95th percentile of the cosines at which random
  balls of nearest neighbours match (`null`);
* **unmistakable**: the pattern, or a tight group of very few patterns that it belongs to, lies several times nearer
  than all other known patterns do. Where states do come in clumps that recur, random balls fall into the same clumps,
  match as well as clusters, and raise the threshold beyond what any sample of a clump can reach: with 60 planted
  patterns a night, all of which recur, the threshold alone confirms 10 % of them, both rules all of them. Where states
  are a continuum hardly any cluster passes this rule (none of 371 on eight nights of real minutes).

The null is judged by the same two rules, so its confirmation rate stays comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from memory.learning.null import mutual_nearest
from memory.learning.settings import LearningSettings
from memory.learning.summaries import PartitionSummary
from memory.tables import Floats


class Match(msgspec.Struct, frozen=True):
    """A cluster that is nearest to a known pattern, and the pattern to it.

    Attributes
    ----------
    partition, label, pattern_id
        The cluster and the pattern.
    cosine
        Of their means.
    unmistakable
        Whether no other pattern comes into question.
    confirmed
        Whether the match counts, by either rule.
    """

    partition: str
    label: int
    pattern_id: str
    cosine: float
    unmistakable: bool
    confirmed: bool


class PartitionMatching(msgspec.Struct, frozen=True):
    """How one partition's clusters met the patterns known before.

    Attributes
    ----------
    partition
        Key.
    threshold
        Cosine that a match must exceed; infinite where there is nothing to match, or no null.
    null_rate
        Share of random balls that would have been confirmed.
    clusters, known
        How many sets met how many patterns.
    matches
        Mutual nearest pairs, in order of labels.
    """

    partition: str
    threshold: float
    null_rate: float
    clusters: int
    known: int
    matches: tuple[Match, ...]

    @property
    def confirmed(self) -> int:
        """Clusters whose match counts."""
        return sum(match.confirmed for match in self.matches)


def match_partition(
    summary: PartitionSummary, pattern_ids: Sequence[str], vectors: Floats, settings: LearningSettings
) -> PartitionMatching:
    """Match the clusters of one partition with the patterns of the same partition key.

    Parameters
    ----------
    summary
        The partition's summary; its random balls give the null.
    pattern_ids, vectors
        Known patterns and their (patterns, dimension) places, in a fixed order: ties go to the earlier one.
    settings
        `null_quantile`, `clear_ratio`, `clear_group`, `clear_known`.

    Returns
    -------
    `PartitionMatching`. Cost: O((clusters + balls) patterns dimension).
    """
    n_clusters = len(summary.clusters)
    if not n_clusters or not len(pattern_ids):
        return PartitionMatching(summary.partition, math.inf, 0.0, n_clusters, len(pattern_ids), ())
    threshold, rate = judge_null(summary.ball_means, vectors, settings)
    means = np.stack([cluster.mean for cluster in summary.clusters])
    pairs = mutual_nearest(means, vectors)
    clear = unmistakable(means[pairs.left], vectors, settings)
    matches = tuple(
        Match(
            partition=summary.partition,
            label=summary.clusters[left].label,
            pattern_id=pattern_ids[right],
            cosine=cosine,
            unmistakable=sure,
            confirmed=cosine > threshold or sure,
        )
        for left, right, cosine, sure in zip(
            pairs.left.tolist(), pairs.right.tolist(), pairs.cosine.tolist(), clear.tolist(), strict=True
        )
    )
    return PartitionMatching(summary.partition, threshold, rate, n_clusters, len(pattern_ids), matches)


def unmistakable(means: Floats, vectors: Floats, settings: LearningSettings) -> npt.NDArray[np.bool_]:
    """Which means have one pattern, or one tight group of patterns, far nearer than all the others.

    Sorted by 1 - cosine, the patterns nearest to a mean show a jump by more than 1 / `clear_ratio` after the first, or
    at latest after the `clear_group`-th: a pattern that was once seen in two pieces is known twice, and must not become
    a stranger to itself for that. Fewer than `clear_known` patterns are too few for a jump to mean anything.

    Returns
    -------
    bool, shape (means,).
    """
    if len(vectors) < max(settings.clear_known, settings.clear_group + 1) or not len(means):
        return np.zeros(len(means), dtype=np.bool_)
    cosines = _unit(means) @ _unit(vectors).T
    nearest = np.sort(np.partition(-cosines, settings.clear_group, axis=1)[:, : settings.clear_group + 1], axis=1)
    distance = np.maximum(1.0 + nearest, 0.0)
    jumps = distance[:, :-1] < settings.clear_ratio * distance[:, 1:]
    return np.asarray(jumps.any(axis=1))


def judge_null(ball_means: npt.ArrayLike, vectors: Floats, settings: LearningSettings) -> tuple[float, float]:
    """Threshold that the null sets (`null.null_threshold`), and share of the balls that the rules would confirm.

    For the share each replicate is judged by the threshold of the other replicates, as `null.null_confirmation_rate`
    does.

    Parameters
    ----------
    ball_means
        (replicates, clusters, dimension).
    vectors
        (patterns, dimension).

    Returns
    -------
    Infinity and 0 where there is no ball or no pattern.
    """
    balls = np.asarray(ball_means, dtype=np.float64)
    if not balls.shape[0] * balls.shape[1] or not len(vectors):
        return math.inf, 0.0
    pairs = [mutual_nearest(replicate, vectors) for replicate in balls]
    cosines = [matches.cosine for matches in pairs]
    matched = np.concatenate([replicate[matches.left] for replicate, matches in zip(balls, pairs, strict=True)])
    sure = unmistakable(matched, vectors, settings)
    limits = [
        _order_statistic(cosines[:position] + cosines[position + 1 :], settings.null_quantile)
        for position in range(len(pairs))
    ]
    beaten = np.concatenate(cosines) > np.repeat(limits, [len(part) for part in cosines])
    confirmed = int(np.count_nonzero(beaten | sure))
    return _order_statistic(cosines, settings.null_quantile), confirmed / (balls.shape[0] * balls.shape[1])


def drifted_pairs(
    vectors: Floats, threshold: float, moved: Sequence[int], settings: LearningSettings
) -> list[tuple[int, int, float]]:
    """Pairs of patterns that have come as near to each other as a match must be, by the rules for a match.

    Parameters
    ----------
    vectors
        (patterns, dimension) places of all patterns of one partition.
    threshold
        Cosine to exceed.
    moved
        Positions of the patterns that moved; at least one of each pair is among them.
    settings
        See `match_partition`.

    Returns
    -------
    (lower, higher, cosine) of mutual nearest patterns, in order of the lower position; no pattern is in two pairs.
    Cost: O(moved patterns dimension).
    """
    if len(vectors) < 2 or not len(moved):
        return []
    unit = _unit(vectors)

    def nearest(rows: Sequence[int]) -> tuple[list[int], list[float]]:
        cosines = unit[list(rows)] @ unit.T
        cosines[np.arange(len(rows)), list(rows)] = -np.inf
        found = np.argmax(cosines, axis=1)
        return found.tolist(), cosines[np.arange(len(rows)), found].tolist()

    partners, nearness = nearest(moved)
    back, _ = nearest(partners)
    pairs: dict[tuple[int, int], float] = {}
    for row, partner, cosine, mutual in zip(moved, partners, nearness, back, strict=True):
        if mutual != row:
            continue
        low, high = min(row, partner), max(row, partner)
        others = np.delete(vectors, low, axis=0)
        if cosine > threshold or bool(unmistakable(vectors[[low]], others, settings)[0]):
            pairs[low, high] = cosine
    return [(low, high, cosine) for (low, high), cosine in sorted(pairs.items())]


def _order_statistic(cosines: Sequence[Floats], quantile: float) -> float:
    """Number ceil(quantile (m + 1)) of m cosines, at most the largest; infinity without any: as `null_threshold`."""
    pooled = np.sort(np.concatenate([*cosines, np.zeros(0)]))
    if not len(pooled):
        return math.inf
    rank = min(math.ceil(quantile * (len(pooled) + 1)), len(pooled))
    threshold: float = pooled[rank - 1].item()
    return threshold


def _unit(vectors: Floats) -> Floats:
    scaled: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
