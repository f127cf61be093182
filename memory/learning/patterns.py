"""How single patterns come about and change: founded by a cluster, confirmed by another, two that become one."""

from __future__ import annotations

import math

import msgspec

from memory.learning.knowledge import (
    CONFIRMED,
    FADED,
    NEW,
    FoldState,
    Judged,
    PartitionBase,
    PatternState,
    Sighting,
    unit,
)
from memory.learning.matching import Match
from memory.learning.outcomes import LONG, LONG_NET, SHORT, SHORT_NET
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.learning.summaries import ClusterSummary, PartitionSummary
from memory.learning.sums import RealisedSums

_NET_MEASURE = {LONG: LONG_NET, SHORT: SHORT_NET}


def base_of(summary: PartitionSummary) -> PartitionBase:
    """Base rate of a partition in one window."""
    return PartitionBase(
        partition=summary.partition,
        windows=1,
        states=summary.states,
        outcomes=summary.base,
        features=summary.base_features,
        correlation=summary.base_correlation,
    )


def found(summary: PartitionSummary, cluster: ClusterSummary) -> PatternState:
    """The candidate that a cluster founds."""
    return PatternState(
        pattern_id=cluster.founding_id,
        partition=summary.partition,
        encoder_id=summary.encoder_id,
        source=summary.source,
        regime=summary.regime,
        place=unit(cluster.vector_sum),
        vector_sum=cluster.vector_sum,
        states=cluster.states,
        products=dict(sorted(cluster.products.items())),
        outcomes=cluster.outcomes,
        features=cluster.features,
        cosine_distance=cluster.cosine_distance,
        realised=dict(sorted(cluster.realised.items())),
        sightings=(_sighting(summary, cluster, math.nan, math.nan),),
        broad=cluster.broad,
    )


def confirm(
    pattern: PatternState,
    summary: PartitionSummary,
    cluster: ClusterSummary,
    match: Match,
    threshold: float,
    settings: LearningSettings,
) -> PatternState:
    """The pattern after one more sighting; a pruned one stands again.

    Its best action, as named before this window, is judged on this window's states first.
    """
    seen = len(pattern.sightings)
    # At first a plain average; from then on each sighting counts the same half-life share.
    step = max(1 / (seen + 1), 1 - 2 ** (-1 / settings.drift_windows_half_life))
    return msgspec.structs.replace(
        pattern,
        place=unit((1 - step) * pattern.place + step * unit(cluster.vector_sum)),
        vector_sum=pattern.vector_sum + cluster.vector_sum,
        states=pattern.states + cluster.states,
        products=_added(pattern.products, cluster.products),
        outcomes=pattern.outcomes.merged_with(cluster.outcomes),
        features=pattern.features.merged_with(cluster.features),
        cosine_distance=pattern.cosine_distance.merged_with(cluster.cosine_distance),
        realised=_realised(pattern.realised, cluster.realised),
        sightings=(*pattern.sightings, _sighting(summary, cluster, match.cosine, threshold)),
        broad=cluster.broad,
        pruned_ms=None,
        judged=_judged(pattern, cluster, settings),
    )


def joined(first: PatternState, second: PatternState) -> PatternState:
    """Two patterns that were never seen in the same window, as one: the older one's id stays, the other is an alias."""
    older, younger = sorted((first, second), key=lambda pattern: (pattern.founded_ms, pattern.pattern_id))
    sightings = tuple(sorted((*older.sightings, *younger.sightings), key=lambda sighting: sighting.end_ms))
    weights = len(older.sightings), len(younger.sightings)
    latest = max((older, younger), key=lambda pattern: pattern.last_window_ms)
    return msgspec.structs.replace(
        older,
        place=unit(weights[0] * older.place + weights[1] * younger.place),
        vector_sum=older.vector_sum + younger.vector_sum,
        states=older.states + younger.states,
        products=_added(older.products, younger.products),
        outcomes=older.outcomes.merged_with(younger.outcomes),
        features=older.features.merged_with(younger.features),
        cosine_distance=older.cosine_distance.merged_with(younger.cosine_distance),
        realised=_realised(older.realised, younger.realised),
        sightings=sightings,
        broad=latest.broad,
        published=older.published or younger.published,
        pruned_ms=None if None in (older.pruned_ms, younger.pruned_ms) else latest.pruned_ms,
        judged=older.judged.merged_with(younger.judged),
        figures=older.figures or younger.figures,
        aliases=tuple(sorted({*older.aliases, *younger.aliases, younger.pattern_id})),
    )


def aliases_after_refold(before: FoldState, after: FoldState) -> dict[str, str]:
    """Where ids lead that a re-fold no longer founds: old id -> id of the pattern that now stands for it.

    A late record changes the members of a founding cluster, and with them the id. The successor is the nearest pattern
    of the same partition that was seen in one of the same windows; a pattern without one has no successor.

    Parameters
    ----------
    before, after
        States after the same window, as published and as folded again.

    Returns
    -------
    Only ids that were published before, and that neither exist nor have an alias in `after`. These aliases tell how
    knowledge was revised and are no part of the fold, which knows nothing of earlier folds.
    """
    successors: dict[str, str] = {}
    by_partition: dict[str, list[PatternState]] = {}
    for name in sorted(after.patterns):
        by_partition.setdefault(after.patterns[name].partition, []).append(after.patterns[name])
    for name in sorted(before.patterns):
        old = before.patterns[name]
        if not old.published or name in after.patterns or name in after.aliases:
            continue
        related = [new for new in by_partition.get(old.partition, []) if new.windows & old.windows]
        if related:
            nearest = max(related, key=lambda new: (float(unit(new.place) @ unit(old.place)), new.pattern_id))
            successors[name] = nearest.pattern_id
    return successors


def status_at(pattern: PatternState, end_ms: int, settings: LearningSettings) -> str:
    """Status of a pattern at the end of a window."""
    latest = pattern.sightings[-1]
    unseen = (end_ms - latest.end_ms) / (latest.end_ms - latest.start_ms)
    if unseen > settings.fade_windows:
        return FADED
    return NEW if len(pattern.sightings) == 1 else CONFIRMED


def unseen_windows(pattern: PatternState, end_ms: int) -> float:
    """Windows, in time, since the latest sighting."""
    latest = pattern.sightings[-1]
    return (end_ms - latest.end_ms) / (latest.end_ms - latest.start_ms)


def _judged(pattern: PatternState, cluster: ClusterSummary, settings: LearningSettings) -> Judged:
    if pattern.figures is None or pattern.figures.best_action not in _NET_MEASURE:
        return pattern.judged
    column = HORIZONS.index(settings.reference_horizon_minutes)
    measure = _NET_MEASURE[pattern.figures.best_action]
    return pattern.judged.merged_with(Judged(windows=1, sums=cluster.outcomes.blocks[column, measure]))


def _sighting(summary: PartitionSummary, cluster: ClusterSummary, cosine: float, threshold: float) -> Sighting:
    return Sighting(
        window=summary.window,
        start_ms=summary.start_ms,
        end_ms=summary.end_ms,
        label=cluster.label,
        cluster_id=cluster.founding_id,
        states=cluster.states,
        cosine=cosine,
        threshold=threshold,
        occurrences=cluster.occurrences,
        drawdown=cluster.drawdown,
    )


def _added(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in sorted({*first, *second})}


def _realised(first: dict[str, RealisedSums], second: dict[str, RealisedSums]) -> dict[str, RealisedSums]:
    merged = dict(first)
    for name, sums in second.items():
        merged[name] = merged[name].merged_with(sums) if name in merged else sums
    return dict(sorted(merged.items()))
