"""What a partition holds of each home: base rates of the regimes pooled in it, and the null of recurrence.

Clusters, random balls and patterns are compared by their home (`partitions.home_of`). In the partition of one regime
all three are at home in it, and nothing here differs from the partition itself. In a pooled partition each home gets a
null of its own, with as many balls and as much competition as its clusters have, drawn among its own states: balls of
other regimes lie further from a regime's patterns than any set of its states, and would make chance look worse
than it is. Where nearly all of a home's states are in clusters there is no other set of them to draw, and the balls of
the whole partition stand in: else the null would be the clusters themselves, and nothing could recur.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from memory.learning.null import null_replicates
from memory.learning.outcomes import Outcomes
from memory.learning.partitions import partition_seed
from memory.learning.settings import LearningSettings
from memory.learning.sketches import FeatureSketch, grouped_sketches
from memory.learning.sums import OutcomeSums, outcome_sums, rank_correlations
from memory.records import MIXED, REGIMES
from memory.tables import Ints, StateTable


class RegimeBase(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Base rate of one regime's states within a pooled partition.

    Attributes
    ----------
    regime, states
        The regime, and its distinct states.
    outcomes, features, correlation
        As those of a partition (`summaries.PartitionSummary`), over these states.
    """

    regime: str
    states: int
    outcomes: OutcomeSums
    features: FeatureSketch
    correlation: npt.NDArray[np.float64]


class HomeNull(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Random balls that stand in for the clusters of one home.

    Attributes
    ----------
    home
        The home: a regime, or MIXED.
    labels
        int32 (clusters,): clusters of that home, ascending.
    ball_means
        float32 (replicates, clusters, dimension): means of balls of the clusters' sizes, one a cluster and replicate.
    """

    home: str
    labels: npt.NDArray[np.int32]
    ball_means: npt.NDArray[np.float32]


def regime_bases(states: StateTable, outcomes: Outcomes, settings: LearningSettings) -> tuple[RegimeBase, ...]:
    """Base rates of the regimes of a pooled partition, in order of their names.

    Parameters
    ----------
    states, outcomes
        The partition's states, and what followed them.
    settings
        Blocks and costs.
    """
    held = np.unique(states.regime).tolist()
    present = sorted(held, key=REGIMES.__getitem__)
    group = np.array([present.index(code) for code in held], dtype=np.int64)[np.searchsorted(held, states.regime)]
    sums, _ = outcome_sums(outcomes, states.timestamp_ms, group, len(present), settings)
    sketches = grouped_sketches(states.features, states.feature_names, group, len(present))
    return tuple(
        RegimeBase(
            regime=REGIMES[code],
            states=int(np.count_nonzero(group == number)),
            outcomes=sums[number],
            features=sketches[number],
            correlation=rank_correlations(states.features[group == number], states.feature_names),
        )
        for number, code in enumerate(present)
    )


def home_nulls(
    states: StateTable, labels: Ints, homes: Sequence[str], *, window: str, n_balls: int
) -> tuple[tuple[HomeNull, ...], list[Ints]]:
    """Draw the null of every home in a partition.

    Parameters
    ----------
    states
        The partition's states, in canonical order.
    labels
        (n,) cluster of each, -1 for noise.
    homes
        Home of each cluster, in order of labels.
    window
        Name of the window: with encoder, source and home it seeds the draw.
    n_balls
        Balls a home, at least (`null.null_replicates`).

    Returns
    -------
    One `HomeNull` a home, in order of names, and the members of all balls: rows of `states`, home by home and
    replicate by replicate. The balls of a regime are drawn among its states as long as those outside all clusters are
    as many as its largest cluster has; others, and those of MIXED, among all states. Cost: O(balls n d) a home.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(homes)).tolist()
    nulls: list[HomeNull] = []
    members: list[Ints] = []
    for home in sorted(set(homes)):
        own = [label for label, at in enumerate(homes) if at == home]
        sizes = [counts[label] for label in own]
        rows = np.arange(len(states)) if home == MIXED else np.flatnonzero(states.regime == REGIMES.index(home))
        if np.count_nonzero(labels[rows] < 0) < max(sizes):
            rows = np.arange(len(states))
        # All states as they are, not a copy: a partition may hold a million.
        vectors, inside = (states.vectors, labels) if len(rows) == len(states) else (states.vectors[rows], labels[rows])
        seed = partition_seed(window, states.encoder_id, states.source, home)
        drawn = null_replicates(vectors, sizes, seed, labels=inside, n_balls=n_balls)
        balls = [rows[ball] for replicate in drawn for ball in replicate]
        means = np.array([states.vectors[ball].mean(axis=0, dtype=np.float64) for ball in balls], dtype=np.float32)
        nulls.append(
            HomeNull(
                home=home,
                labels=np.array(own, dtype=np.int32),
                ball_means=means.reshape(len(drawn), len(own), states.vectors.shape[1]),
            )
        )
        members += balls
    return tuple(nulls), members
