"""One connection to Redis that any number of callers share: RESP3 over hiredis, on the running event loop.

Commands leave in the order in which they are sent, and the server answers in that order, so an answer belongs to the
oldest command that still waits. Of the commands of one turn of the event loop the first leaves at once, so that the
server can begin, and the others in a single write: concurrent callers share round trips with no timer in the way.
Redis's own documentation calls this implicit pipelining.

What must not be sent here: commands that block on the server (BLPOP, XREADGROUP BLOCK, WAITAOF), since all that follows
waits behind them; commands that change what the connection is (SUBSCRIBE, MONITOR, WATCH), since all callers share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio import BlockingConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from memory.store.sentinel import server_url

READ_BUFFER_BYTES = 1 << 18
"""Taken from the socket at once; an answer of ten experiences with their vectors is about 20 kB."""
KEPT_BUFFER_BYTES = 1 << 20
"""hiredis frees its buffer above this; at its default of 16 kB it would do so after nearly every answer."""

_PLAIN = frozenset((str, bytes, int, float))
_INCOMPLETE = object()

Argument = str | bytes | int | float


class WireConnection(asyncio.BufferedProtocol):
    """An open connection; made by `open`, and bound to the event loop that opened it.

    Answers are as the server gives them: bytes, int, float, bool, None, list, set, and dict for maps; errors of the
    server inside an answer (of EXEC, for example) are exceptions in its place.
    """

    def __init__(
        self,
        on_push: Callable[[list[Any]], None] | None = None,
        on_close: Callable[[Exception | None], None] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._on_push = on_push
        self._on_close = on_close
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE
        )
        self._reader.setmaxbuf(KEPT_BUFFER_BYTES)
        self._buffer = bytearray(READ_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._outgoing: list[bytes] = []
        self._flush_due = False
        self._writable: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = self.loop.create_future()
        self._closed = False
        self._failure: Exception | None = None
        self.whole: dict[Argument, float] = {}
        """Indexes that were seen completely built over this connection, and when; see `memory.store.readiness`."""

    # --- life ------------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        timeout_s: float,
        on_push: Callable[[list[Any]], None] | None = None,
        on_close: Callable[[Exception | None], None] | None = None,
    ) -> WireConnection:
        """Connect, greet and authenticate.

        Parameters
        ----------
        url
            ``redis://``, ``rediss://`` or ``unix://``, with the options that redis-py reads from it: user, password,
            db, client_name, ssl_* (certificates), socket_keepalive. Or one of Sentinel (`memory.store.sentinel`).
        timeout_s
            Deadline in seconds.
        on_push
            Called with each push message (an invalidation, for example) in order with the answers; it must not block.
        on_close
            Called once when the connection is gone; with None where `close` was called.

        Raises
        ------
        redis.exceptions.ConnectionError
            Nothing listens there, or it broke off; AuthenticationError, a kind of it, where user or password are wrong.
        redis.exceptions.TimeoutError
            No greeting within the deadline.
        ValueError
            The URL cannot be read.
        """
        connection: WireConnection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                # redis-py reads URLs and their many TLS options; the connection object is never connected.
                described = BlockingConnectionPool.from_url(  # type: ignore[no-untyped-call]
                    await server_url(url, timeout_s), protocol=3
                ).make_connection()
                connection = await cls._connect(described, on_push, on_close)
                await connection._greet(described)
        except BaseException as error:
            if connection is not None:
                connection.abort()
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError(f"no greeting from the server within {timeout_s:g} s") from error
            if isinstance(error, OSError) and not isinstance(error, RedisConnectionError):
                raise RedisConnectionError(f"connecting failed: {error}") from error
            raise
        return connection

    @classmethod
    async def _connect(
        cls,
        described: Any,
        on_push: Callable[[list[Any]], None] | None,
        on_close: Callable[[Exception | None], None] | None,
    ) -> WireConnection:
        loop = asyncio.get_running_loop()
        connection = cls(on_push, on_close)
        if isinstance(described, UnixDomainSocketConnection):
            await loop.create_unix_connection(lambda: connection, described.path)
            return connection
        context: ssl.SSLContext | None = described.ssl_context.get() if isinstance(described, SSLConnection) else None
        transport, _ = await loop.create_connection(lambda: connection, described.host, described.port, ssl=context)
        if described.socket_keepalive:
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (described.socket_keepalive_options or {}).items():
                raw.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection

    async def _greet(self, described: Any) -> None:
        credentials: list[str] = []
        if described.username or described.password:
            credentials = ["AUTH", described.username or "default", described.password or ""]
        greeting = self.send("HELLO", 3, *credentials)
        naming = self.send("CLIENT", "SETNAME", described.client_name) if described.client_name else None
        selecting = self.send("SELECT", described.db) if described.db else None
        # The greeting's error is the one that says what is wrong; the others fail with it.
        for answer in (naming, selecting):
            if answer is not None:
                answer.add_done_callback(retrieve)
        await greeting
        if naming is not None:
            # A restricted user may not name its connections; nothing depends on the name.
            with contextlib.suppress(ResponseError):
                await naming
        if selecting is not None:
            await selecting

    @property
    def closed(self) -> bool:
        """Whether the connection is gone, or going."""
        return self._closed

    @property
    def pending(self) -> int:
        """Commands whose answers have not come."""
        return len(self._waiting)

    def expire(self, future: asyncio.Future[Any]) -> bool:
        """Let a command fail whose deadline has passed; whether nothing more may be sent over this connection.

        It may be dead without having said so. False where the caller has left and the answer has come after all.
        """
        if not future.done():
            future.set_exception(TimeoutError())
            return True
        return future in self._waiting

    def abort_if_idle(self) -> None:
        """Break off where nobody waits for an answer any more; who has left does not count."""
        if all(future.done() for future in self._waiting):
            self.abort()

    def abort(self, error: Exception | None = None) -> None:
        """Break off now; what waits fails. `error` is passed to `on_close`."""
        self._closed = True
        self._failure = self._failure or error
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Break off, and wait until the connection is gone; what waits fails."""
        self.abort()
        if self._transport is not None:
            await asyncio.shield(self._lost)

    # --- sending ---------------------------------------------------------------------------------------------

    def send(self, *arguments: Argument) -> asyncio.Future[Any]:
        """Send a command; its answer, or the server's error, comes in the future.

        Nothing waits here: the first command of a turn of the event loop leaves at once, the others together at its
        end, or, where the server does not keep up, once it does. Cancelling the future drops its answer, and nothing
        else. About 5 microseconds, and the system call.

        Raises
        ------
        redis.exceptions.ConnectionError
            The connection is gone.
        redis.exceptions.DataError
            An argument is none of str, bytes, int and float.
        """
        if self._closed:
            raise RedisConnectionError("the connection to the server is closed")
        packed = pack_command(arguments)
        future = self.loop.create_future()
        self._waiting.append(future)
        self._leave(packed)
        return future

    def send_all(self, commands: Sequence[tuple[Argument, ...]]) -> list[asyncio.Future[Any]]:
        """Send commands one directly after the other; as `send`. Nothing is sent where one of them cannot be."""
        if self._closed:
            raise RedisConnectionError("the connection to the server is closed")
        packed = b"".join([pack_command(command) for command in commands])
        futures = [self.loop.create_future() for _ in commands]
        self._waiting += futures
        self._leave(packed)
        return futures

    async def execute(self, *arguments: Argument) -> Any:
        """Send a command and wait for its answer; first waits where the server does not keep up."""
        while self._writable is not None:
            await asyncio.shield(self._writable)
        return await self.send(*arguments)

    def _leave(self, packed: bytes) -> None:
        """Write now what is the first of its turn, so that the server can begin; what follows leaves together."""
        if self._flush_due or self._writable is not None or self._transport is None:
            self._outgoing.append(packed)
            return
        self._flush_due = True
        self.loop.call_soon(self._flush)
        self._transport.write(packed)

    def _flush(self) -> None:
        self._flush_due = False
        if self._writable is not None or self._closed or not self._outgoing or self._transport is None:
            return  # `resume_writing` flushes what has gathered.
        packed = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
        self._outgoing.clear()
        self._transport.write(packed)

    # --- asyncio's side --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol: whatever waits fails."""
        asked = self._closed and self._failure is None and exc is None
        self._closed = True
        cause = self._failure or exc
        for future in self._waiting:
            if not future.done():
                error = RedisConnectionError(f"the connection to the server was lost: {cause or 'closed'}")
                error.__cause__ = cause
                future.set_exception(error)
        self._waiting.clear()
        self._outgoing.clear()
        self.resume_writing()
        if not self._lost.done():
            self._lost.set_result(None)
        if self._on_close is not None:
            self._on_close(None if asked else cause or RedisConnectionError("the server closed the connection"))

    def pause_writing(self) -> None:
        """Part of asyncio's protocol: the server does not keep up."""
        if self._writable is None:
            self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """Part of asyncio's protocol: the server keeps up again."""
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set_result(None)
            self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Part of asyncio's protocol."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio's protocol: bytes have come."""
        reader, waiting = self._reader, self._waiting
        reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type] # Any buffer will do.
        try:
            while (answer := reader.gets()) is not _INCOMPLETE:
                if isinstance(answer, hiredis.PushNotification):
                    if self._on_push is not None:
                        self._on_push(answer)
                    continue
                if not waiting:
                    raise InvalidResponse("an answer came that no command waits for")
                future = waiting.popleft()
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        except InvalidResponse as error:
            self.abort(error)

    def eof_received(self) -> bool:
        """Part of asyncio's protocol: the server is done; the connection closes."""
        return False


def pack_command(arguments: tuple[Argument, ...]) -> bytes:
    """A command as the server reads it (RESP), about 4 microseconds; DataError where an argument cannot be sent."""
    if not arguments:
        raise DataError("there is no command: name one.")
    if not _PLAIN.issuperset(map(type, arguments)):
        arguments = tuple(map(_plain, arguments))
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type] # Annotated as a tuple of one.
    return packed


def _plain(argument: Any) -> Argument:
    """The argument as one of the four types, where it is of a kind of them (an enum of strings, a NumPy float64)."""
    if isinstance(argument, str):
        return str.__str__(argument)
    if isinstance(argument, float):
        return float(argument)
    if isinstance(argument, bytes):
        return bytes(argument)
    if isinstance(argument, int) and not isinstance(argument, bool):
        return int(argument)
    raise DataError(
        f"{argument!r:.80} is {type(argument).__name__} and cannot be sent: convert it to str, bytes, int or float."
    )


def retrieve(future: asyncio.Future[Any]) -> None:
    """Done-callback that marks a failure as seen: whoever needs to know is told by another way."""
    if not future.cancelled():
        future.exception()
