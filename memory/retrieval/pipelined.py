"""A link whose callers share a few connections: what they ask in one turn of the event loop leaves in one write.

A pool lends a connection to one caller at a time, so over a link with latency it answers at most one question a
connection and round trip. Here questions follow each other without waiting: as many are on their way as there are
callers, up to a bound, and answers come back as the server gives them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from memory.errors import StoreUnavailableError
from memory.retrieval.admission import WaitingLine
from memory.retrieval.turn import AbandonedError, Turn, joined
from memory.store.link import FIRST_RETRY_DELAY_S, LONGEST_RETRY_DELAY_S, Command, RedisLink, Result
from memory.store.readiness import long_unseen_indexes, look_again, unseen_indexes, wait_until_whole
from memory.store.refusals import no_answer, refused_connection
from memory.store.scripts import with_scripts
from memory.store.wire import WireConnection, retrieve

MAX_IN_FLIGHT = 512
"""Commands of one link that wait for answers: with 1.3 kB each they fill no buffer, and the last of them is answered
within 50 ms by a server that does 11,000 a second. Further callers wait in line, first come, first served."""


class PipelinedLink(RedisLink):
    """A link over a few shared connections instead of a pool; bound to the event loop that opened it.

    Equal reading commands of one turn of the event loop are sent once. A command that has left is never joined: its
    answer may be older than the question, and a caller could miss what it has just written.

    Parameters
    ----------
    url
        ``redis://``, ``rediss://`` or ``unix://``.
    connections
        Connections; a command goes to the one with the fewest answers outstanding.
    max_in_flight
        Commands that may wait for answers, all connections together; further callers wait in line.
    timeout_s
        Deadline of one operation, waiting and retries included, in seconds.
    greeting
        Commands that each new connection begins with (client tracking, for example).
    on_push
        Called with each push message.
    on_lost
        Called with each connection that broke, and why. Without it the link connects again when it is next used;
        with it the link stays as it is, and fails callers once no connection is left.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int = 1,
        max_in_flight: int = MAX_IN_FLIGHT,
        timeout_s: float = 5.0,
        greeting: Sequence[Command] = (),
        on_push: Callable[[list[Any]], None] | None = None,
        on_lost: Callable[[Exception], None] | None = None,
    ) -> None:
        super().__init__(url, max_connections=connections, timeout_s=timeout_s)
        self._size = connections
        self._greeting = tuple(greeting)
        self._on_push = on_push
        self._on_lost = on_lost
        self._shared_wires: list[WireConnection] = []
        self._retired: list[WireConnection] = []
        self._opening: asyncio.Task[None] | None = None
        self._open_again_at: float | None = None
        self._turn = Turn()
        self._line = WaitingLine(max_in_flight, lambda: self.in_flight, self._watch)
        self._fenced: set[WireConnection] = set()
        self._running: asyncio.AbstractEventLoop | None = None
        self.sent = 0
        """Commands that were sent."""
        self.shared = 0
        """Commands that were not sent, because an equal one left in the same turn."""

    # --- life ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. The server is not judged: it is one that another link has judged, or its owner judges it.

        Raises
        ------
        StoreUnavailableError
            Nothing answers within the deadline.
        ServerUnsuitableError
            The server refuses the user or password.
        """
        self._running = asyncio.get_running_loop()
        self._line.closed = False
        try:
            await self._try(self._connect_by)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all connections. Callers that still wait get an error; nothing is left behind."""
        self._running = None
        self._line.closed = True
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
        wires, self._shared_wires, self._retired = [*self._shared_wires, *self._retired], [], []
        for wire in wires:
            await wire.close()
        self._line.move()

    @property
    def in_flight(self) -> int:
        """Commands whose answers have not come."""
        return sum([wire.pending for wire in (*self._shared_wires, *self._retired)])

    @property
    def waiting(self) -> int:
        """Commands in line, because too many are in flight."""
        return len(self._line)

    @property
    def connected(self) -> int:
        """Connections that are open."""
        return sum(not wire.closed for wire in self._shared_wires)

    # --- commands --------------------------------------------------------------------------------------------

    async def execute(self, *arguments: Any, retry: bool = True, timeout_s: float | None = None) -> Any:
        """As `RedisLink.execute`; not for commands that block on the server or change the connection."""
        return await self._try(partial(self._ask, arguments), retry=retry, timeout_s=timeout_s)

    async def pipeline(
        self, commands: Sequence[Command], *, transaction: bool = False, timeout_s: float | None = None
    ) -> list[Any]:
        """As `RedisLink.pipeline`."""
        if not commands:
            return []
        if transaction:
            commands = [("MULTI",), *commands, ("EXEC",)]

        async def answered(deadline: float) -> list[Any]:
            return await with_scripts(partial(self._ask_all, deadline=deadline), commands, self._scripts)

        answers = await self._try(answered, timeout_s=timeout_s)
        for asked, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Exception):
                raise self._translate(answer, asked)
        return list(answers[-1]) if transaction else answers

    async def transaction(self, *_: Any, **__: Any) -> Any:
        """Not here: a transaction that reads needs a connection of its own."""
        raise TypeError("a pipelined link has no transactions that read: use the memory's own link")

    async def _try(
        self, operation: Callable[[float], Awaitable[Result]], *, retry: bool = True, timeout_s: float | None = None
    ) -> Result:
        """Run an operation that ends by a deadline, and again where the connection failed; its errors, translated."""
        loop = asyncio.get_running_loop()
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = loop.time() + limit_s
        delay_s = FIRST_RETRY_DELAY_S
        while True:
            try:
                return await operation(deadline)
            except TimeoutError as error:
                raise no_answer(self.address, limit_s) from error
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                if (refused := refused_connection(error, self.address)) is not None:
                    raise refused from error
                self._check_open()
                if not retry or self._on_lost is not None or loop.time() + delay_s >= deadline:
                    raise StoreUnavailableError(
                        f"Redis at {self.address} cannot be reached ({type(error).__name__}).",
                        remedy="Check that it runs and that its URL names it.",
                    ) from error
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, LONGEST_RETRY_DELAY_S)
            except RedisError as error:
                translated = self._translate(error)
                if translated is error:
                    raise
                raise translated from error

    # --- sending ---------------------------------------------------------------------------------------------

    async def _ask(self, arguments: Command, deadline: float) -> Any:
        while True:
            wire = await self._whole_place([arguments], deadline)
            equal = self._turn.equal(arguments)
            if equal is None:
                break
            self.shared += 1
            try:
                async with asyncio.timeout_at(deadline):
                    return await joined(equal)
            except AbandonedError:
                if wire.loop.time() >= deadline:
                    raise TimeoutError from None
        self._turn.begin()
        future = wire.send(*arguments)
        self.sent += 1
        self._turn.leaves(arguments, future)
        try:
            return await self._timed(wire, future, deadline)
        except ResponseError:
            look_again(wire, arguments)
            raise
        finally:
            if self._line:
                self._line.move()

    async def _ask_all(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        wire = await self._whole_place(commands, deadline)
        self._turn.begin()
        futures = wire.send_all(commands)
        self.sent += len(commands)
        timer = wire.loop.call_at(deadline, self._expire, wire, futures[-1])
        try:
            await asyncio.wait(futures[-1:])  # Answers come in order: with the last, all have come.
        finally:
            for future in futures:
                if not future.cancel():
                    retrieve(future)
            if not futures[-1].cancelled():
                timer.cancel()
            self._line.move()
        errors = [future.exception() for future in futures]
        for command, error in zip(commands, errors, strict=True):
            if isinstance(error, ResponseError):
                look_again(wire, command)
        for error in (errors[-1], errors[0]):
            if isinstance(error, (TimeoutError, RedisConnectionError)):
                raise error
        return [future.result() if error is None else error for future, error in zip(futures, errors, strict=True)]

    async def _whole_place(self, commands: Sequence[Command], deadline: float) -> WireConnection:
        """As `_place`, over a connection on which the indexes that are searched were seen whole."""
        asked: WireConnection | None = None
        while True:
            wire = await self._place(deadline)
            unseen = [*unseen_indexes(wire, commands), *long_unseen_indexes(wire, commands)]
            if not unseen or wire is asked:
                return wire
            await wait_until_whole(wire, unseen, deadline, partial(self._on, wire, deadline))
            asked = wire

    def _on(self, wire: WireConnection, deadline: float, command: Command) -> Awaitable[Any]:
        """The answer to a command over one connection."""
        return self._timed(wire, wire.send(*command), deadline)

    async def _timed(self, wire: WireConnection, future: asyncio.Future[Any], deadline: float) -> Any:
        """The answer to what was sent; its connection is left where none comes by the deadline."""
        timer = wire.loop.call_at(deadline, self._expire, wire, future)
        try:
            return await future
        finally:
            if not future.cancelled():  # Whoever has left does not know whether the answer comes in time.
                timer.cancel()

    async def _place(self, deadline: float) -> WireConnection:
        """The connection to send on, once fewer commands are in flight than may be."""
        if self._line.full:
            async with asyncio.timeout_at(deadline):
                await self._line.admission()
        wire = self._pick()
        if wire is None:
            async with asyncio.timeout_at(deadline):
                wire = await self._connection()
        return wire

    def _expire(self, wire: WireConnection, future: asyncio.Future[Any]) -> None:
        """The deadline of a command has passed, whether or not its caller still waits for the answer.

        Nothing more is sent over its connection, which ends with the last who waits for it.
        """
        if not wire.expire(future):
            return
        if wire in self._shared_wires:
            self._shared_wires.remove(wire)
            self._retired.append(wire)
            self._lost(TimeoutError("no answer before the deadline"))
        wire.abort_if_idle()

    # --- in line ---------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """See to it that those in line move on, even if all whose answers are outstanding have been cancelled."""
        for wire in self._shared_wires:
            if wire in self._fenced or wire.closed or not wire.pending:
                continue
            self._fenced.add(wire)
            self._turn.begin()
            wire.send("PING").add_done_callback(lambda answered, wire=wire: self._passed(wire, answered))  # type: ignore[misc]

    def _passed(self, wire: WireConnection, answered: asyncio.Future[Any]) -> None:
        self._fenced.discard(wire)
        if not answered.cancelled():
            answered.exception()  # The connection is gone; those who sent on it learn of it themselves.
        self._line.move()

    # --- connections -----------------------------------------------------------------------------------------

    def _pick(self) -> WireConnection | None:
        """The open connection with the fewest answers outstanding; None where there is none."""
        loop = self._check_open()
        if self._open_again_at is not None and loop.time() >= self._open_again_at:
            self._begin_opening()
        best = None
        for wire in self._shared_wires:
            if not wire.closed and (best is None or wire.pending < best.pending):
                best = wire
        return best

    def _check_open(self) -> asyncio.AbstractEventLoop:
        if self._running is None:
            raise StoreUnavailableError("this link is closed.", remedy="Ask inside the `async with` that opens it.")
        if asyncio.get_running_loop() is not self._running:
            raise StoreUnavailableError(
                "this link belongs to another event loop.",
                remedy="Open it in the event loop (asyncio.run) that uses it.",
            )
        return self._running

    async def _connection(self) -> WireConnection:
        """As `_pick`, once a connection is open."""
        if self._on_lost is None:
            await self._connected()
        wire = self._pick()
        if wire is None:
            raise RedisConnectionError("the connection to the server was lost")
        return wire

    async def _connect_by(self, deadline: float) -> None:
        async with asyncio.timeout_at(deadline):
            await self._connected()

    async def _connected(self) -> None:
        """Open the connections that are missing; concurrent callers wait for the same ones."""
        opening = self._begin_opening()
        await asyncio.wait([opening])
        if opening.cancelled():
            self._check_open()  # Says that the link was closed meanwhile.
        opening.result()

    def _begin_opening(self) -> asyncio.Task[None]:
        if self._opening is None or self._opening.done():
            self._open_again_at = None
            self._opening = asyncio.get_running_loop().create_task(self._open_missing())
            self._opening.add_done_callback(self._opened)
        return self._opening

    async def _open_missing(self) -> None:
        self._shared_wires = [wire for wire in self._shared_wires if not wire.closed]
        while len(self._shared_wires) < self._size:
            wire = await WireConnection.open(
                self._url, timeout_s=self.timeout_s, on_push=self._on_push, on_close=self._lost
            )
            try:
                for command in self._greeting:
                    await wire.execute(*command)
            except BaseException:
                wire.abort()
                raise
            self._shared_wires.append(wire)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if not opening.cancelled() and opening.exception() is not None:  # Those who wait for it have it too.
            self._open_again_at = opening.get_loop().time() + LONGEST_RETRY_DELAY_S

    def _lost(self, error: Exception | None) -> None:
        self._retired = [wire for wire in self._retired if not wire.closed]
        if self._running is not None:
            if self._on_lost is None:
                self._open_again_at = self._running.time()
            elif error is not None:
                self._on_lost(error)
        self._line.move()
