"""Which of tonight's clusters are patterns seen before: one to one, mutual nearest, and nearer than chance.

A match counts by either of two rules:

* **nearer than chance**: its cosine exceeds the null threshold, the 95th percentile of the cosines at which random
  balls of nearest neighbours match (`null`);
* **unmistakable**: the pattern, or a tight group of very few patterns that it belongs to, lies several times nearer
  than all other known patterns do. Where states do come in clumps that recur, random balls fall into the same clumps,
  match as well as clusters, and raise the threshold beyond what any sample of a clump can reach: with 60 planted
  patterns a night, all of which recur, the threshold alone confirms 10 % of them, both rules all of them. Where states
  are a continuum hardly any cluster passes this rule (none of 371 on eight nights of real minutes).

The null is judged by the same two rules, so its confirmation rate stays comparable. Which rule held is kept with every
match: what the second one confirmed need not have exceeded the threshold.

Clusters, balls and patterns meet by their home (`partitions.home_of`), whatever partition they were clustered in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from memory.learning.null import mutual_nearest
from memory.learning.settings import LearningSettings
from memory.learning.summaries import ClusterSummary, PartitionSummary
from memory.tables import Floats

BY_NULL, BY_CLARITY, NO_RULE = "null", "unmistakable", ""
RULES = {
    BY_NULL: "nearer than 95 % of the random balls that match",
    BY_CLARITY: "not above the threshold, but several times nearer than all other patterns",
}
"""Rules by which a match counts; where both hold it is the first."""


class Match(msgspec.Struct, frozen=True):
    """A cluster and a pattern that are near each other.

    Attributes
    ----------
    partition, label, pattern_id
        The cluster, by the partition that it was clustered in, and the pattern.
    cosine
        Of their means.
    rule
        Rule by which they are near enough to be one (`RULES`), or `NO_RULE`.
    """

    partition: str
    label: int
    pattern_id: str
    cosine: float
    rule: str

    @property
    def confirmed(self) -> bool:
        """Whether they are near enough, by either rule."""
        return self.rule != NO_RULE


class HomeMatching(msgspec.Struct, frozen=True):
    """How the clusters of one home met the patterns of that home.

    Attributes
    ----------
    home
        Home key.
    threshold
        Cosine that a match must exceed; infinite where there is nothing to match, or no null.
    null_rate
        Share of random balls that would have been confirmed.
    clusters, known
        How many sets met how many patterns.
    matches
        Mutual nearest pairs, in order of partitions and labels.
    lost_clusters
        Every other cluster with the pattern nearest to it, in the same order. Where it has a rule it was near enough,
        but a nearer cluster took the pattern.
    lost_patterns
        Patterns that are no cluster's match although their nearest cluster is near enough, with that cluster; in the
        patterns' order.
    """

    home: str
    threshold: float
    null_rate: float
    clusters: int
    known: int
    matches: tuple[Match, ...]
    lost_clusters: tuple[Match, ...] = ()
    lost_patterns: tuple[Match, ...] = ()

    @property
    def confirmed(self) -> int:
        """Clusters whose match counts."""
        return sum(match.confirmed for match in self.matches)


class HomeClusters(msgspec.Struct, frozen=True, eq=False):
    """Clusters of one home in one window, and the balls that stand in for them.

    Attributes
    ----------
    home
        Home key.
    clusters
        (partition summary, cluster) in order of partitions and labels.
    replicates
        Means of random balls, each (clusters, dimension): as many balls as clusters compete in each.
    """

    home: str
    clusters: tuple[tuple[PartitionSummary, ClusterSummary], ...]
    replicates: tuple[Floats, ...]


def clusters_by_home(summaries: Sequence[PartitionSummary]) -> tuple[HomeClusters, ...]:
    """Clusters of one window by home, in order of home keys.

    A regime is either pooled or not, so the clusters of a home come from one partition; summaries made otherwise are
    joined, replicate by replicate, in order of their partitions.
    """
    clusters: dict[str, list[tuple[PartitionSummary, ClusterSummary]]] = {}
    nulls: dict[str, list[Floats]] = {}
    for summary in sorted(summaries, key=lambda summary: summary.partition):
        for cluster in summary.clusters:
            clusters.setdefault(summary.home_key(cluster.home), []).append((summary, cluster))
        for null in summary.nulls:
            nulls.setdefault(summary.home_key(null.home), []).append(null.ball_means.astype(np.float64))
    return tuple(
        HomeClusters(
            home=home,
            clusters=tuple(clusters[home]),
            replicates=tuple(np.concatenate(parts) for parts in zip(*nulls.get(home, []), strict=False)),
        )
        for home in sorted(clusters)
    )


def match_home(
    seen: HomeClusters, pattern_ids: Sequence[str], vectors: Floats, settings: LearningSettings
) -> HomeMatching:
    """Match the clusters of one home with the patterns of that home.

    Parameters
    ----------
    seen
        The clusters, and the random balls that give the null.
    pattern_ids, vectors
        Known patterns and their (patterns, dimension) places, in a fixed order: ties go to the earlier one.
    settings
        `null_quantile`, `clear_ratio`, `clear_group`, `clear_known`.

    Returns
    -------
    `HomeMatching`. Cost: O((clusters + balls) patterns dimension).
    """
    n_clusters = len(seen.clusters)
    if not n_clusters or not len(pattern_ids):
        return HomeMatching(seen.home, math.inf, 0.0, n_clusters, len(pattern_ids), ())
    threshold, rate = judge_null(seen.replicates, vectors, settings)
    means = np.stack([cluster.mean for _, cluster in seen.clusters])
    pairs = mutual_nearest(means, vectors)
    cosines = np.clip(_unit(means) @ _unit(vectors).T, -1.0, 1.0)
    within = tight_group(means, vectors, settings)

    def near(row: int, column: int) -> Match:
        summary, cluster = seen.clusters[row]
        cosine: float = cosines[row, column].item()
        clear = 1.0 - cosine <= within[row]
        rule = BY_NULL if cosine > threshold else BY_CLARITY if clear else NO_RULE
        return Match(summary.partition, cluster.label, pattern_ids[column], cosine, rule)

    rows, columns = pairs.left.tolist(), pairs.right.tolist()
    nearest_pattern, nearest_cluster = cosines.argmax(axis=1).tolist(), cosines.argmax(axis=0).tolist()
    lost_patterns = (near(row, column) for column, row in enumerate(nearest_cluster) if column not in set(columns))
    return HomeMatching(
        seen.home,
        threshold,
        rate,
        n_clusters,
        len(pattern_ids),
        matches=tuple(near(row, column) for row, column in zip(rows, columns, strict=True)),
        lost_clusters=tuple(near(row, column) for row, column in enumerate(nearest_pattern) if row not in set(rows)),
        lost_patterns=tuple(match for match in lost_patterns if match.confirmed),
    )


def tight_group(means: Floats, vectors: Floats, settings: LearningSettings) -> Floats:
    """How far around each mean the patterns reach that are unmistakably it, as a distance (1 - cosine).

    Sorted by distance, the patterns nearest to a mean show a jump by more than 1 / `clear_ratio` after the first, or
    at latest after the `clear_group`-th: a pattern that was once seen in two pieces is known twice, and must not become
    a stranger to itself for that. Fewer than `clear_known` patterns are too few for a jump to mean anything.

    Returns
    -------
    float64, shape (means,): distance of the last pattern before the last jump; -infinity where there is none.
    """
    if len(vectors) < max(settings.clear_known, settings.clear_group + 1) or not len(means):
        return np.full(len(means), -np.inf)
    cosines = np.clip(_unit(means) @ _unit(vectors).T, -1.0, 1.0)
    nearest = np.sort(np.partition(1.0 - cosines, settings.clear_group, axis=1)[:, : settings.clear_group + 1], axis=1)
    jumps = nearest[:, :-1] < settings.clear_ratio * nearest[:, 1:]
    reach: Floats = np.where(jumps, nearest[:, :-1], -np.inf).max(axis=1)
    return reach


def unmistakable(means: Floats, vectors: Floats, settings: LearningSettings) -> npt.NDArray[np.bool_]:
    """Which means have one pattern, or one tight group of patterns, far nearer than all the others (`tight_group`).

    Returns
    -------
    bool, shape (means,).
    """
    return np.isfinite(tight_group(means, vectors, settings))


def judge_null(replicates: Sequence[Floats], vectors: Floats, settings: LearningSettings) -> tuple[float, float]:
    """Threshold that the null sets (`null.null_threshold`), and share of the balls that the rules would confirm.

    For the share each replicate is judged by the threshold of the other replicates, as `null.null_confirmation_rate`
    does.

    Parameters
    ----------
    replicates
        Means of random balls, each (clusters, dimension).
    vectors
        (patterns, dimension).

    Returns
    -------
    Infinity and 0 where there is no ball or no pattern.
    """
    balls = [np.asarray(replicate, dtype=np.float64) for replicate in replicates]
    n_balls = sum(len(replicate) for replicate in balls)
    if not n_balls or not len(vectors):
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
    return _order_statistic(cosines, settings.null_quantile), confirmed / n_balls


def drifted_pairs(
    vectors: Floats, threshold: float, moved: Sequence[int], settings: LearningSettings
) -> list[tuple[int, int, float, str]]:
    """Pairs of patterns that have come as near to each other as a match must be, by the rules for a match.

    Where the rule of the unmistakable decides, each of the two must be unmistakably the other.

    Parameters
    ----------
    vectors
        (patterns, dimension) places of all patterns of one home.
    threshold
        Cosine to exceed.
    moved
        Positions of the patterns that moved; at least one of each pair is among them.
    settings
        See `match_home`.

    Returns
    -------
    (lower, higher, cosine, rule) of mutual nearest patterns, in order of the lower position; no pattern is in two
    pairs. Cost: O(moved patterns dimension).
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
    pairs: dict[tuple[int, int], tuple[float, str]] = {}
    for row, partner, cosine, mutual in zip(moved, partners, nearness, back, strict=True):
        if mutual != row:
            continue
        low, high = min(row, partner), max(row, partner)
        if cosine > threshold:
            pairs[low, high] = cosine, BY_NULL
        # From both sides: a pattern with nothing else around it has one far nearer than all others in any noise.
        elif all(unmistakable(vectors[[one]], np.delete(vectors, one, axis=0), settings)[0] for one in (low, high)):
            pairs[low, high] = cosine, BY_CLARITY
    return [(low, high, cosine, rule) for (low, high), (cosine, rule) in sorted(pairs.items())]


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
