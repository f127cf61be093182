"""What one window's partition amounts to: mergeable statistics of its clusters, with no reference to what was known.

A summary depends on its window's states alone (and on settings, whose hash it carries), so partitions and windows can
be summarised in any order, in parallel, and again, with the same bytes as the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError
from memory.learning import ALGORITHM_VERSION
from memory.learning.blocks import MS_PER_MINUTE, BlockSums
from memory.learning.homes import HomeNull, RegimeBase, home_nulls, regime_bases
from memory.learning.null import NULL_BALLS
from memory.learning.outcomes import Outcomes, compute_outcomes
from memory.learning.partitions import home_of
from memory.learning.settings import LearningSettings, settings_hash
from memory.learning.sketches import FeatureSketch, grouped_sketches
from memory.learning.statistics import Drawdown, Moments
from memory.learning.sums import OutcomeSums, RealisedSums, outcome_sums, rank_correlations, realised_sums, return_sums
from memory.learning.support import Occurrences, occurrences_by_label
from memory.records import MIXED, REGIMES, to_ms
from memory.tables import ExperienceTable, Floats, Ints, StateTable
from memory.window import Window

COSINE_DISTANCE = "cosine_distance"
"""Name under which the distances of a cluster's members from its mean are sketched."""


class ClusterSummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One cluster of one window.

    Attributes
    ----------
    label
        Its label in the clustering.
    founding_id
        Id of the pattern that it founds where it matches none: a hash of home key, window and members.
    states, regimes
        Members, and how many of them each regime has.
    vector_sum
        float64 (dimension,): sum of the members' vectors.
    products
        States a product.
    occurrences, largest_run
        In clock time, all products together; and the states that the largest of them holds.
    outcomes
        Of acting in its states.
    drawdown
        (H, 2): running sums of net block returns, long and short, in time order.
    features
        Distribution of the named features.
    cosine_distance
        Distribution of 1 - cosine of the members with their mean.
    realised
        What agents realised there: "agent/SIDE" -> sums.
    broad
        Whether the cluster is larger than the cap, and was kept all the same.
    """

    label: int
    founding_id: str
    states: int
    regimes: dict[str, int]
    vector_sum: npt.NDArray[np.float64]
    products: dict[str, int]
    occurrences: Occurrences
    largest_run: int
    outcomes: OutcomeSums
    drawdown: Drawdown
    features: FeatureSketch
    cosine_distance: FeatureSketch
    realised: dict[str, RealisedSums]
    broad: bool

    @property
    def mean(self) -> Floats:
        """Mean vector, shape (dimension,), not of unit length."""
        return self.vector_sum / self.states

    @property
    def home(self) -> str:
        """Regime that nearly all members have, or MIXED: what it is compared by over nights."""
        return home_of(self.regimes)


class PartitionSummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One partition of one window: its clusters, its base rates, and the null that recurrence is judged by.

    Attributes
    ----------
    algorithm_version, settings_hash
        What the summary was computed with; summaries of different versions or settings are never mixed.
    window, start_ms, end_ms
        Name and bounds of the window.
    partition, encoder_id, source, regime
        Key and its parts.
    states, noise
        Distinct states, and those in no cluster.
    route, clustering
        How they were clustered.
    labels
        int32 (states,): cluster of each state in canonical order, -1 for noise.
    base, base_features, base_correlation
        Outcomes and features of all states of the partition (the base rate), and the features' rank correlations in
        order of `base_features.features`, shape (features, features).
    regime_bases
        The same for each regime pooled in a MIXED partition; none in the partition of one regime.
    nulls
        Random balls of the clusters' sizes, one entry a home that has clusters.
    ball_sums, ball_returns
        (balls, 3): block sums and moments of block returns in the balls of all nulls, in their order, at the reference
        horizon: gross, net long and net short.
    clusters
        In order of labels.
    """

    algorithm_version: str
    settings_hash: str
    window: str
    start_ms: int
    end_ms: int
    partition: str
    encoder_id: str
    source: str
    regime: str
    states: int
    noise: int
    route: str
    clustering: dict[str, str | int | float | bool | None]
    labels: npt.NDArray[np.int32]
    base: OutcomeSums
    base_features: FeatureSketch
    base_correlation: npt.NDArray[np.float64]
    regime_bases: tuple[RegimeBase, ...]
    nulls: tuple[HomeNull, ...]
    ball_returns: Moments
    ball_sums: BlockSums
    clusters: tuple[ClusterSummary, ...]

    @property
    def noise_share(self) -> float:
        """Share of the states that are in no cluster; 0 without states."""
        return self.noise / self.states if self.states else 0.0

    def home_key(self, home: str) -> str:
        """Key that clusters, balls and patterns of one home are compared under: encoder/source/home."""
        return partition_key(self.encoder_id, self.source, home)


def partition_key(encoder_id: str, source: str, regime: str) -> str:
    """Key of a partition or a home; `regime` is a regime or MIXED."""
    return f"{encoder_id}/{source}/{regime}"


def state_keys(states: StateTable, rows: npt.ArrayLike) -> list[str]:
    """Keys of some states, ``product@timestamp_ms``, sorted."""
    chosen = np.asarray(rows, dtype=np.int64)
    products, times = states.product[chosen].tolist(), states.timestamp_ms[chosen].tolist()
    return sorted(f"{states.products[product]}@{time}" for product, time in zip(products, times, strict=True))


def pattern_id(home_key: str, window: str, keys: Sequence[str]) -> str:
    """Id of a pattern: "p-" and 16 hex digits of SHA-256 over its home key, founding window and sorted state keys."""
    text = "\x1f".join((home_key, window, *sorted(keys)))
    return f"p-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def summarise_partition(
    states: StateTable,
    rows: npt.ArrayLike,
    labels: npt.ArrayLike,
    broad: npt.ArrayLike,
    *,
    window: Window,
    regime: str,
    settings: LearningSettings,
    experiences: ExperienceTable | None = None,
    outcomes: Outcomes | None = None,
    route: str = "",
    clustering: Mapping[str, str | int | float | bool | None] | None = None,
    n_balls: int = NULL_BALLS,
) -> PartitionSummary:
    """Summarise one clustered partition of one window.

    Parameters
    ----------
    states
        All states of the window, of every regime: a forward return may end in another one. With `outcomes`, the
        partition's states alone will do.
    rows
        (m,) positions of the partition's states in `states`, ascending.
    labels
        (m,) cluster of each of them, 0, 1, ... without holes; -1 for noise.
    broad
        (clusters,) whether each cluster was kept although it is above the cap.
    window, regime
        The window, and the partition's regime or MIXED.
    settings
        Settings, whose hash (with `clustering`) goes into the summary.
    experiences
        What agents lived through in the window; their rewards are joined by product and time.
    outcomes
        `compute_outcomes(states, settings)`, where the caller has it already.
    route, clustering
        How the states were clustered.
    n_balls
        Random balls of the null, at least.

    Returns
    -------
    `PartitionSummary`; the same input gives the same bytes. Cost: about 0.3 s for 4,320 states and 80 clusters.

    Raises
    ------
    InvalidRecordError
        Where labels have holes or do not fit the rows, a state lies outside the window, or has another regime than its
        partition.
    """
    chosen, label, is_broad = _checked(states, rows, labels, broad, window, regime)
    all_outcomes = compute_outcomes(states, settings) if outcomes is None else outcomes
    table, mine = states, all_outcomes
    if len(chosen) < len(states):
        # A partition may hold a million vectors: they are copied only where some are left out.
        table, mine = states.take(chosen), all_outcomes.take(chosen)
    n_clusters = len(is_broad)

    everything = np.zeros(len(table), dtype=np.int64)
    sums, drawdowns = outcome_sums(mine, table.timestamp_ms, label, n_clusters, settings)
    base, _ = outcome_sums(mine, table.timestamp_ms, everything, 1, settings)
    sketches = grouped_sketches(table.features, table.feature_names, label, n_clusters)
    base_sketch = grouped_sketches(table.features, table.feature_names, everything, 1)[0]
    occurrences = occurrences_by_label(
        table.timestamp_ms,
        label,
        n_labels=n_clusters,
        separation_min=settings.separation_minutes,
        look_back_min=settings.look_back_minutes,
    )
    members = _members(label, n_clusters)
    vector_sums = [table.vectors[rows_of].sum(axis=0, dtype=np.float64) for rows_of in members]
    distances = _cosine_distances(table.vectors, members, vector_sums)
    distance_sketches = grouped_sketches(distances[:, None], (COSINE_DISTANCE,), label, n_clusters)
    realised = realised_sums(table, label, n_clusters, experiences)
    regimes_of = [_counted(table.regime[rows_of], REGIMES) for rows_of in members]
    homes = [home_of(held) for held in regimes_of]
    nulls, balls = home_nulls(table, label, homes, window=window.name, n_balls=n_balls)
    ball_sums, ball_returns = return_sums(mine, table.timestamp_ms, balls, settings)

    clusters = tuple(
        ClusterSummary(
            label=number,
            founding_id=pattern_id(
                partition_key(states.encoder_id, states.source, homes[number]),
                window.name,
                state_keys(table, rows_of),
            ),
            states=len(rows_of),
            regimes=regimes_of[number],
            vector_sum=vector_sums[number],
            products=_counted(table.product[rows_of], table.products),
            occurrences=occurrences[number],
            largest_run=_largest_run(table.timestamp_ms[rows_of], settings.separation_minutes),
            outcomes=sums[number],
            drawdown=drawdowns[number],
            features=sketches[number],
            cosine_distance=distance_sketches[number],
            realised=realised[number],
            broad=bool(is_broad[number]),
        )
        for number, rows_of in enumerate(members)
    )
    plain_clustering = dict(clustering or {})
    return PartitionSummary(
        algorithm_version=ALGORITHM_VERSION,
        settings_hash=settings_hash(settings, plain_clustering),
        window=window.name,
        start_ms=to_ms(window.start),
        end_ms=to_ms(window.end),
        partition=partition_key(states.encoder_id, states.source, regime),
        encoder_id=states.encoder_id,
        source=states.source,
        regime=regime,
        states=len(table),
        noise=int(np.count_nonzero(label < 0)),
        route=route,
        clustering=plain_clustering,
        labels=label.astype(np.int32),
        base=base[0],
        base_features=base_sketch,
        base_correlation=rank_correlations(table.features, table.feature_names),
        regime_bases=regime_bases(table, mine, settings) if regime == MIXED else (),
        nulls=nulls,
        ball_returns=ball_returns,
        ball_sums=ball_sums,
        clusters=clusters,
    )


def _checked(
    states: StateTable, rows: npt.ArrayLike, labels: npt.ArrayLike, broad: npt.ArrayLike, window: Window, regime: str
) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    chosen, label = np.asarray(rows, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    is_broad = np.asarray(broad, dtype=np.bool_)
    if chosen.shape != label.shape or chosen.ndim != 1 or np.any(np.diff(chosen) <= 0):
        raise InvalidRecordError(
            f"rows have the shape {chosen.shape}, labels {label.shape}; rows must ascend.",
            remedy="Give the partition's rows in canonical order, and one label for each.",
            field="rows",
        )
    present = np.unique(label[label >= 0])
    if len(present) != len(is_broad) or np.any(present != np.arange(len(present))):
        raise InvalidRecordError(
            f"labels name {len(present)} clusters up to {int(label.max(initial=-1))}; {len(is_broad)} flags are given.",
            remedy="Number clusters 0, 1, ... without holes, and give each a flag.",
            field="labels",
        )
    times = states.timestamp_ms[chosen]
    if len(times) and not (to_ms(window.start) <= times.min() and times.max() < to_ms(window.end)):
        raise InvalidRecordError(
            f"states from {int(times.min())} to {int(times.max())} do not lie in the window {window.name}.",
            remedy="Summarise each window by itself.",
            field="rows",
        )
    others = {REGIMES[code] for code in np.unique(states.regime[chosen]).tolist()} - {regime}
    if regime != MIXED and others:
        raise InvalidRecordError(
            f"the partition {regime} of {window.name} holds states of {', '.join(sorted(others))}.",
            remedy="Divide the states with assign_partitions; only MIXED pools regimes.",
            field="rows",
        )
    return chosen, label, is_broad


def _members(labels: Ints, n_clusters: int) -> list[Ints]:
    order = np.argsort(labels, kind="stable").astype(np.int64)
    bounds = np.searchsorted(labels[order], np.arange(n_clusters + 1))
    return [order[start:end] for start, end in pairwise(bounds)]


def _cosine_distances(vectors: npt.NDArray[np.float32], members: list[Ints], vector_sums: list[Floats]) -> Floats:
    """1 - cosine of each state with the mean of its cluster; NaN for noise."""
    distances = np.full(len(vectors), np.nan)
    for rows, total in zip(members, vector_sums, strict=True):
        cosines = vectors[rows].astype(np.float64) @ (total / np.linalg.norm(total))
        distances[rows] = np.maximum(1.0 - cosines, 0.0)
    return distances


def _counted(codes: Ints, names: Sequence[str]) -> dict[str, int]:
    """How often each name occurs that the codes stand for, in order of the names."""
    held, counts = np.unique(codes, return_counts=True)
    return dict(sorted((names[code], count) for code, count in zip(held.tolist(), counts.tolist(), strict=True)))


def _largest_run(timestamps_ms: Ints, separation_min: float) -> int:
    """States in the largest occurrence, by the rule that `support` counts occurrences with; in whole clock minutes."""
    minutes = np.sort(timestamps_ms // MS_PER_MINUTE)
    run = np.cumsum(np.diff(minutes, prepend=minutes[:1]) >= separation_min)
    return int(np.bincount(run).max())
