"""Where the patterns of a report come from: the events of the ledger, as a reader of one pattern's story needs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memory.learning import lineage
from memory.learning.matching import RULES
from memory.ledger import EventRow, Ledger
from memory.records import PatternMemory
from memory.reporting.data import LineageEvent
from memory.window import Window

HAPPENED = {
    lineage.FOUNDED: "founded",
    lineage.SPLIT: "split from",
    lineage.CONFIRMED: "confirmed",
    lineage.RETURNED: "returned",
    lineage.LOST: "lost its cluster to",
    lineage.MERGED: "merged with",
    lineage.PROMOTED: "published",
    lineage.FORGOTTEN: "forgotten",
    lineage.FADED: "faded",
    lineage.DEMOTED: "demoted",
    lineage.REINSTATED: "reinstated",
    lineage.PRUNED: "pruned",
}
"""What happened to a pattern, by kind of event."""

HAPPENED_TO_THE_OTHER = {
    lineage.SPLIT: "gave off",
    lineage.LOST: "took the cluster of",
    lineage.MERGED: "merged with",
}
"""What it means to the other pattern of an event; other kinds say nothing about that one."""


def lineage_of(
    ledger: Ledger, line: str, window: Window, patterns: Iterable[PatternMemory]
) -> dict[str, tuple[LineageEvent, ...]]:
    """What happened to patterns up to a window, by pattern id, oldest first; under the names that they had before too.

    Cost: one read of the line's events.
    """
    of: dict[str, str] = {}
    found: dict[str, list[LineageEvent]] = {}
    for pattern in patterns:
        found[pattern.pattern_id] = []
        of |= dict.fromkeys((*pattern.aliases, pattern.pattern_id), pattern.pattern_id)
    for at, event in ledger.events.of(line):
        if at > window:
            break
        own = of.get(event.pattern_id)
        other = None if event.other_id is None else of.get(event.other_id)
        if own is not None:
            found[own].append(_own(ledger, line, at, event, own))
        if other is not None and other != own and event.kind in HAPPENED_TO_THE_OTHER:
            found[other].append(_others(at, event, other))
    return {name: tuple(events) for name, events in found.items()}


def _own(ledger: Ledger, line: str, window: Window, event: EventRow, pattern_id: str) -> LineageEvent:
    name, other = event.pattern_id, event.other_id or ""
    if event.kind == lineage.MERGED and name != pattern_id:
        # The name that went is the other one to whoever reads about the pattern that both are.
        name, other = other, name
    return LineageEvent(
        window_name=window.name,
        event=HAPPENED.get(event.kind, event.kind.lower()),
        states=event.states,
        name="" if name == pattern_id else name,
        other=other,
        cosine=event.cosine,
        threshold=event.threshold,
        note=_pruned(ledger, line, window, event) if event.kind == lineage.PRUNED else _decided(event),
    )


def _others(window: Window, event: EventRow, pattern_id: str) -> LineageEvent:
    return LineageEvent(
        window_name=window.name,
        event=HAPPENED_TO_THE_OTHER[event.kind],
        states=event.states,
        name="" if event.other_id == pattern_id else event.other_id or "",
        other=event.pattern_id,
        cosine=event.cosine,
        threshold=event.threshold,
        note=_decided(event),
    )


def _decided(event: EventRow) -> str:
    """By which rule two were near enough; else what the kind of event says."""
    if event.rule is not None:
        return RULES.get(event.rule, event.rule)
    if event.kind == lineage.FOUNDED:
        return "not near enough to be the nearest known" if event.other_id else "nothing was known to compare it with"
    return lineage.EVENTS.get(event.kind, "")


def _pruned(ledger: Ledger, line: str, window: Window, event: EventRow) -> str:
    decision = next(
        (item for item in ledger.projections.prune_decisions(line, window) if item.memory_id == event.pattern_id), None
    )
    if decision is None:
        return _decided(event)
    return f"no rule kept it{_figures(decision.details.get('sharpe'), decision.details.get('random_share'))}"


def _figures(sharpe: float | None, random_share: float | None) -> str:
    parts: Sequence[str] = [
        *([] if sharpe is None else [f"Sharpe {sharpe:.1f}"]),
        *([] if random_share is None else [f"{random_share:.0%} of random sets pass"]),
    ]
    return f": {', '.join(parts)}" if parts else ""
