"""How single patterns come about and change: founded by a cluster, confirmed by another, two that become one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Protocol

import msgspec

from memory.learning.homes import RegimeBase
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
from memory.learning.matching import NO_RULE, Match
from memory.learning.outcomes import LONG, LONG_NET, SHORT, SHORT_NET
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.learning.statistics import Drawdown
from memory.learning.summaries import ClusterSummary, PartitionSummary
from memory.learning.sums import RealisedSums
from memory.learning.support import Occurrences, merged_occurrences
from memory.tables import Floats

RECURRING_SHARE = 0.2
"""Share of a pattern's states that lies outside its largest occurrence, at least. Of 48 single occurrences planted in
noise 33 gathered strays enough for a support of three; 31 of these have a smaller share. Of patterns planted in four
runs a night 1 % have less than 0.25, of clusters of two days of real minutes with three occurrences none less than
0.2."""

_NET_MEASURE = {LONG: LONG_NET, SHORT: SHORT_NET}


def bases_of(summary: PartitionSummary) -> tuple[PartitionBase, ...]:
    """Base rates in one window of the homes that a partition holds: its own, and those of the regimes pooled in it."""
    own = RegimeBase(
        regime=summary.regime,
        states=summary.states,
        outcomes=summary.base,
        features=summary.base_features,
        correlation=summary.base_correlation,
    )
    return tuple(
        PartitionBase(
            partition=summary.home_key(base.regime),
            windows=1,
            states=base.states,
            outcomes=base.outcomes,
            features=base.features,
            correlation=base.correlation,
        )
        for base in (own, *summary.regime_bases)
    )


def found(summary: PartitionSummary, cluster: ClusterSummary, split_from: str | None = None) -> PatternState:
    """The candidate that a cluster founds, or that splits from a known pattern with it."""
    return PatternState(
        pattern_id=cluster.founding_id,
        partition=summary.home_key(cluster.home),
        encoder_id=summary.encoder_id,
        source=summary.source,
        regime=cluster.home,
        place=unit(cluster.vector_sum),
        vector_sum=cluster.vector_sum,
        states=cluster.states,
        products=dict(sorted(cluster.products.items())),
        outcomes=cluster.outcomes,
        features=cluster.features,
        cosine_distance=cluster.cosine_distance,
        realised=dict(sorted(cluster.realised.items())),
        support=cluster.occurrences,
        drawdown=cluster.drawdown,
        largest_run=cluster.largest_run,
        sightings=(_sighting(summary, cluster, math.nan, math.nan, NO_RULE),),
        broad=cluster.broad,
        split_from=split_from,
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
        support=_merged((pattern.support, cluster.occurrences), settings),
        drawdown=pattern.drawdown.followed_by(cluster.drawdown),
        largest_run=max(pattern.largest_run, cluster.largest_run),
        sightings=(*pattern.sightings, _sighting(summary, cluster, match.cosine, threshold, match.rule)),
        broad=cluster.broad,
        pruned_ms=None,
        judged=_judged(pattern, cluster, settings),
    )


def joined(first: PatternState, second: PatternState, settings: LearningSettings) -> PatternState:
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
        # What only merges in time order is merged again from the sightings of both.
        support=_merged([sighting.occurrences for sighting in sightings], settings),
        drawdown=reduce(Drawdown.followed_by, [sighting.drawdown for sighting in sightings]),
        largest_run=max(older.largest_run, younger.largest_run),
        sightings=sightings,
        broad=latest.broad,
        published=older.published or younger.published,
        pruned_ms=None if None in (older.pruned_ms, younger.pruned_ms) else latest.pruned_ms,
        judged=older.judged.merged_with(younger.judged),
        figures=older.figures or younger.figures,
        aliases=tuple(sorted({*older.aliases, *younger.aliases, younger.pattern_id})),
    )


def recurs(pattern: PatternState, settings: LearningSettings) -> bool:
    """Whether a candidate has occurred often enough to be a pattern, and is more than one of its occurrences.

    A single occurrence gathers a stray minute or two of other hours, since a clustering that asks for returns takes the
    nearest there are; each of these counts as an occurrence, but together they hold hardly any of its states.
    """
    elsewhere = pattern.states - pattern.largest_run
    return pattern.support.count >= settings.min_support and elsewhere >= RECURRING_SHARE * pattern.states


class KnownPattern(Protocol):
    """What identifies a pattern as it was known: who it is, where it lay, and in which windows it was seen."""

    @property
    def encoder_id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def partition(self) -> str: ...
    @property
    def place(self) -> Floats: ...
    @property
    def windows(self) -> frozenset[str]: ...
    @property
    def published(self) -> bool: ...


class KnownPatterns(Protocol):
    """Patterns as they were known, by id: a fold's state, or no more of it than their names need."""

    @property
    def patterns(self) -> Mapping[str, KnownPattern]: ...


def aliases_after_refold(before: KnownPatterns, after: FoldState) -> dict[str, str]:
    """Where ids lead that a re-fold no longer founds: old id -> id of the pattern that now stands for it.

    A late record changes the members of a founding cluster, and with them the id. The successor is the nearest pattern
    of the same encoder and source that was seen in one of the same windows: of any home, because a late record may also
    be what takes a cluster out of its regime, but of the same home before others. A pattern without one has no
    successor.

    Parameters
    ----------
    before, after
        What was known after one window, as published, and the state after it as folded again.

    Returns
    -------
    Only ids that were published before, and that neither exist nor have an alias in `after`. These aliases tell how
    knowledge was revised and are no part of the fold, which knows nothing of earlier folds.
    """
    successors: dict[str, str] = {}
    by_source: dict[tuple[str, str], list[PatternState]] = {}
    for name in sorted(after.patterns):
        pattern = after.patterns[name]
        by_source.setdefault((pattern.encoder_id, pattern.source), []).append(pattern)
    for name in sorted(before.patterns):
        old = before.patterns[name]
        if not old.published or name in after.patterns or name in after.aliases:
            continue
        related = [new for new in by_source.get((old.encoder_id, old.source), []) if new.windows & old.windows]
        if related:
            successors[name] = max(related, key=partial(_kinship, old)).pattern_id
    return successors


def _kinship(old: KnownPattern, new: PatternState) -> tuple[bool, float, str]:
    return new.partition == old.partition, float(unit(new.place) @ unit(old.place)), new.pattern_id


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


def _merged(windows: Sequence[Occurrences], settings: LearningSettings) -> Occurrences:
    """Occurrences over windows in time order; the first may have been merged before."""
    return merged_occurrences(
        windows, separation_min=settings.separation_minutes, look_back_min=settings.look_back_minutes
    )


def _sighting(
    summary: PartitionSummary, cluster: ClusterSummary, cosine: float, threshold: float, rule: str
) -> Sighting:
    return Sighting(
        window=summary.window,
        start_ms=summary.start_ms,
        end_ms=summary.end_ms,
        partition=summary.partition,
        label=cluster.label,
        cluster_id=cluster.founding_id,
        states=cluster.states,
        cosine=cosine,
        threshold=threshold,
        rule=rule,
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
