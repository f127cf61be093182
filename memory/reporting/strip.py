"""Patterns against the nights: what became of each pattern in each of the last nights, as cells of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory.records import PatternMemory
from memory.reporting import ranking, theme
from memory.reporting.data import LineageEvent

NIGHTS = 21
"""Nights that fit a table: three weeks; older ones are in each pattern's story."""

PATTERNS = 40
"""Rows that one look takes in."""

LEAST_NIGHTS = 2
"""On a first night every pattern is new: that is said, and not drawn."""


@dataclass(frozen=True, slots=True)
class Look:
    """How an event is shown: a sign, a hue, and what it means. Either of sign and hue tells it apart."""

    name: str
    sign: str
    colour: str
    meaning: str


LOOKS: dict[str, Look] = {
    look.name: look
    for look in (
        Look("pruned", "✕", theme.VERMILLION, "pruned: no rule kept it"),
        Look("merged", "⋈", theme.PURPLE, "became one with another"),
        Look("split", "÷", theme.PURPLE, "founded as a part of another, or gave one off"),
        Look("faded", "○", theme.MUTED, "faded: not seen for some nights"),
        Look("demoted", "▽", theme.VERMILLION, "demoted: it predicted worse than the base rate"),
        Look("returned", "↻", theme.SKY, "came back"),
        Look("new", "◆", theme.GREEN, "new: published for the first time"),
        Look("founded", "◇", theme.GREEN, "founded, not yet seen often enough to be published"),
        Look("confirmed", "●", theme.BLUE, "confirmed: seen again"),
    )
}
"""What a cell can show. Where more than one thing happened in a night, the first of these is shown."""

_OF_EVENT = {
    "pruned": "pruned",
    "merged with": "merged",
    "split from": "split",
    "gave off": "split",
    "faded": "faded",
    "demoted": "demoted",
    "returned": "returned",
    "published": "new",
    "founded": "founded",
    "confirmed": "confirmed",
}
_ORDER = {name: place for place, name in enumerate(LOOKS)}
_SEEN = frozenset({"confirmed", "returned", "new", "founded", "split", "merged"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One pattern in one night.

    Attributes
    ----------
    look
        What happened first of all; None where nothing was noted.
    events
        All that happened, in words.
    states
        Of the night's cluster; None where there was none.
    depth
        States by the most that the pattern had in a night shown, 0 to 1.
    """

    look: Look | None
    events: str
    states: int | None
    depth: float


@dataclass(frozen=True, slots=True)
class Row:
    """One pattern over the nights."""

    pattern: PatternMemory
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """Patterns against nights; `left_out` patterns are not shown, and `used` are the looks that occur."""

    nights: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: int
    used: tuple[Look, ...]

    def count(self, night: int) -> Counter[str]:
        """What happened to how many of the patterns shown in one night, by the names of looks."""
        return Counter(look.name for row in self.rows if (look := row.cells[night].look) is not None)


def pattern_strip(
    patterns: Sequence[PatternMemory], lineage: Mapping[str, Sequence[LineageEvent]], nights: Sequence[str]
) -> Strip | None:
    """Patterns against the last nights; None before there are two nights, or without a pattern.

    Those seen in most nights come first, then those that more states lived through.

    Parameters
    ----------
    nights
        Names of the windows, oldest first.
    """
    shown = tuple(nights[-NIGHTS:])
    if len(shown) < LEAST_NIGHTS or not patterns:
        return None
    ordered = sorted(patterns, key=lambda p: (p.status == ranking.FADED, -p.windows_seen, -p.states, p.pattern_id))
    rows = tuple(_row(pattern, lineage.get(pattern.pattern_id, ()), shown) for pattern in ordered[:PATTERNS])
    occurring = {cell.look.name for row in rows for cell in row.cells if cell.look is not None}
    used = tuple(look for look in reversed(LOOKS.values()) if look.name in occurring)
    return Strip(shown, rows, max(len(ordered) - PATTERNS, 0), used)


def _row(pattern: PatternMemory, events: Sequence[LineageEvent], nights: Sequence[str]) -> Row:
    by_night: dict[str, list[LineageEvent]] = {night: [] for night in nights}
    for event in events:
        if event.window_name in by_night:
            by_night[event.window_name].append(event)
    most = max((event.states or 0 for found in by_night.values() for event in found), default=0)
    return Row(pattern, tuple(_cell(by_night[night], most) for night in nights))


def _cell(events: Sequence[LineageEvent], most: int) -> Cell:
    names = sorted(
        (name for event in events if (name := _OF_EVENT.get(event.event)) is not None), key=lambda name: _ORDER[name]
    )
    seen = [event.states for event in events if event.states and _OF_EVENT.get(event.event) in _SEEN]
    states = max(seen, default=None)
    words = ", ".join(dict.fromkeys(f"{event.event} {event.other}".strip() for event in events))
    return Cell(LOOKS[names[0]] if names else None, words, states, (states or 0) / most if most else 0.0)
