"""Which of tonight's clusters are patterns seen before: one to one, mutual nearest, and nearer than chance."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from memory.learning.null import NULL_QUANTILE, mutual_nearest, null_confirmation_rate, null_threshold
from memory.learning.summaries import PartitionSummary
from memory.tables import Floats


class Match(msgspec.Struct, frozen=True):
    """A cluster that is nearest to a known pattern, and the pattern to it; confirmed where chance is less near."""

    partition: str
    label: int
    pattern_id: str
    cosine: float
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
    summary: PartitionSummary, pattern_ids: Sequence[str], vectors: Floats, *, quantile: float = NULL_QUANTILE
) -> PartitionMatching:
    """Match the clusters of one partition with the patterns of the same partition key.

    Parameters
    ----------
    summary
        The partition's summary; its random balls give the null.
    pattern_ids, vectors
        Known patterns and their (patterns, dimension) places, in a fixed order: ties go to the earlier one.
    quantile
        Share of matched balls that lies at or below the threshold.

    Returns
    -------
    `PartitionMatching`. Cost: O((clusters + balls) patterns dimension).
    """
    n_clusters = len(summary.clusters)
    if not n_clusters or not len(pattern_ids):
        return PartitionMatching(summary.partition, float("inf"), 0.0, n_clusters, len(pattern_ids), ())
    threshold = null_threshold(summary.ball_means, vectors, quantile=quantile)
    means = np.stack([cluster.mean for cluster in summary.clusters])
    pairs = mutual_nearest(means, vectors)
    matches = tuple(
        Match(
            summary.partition,
            summary.clusters[left].label,
            pattern_ids[right],
            cosine,
            cosine > threshold,
        )
        for left, right, cosine in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.cosine.tolist(), strict=True)
    )
    rate = null_confirmation_rate(summary.ball_means, vectors, quantile=quantile)
    return PartitionMatching(summary.partition, threshold, rate, n_clusters, len(pattern_ids), matches)


def drifted_pairs(vectors: Floats, threshold: float, moved: Sequence[int]) -> list[tuple[int, int, float]]:
    """Pairs of patterns that have come as near to each other as a match must be.

    Parameters
    ----------
    vectors
        (patterns, dimension) places of all patterns of one partition.
    threshold
        Cosine to exceed.
    moved
        Positions of the patterns that moved; at least one of each pair is among them.

    Returns
    -------
    (lower, higher, cosine) of mutual nearest patterns, in order of the lower position; no pattern is in two pairs.
    Cost: O(moved patterns dimension).
    """
    if len(vectors) < 2 or not len(moved) or not np.isfinite(threshold):
        return []
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def nearest(rows: Sequence[int]) -> tuple[list[int], list[float]]:
        cosines = unit[list(rows)] @ unit.T
        cosines[np.arange(len(rows)), list(rows)] = -np.inf
        found = np.argmax(cosines, axis=1)
        return found.tolist(), cosines[np.arange(len(rows)), found].tolist()

    partners, nearness = nearest(moved)
    back, _ = nearest(partners)
    pairs = {
        (min(row, partner), max(row, partner)): cosine
        for row, partner, cosine, mutual in zip(moved, partners, nearness, back, strict=True)
        if mutual == row and cosine > threshold
    }
    return [(low, high, cosine) for (low, high), cosine in sorted(pairs.items())]
