"""The line to Redis: a pool that waits, retries with backoff, deadlines that raise, and errors with a remedy.

Everything in the store talks to Redis through a `RedisLink`. What is sent must bear being sent twice, because a
command whose answer got lost is sent again; what does not bear it says ``retry=False``.

Plain commands share a few connections (`memory.store.wire`), which is quicker than a connection each: 0.09 ms instead
of 0.14 ms for a PING. Commands that block, that change their connection, or that are a transaction have a connection
of redis-py's pool to themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError, WatchError

from memory.embedded.checks import judge_redis
from memory.errors import AccessDeniedError, ServerUnsuitableError, StoreUnavailableError
from memory.store.answers import redis_facts, sections
from memory.store.cluster import check_cluster
from memory.store.durability import DISK_TIMEOUT_S, wait_for_disk
from memory.store.refusals import LOST, is_busy, no_answer, refused_connection, takes_no_writes, translated, unreachable
from memory.store.scripts import Command, Script, with_scripts
from memory.store.servers import URL_FORMS, address_of, connection_pool, database_of, user_of
from memory.store.wire_pool import SHAREABLE, WirePool

__all__ = [
    "FIRST_RETRY_DELAY_S",
    "LONGEST_RETRY_DELAY_S",
    "TRANSACTION_ATTEMPTS",
    "Command",
    "Read",
    "RedisLink",
    "Result",
    "Script",
]

FIRST_RETRY_DELAY_S = 0.02
LONGEST_RETRY_DELAY_S = 0.5
TRANSACTION_ATTEMPTS = 20
"""How often an optimistic transaction is tried when others write to what it watches."""
SHARED_CONNECTIONS = 4
"""Connections for plain commands; more brought nothing, from 1 to 50 callers at a time."""

Read = Callable[..., Awaitable[Any]]
"""Sends one reading command of a transaction and returns its answer."""
Result = TypeVar("Result")


class RedisLink:
    """A client of one Redis server, bound to the event loop that opened it.

    Parameters
    ----------
    url
        ``redis://``, ``rediss://``, ``unix://`` or, of Sentinel, ``redis+sentinel://``.
    max_connections
        Size of the pool of connections for blocking commands and transactions; further callers wait for one, up to
        the deadline.
    timeout_s
        Deadline of one operation, waiting and retries included, in seconds.
    own_key
        Key that `on_disk` may write and remove again.
    """

    def __init__(
        self, url: str, *, max_connections: int = 16, timeout_s: float = 5.0, own_key: str = "coinswarm:on_disk"
    ) -> None:
        self._url = url
        self._max_connections = max_connections
        self.timeout_s = timeout_s
        self.own_key = own_key
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Redis | None = None
        self._wires: WirePool | None = None
        self._scripts: dict[str, Script] = {}

    # --- life ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and check that the server can be used.

        Raises
        ------
        StoreUnavailableError
            Nothing answers within the deadline.
        ServerUnsuitableError
            The server has no search module, too old a one, or is a cluster whose search is not whole; or it refuses
            the user, the password or the database of the URL.
        """
        try:
            pool = connection_pool(self._url, size=self._max_connections, connect_timeout_s=self.timeout_s)
        except ValueError:  # What it says may hold a part of the password.
            raise ServerUnsuitableError(
                "the Redis URL cannot be read.",
                remedy=f"Write it as {URL_FORMS}, and what is special in a password as %40 for @.",
            ) from None
        self._client = Redis.from_pool(pool)
        # Answers come as the server sends them, whatever the client's version makes of them.
        self._client.response_callbacks.clear()
        self._wires = WirePool(self._url, size=min(SHARED_CONNECTIONS, self._max_connections), timeout_s=self.timeout_s)
        self._loop = asyncio.get_running_loop()
        try:
            await self._check_server()
        except ResponseError as error:
            await self.close()
            raise ServerUnsuitableError(
                f"the server at {self.address} does not take what a connection begins with: {error}.",
                remedy="Use Redis with search, and no database in the URL: search indexes database 0 only.",
            ) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all connections. Callers that still wait get an error."""
        client, self._client = self._client, None
        wires, self._wires = self._wires, None
        if wires is not None:
            await wires.close()
        if client is not None:
            await client.aclose()

    @property
    def address(self) -> str:
        """Where the server is, without user and password."""
        return address_of(self._url)

    async def _check_server(self) -> None:
        try:
            info = await self.execute("INFO", "server", "cluster", "memory", "persistence")
            modules = await self.execute("MODULE", "LIST")
        except AccessDeniedError:
            return  # A restricted user: whoever set it up has chosen the server.
        facts = redis_facts(info, modules, database_of(self._lines()[0].connection_pool))
        judge_redis(facts, self.address)
        if facts.cluster:
            await check_cluster(self)

    @property
    def connections_opened(self) -> int:
        """Shared connections opened so far: with each, the URL may have led to another server than before."""
        return 0 if self._wires is None else self._wires.opened

    async def server_life(self) -> str:
        """Names the life of the server: another one than before means that it was restarted, or that another took over.

        Empty where the user may not ask.
        """
        try:
            info = await self.execute("INFO", "server")
        except AccessDeniedError:
            return ""
        return sections(info)["run_id"]

    # --- commands --------------------------------------------------------------------------------------------

    async def execute(self, *arguments: Any, retry: bool = True, timeout_s: float | None = None) -> Any:
        """Run one command and return the server's answer (RESP3, undecoded).

        Raises
        ------
        StoreUnavailableError
            No answer within the deadline, or the server cannot take writes.
        AccessDeniedError
            The user may not do this.
        redis.exceptions.ResponseError
            The server refused the command for another reason.
        """
        client, wires = self._lines()
        if arguments and arguments[0] in SHAREABLE:
            deadline = asyncio.get_running_loop().time() + (self.timeout_s if timeout_s is None else timeout_s)
            try:
                return await wires.execute(arguments, deadline)
            except (RedisError, OSError) as error:  # OSError: TimeoutError is one of them.
                again = partial(wires.execute, arguments)
                return await self._attempt(
                    again, retry=retry, timeout_s=timeout_s, deadline=deadline, met=error, asked=arguments
                )
        command: Read = client.execute_command

        async def run(deadline: float) -> Any:
            async with asyncio.timeout_at(deadline):
                return await command(*arguments)

        return await self._attempt(run, retry=retry, timeout_s=timeout_s, asked=arguments)

    async def pipeline(
        self, commands: Sequence[Command], *, transaction: bool = False, timeout_s: float | None = None
    ) -> list[Any]:
        """Run commands in one round trip, in one step where `transaction` is set; answers in order.

        Scripts among them are loaded where the server does not know them (any more); the commands then run again. The
        first refused command raises.
        """
        if not commands:
            return []
        client, wires = self._lines()

        async def on_its_own(sent: Sequence[Command], deadline: float) -> list[Any]:
            async with asyncio.timeout_at(deadline):
                pipe = client.pipeline(transaction=transaction)
                for command in sent:
                    pipe.execute_command(*command)
                return list(await pipe.execute(raise_on_error=False))

        shared = not transaction and all(command[0] in SHAREABLE for command in commands)

        async def run(sent: Sequence[Command], deadline: float) -> list[Any]:
            return await (wires.execute_all if shared else on_its_own)(sent, deadline)

        async def answered(deadline: float) -> list[Any]:
            answers = await with_scripts(partial(run, deadline=deadline), commands, self._scripts)
            for answer in answers:
                if isinstance(answer, Exception) and (is_busy(answer) or takes_no_writes(answer)):
                    raise answer  # What the server did not run, it may run when it is asked again.
            return answers

        answers = await self._attempt(answered, timeout_s=timeout_s)
        for asked, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Exception):
                raise self._translate(answer, asked)
        return answers

    def register(self, text: str) -> Script:
        """A script that this link may call; it is loaded when first needed."""
        script = Script(text)
        self._scripts[script.digest] = script
        return script

    async def transaction(
        self,
        watched: Sequence[str],
        prepare: Callable[[Read], Awaitable[tuple[list[Command], Result]]],
        *,
        timeout_s: float | None = None,
    ) -> Result:
        """Read, decide and write in one step: nobody else has written to the watched keys in between.

        `prepare` reads through the function it is given, without side effects, and returns the commands to run and
        its own result. It is called again where a watched key changed or the connection broke: the commands must
        bear being prepared again after they have run.
        """
        client, _ = self._lines()

        async def run(deadline: float) -> Result:
            async with asyncio.timeout_at(deadline):
                return await attempts()

        async def attempts() -> Result:
            for _ in range(TRANSACTION_ATTEMPTS):
                try:
                    async with client.pipeline(transaction=True) as pipe:
                        try:
                            await pipe.watch(*watched)
                            commands, result = await prepare(pipe.execute_command)
                            if commands:
                                pipe.multi()  # type: ignore[no-untyped-call]
                                for command in commands:
                                    pipe.execute_command(*command)
                                await pipe.execute()
                            return result
                        except asyncio.CancelledError:
                            # Leaving, it would ask the server to watch no more, and wait for the answer beyond any
                            # deadline. A connection that is closed watches nothing.
                            pipe.watching = False
                            if pipe.connection is not None:
                                await pipe.connection.disconnect(nowait=True)
                            raise
                except WatchError as error:
                    # A connection that breaks while it watches is called so too, and deserves a pause.
                    if isinstance(error.__context__, LOST):
                        raise error.__context__ from None
            raise StoreUnavailableError(
                f"{', '.join(watched)} changed {TRANSACTION_ATTEMPTS} times while it was being written.",
                remedy="Let the other writer finish, then try again.",
            )

        return await self._attempt(run, timeout_s=timeout_s)

    async def on_disk(self, timeout_s: float = DISK_TIMEOUT_S) -> bool:
        """Return once all that was written before is in the append-only file on the server's disk: up to a second.

        A server that is killed comes back with all of it. Whether it was killed and restarted in between is for the
        caller to see, by reading what it wrote.

        Returns
        -------
        bool
            False where the server keeps no such file, or the user may not ask for it: then nothing is promised.

        Raises
        ------
        StoreUnavailableError
            It was not written within `timeout_s` seconds, or the server cannot be reached.
        """
        return await wait_for_disk(self, timeout_s)

    # --- failures --------------------------------------------------------------------------------------------

    def _lines(self) -> tuple[Redis, WirePool]:
        """Connections of one's own, and shared ones."""
        if self._client is None or self._wires is None:
            raise self._not_open()
        if asyncio.get_running_loop() is not self._loop:
            raise StoreUnavailableError(
                "this memory belongs to another event loop.",
                remedy="Call memory.connect() in the event loop (asyncio.run) that uses it.",
            )
        return self._client, self._wires

    @staticmethod
    def _not_open() -> StoreUnavailableError:
        return StoreUnavailableError(
            "this memory is not open.", remedy="Use it inside `async with memory.connect() as mem:`."
        )

    async def _attempt(
        self,
        operation: Callable[[float], Awaitable[Result]],
        *,
        retry: bool = True,
        timeout_s: float | None = None,
        deadline: float | None = None,
        met: Exception | None = None,
        asked: Sequence[Any] = (),
    ) -> Result:
        """Run an operation that ends by a deadline, and again where the connection failed; its errors, translated.

        `met` is what the first attempt, made before, ended in; its deadline stands. `asked` is the command, for errors.
        """
        loop = asyncio.get_running_loop()
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = loop.time() + limit_s if deadline is None else deadline
        delay_s = FIRST_RETRY_DELAY_S
        renewed = False
        while True:
            try:
                if met is not None:
                    error, met = met, None
                    raise error
                return await operation(deadline)
            except TimeoutError as error:
                raise no_answer(self.address, limit_s) from error
            except LOST as error:
                if (refused := refused_connection(error, self.address)) is not None:
                    raise refused from error
                if self._client is None:
                    raise self._not_open() from error
                if not retry or loop.time() + delay_s >= deadline:
                    raise unreachable(error, self.address) from error
            except RedisError as error:
                # Neither was run: it may be sent again whatever it is.
                if takes_no_writes(error) and not renewed:
                    renewed = True
                    await self._renew()
                elif not is_busy(error) or loop.time() + delay_s >= deadline:
                    translated_error = self._translate(error, asked)
                    if translated_error is error:
                        raise
                    raise translated_error from error
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LONGEST_RETRY_DELAY_S)

    async def _renew(self) -> None:
        """Leave the connections that there are: their server is no primary any more, and the URL may lead to another.

        Whoever waits for an answer on one still gets it.
        """
        client, wires = self._lines()
        wires.retire_all()
        await client.connection_pool.disconnect(inuse_connections=False)

    def _translate(self, error: Exception, asked: Sequence[Any] = ()) -> Exception:
        """The error that a caller meets for one of the server's, to a command whose words are given."""
        return translated(error, self.address, user=user_of(self._url), command=str(asked[0]) if asked else "")
