"""Recording what an agent lives through without keeping it waiting.

An agent's loop calls `ExperienceRecorder.record` once a step. That puts the record into a buffer and returns; a task
in the background writes what waits in batches. While Redis is away records wait, up to a number and an age. What could
not be kept is counted by reason, logged, and never dropped without a word.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

from redis.exceptions import RedisError

from agents.recorder_report import CLOSED, FULL, TOO_OLD, RecorderCounts, RecorderReport, not_written, reason_lost
from agents.recorder_writing import BatchWriter, Destination, Experience, TracesWritten, Written
from agents.termination import flush_on_termination
from memory.connection import MemoryConnection
from memory.decisions import DecisionTrace
from memory.errors import CoinswarmError, InvalidQueryError, ServerUnsuitableError, StoreUnavailableError

__all__ = ["Destination", "Experience", "ExperienceRecorder", "RecorderReport"]

_log = logging.getLogger(__name__)

BATCH_SIZE = 200
"""Records of one write: a few milliseconds of the server's time, and a round trip for all of them."""
INTERVAL_S = 0.2
"""Longest that a record waits for others while Redis answers: a killed process loses no more than that."""
CAPACITY = 10_000
"""Records that wait at most, some 25 MB with 256 dimensions: half an hour of five decisions a second."""
KEEP_FOR = timedelta(hours=1)
"""Records that waited for longer are dropped: an agent that goes on after that has other troubles."""
CLOSE_WAIT_S = 10.0
"""Longest that closing waits for what waits to be written."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LOG_EVERY_S = 60.0


@dataclass(slots=True)
class _Waiting:
    experience: Experience
    trace: DecisionTrace | None
    since: float


class ExperienceRecorder:
    """Records experiences in the background: ``async with ExperienceRecorder(mem) as recorder``.

    Parameters
    ----------
    mem
        An open memory, which stays open for longer than the recorder.
    destination
        ``inbox``: raw experiences, encoded and stored when the inbox is drained (every night at the latest).
        ``episodic``: stored at once, found by the next question.
    batch_size, interval_s
        A batch is written when so many wait, or the oldest has waited for so long.
    capacity
        Most that wait. A full buffer refuses what comes (`record` returns False): what was lived through first is kept
        without holes.
    keep_for
        How long a record waits for Redis to come back.
    close_wait_s
        Longest that closing waits for Redis.
    on_termination
        Whether SIGTERM, where nobody else handles it, is held up until what waits is written.
    """

    def __init__(
        self,
        mem: MemoryConnection,
        *,
        destination: Destination = "inbox",
        batch_size: int = BATCH_SIZE,
        interval_s: float = INTERVAL_S,
        capacity: int = CAPACITY,
        keep_for: timedelta = KEEP_FOR,
        close_wait_s: float = CLOSE_WAIT_S,
        on_termination: bool = True,
    ) -> None:
        if destination not in ("inbox", "episodic"):
            raise InvalidQueryError(
                f"destination is {destination!r}.", remedy="Use 'inbox' or 'episodic'.", argument="destination"
            )
        for name, number in (("batch_size", batch_size), ("capacity", capacity)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InvalidQueryError(f"{name} is {number!r}.", remedy="Use 1 or more.", argument=name)
        for name, seconds in (("interval_s", interval_s), ("keep_for", keep_for / timedelta(seconds=1))):
            if not seconds > 0:
                raise InvalidQueryError(f"{name} is {seconds!r} s.", remedy="Use more than 0.", argument=name)
        self._writer = BatchWriter(mem, destination)
        self._batch_size = batch_size
        self._interval_s = interval_s
        self._capacity = capacity
        self._keep_s = keep_for / timedelta(seconds=1)
        self._close_wait_s = close_wait_s
        self._on_termination = on_termination
        self._lock = threading.Lock()
        self._buffer: deque[_Waiting] = deque()
        self._batch: list[_Waiting] = []
        self._stored: Written | None = None
        self._counts = RecorderCounts()
        self._accepts = False
        self._away_since: float | None = None
        self._failure: Exception | None = None
        self._last_error = ""
        self._logged_at: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._closing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._release: Any = None

    # --- recording -------------------------------------------------------------------------------------------

    def record(self, experience: Experience, trace: DecisionTrace | None = None) -> bool:
        """Keep an experience for writing, and return; False where it was dropped (`report` says why).

        Touches neither network nor disk, from whatever thread it is called: about 1 microsecond, and never longer than
        the buffer's lock is held, which is a few microseconds for a batch. What is recorded must not be changed
        afterwards.

        Parameters
        ----------
        experience
            An EpisodicMemory, or fields of one by name (for the inbox). A malformed one goes to the dead letters.
        trace
            What the decision rested on, to be stored with it.
        """
        with self._lock:
            reason = "" if self._accepts else CLOSED
            if not reason and len(self._buffer) + len(self._batch) >= self._capacity:
                reason = FULL
            if reason:
                self._counts.dropped[reason] += 1
            else:
                self._buffer.append(_Waiting(experience, trace, time.monotonic()))
            due = len(self._buffer) == self._batch_size
        if reason:
            self._say(reason, "an experience was not recorded")
            return False
        if due and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)
        return True

    async def flush(self, timeout_s: float | None = None) -> RecorderReport:
        """Write all that was recorded before, and say what became of it.

        Parameters
        ----------
        timeout_s
            Longest wait; by default that of closing.

        Raises
        ------
        StoreUnavailableError
            It could not be written in time; it still waits.
        ServerUnsuitableError
            Redis refuses it, as AccessDeniedError where the user lacks a right: told at once, since waiting does not
            change that. It still waits.
        """
        limit_s = self._close_wait_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        with self._lock:
            last = self._buffer[-1] if self._buffer else self._batch[-1] if self._batch else None
        pause_s = FIRST_PAUSE_S
        while last is not None and self._waits(last):
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                    if await self._write_batch():
                        continue
                    if isinstance(self._failure, ServerUnsuitableError):
                        raise not_written(self.report().waiting, self._failure)
                    await asyncio.sleep(pause_s)
            except TimeoutError:
                raise not_written(self.report().waiting, self._failure, f" within {limit_s:g} s") from None
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return self.report()

    def report(self) -> RecorderReport:
        """What became of what was recorded so far."""
        with self._lock:
            return self._counts.report(
                waiting=len(self._buffer) + len(self._batch),
                away_s=0.0 if self._away_since is None else time.monotonic() - self._away_since,
                last_error=self._last_error,
            )

    # --- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> ExperienceRecorder:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except (StoreUnavailableError, ServerUnsuitableError):
            if error is None:
                raise  # Otherwise the block's own error tells more; the log has what was lost.

    async def open(self) -> None:
        """Begin to write in the background of the running event loop."""
        if self._task is not None:
            raise InvalidQueryError("this recorder is open already.", remedy="Make another one.", argument="recorder")
        self._loop = asyncio.get_running_loop()
        self._accepts = True
        self._task = self._loop.create_task(self._run(), name="experience recorder")
        if self._on_termination:
            self._release = flush_on_termination(self._close_before_the_end)

    async def close(self) -> None:
        """Take nothing more, write what waits, and end; returns at once where that was done.

        Raises
        ------
        StoreUnavailableError
            Something could not be written within `close_wait_s` seconds, and is lost: it is counted and logged. (What
            was on its way then may have arrived all the same.)
        ServerUnsuitableError
            Redis refuses it, as in `flush`, and it is lost in the same way.
        """
        with self._lock:
            self._accepts = False
        # Whoever leaves the block while SIGTERM closes the recorder must not end the loop before that is done.
        async with self._closing:
            await self._close()

    async def _close(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        try:
            await self.flush()
        finally:
            task.cancel()
            await asyncio.wait([task])
            if self._release is not None:
                self._release()
            reason = reason_lost(self._failure)
            lost = self._drop_all(reason)
            if lost:
                _log.error("%d experiences are lost: %s (%s).", lost, reason, self._last_error)

    async def _close_before_the_end(self) -> None:
        try:
            await self.close()
        except (StoreUnavailableError, ServerUnsuitableError) as error:
            _log.error("The process ends: %s", error)

    # --- writing ---------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            except TimeoutError:
                pass  # The oldest has waited long enough.
            self._wake.clear()
            while self._has_something():
                if await self._write_batch():
                    pause_s = FIRST_PAUSE_S
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _write_batch(self) -> bool:
        """Write what waits longest, up to a batch; False where Redis is away: then the same is tried again."""
        async with self._writing:
            self._drop_old()
            with self._lock:
                # One whose traces alone are missing stays as it is: what joined it would be taken for written.
                while self._stored is None and self._buffer and len(self._batch) < self._batch_size:
                    self._batch.append(self._buffer.popleft())
                batch = list(self._batch)
            if not batch:
                return True
            try:
                if self._stored is None:
                    self._stored = await self._writer.experiences([item.experience for item in batch])
            except (CoinswarmError, RedisError) as error:
                self._away(error)
                return False
            except Exception as error:  # noqa: BLE001 - one record that nothing foresaw must not stop all others
                return await self._set_aside(batch, error)
            traces = [item.trace for item in batch if item.trace is not None]
            try:
                traced = await self._writer.traces(traces)
            except (CoinswarmError, RedisError) as error:
                self._away(error)
                return False
            except Exception as error:  # noqa: BLE001 - the experiences are stored, whatever their traces hold
                _log.error("%d traces cannot be written.", len(traces), exc_info=error)
                traced = TracesWritten(0, Counter({f"it could not be written: {error!r}": len(traces)}))
            with self._lock:
                self._away_since = self._failure = None
                self._counts.traces_written += traced.stored
                self._counts.refuse_traces(traced.refused)
                self._count_stored()
                self._batch.clear()
            for reason, number in traced.refused.items():
                self._say(reason, f"{number} traces were not recorded")
            return True

    async def _set_aside(self, batch: Sequence[_Waiting], error: Exception) -> bool:
        """Put a batch that cannot be written, for whatever reason, into the dead letters."""
        reason = f"it could not be written: {type(error).__name__}: {error}"
        _log.error("%d experiences are set aside: %s", len(batch), reason, exc_info=error)
        try:
            await self._writer.set_aside([item.experience for item in batch], reason)
        except (CoinswarmError, RedisError) as refused:
            self._away(refused)
            return False
        with self._lock:
            self._stored = None
            self._counts.refused += len(batch)
            self._batch.clear()
        return True

    def _count_stored(self) -> None:
        outcome, self._stored = self._stored, None
        if outcome is not None:
            self._counts.written += outcome.written
            self._counts.duplicates += outcome.duplicates
            self._counts.refused += outcome.refused

    # --- what waits ------------------------------------------------------------------------------------------

    def _has_something(self) -> bool:
        with self._lock:
            return bool(self._buffer or self._batch)

    def _waits(self, item: _Waiting) -> bool:
        """Whether a record, and so any recorded before it, is still to be written: records are written in order."""
        with self._lock:
            first = self._batch[0] if self._batch else self._buffer[0] if self._buffer else None
            return first is not None and first.since <= item.since

    def _drop_old(self) -> None:
        oldest = time.monotonic() - self._keep_s
        number = 0
        with self._lock:
            if self._stored is None:
                number = sum(item.since < oldest for item in self._batch)
                del self._batch[:number]
            while self._buffer and self._buffer[0].since < oldest:
                self._buffer.popleft()
                number += 1
            self._counts.dropped.update({TOO_OLD: number} if number else {})
        if number:
            self._say(TOO_OLD, f"{number} experiences were not recorded")

    def _drop_all(self, reason: str) -> int:
        """Give up on what waits; how many experiences that loses."""
        with self._lock:
            if self._stored is not None:
                traces = sum(item.trace is not None for item in self._batch)
                self._counts.refuse_traces({reason: traces} if traces else {})
                self._count_stored()
                self._batch.clear()
            number = len(self._buffer) + len(self._batch)
            self._buffer.clear()
            self._batch.clear()
            self._counts.dropped.update({reason: number} if number else {})
        return number

    def _away(self, error: Exception) -> None:
        with self._lock:
            if self._away_since is None:
                self._away_since = time.monotonic()
            self._failure, self._last_error = error, str(error)
        self._say(f"Redis takes nothing: {error}", "experiences wait")

    def _say(self, reason: str, what: str) -> None:
        """Log what happened and why, a reason once a minute at most: the report has the numbers."""
        with self._lock:
            now = time.monotonic()
            if now - self._logged_at.get(reason, -LOG_EVERY_S) < LOG_EVERY_S:
                return
            self._logged_at = {known: at for known, at in self._logged_at.items() if now - at < LOG_EVERY_S}
            self._logged_at[reason] = now
        _log.warning("%s: %s", what, reason)
