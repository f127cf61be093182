"""Which windows a knowledge line was published through, and since when each is known: how fresh knowledge is.

Versions say when something changed; a night that changes nothing of a kind leaves none. So a publication notes its
windows beside its versions, in the same step: a sorted set for each kind of a line, by the time (milliseconds since
1970) from which on the window's knowledge was known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from memory.records import SemanticType, from_ms
from memory.store.codec import ms_rounded_up
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink
from memory.window import Window

KINDS: tuple[SemanticType, ...] = tuple(SemanticType)
_SNAPSHOT = "@"
"""What the entry of a snapshot begins with, which names a time and no window."""
ENTRIES_A_COMMAND = 500
QUESTIONS_A_KIND = 2

PublishedWindows = Mapping[SemanticType, Mapping[Window, datetime]]
"""By kind, when each window that a line was published through became known."""


class Newest(NamedTuple):
    """The newest publication of a kind.

    Attributes
    ----------
    window
        Its window; None where a snapshot was published, which names none.
    known_at
        From when on it is known.
    windows
        How many publications there are up to it.
    """

    window: Window | None
    known_at: datetime
    windows: int


def windows_commands(keys: Keys, line: str, windows: PublishedWindows) -> list[Command]:
    """What makes these all the windows of their kinds, for the step of a publication."""
    commands: list[Command] = []
    for kind in sorted(windows):
        known = {window.name: ms_rounded_up(at) for window, at in windows[kind].items()}
        commands.append(("DEL", keys.semantic_windows(kind.value, line)))
        commands += _adding(keys.semantic_windows(kind.value, line), known)
    return commands


def snapshot_commands(
    keys: Keys, line: str, kinds: Iterable[str], times_ms: Mapping[str, Iterable[int]], replaced_from_ms: int | None
) -> list[Command]:
    """What notes snapshots that were published; those from a time on are replaced where one is given."""
    commands: list[Command] = []
    for kind in sorted(kinds):
        name = keys.semantic_windows(kind, line)
        if replaced_from_ms is not None:
            commands.append(("ZREMRANGEBYSCORE", name, replaced_from_ms, "+inf"))
        commands += _adding(name, {f"{_SNAPSHOT}{time}": time for time in times_ms.get(kind, ())})
    return commands


def drop_windows(keys: Keys, line: str) -> Command:
    """What forgets the windows of a line."""
    return ("UNLINK", *(keys.semantic_windows(kind.value, line) for kind in KINDS))


def newest_commands(keys: Keys, line: str, as_of_ms: int | None) -> list[Command]:
    """Questions for `newest_of`: `QUESTIONS_A_KIND` of each of `KINDS`, some microseconds each."""
    until = "+inf" if as_of_ms is None else as_of_ms
    commands: list[Command] = []
    for kind in KINDS:
        name = keys.semantic_windows(kind.value, line)
        commands.append(("ZREVRANGEBYSCORE", name, until, "-inf", "WITHSCORES", "LIMIT", 0, 1))
        commands.append(("ZCOUNT", name, "-inf", until))
    return commands


def newest_of(answers: Sequence[Any]) -> dict[SemanticType, Newest]:
    """The newest publication of each kind that there is one of, by the answers to `newest_commands`."""
    found = {}
    for position, kind in enumerate(KINDS):
        entries, count = answers[QUESTIONS_A_KIND * position : QUESTIONS_A_KIND * (position + 1)]
        if entries:
            name, known_ms = entries[0]
            found[kind] = Newest(_window(name.decode()), from_ms(int(known_ms)), int(count))
    return found


async def published_windows(
    link: RedisLink, keys: Keys, line: str, kinds: Collection[SemanticType] = KINDS
) -> PublishedWindows:
    """When each window of some kinds of a line became known, as Redis holds it; one round trip."""
    ordered = sorted(kinds)
    answers = await link.pipeline(
        [("ZRANGE", keys.semantic_windows(kind.value, line), 0, -1, "WITHSCORES") for kind in ordered]
    )
    found: dict[SemanticType, dict[Window, datetime]] = {}
    for kind, entries in zip(ordered, answers, strict=True):
        named = [(_window(name.decode()), from_ms(int(known_ms))) for name, known_ms in entries]
        found[kind] = {window: known_at for window, known_at in named if window is not None}
    return found


def _adding(name: str, known: Mapping[str, int]) -> list[Command]:
    entries = sorted(known.items())
    return [
        ("ZADD", name, *(part for entry, time in entries[start : start + ENTRIES_A_COMMAND] for part in (time, entry)))
        for start in range(0, len(entries), ENTRIES_A_COMMAND)
    ]


def _window(name: str) -> Window | None:
    return None if name.startswith(_SNAPSHOT) else Window.of_date(date.fromisoformat(name))
