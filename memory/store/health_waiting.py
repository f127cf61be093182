"""What waits to be worked on: experiences in inboxes, and records that could not be stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from memory.commands import command
from memory.records import from_ms
from memory.store.health_check import Check, OpenMemory, ok, server_time, warn
from memory.store.inbox import DEFAULT_IDLE, GROUP

BACKLOG_AGE = timedelta(hours=26)
"""The inbox is drained every night; an entry this old has missed one."""
REASONS_SHOWN = 3
REASONS_SAMPLE = 1000
_MS = timedelta(milliseconds=1)


async def check_inbox(mem: OpenMemory) -> list[Check]:
    """Whether drains come by, and end what they take."""
    lengths = {agent: length for agent, length in (await mem.inbox.length()).items() if length}
    if not lengths:
        return [ok("inbox", "empty")]
    streams = [mem.keys.inbox(agent) for agent in lengths]
    firsts = await mem.link.pipeline([("XRANGE", stream, "-", "+", "COUNT", 1) for stream in streams])
    times = [from_ms(int(first[0][0].split(b"-")[0])) for first in firsts if first]
    idle = await _left_behind(mem, streams)
    age = await server_time(mem) - min(times)
    largest = max(lengths, key=lambda agent: (lengths[agent], agent))
    seen = (
        f"{sum(lengths.values()):,} entries of {len(lengths)} agents (most: {largest}, {lengths[largest]:,}), "
        f"the oldest {_age(age)} old"
    )
    remedy = f"Drain it: {command('run record_experiences', mem.keys.namespace)}"
    if idle:
        return [warn("inbox", f"{seen}; a drain left {idle:,} of them behind.", remedy)]
    if age > BACKLOG_AGE:
        return [warn("inbox", f"{seen}: no drain came by for a night.", remedy)]
    return [ok("inbox", seen)]


async def _left_behind(mem: OpenMemory, streams: Sequence[str]) -> int:
    """Entries that a drain took and neither acknowledged nor gave back for so long that it must be gone."""
    groups = await mem.link.pipeline([("XINFO", "GROUPS", stream) for stream in streams])
    drained = [stream for stream, found in zip(streams, groups, strict=True) if found]
    idle_ms = int(DEFAULT_IDLE / _MS)
    commands = [("XPENDING", stream, GROUP, "IDLE", idle_ms, "-", "+", REASONS_SAMPLE) for stream in drained]
    return sum(len(pending) for pending in await mem.link.pipeline(commands))


async def check_dead_letters(mem: OpenMemory) -> list[Check]:
    """Whether records were refused, and why."""
    count = await mem.dead_letters.count()
    if not count:
        return [ok("dead letters", "none")]
    reasons = (await mem.dead_letters.reasons(REASONS_SAMPLE))[:REASONS_SHOWN]
    listed = "; ".join(f"{times:,} x {field}, such as: {reason}" for field, times, reason in reasons)
    full = count >= mem.settings.dead_letter_limit
    seen = f"{count:,}{', as many as are kept: older ones are gone' if full else ''} ({listed})"
    again = command("deadletters retry --all", mem.keys.namespace)
    return [warn("dead letters", seen, f"Correct the cause, then {again}")]


def _age(age: timedelta) -> str:
    hours = age / timedelta(hours=1)
    return f"{hours:,.0f} h" if hours >= 1 else f"{age / timedelta(minutes=1):.0f} min"
