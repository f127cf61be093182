"""A primary and its replicas: watched, chosen from, asked elsewhere where one fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from memory.errors import CoinswarmError, StoreUnavailableError
from memory.retrieval.replica_policy import ReplicaPolicy, ServerState
from memory.retrieval.replica_servers import Primary, Replica, ReplicaUnfitError
from memory.retrieval.replication import WriteToken
from memory.retrieval.routed import Answer, Question
from memory.retrieval.service import MemoryRetrievalService

if TYPE_CHECKING:
    from memory.connection import MemoryConnection

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
"""A server that is out is looked at after the first pause, then after twice as long each time, up to the longest."""
PAUSE_SPREAD = 0.2
"""Pauses vary by this share, so that many clients do not fall on a returning server at once."""
ALIKE = 0.5
"""Servers whose times to answer differ by less than this share take turns at random."""
_UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)


SHORTEST_PAUSE_S = 0.01
"""Between two looks at a server, however much hurry there is."""


class ReplicaSet:
    """The servers of one memory.

    Parameters
    ----------
    policy
        Which of them may answer.
    rng
        Chooses between replicas, and varies pauses.
    """

    def __init__(self, policy: ReplicaPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._replicas: list[Replica] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._hurry: dict[Primary | Replica, asyncio.Event] = {}
        self._changed = asyncio.Event()
        self._at_primary: set[asyncio.Timeout] = set()
        """Deadlines of the questions that the primary was asked."""
        self._encoder_id: str | None = None
        self._primary: Primary | None = None

    @property
    def primary(self) -> Primary:
        """The primary, once this is open."""
        if self._primary is None:
            raise StoreUnavailableError(
                "this LoadBalancedMemoryRetrieval is not open.", remedy="Use it inside `async with`."
            )
        return self._primary

    # --- life ------------------------------------------------------------------------------------------------

    def check_unopened(self) -> None:
        """StoreUnavailableError where this was opened before."""
        if self._primary is not None:
            raise StoreUnavailableError(
                "this LoadBalancedMemoryRetrieval is open already.", remedy="Make another one of the same memory."
            )

    async def open(self, mem: MemoryConnection, urls: Sequence[str]) -> None:
        """Look at each server once, and keep looking."""
        self._primary = Primary(mem)
        self._encoder_id = await self.primary.service._context.encoder()
        await self.primary.ask(mem.link.timeout_s)
        policy = self._policy
        self._replicas = [
            Replica(url, self.primary, connections=policy.connections, hang_s=policy.hang_s, on_change=self._look_soon)
            for url in urls
        ]
        servers: list[Primary | Replica] = [self.primary, *self._replicas]
        self._hurry = {server: asyncio.Event() for server in servers}
        self._watchers = [asyncio.create_task(self._watch(server)) for server in self._hurry]
        deadline = asyncio.get_running_loop().time() + policy.hang_s
        while any(replica.looks == 0 for replica in self._replicas) and await self._change_before(deadline):
            pass

    async def close(self) -> None:
        """End the watch, and break off all connections to replicas."""
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.cancel()
        if watchers:
            await asyncio.wait(watchers)
        for replica in self._replicas:
            await replica.leave_out("it is not watched any more")
        for watcher in watchers:
            if not watcher.cancelled():
                watcher.result()

    # --- asking ----------------------------------------------------------------------------------------------

    async def ask(
        self,
        question: Question[Answer],
        timeout_s: float,
        locked_to: datetime | None,
        after: WriteToken | Literal["own"] | None,
    ) -> Answer:
        """The answer of a server that may give one; where it fails, that of another.

        Raises
        ------
        StoreUnavailableError
            None answered within the deadline, or the question is too much for them.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        tried: set[Primary | Replica] = set()
        failure: StoreUnavailableError | None = None
        refusals = 0
        while True:
            server = self._choose(tried, after)
            if server is None:
                if refusals and failure is not None:
                    raise failure
                for other in self._hurry:
                    self._look_soon(other)
                if not await self._change_before(deadline):
                    raise self._nobody(timeout_s) from failure
                tried.clear()
                continue
            service, link = server.service, server.link
            assert service is not None
            started = loop.time()
            server.in_flight += 1
            limit = asyncio.timeout_at(deadline)
            if isinstance(server, Primary):
                self._at_primary.add(limit)
            try:
                async with limit:
                    if self._encoder_id is None:
                        await self._settle_encoder(service)
                    answer = await question(service if locked_to is None else service.at(locked_to))
            except TimeoutError as error:
                if not limit.expired():
                    raise
                if loop.time() >= deadline:
                    raise self._nobody(timeout_s) from error
                server.failures += 1
                tried.add(server)
                continue
            except StoreUnavailableError as error:
                server.failures += 1
                tried.add(server)
                failure = error
                if isinstance(error, ReplicaUnfitError):
                    pass  # It is looked at as often as the others, and asked again once it is fit.
                elif isinstance(error.__cause__, _UNREACHABLE) or link is not server.link:
                    if isinstance(server, Replica) and link is server.link:
                        await server.leave_out(error.message)
                    self._look_soon(server)
                else:
                    # It is there, and could not do it: another may, but two are enough to know.
                    refusals += 1
                    if refusals > 1 or isinstance(server, Primary):
                        raise
                continue
            finally:
                server.in_flight -= 1
                self._at_primary.discard(limit)
            ended = loop.time()
            server.answered(ended - started, ended)
            return answer

    def _choose(
        self, tried: set[Primary | Replica], after: WriteToken | Literal["own"] | None
    ) -> Primary | Replica | None:
        need: WriteToken | None = None
        fresh = False
        if after == "own":
            known, need = self.primary.own_writes()
            fresh = not known  # Where the last write is will be known once the primary has been asked again.
            if fresh:
                self._look_soon(self.primary)
        elif after is not None:
            need = after
        now = asyncio.get_running_loop().time()
        well = [] if fresh else [one for one in self._replicas if one not in tried and self._may_answer(one, now, need)]
        if well:
            return self._better(well, now)
        to_primary = self._policy.fall_back_to_primary or fresh or need is not None
        return self.primary if to_primary and self.primary.up and self.primary not in tried else None

    def _better(self, well: list[Replica], now: float) -> Replica:
        if self._policy.choice == "least_in_flight":
            return min(well, key=lambda replica: (replica.in_flight, replica.reads))
        if len(well) > 2:
            well = self._rng.sample(well, 2)
        return min(well, key=lambda replica: replica.cost(now) * (1 + ALIKE * self._rng.random()))

    def _may_answer(self, replica: Replica, now: float, need: WriteToken | None) -> bool:
        primary, policy, state = self.primary, self._policy, replica.replication
        if replica.service is None or replica.trouble or state is None or replica.proven_at is None:
            return False
        if replica.proven_in != primary.history:
            return False
        if not primary.up:
            # What it may lack beyond this, nobody knows.
            if not policy.reads_without_primary or primary.last_asked_at is None:
                return False
            now = primary.last_asked_at
        if now - replica.proven_at > policy.max_lag_s:
            return False
        if policy.max_lag_bytes is not None and primary.offset - state.offset > policy.max_lag_bytes:
            return False
        return need is None or state.holds(need)

    async def _settle_encoder(self, service: MemoryRetrievalService) -> None:
        """Have all servers asked in the encoder that is found first: their answers must not depend on the server."""
        found = await service._context.indexes.current_encoder()
        own = self.primary.service._context
        if self._encoder_id is None:
            self._encoder_id = own.encoder_id or found
        if self._encoder_id is not None:
            for server in self._hurry:
                if server.service is not None:
                    server.service._context.encoder_id = self._encoder_id

    def _nobody(self, timeout_s: float) -> StoreUnavailableError:
        troubles = "; ".join(
            f"{state.role} {state.address}: {state.trouble}" for state in self.describe() if state.trouble
        )
        return StoreUnavailableError(
            f"no server answered within {timeout_s:g} s ({troubles or 'all are slow'}).",
            remedy="Bring one of them back, or raise timeout_s, max_lag_s or hang_s.",
        )

    # --- watching --------------------------------------------------------------------------------------------

    def note_write(self) -> None:
        """Something was written at the primary."""
        self.primary.note_write()
        self._look_soon(self.primary)

    def _look_soon(self, server: Primary | Replica) -> None:
        if server in self._hurry:
            self._hurry[server].set()

    async def _watch(self, server: Primary | Replica) -> None:
        """Look at a server again and again: often while it is well, less and less often while it is not."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while True:
            self._hurry[server].clear()
            try:
                if isinstance(server, Primary):
                    await server.ask(self._policy.hang_s)
                else:
                    await server.look(self._encoder_id, follows=self.primary.up)
            except CoinswarmError as error:  # The server remembers why.
                if isinstance(server, Replica) and isinstance(error.__cause__, _UNREACHABLE):
                    await server.leave_out(server.trouble)
                wait_s = pause_s * (1 + PAUSE_SPREAD * (2 * self._rng.random() - 1))
                shortest_s, pause_s = FIRST_PAUSE_S, min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                wait_s, shortest_s, pause_s = self._policy.check_interval_s, SHORTEST_PAUSE_S, FIRST_PAUSE_S
            server.looks += 1
            self._changed.set()
            self._changed = asyncio.Event()
            looked_at = loop.time()
            if not self.primary.up and any(self._may_answer(replica, looked_at, None) for replica in self._replicas):
                for limit in self._at_primary:  # They need not wait for it any longer.
                    if not limit.expired():
                        limit.reschedule(looked_at)
            try:
                async with asyncio.timeout(wait_s):
                    await self._hurry[server].wait()
            except TimeoutError:
                continue
            await asyncio.sleep(max(looked_at + shortest_s - loop.time(), 0.0))

    async def _change_before(self, deadline: float) -> bool:
        """Wait until a server was looked at; False where the deadline comes first."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # --- showing ---------------------------------------------------------------------------------------------

    def successor(self) -> str | None:
        """Address of a replica that took over from the primary; None where none has."""
        for replica in self._replicas:
            if replica.replication is not None and replica.replication.primary:
                return replica.address
        return None

    def describe(self) -> list[ServerState]:
        """All servers as they are now, the primary first."""
        now = asyncio.get_running_loop().time()
        primary = self.primary
        answers = sum(server.reads for server in (primary, *self._replicas)) or 1
        states = [
            ServerState(
                address=primary.mem.link.address,
                role="primary",
                serving=primary.up,
                trouble=primary.trouble,
                incomplete=(),
                lag_bytes=0 if primary.up else None,
                lag_s=0.0 if primary.up else None,
                in_flight=primary.in_flight,
                reads=primary.reads,
                failures=primary.failures,
                share=primary.reads / answers,
                latency_s=primary.latency_s,
            )
        ]
        for replica in self._replicas:
            serving = self._may_answer(replica, now, None)
            known = replica.replication is not None and replica.proven_at is not None and primary.up
            states.append(
                ServerState(
                    address=replica.address,
                    role="replica",
                    serving=serving,
                    trouble=replica.trouble or ("" if serving else "it is too far behind the primary"),
                    incomplete=replica.incomplete,
                    lag_bytes=max(primary.offset - replica.replication.offset, 0)
                    if known and replica.replication
                    else None,
                    lag_s=now - replica.proven_at if known and replica.proven_at is not None else None,
                    in_flight=replica.in_flight,
                    reads=replica.reads,
                    failures=replica.failures,
                    share=replica.reads / answers,
                    latency_s=replica.latency_s,
                )
            )
        return states
