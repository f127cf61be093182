"""Lineage: what happened to patterns in a window, event by event, with who met whom against which threshold.

The fold writes down each event where it decides it; nothing is reconstructed later. Events are no part of the fold's
state: they are never read to fold the next window.
"""

from __future__ import annotations

import math

import msgspec

from memory.learning.matching import Match
from memory.learning.summaries import ClusterSummary

FOUNDED = "FOUNDED"
SPLIT = "SPLIT"
CONFIRMED = "CONFIRMED"
RETURNED = "RETURNED"
LOST = "LOST"
MERGED = "MERGED"
PROMOTED = "PROMOTED"
FORGOTTEN = "FORGOTTEN"
FADED = "FADED"
DEMOTED = "DEMOTED"
REINSTATED = "REINSTATED"
PRUNED = "PRUNED"

EVENTS = {
    FOUNDED: "a cluster that was none of the known patterns founded it; the other is the one nearest by",
    SPLIT: "its founding cluster was near enough to be the other, which a nearer cluster took: it is a part of it",
    CONFIRMED: "a cluster was seen to be it",
    RETURNED: "it was seen again after it had faded or been pruned",
    LOST: "the cluster nearest to it was near enough to be it, but was the other",
    MERGED: "it came so near to the other that both are one, under the other's id",
    PROMOTED: "it has occurred often enough to be a pattern, and is published for the first time",
    FORGOTTEN: "it was a candidate that was not seen for long",
    FADED: "it has not been seen for some windows",
    DEMOTED: "its predictions were worse than the base rate",
    REINSTATED: "its predictions are no longer worse than the base rate",
    PRUNED: "no rule kept it",
}
"""Kinds of events, and what each says about its pattern."""


class LineageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a pattern or candidate in a window.

    Attributes
    ----------
    kind
        One of `EVENTS`.
    pattern_id, other_id
        The pattern, and the other one that the kind speaks of.
    partition, label, cluster_id, states
        The cluster that was the occasion: the partition that it was clustered in, its label there, the id that it
        founds or would have founded, its members; None where there was none.
    cosine, threshold
        Of cluster and pattern (of both patterns where they merge), and what it had to exceed; the threshold is None
        where no null set one, and then only the unmistakable could match.
    rule
        Rule by which the two were near enough (`matching.RULES`); None where they were not, or nothing was compared.
    """

    kind: str
    pattern_id: str
    other_id: str | None = None
    partition: str | None = None
    label: int | None = None
    cluster_id: str | None = None
    states: int | None = None
    cosine: float | None = None
    threshold: float | None = None
    rule: str | None = None


def of_match(
    kind: str, pattern_id: str, cluster: ClusterSummary, match: Match, threshold: float, *, other_id: str | None = None
) -> LineageEvent:
    """Event of a cluster that was compared with a pattern: `match` says where it was clustered and how near it came."""
    return LineageEvent(
        kind=kind,
        pattern_id=pattern_id,
        other_id=other_id,
        partition=match.partition,
        label=cluster.label,
        cluster_id=cluster.founding_id,
        states=cluster.states,
        cosine=match.cosine,
        threshold=known_threshold(threshold),
        rule=match.rule or None,
    )


def known_threshold(threshold: float) -> float | None:
    """The threshold, or None where there was no null to set one."""
    return None if math.isinf(threshold) else threshold
