"""Waking readers: one blocking read for all that wait in this process, on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from redis.exceptions import RedisError

from memory.errors import CoinswarmError
from memory.store.link import RedisLink
from memory.store.message_mailbox import position_of

BLOCK_S = 10.0
"""A blocking read is asked anew this often, so that a connection that died without a word is noticed."""

Position = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    ends: Mapping[str, Position]
    woken: asyncio.Future[None]


class MessageBell:
    """Tells readers of one process that something was added to streams; bound to the event loop that uses it.

    While anybody waits, one connection of the link's pool blocks in XREAD over all streams that are waited for.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._waiters: set[_Waiter] = set()
        self._listening: asyncio.Task[None] | None = None
        self._asked: dict[str, Position] = {}

    async def wait(self, ends: Mapping[str, str], timeout_s: float) -> None:
        """Return when a stream has an entry after its end, or after `timeout_s` seconds.

        Parameters
        ----------
        ends
            Id of the last entry that the caller knows, by stream.

        Raises
        ------
        StoreUnavailableError
            The server cannot be asked.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter({stream: position_of(end) for stream, end in ends.items()}, loop.create_future())
        self._waiters.add(waiter)
        try:
            self._listen_for(waiter)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiter.woken
        finally:
            self._waiters.discard(waiter)

    async def close(self) -> None:
        """Stop listening; those who wait are woken."""
        task, self._listening = self._listening, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for waiter in self._waiters:
            _wake(waiter)

    # --- internals -------------------------------------------------------------------------------------------

    def _listen_for(self, waiter: _Waiter) -> None:
        """Listen, to more than before where this waiter's streams are not listened to."""
        task = self._listening
        if task is not None and not task.done():
            if all(stream in self._asked and self._asked[stream] <= end for stream, end in waiter.ends.items()):
                return
            task.cancel()  # What it asks leaves this waiter out; what it would have heard is heard by the next.
        self._asked = {}
        self._listening = asyncio.get_running_loop().create_task(self._listen(), name="messages: bell")

    async def _listen(self) -> None:
        while self._waiters:
            asked: dict[str, Position] = {}
            for waiter in self._waiters:
                for stream, end in waiter.ends.items():
                    asked[stream] = min(asked.get(stream, end), end)
            self._asked = asked
            try:
                answer = await self._link.execute(
                    *("XREAD", "BLOCK", int(BLOCK_S * 1000), "COUNT", 1, "STREAMS"),
                    *asked,
                    *(f"{high}-{low}" for high, low in asked.values()),
                    timeout_s=BLOCK_S + self._link.timeout_s,
                )
            except (CoinswarmError, RedisError) as error:
                for waiter in self._waiters:
                    _wake(waiter, error)
                return
            for stream, entries in (answer or {}).items():
                name, first = stream.decode(), position_of(entries[0][0].decode())
                for waiter in self._waiters:
                    if name in waiter.ends and waiter.ends[name] < first:
                        _wake(waiter)
            self._waiters = {waiter for waiter in self._waiters if not waiter.woken.done()}


def _wake(waiter: _Waiter, error: Exception | None = None) -> None:
    if waiter.woken.done():
        return
    if error is None:
        waiter.woken.set_result(None)
    else:
        waiter.woken.set_exception(error)
