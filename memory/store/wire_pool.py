"""The few wire connections that the callers of one client share, and the deadlines of what they send."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from memory.store.readiness import (
    SEARCHES,
    look_again,
    look_beside,
    made_again,
    seen_lately,
    unseen_indexes,
    wait_until_whole,
)
from memory.store.wire import Argument, WireConnection, retrieve

_INDEXES = (*sorted(SEARCHES), "FT.CURSOR", "FT.INFO", "FT._LIST")
_SERVER = ("PING", "INFO", "MODULE", "TIME")
_READS = ("GET", "MGET", "HGET", "HMGET", "HGETALL", "SMEMBERS", "SCAN", "XLEN", "XRANGE")
_WRITES = ("SET", "HSET", "UNLINK", "EVALSHA", "SCRIPT", "XADD", "XACK", "XDEL")
SHAREABLE = frozenset((*_INDEXES, *_SERVER, *_READS, *_WRITES))
"""Commands that may share a connection: they neither block nor change it."""
GROWTH_PAUSE_S = 1.0
"""After a further connection was refused, none is tried for this long: what is open carries on."""


class WirePool:
    """The few connections that the callers of one client share: opened as they are needed, replaced when they break.

    Parameters
    ----------
    url
        As `WireConnection.open`.
    size
        Most connections at a time. One carries any number of callers; more of them let a server that searches on
        several threads work at several searches, and keep short commands from waiting behind long ones.
    timeout_s
        Deadline of opening one, in seconds.
    """

    def __init__(self, url: str, *, size: int, timeout_s: float) -> None:
        self._url = url
        self._size = size
        self._timeout_s = timeout_s
        self._open: list[WireConnection] = []
        self._retired: list[WireConnection] = []
        self._opening: asyncio.Task[WireConnection] | None = None
        self._grow_after = 0.0
        self._closed = False
        self.opened = 0
        """Connections opened so far."""

    async def execute(self, arguments: tuple[Argument, ...], deadline: float) -> Any:
        """The answer to a command.

        Raises
        ------
        TimeoutError
            None came before the deadline, in seconds of the event loop's clock.
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError
            No connection could be opened, or it broke before the answer came.
        redis.exceptions.ResponseError
            The server refused the command.
        StoreUnavailableError
            It is a search, and the index is still being built at the deadline.
        """
        connection = self._pick() or await self._connect(deadline)
        if arguments[0] not in SEARCHES or seen_lately(connection, arguments[1]):
            return await self._answer(connection, arguments, deadline)
        while True:
            if unseen := unseen_indexes(connection, (arguments,)):
                await self._whole(connection, unseen, deadline)
            looks = look_beside(connection, (arguments,))
            answer = await self._answer(connection, arguments, deadline)
            if not looks or not made_again(connection, looks):
                return answer

    async def _answer(self, connection: WireConnection, arguments: tuple[Argument, ...], deadline: float) -> Any:
        future = connection.send(*arguments)
        timer = connection.loop.call_at(deadline, self._expire, connection, future)
        try:
            return await future
        except ResponseError:
            look_again(connection, arguments)
            raise
        finally:
            if not future.cancelled():  # Whoever has left does not know whether the answer comes in time.
                timer.cancel()

    async def _whole(self, connection: WireConnection, names: list[str], deadline: float) -> None:
        await wait_until_whole(connection, names, deadline, lambda command: self._answer(connection, command, deadline))

    async def execute_all(self, commands: Sequence[tuple[Argument, ...]], deadline: float) -> list[Any]:
        """The answers to some commands that are sent together, refusals among them; as `execute`."""
        connection = self._pick() or await self._connect(deadline)
        while True:
            if unseen := unseen_indexes(connection, commands):
                await self._whole(connection, unseen, deadline)
            looks = look_beside(connection, commands)
            answers = await self._answers(connection, commands, deadline)
            if not looks or not made_again(connection, looks):
                return answers

    async def _answers(
        self, connection: WireConnection, commands: Sequence[tuple[Argument, ...]], deadline: float
    ) -> list[Any]:
        futures = connection.send_all(commands)
        timer = connection.loop.call_at(deadline, self._expire, connection, futures[-1])
        try:
            await asyncio.wait(futures[-1:])  # Answers come in order: with the last, all have come.
        finally:
            for future in futures:
                if not future.cancel():
                    retrieve(future)
            if not futures[-1].cancelled():
                timer.cancel()
        timed_out = futures[-1].exception()
        if isinstance(timed_out, TimeoutError):
            raise timed_out
        answers: list[Any] = []
        for command, future in zip(commands, futures, strict=True):
            error = future.exception()
            if isinstance(error, RedisConnectionError):
                raise error
            if isinstance(error, ResponseError):
                look_again(connection, command)
            answers.append(future.result() if error is None else error)
        return answers

    async def close(self) -> None:
        """Close all connections; what waits fails."""
        self._closed = True
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
        for connection in [*self._open, *self._retired]:
            await connection.close()

    def _pick(self) -> WireConnection | None:
        """The open connection with the fewest commands in flight; None where one must be opened first.

        Where all are busy and there may be more, another one is opened meanwhile.
        """
        best: WireConnection | None = None
        least = 0
        for connection in self._open:
            pending = len(connection._waiting)
            if not pending and not connection._closed:
                return connection
            if (best is None or pending < least) and not connection._closed:
                best, least = connection, pending
        room = self._opening is None and len(self._open) < self._size
        if best is not None and room and best.loop.time() >= self._grow_after:
            self._begin()
        return best

    async def _connect(self, deadline: float) -> WireConnection:
        """An open connection, once there is one; callers that wait at the same time wait for the same one."""
        opening = self._opening or self._begin()
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise RedisConnectionError("the connections to the server were closed") from None
            raise

    def _expire(self, connection: WireConnection, future: asyncio.Future[Any]) -> None:
        """The deadline of a command has passed, whether or not its caller still waits for the answer.

        Nothing more is sent over its connection, which ends with the last who waits for it.
        """
        if connection.expire(future):
            self._retire(connection)

    def retire_all(self) -> None:
        """Send nothing more over the connections that are open; whoever waits for an answer on one still gets it."""
        for connection in list(self._open):
            self._retire(connection)

    def _retire(self, connection: WireConnection) -> None:
        if connection in self._open:
            self._open.remove(connection)
            self._retired.append(connection)
            for waiting in connection._waiting:
                waiting.add_done_callback(lambda _: connection.abort_if_idle())
        connection.abort_if_idle()

    def _begin(self) -> asyncio.Task[WireConnection]:
        if self._closed:
            raise RedisConnectionError("the connections to the server are closed")
        self._opening = asyncio.get_running_loop().create_task(self._add())
        # Nobody may wait for it: whoever finds no connection tries again, and meets the error.
        self._opening.add_done_callback(retrieve)
        return self._opening

    async def _add(self) -> WireConnection:
        try:
            connection = await WireConnection.open(self._url, timeout_s=self._timeout_s, on_close=self._forget)
            self._open.append(connection)
            self.opened += 1
            return connection
        except Exception:
            self._grow_after = asyncio.get_running_loop().time() + GROWTH_PAUSE_S
            raise
        finally:
            self._opening = None

    def _forget(self, error: Exception | None) -> None:  # noqa: ARG002 - those who waited have been told.
        self._open = [connection for connection in self._open if not connection.closed]
        self._retired = [connection for connection in self._retired if not connection.closed]
