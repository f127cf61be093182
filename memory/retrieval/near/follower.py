"""Following a server: which keys have changed, and the proof that nothing older than now is still on its way.

The server names the keys that change (CLIENT TRACKING in broadcasting mode) on a connection of its own. Before it
answers whoever wrote, it puts the name of what was written into that connection's queue: invalidations are written in
the same pass of its event loop that ran the write, before any answer of that pass leaves (`beforeSleep` in server.c,
Redis 6 to 8). So once a write was acknowledged to anybody, a PING sent on this connection comes back after the name of
what was written. That is the fence: whoever asks after a write was acknowledged waits for one PING, and has seen the
name by then.

With I/O threads (Redis 8, io-threads above 1) answers may leave before the pass ends. The fence holds there too,
because at most one PING is on its way: the server can read the next one in a later pass only, since this connection
had nothing to read when the pass of the write began.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from memory.errors import AccessDeniedError, CoinswarmError, StoreUnavailableError
from memory.store.link import RedisLink
from memory.store.wire import WireConnection

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 5.0
REFUSED_DELAY_S = 60.0
CHECK_S = 2.0
"""How often it is checked that the link still reaches the server that is followed, and what its clock says."""

_log = logging.getLogger(__name__)


class NotFollowingError(Exception):
    """There is no connection that follows the server; the wire has to answer."""


@dataclass(slots=True)
class _Ping:
    """A PING on its way, and those who wait for it beside the one who sent it."""

    sent_at: float
    waiters: list[asyncio.Future[None]]


class Follower:
    """Follows the changes under some key prefixes, on a connection that comes back by itself.

    Parameters
    ----------
    link
        The link whose server is followed; both must reach the same one.
    url
        Where that is.
    prefixes
        Key prefixes; none may begin with another.
    on_keys
        Called with the keys that changed.
    on_lost
        Called when what was known is void: the connection broke, or the server was emptied.
    on_ready
        Called when changes are followed again.
    """

    def __init__(
        self,
        link: RedisLink,
        url: str,
        prefixes: Sequence[str],
        *,
        on_keys: Callable[[list[bytes]], None],
        on_lost: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._link = link
        self._url = url
        self._prefixes = tuple(prefixes)
        self._on_keys = on_keys
        self._on_lost = on_lost
        self._on_ready = on_ready
        self._connection: WireConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._gone = asyncio.Event()
        self._joinable: _Ping | None = None
        self._in_flight: _Ping | None = None
        self._queue: list[asyncio.Future[None]] = []
        self._watched = False
        self._expired = False
        self._logged: str | None = None
        self._server = ""
        self._link_opened = 0
        self.clock_offset_ms = 0
        """The server's clock minus this machine's."""
        self.reason: str | None = "no agent has been asked about often enough"
        """Why nothing is followed; None while it is."""

    # --- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect in the background, and again whenever the connection is lost; nothing happens the second time."""
        if self._task is None and not self._ended:
            self.reason = "connecting"
            self._task = asyncio.get_running_loop().create_task(self._run(), name="near cache: follower")

    async def close(self) -> None:
        """Stop following; those who wait at the fence are told."""
        self._ended = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.reason = "closed"

    @property
    def following(self) -> bool:
        """Whether every change is seen."""
        return self.reason is None

    async def _run(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            self._gone.clear()
            connection: WireConnection | None = None
            try:
                connection, server = await self._connect()
                delay_s = FIRST_DELAY_S
                await self._follow(connection, server)
                why = "the connection was lost"
            except (ResponseError, AccessDeniedError) as error:
                # No right to it, or a server or proxy that does not know it: somebody has to change that first.
                why = f"the server refuses to be followed: {error}"
                delay_s = REFUSED_DELAY_S
            except (RedisError, CoinswarmError, OSError) as error:
                why = f"the server cannot be followed: {error}"
                self._expired = self._expired or isinstance(error, StoreUnavailableError)
            finally:
                if connection is not None:
                    connection.abort()
            self._stop(why)
            if why != self._logged:
                self._logged = why
                _log.warning("The near cache is off, the server answers all questions: %s", why)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    async def _connect(self) -> tuple[WireConnection, str]:
        """A connection that is told of changes, and the life of the server at its other end."""
        connection = await WireConnection.open(
            self._url,
            timeout_s=self._link.timeout_s,
            on_push=self._pushed,
            on_close=self._closed,
        )
        try:
            async with asyncio.timeout(self._link.timeout_s):
                prefixes = [part for prefix in self._prefixes for part in ("PREFIX", prefix)]
                await connection.execute("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
                here = await self._life(connection)
            opened = self._link.connections_opened
            there = await self._link.server_life()
            if here != there:
                raise RedisConnectionError("the link and its follower reached different servers")
            self._link_opened = opened
            await self._compare_clocks()
        except TimeoutError as error:
            connection.abort()
            raise RedisTimeoutError("the server did not answer its follower in time") from error
        except BaseException:
            connection.abort()
            raise
        return connection, here

    async def _compare_clocks(self) -> None:
        """See that the offset is one that the server's clock allows.

        Read somewhere between question and answer, that clock bounds the offset from both sides. Within these bounds
        what was found before stands: an answer that this process comes to late, busy with something else, proves
        nothing. A clock that was set does.
        """
        asked = _clock_ms()
        # Not on the connection that is followed: the fence allows for one command at a time there.
        seconds, micros = await self._link.execute("TIME")
        answered = _clock_ms()
        theirs = int(seconds) * 1000 + int(micros) // 1000
        least, most = theirs - answered, theirs - asked
        if not least <= self.clock_offset_ms <= most:
            self.clock_offset_ms = (least + most) // 2

    async def _life(self, connection: WireConnection) -> str:
        """As `RedisLink.server_life`, of the server at the other end of this connection."""
        try:
            info = await connection.execute("INFO", "server")
        except ResponseError as error:
            if isinstance(error, NoPermissionError):
                return ""
            raise
        return _run_id(info)

    async def _follow(self, connection: WireConnection, server: str) -> None:
        """Until the connection is gone, or the link reaches another server."""
        if connection.closed:
            return
        self._connection = connection
        self._server = server
        self._expired = False
        self.reason = self._logged = None
        self._on_ready()
        while not self._gone.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), CHECK_S)
            if self._gone.is_set():
                return
            await self._see_same_server(connection)
            await self._compare_clocks()

    async def _see_same_server(self, connection: WireConnection) -> None:
        """See that the link still reaches the server that is followed; otherwise the connection is broken off."""
        opened = self._link.connections_opened
        if await self._link.server_life() != self._server:
            error = RedisConnectionError("the link reaches another server than before")
            connection.abort(error)
            raise error
        self._link_opened = opened

    def _closed(self, _: Exception | None) -> None:
        self._gone.set()
        if self._connection is not None and self._connection.closed:
            self._stop("the connection was lost")

    def _stop(self, why: str) -> None:
        """Nothing is followed from here on."""
        self.reason = why
        if self._connection is not None:
            self._connection = None
            self._on_lost()
        waiting = list(self._queue)
        for ping in {id(ping): ping for ping in (self._joinable, self._in_flight) if ping is not None}.values():
            waiting += ping.waiters
        self._queue, self._joinable, self._in_flight = [], None, None
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(self._late() if self._expired else NotFollowingError(why))

    # --- changes ---------------------------------------------------------------------------------------------

    def _pushed(self, message: list[Any]) -> None:
        if message[0] != b"invalidate":
            return
        if message[1] is None:
            self._on_lost()  # FLUSHALL: every key has gone.
        else:
            self._on_keys(message[1])

    # --- the fence -------------------------------------------------------------------------------------------

    async def fence(self) -> None:
        """Wait until all that was acknowledged before this call has been named to `on_keys`.

        Costs one round trip, shared by all who call before it leaves; a call while one is on its way waits for the
        next, since the server may have passed that one before the write that this caller must see. Another one where
        the link has opened a connection since it was last seen to reach the server that is followed: over it, this
        caller may have written elsewhere.

        Raises
        ------
        NotFollowingError
            Nothing is followed at present.
        StoreUnavailableError
            No answer within the link's deadline.
        """
        connection = self._connection
        if connection is None:
            raise NotFollowingError(self.reason)
        if self._link.connections_opened != self._link_opened:
            try:
                await self._see_same_server(connection)
            except RedisError as error:
                raise NotFollowingError(str(error)) from error
            if self._connection is not connection:
                raise NotFollowingError(self.reason)
        loop = asyncio.get_running_loop()
        if self._joinable is not None:
            waiter: asyncio.Future[None] = loop.create_future()
            self._joinable.waiters.append(waiter)
            await waiter
            return
        if self._in_flight is not None:
            waiter = loop.create_future()
            self._queue.append(waiter)
            await waiter
            return
        # Whoever sends it waits for the answer itself, which saves a turn of the event loop.
        try:
            await self._ping(connection, [])
        except RedisError as error:  # A refusal as well: a server may refuse PING and yet answer questions.
            raise (self._late() if self._expired else NotFollowingError(str(error))) from error

    def _ping(self, connection: WireConnection, waiters: list[asyncio.Future[None]]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer = connection.send("PING")
        ping = _Ping(loop.time(), waiters)
        self._joinable = self._in_flight = ping
        loop.call_soon(self._left)  # Runs after the connection has written what was sent in this turn.
        answer.add_done_callback(lambda done: self._answered(connection, ping, done))
        if not self._watched:
            self._watched = True
            loop.call_later(self._link.timeout_s, self._watch)
        return answer

    def _left(self) -> None:
        self._joinable = None

    def _answered(self, connection: WireConnection, ping: _Ping, answer: asyncio.Future[Any]) -> None:
        if self._in_flight is not ping:
            if not answer.cancelled():
                answer.exception()
            return  # `_stop` has told all who waited.
        self._in_flight = self._joinable = None
        if not answer.cancelled() and answer.exception() is not None:
            error = self._late() if self._expired else NotFollowingError(str(answer.exception()))
            for waiter in (*ping.waiters, *self._queue):
                if not waiter.done():
                    waiter.set_exception(error)
            self._queue = []
            return
        if answer.cancelled():
            # Whoever sent it has left; it is still on its way. Another shows when both are through, and then comes the
            # one that counts.
            self._queue = ping.waiters + self._queue
            again: list[asyncio.Future[None]] = []
        else:
            for waiter in ping.waiters:
                if not waiter.done():
                    waiter.set_result(None)
            again, self._queue = [waiter for waiter in self._queue if not waiter.done()], []
            if not again:
                return
        if connection.closed:
            self._queue += again  # `_stop` tells them, as soon as the connection is gone.
        else:
            self._ping(connection, again).add_done_callback(_retrieve)

    def _watch(self) -> None:
        """One timer for all: breaks the connection off where a PING is older than the link's deadline."""
        self._watched = False
        ping, connection = self._in_flight, self._connection
        if ping is None or connection is None:
            return
        loop = asyncio.get_running_loop()
        remaining_s = ping.sent_at + self._link.timeout_s - loop.time()
        if remaining_s > 0:
            self._watched = True
            loop.call_later(remaining_s, self._watch)
            return
        self._expired = True
        connection.abort(RedisTimeoutError("the server did not answer its follower in time"))

    def _late(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"Redis at {self._link.address} did not answer within {self._link.timeout_s:g} s.",
            remedy="Check that it runs and is not overloaded, or raise COINSWARM_REDIS_TIMEOUT_S.",
        )


def _retrieve(answer: asyncio.Future[Any]) -> None:
    """Mark a failure as seen: those who wait have been told."""
    if not answer.cancelled():
        answer.exception()


def _run_id(info: Any) -> str:
    """The server's run id in what INFO says."""
    text = info.decode() if isinstance(info, bytes) else str(info)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)["run_id"]


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
