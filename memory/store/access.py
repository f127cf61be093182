"""How often semantic memories were retrieved: daily counters in keys of their own, which publication never touches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from memory.store.keys import Keys
from memory.store.link import Command, RedisLink

ACCESS_DAYS = 30
"""Days of accesses that pruning looks at."""
COUNTER_TTL_S = 400 * 86_400
"""A counter is of use to windows within 30 days after its own; this leaves a year for a back-fill to get there."""
READ_SIZE = 1000


@dataclass(frozen=True, slots=True)
class AccessCount:
    """Retrievals of one memory in the days before a time, and the last of those days."""

    count: int
    last_day: datetime | None


class AccessCounters:
    """Access counters of one namespace.

    Counts are collected in the process and written by a task of their own, so that no reader waits for them; what a
    killed process had not written is lost.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._waiting: dict[str, int] = {}
        self._writer: asyncio.Task[None] | None = None

    def note(self, memory_ids: Iterable[str], at: datetime) -> None:
        """Count one retrieval of each memory on the UTC day of `at`, soon."""
        for memory_id in memory_ids:
            key = self._keys.access(memory_id, at.astimezone(UTC))
            self._waiting[key] = self._waiting.get(key, 0) + 1
        writer = self._writer
        if writer is not None and writer.done() and not writer.cancelled():
            writer.exception()  # What it could not write is waiting again; `flush` raises where it still cannot.
        if self._waiting and (writer is None or writer.done()):
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def count_access(self, memory_ids: Iterable[str], at: datetime) -> None:
        """Count one retrieval of each memory on the UTC day of `at`, and return when it is written."""
        self.note(memory_ids, at)
        await self.flush()

    async def flush(self) -> None:
        """Write what is counted."""
        while self._waiting or self._writer is not None:
            writer, self._writer = self._writer, None
            await (writer if writer is not None else self._write())

    async def counts(
        self, memory_ids: Sequence[str], until: datetime, days: int = ACCESS_DAYS
    ) -> Mapping[str, AccessCount]:
        """Retrievals of some memories on the `days` UTC days before `until`, by id.

        Days count from `until` (a window's end), never from the clock. About 5 microseconds a memory and day.
        """
        midnight = until.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        last = midnight if midnight < until else midnight - timedelta(days=1)
        span = [last - timedelta(days=back) for back in range(days)]
        keys = [self._keys.access(memory_id, day) for memory_id in memory_ids for day in span]
        values: list[bytes | None] = []
        for start in range(0, len(keys), READ_SIZE):
            values += await self._link.execute("MGET", *keys[start : start + READ_SIZE])
        counted = {}
        for position, memory_id in enumerate(memory_ids):
            own = values[position * days : (position + 1) * days]
            hit_days = [day for day, value in zip(span, own, strict=True) if value is not None]
            counted[memory_id] = AccessCount(
                sum(int(value) for value in own if value is not None), hit_days[0] if hit_days else None
            )
        return counted

    async def _write(self) -> None:
        counted, self._waiting = self._waiting, {}
        commands: list[Command] = []
        for key, number in counted.items():
            commands += [("INCRBY", key, number), ("EXPIRE", key, COUNTER_TTL_S)]
        try:
            await self._link.pipeline(commands)
        except BaseException:
            for key, number in counted.items():
                self._waiting[key] = self._waiting.get(key, 0) + number
            raise
