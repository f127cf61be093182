"""How often semantic memories were retrieved: daily counters in keys of their own, which publication never touches."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from memory.errors import AccessDeniedError, CoinswarmError
from memory.store.keys import Keys
from memory.store.link import RedisLink

_log = logging.getLogger(__name__)

ACCESS_DAYS = 30
"""Days of accesses that pruning looks at."""
COUNTER_TTL_S = 400 * 86_400
"""A counter is of use to windows within 30 days after its own; this leaves a year for a back-fill to get there."""
READ_SIZE = 1000
WRITE_DELAY_S = 0.25
"""How long accesses are collected before they are written: a killed process loses no more than that."""
WRITE_SIZE = 500
"""Counters of one command: about a millisecond of the server's time; as many are written without delay."""
WRITE_MEMORY_S = 3600
"""How long the server remembers that it has seen a batch: longer than any client repeats it."""

# A batch whose answer was lost is sent again, and must not count twice.
# KEYS: the batch's own, then the counters; ARGV: how long to remember it, time to live of a counter, numbers to add
_COUNT = """
if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then return 0 end
for i = 2, #KEYS do
  redis.call('INCRBY', KEYS[i], ARGV[i + 1])
  redis.call('EXPIRE', KEYS[i], ARGV[2])
end
return #KEYS - 1
"""


_uncounted: ContextVar[bool] = ContextVar("coinswarm_uncounted", default=False)


@contextmanager
def uncounted() -> Iterator[None]:
    """Within this block (and the tasks started in it) what is retrieved does not count as accessed.

    How often agents retrieve a memory is a reason to keep it: whoever only looks must not change what is kept.
    """
    token = _uncounted.set(True)
    try:
        yield
    finally:
        _uncounted.reset(token)


@dataclass(frozen=True, slots=True)
class AccessCount:
    """Retrievals of one memory in the days before a time, and the last of those days."""

    count: int
    last_day: datetime | None


@dataclass(frozen=True, slots=True)
class _Batch:
    name: str
    counted: dict[str, int]


class AccessCounters:
    """Access counters of one namespace; services, replicas and caches of a process share them.

    Counts are collected in the process and written together, so that no reader waits for them and none pays for a
    command of its own. A batch counts once however often it is sent. What could not be written waits for the next
    attempt, which the next access or `flush` makes; `flush` raises where it still cannot be written.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._count = link.register(_COUNT)
        self._process = secrets.token_hex(8)
        self._batches = 0
        self._waiting: dict[tuple[str, int], int] = {}
        self._unsent: list[_Batch] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._refused = False

    def note(self, memory_ids: Iterable[str], at: datetime) -> None:
        """Count one retrieval of each memory on the UTC day of `at`, soon; not within `uncounted`.

        Half a microsecond a memory.
        """
        if _uncounted.get():
            return
        day = at.astimezone(UTC).toordinal()
        waiting = self._waiting
        for memory_id in memory_ids:
            waiting[memory_id, day] = waiting.get((memory_id, day), 0) + 1
        if waiting and self._timer is None and (self._writer is None or self._writer.done()):
            self._write_later()

    async def count_access(self, memory_ids: Iterable[str], at: datetime) -> None:
        """Count one retrieval of each memory on the UTC day of `at`, and return when it is written."""
        self.note(memory_ids, at)
        await self.flush()

    async def flush(self) -> None:
        """Write what is counted.

        Raises
        ------
        StoreUnavailableError
            It cannot be written; it waits for the next attempt.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        async with self._writing:
            await self._write()

    async def counts(
        self, memory_ids: Sequence[str], until: datetime, days: int = ACCESS_DAYS
    ) -> Mapping[str, AccessCount]:
        """Retrievals of some memories on the `days` UTC days before `until`, by id.

        Days count from `until` (a window's end), never from the clock. What this process counted is among them, what
        others counted in the last moment (`WRITE_DELAY_S`) may not be. About 5 microseconds a memory and day.
        """
        if self._waiting or self._unsent or self._writing.locked():
            await self.flush()
        span = _days_before(until, days)
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

    async def all_counts(self, until: datetime, days: int = ACCESS_DAYS) -> dict[str, int]:
        """Retrievals of every memory on the `days` UTC days before `until`, by id, sorted; those without are left out.

        Whatever ids have counters, memories that are gone and ids that led elsewhere among them. Days count as in
        `counts`. Looks at every key of the server in small steps: about a second for a million.
        """
        if self._waiting or self._unsent or self._writing.locked():
            await self.flush()
        names = {f"{day:%Y%m%d}" for day in _days_before(until, days)}
        prefix = self._keys.access_prefix
        found: set[str] = set()
        cursor = b"0"
        while True:
            cursor, keys = await self._link.execute("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", READ_SIZE)
            for key in keys:
                memory_id, _, day = key[len(prefix) :].decode().rpartition(":")
                if memory_id and day in names:
                    found.add(key.decode())
            if int(cursor) == 0:
                break
        ordered = sorted(found)
        counted: dict[str, int] = {}
        for start in range(0, len(ordered), READ_SIZE):
            part = ordered[start : start + READ_SIZE]
            for key, value in zip(part, await self._link.execute("MGET", *part), strict=True):
                memory_id = key[len(prefix) :].rpartition(":")[0]
                counted[memory_id] = counted.get(memory_id, 0) + int(value or 0)
        return {memory_id: counted[memory_id] for memory_id in sorted(counted)}

    # --- internals -------------------------------------------------------------------------------------------

    def _write_later(self) -> None:
        delay_s = 0.0 if len(self._waiting) >= WRITE_SIZE else WRITE_DELAY_S
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._start)

    def _start(self) -> None:
        self._timer = None
        self._writer = asyncio.get_running_loop().create_task(self._write_soon())

    async def _write_soon(self) -> None:
        async with self._writing:
            try:
                await self._write()
            except CoinswarmError:
                # Nobody waits for this attempt. The batch is kept; `flush`, which closing calls, raises if it must.
                return
        if self._waiting and self._timer is None:
            self._write_later()  # What was counted while this was on its way.

    async def _write(self) -> None:
        # New batches only behind those that failed, so that a long failure leaves one of counters, not many of batches.
        await self._send()
        counted, self._waiting = self._waiting, {}
        ordered = [
            (self._keys.access(memory_id, datetime.fromordinal(day)), number)
            for (memory_id, day), number in counted.items()
        ]
        for start in range(0, len(ordered), WRITE_SIZE):
            self._batches += 1
            name = self._keys.access_batch(f"{self._process}-{self._batches}")
            self._unsent.append(_Batch(name, dict(ordered[start : start + WRITE_SIZE])))
        await self._send()

    async def _send(self) -> None:
        while self._unsent:
            batch = self._unsent[0]
            command = self._count.call(
                [batch.name, *batch.counted], [WRITE_MEMORY_S, COUNTER_TTL_S, *batch.counted.values()]
            )
            try:
                await self._link.pipeline([command])
            except AccessDeniedError as error:
                # A user that may only read: nothing will ever be counted, and that must not fail its questions.
                self._waiting.clear()
                self._unsent.clear()
                if not self._refused:
                    self._refused = True
                    _log.warning("Accesses to semantic memory are not counted: %s", error)
                return
            del self._unsent[0]


def _days_before(until: datetime, days: int) -> list[datetime]:
    """The `days` UTC days that began before a time, last one first."""
    midnight = until.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    last = midnight if midnight < until else midnight - timedelta(days=1)
    return [last - timedelta(days=back) for back in range(days)]
