"""What is known of a primary and its replicas: who follows whom, how far behind, and whether an answer would be whole.

How old a replica's data may be is proven, not guessed. The primary is asked for its offset again and again; a replica
that has come to an offset holds everything that was written before the moment at which the primary was asked for it.

A replica's answer can be less than whole although it follows closely: while it loads a copy of the primary, or while it
builds an index that was just created. So a search goes only to indexes that were seen complete, over connections that
the server tells when its data is replaced (client tracking); an answer that such a message has overtaken is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from memory.errors import AccessDeniedError, ServerUnsuitableError, StoreUnavailableError
from memory.retrieval.pipelined import PipelinedLink
from memory.retrieval.replication import ASK_REPLICATION, Replication, WriteToken
from memory.retrieval.service import MemoryRetrievalService
from memory.store.link import Command, RedisLink
from memory.store.readiness import share_built

if TYPE_CHECKING:
    from memory.connection import MemoryConnection

HISTORY = 256
"""Offsets of the primary that are remembered: at the default interval, the last 50 s."""
_SEARCHES = frozenset({"FT.SEARCH", "FT.AGGREGATE"})
_LATENCY_WEIGHT = 0.2
"""Weight of the latest question in a server's mean time to answer."""
_LATENCY_HALF_LIFE_S = 0.5
"""A server that is not asked is believed to be half as slow after this long: so one that was slow is tried again."""
_LEAST_LATENCY_S = 1e-4
"""Below this, times to answer differ by chance."""


class _Server:
    """A server that answers questions, and what it has answered."""

    def __init__(self) -> None:
        self.trouble = ""
        self.looks = 0
        self.in_flight = 0
        self.reads = 0
        self.failures = 0
        self.latency_s = 0.0
        self._answered_at = 0.0

    def cost(self, now: float) -> float:
        """How long one more question would take it, about, in seconds."""
        faded = self.latency_s * 0.5 ** ((now - self._answered_at) / _LATENCY_HALF_LIFE_S)
        return float((self.in_flight + 1) * max(faded, _LEAST_LATENCY_S))

    def answered(self, seconds: float, now: float) -> None:
        """Count an answer, and how long it took."""
        self.reads += 1
        self._answered_at = now
        self.latency_s += (seconds - self.latency_s) * (_LATENCY_WEIGHT if self.reads > 1 else 1.0)


class Primary(_Server):
    """The primary, as its replicas are compared with it."""

    def __init__(self, mem: MemoryConnection) -> None:
        super().__init__()
        self.mem = mem
        self.service: MemoryRetrievalService = mem.retrieval
        self.link: RedisLink = mem.link
        self.up = True
        self.history = ""
        self.offset = 0
        self.indexes: frozenset[bytes] = frozenset()
        self._asked: deque[tuple[float, int]] = deque(maxlen=HISTORY)
        self._wrote_at: float | None = None
        self._own: WriteToken | None = None

    async def ask(self, timeout_s: float) -> None:
        """Ask it where it is.

        Raises
        ------
        StoreUnavailableError
            It does not answer, or follows another server by now.
        """
        link = self.mem.link
        at = asyncio.get_running_loop().time()
        try:
            info, names = await link.pipeline([ASK_REPLICATION, ("FT._LIST",)], timeout_s=timeout_s)
            state = Replication.parse(info)
            if not state.primary:
                raise StoreUnavailableError(
                    f"Redis at {link.address} is a replica by now, and takes no writes.",
                    remedy="Point COINSWARM_REDIS_URL at the server that took over.",
                )
        except AccessDeniedError as error:
            raise _not_allowed(link.address, error) from error
        except StoreUnavailableError as error:
            self.up = False
            self.trouble = error.message
            raise
        except RedisError as error:
            self.up = False
            self.trouble = f"it refused to be looked at: {error}"
            raise StoreUnavailableError(
                f"Redis at {link.address} refused to be looked at ({error}).", remedy="Look into the server's log."
            ) from error
        if state.history != self.history:
            self._asked.clear()
            if self._own is not None:
                self._own = WriteToken(state.history, state.offset)  # Whatever it still has of them is before this.
        self.up, self.trouble = True, ""
        self.history, self.offset = state.history, state.offset
        prefix = f"{self.mem.namespace}:".encode()
        self.indexes = frozenset(name for name in names if name.startswith(prefix))
        self._asked.append((at, state.offset))
        if self._wrote_at is not None and self._wrote_at <= at:
            self._wrote_at, self._own = None, WriteToken(state.history, state.offset)

    def proven_at(self, history: str, offset: int) -> float | None:
        """The latest known moment before which all was written that a server at this offset holds; None if none is."""
        if history != self.history:
            return None
        for at, reached in reversed(self._asked):
            if reached <= offset:
                return at
        return None

    @property
    def last_asked_at(self) -> float | None:
        """When it last answered."""
        return self._asked[-1][0] if self._asked else None

    def note_write(self) -> None:
        """Something was just written, or may have been."""
        self._wrote_at = asyncio.get_running_loop().time()

    def own_writes(self) -> tuple[bool, WriteToken | None]:
        """Whether it is known where this client's last write is, and where; None where nothing was written."""
        return self._wrote_at is None, self._own


class Replica(_Server):
    """A replica, and the connections to it while it may answer.

    Parameters
    ----------
    hang_s
        Longest wait for an answer of it, in seconds.
    on_change
        Called where it should be looked at again soon.
    """

    def __init__(
        self, url: str, primary: Primary, *, connections: int, hang_s: float, on_change: Callable[[Replica], None]
    ) -> None:
        super().__init__()
        self._url = url
        self._primary = primary
        self._connections = connections
        self._hang_s = hang_s
        self._on_change = on_change
        self._link: ReplicaLink | None = None
        self.address = PipelinedLink(url).address
        self.service: MemoryRetrievalService | None = None
        self.trouble = "not looked at yet"
        self.replication: Replication | None = None
        self.proven_at: float | None = None
        """The moment before which everything written is provably here; None where that is unknown."""
        self.proven_in = ""
        """The primary's history in which that holds."""
        self.incomplete: tuple[str, ...] = ()

    async def look(self, encoder_id: str | None, *, follows: bool) -> None:
        """Connect where there is no connection, and judge whether it may answer.

        Parameters
        ----------
        encoder_id
            Encoder that questions are asked in.
        follows
            Whether it must follow a primary that is up; else it may be cut off, or have taken over.

        Raises
        ------
        StoreUnavailableError, ServerUnsuitableError
            It may not; `trouble` says why.
        """
        try:
            link = self._link
            if link is not None and link.connected < self._connections:
                await self.leave_out("a connection to it was lost")
                link = None
            if link is None:
                link = ReplicaLink(self._url, self._connections, self._hang_s, self._primary.mem.namespace, self._stir)
                self._link = link
                await link.open()
            generation = link.generation
            state = await self._judge(link, follows=follows)
            await self._see_indexes(link, generation)
            if self._link is not link or link.generation != generation:
                raise _unfit(self.address, "has changed while it was looked at", "It is looked at again at once.")
            if self.service is None:
                opened = self._primary.mem.over(link)
                opened.retrieval._context.encoder_id = encoder_id
                self.service = opened.retrieval
        except AccessDeniedError as error:
            self.trouble = "it refuses INFO or FT.INFO"
            raise _not_allowed(self.address, error) from error
        except (StoreUnavailableError, ServerUnsuitableError) as error:
            self.trouble = error.message
            raise
        except RedisError as error:
            self.trouble = f"it refused to be looked at: {error}"
            raise _unfit(self.address, f"refused to be looked at ({error})", "Use Redis with search there.") from error
        self.replication, self.trouble = state, ""
        self.proven_at = self._primary.proven_at(self._history(state), state.offset)
        self.proven_in = self._primary.history

    async def _judge(self, link: ReplicaLink, *, follows: bool) -> Replication:
        state = Replication.parse(await link.execute(*ASK_REPLICATION))
        if state.busy:
            raise _unfit(self.address, "is loading the primary's data", "It is used again once it has.")
        if state.primary and (follows or self._history(state) != self._primary.history):
            raise _unfit(
                self.address,
                "is a primary of its own",
                "If it was promoted, open the memory with its URL (COINSWARM_REDIS_URL); else make it a replica "
                "again (REPLICAOF).",
            )
        if self._primary.history and self._history(state) != self._primary.history:
            raise _unfit(
                self.address,
                "follows another primary",
                "Name replicas of the server that COINSWARM_REDIS_URL names.",
            )
        if follows and not state.link_up:
            raise _unfit(self.address, "has lost its primary", "It is used again once it has caught up.")
        return state

    def _history(self, state: Replication) -> str:
        """The history that it holds: the primary's, where it took over from it without having missed anything known."""
        known = self._primary
        if state.earlier_history == known.history and state.took_over_at > known.offset:
            return known.history
        return state.history

    async def _see_indexes(self, link: ReplicaLink, generation: int) -> None:
        """See which of the primary's indexes are complete here; the others are not searched."""
        link.whole &= self._primary.indexes  # One of the same name that is made again later is another index.
        names = sorted(self._primary.indexes - link.whole)
        if not names:
            self.incomplete = ()
            return
        there = set(await link.execute("FT._LIST"))
        present = [name for name in names if name in there]
        states = await link.pipeline([("FT.INFO", name) for name in present])
        if link.generation != generation:
            return
        for name, state in zip(present, states, strict=True):
            if share_built(state) >= 1.0:
                link.whole.add(name)
        self.incomplete = tuple(name.decode() for name in names if name not in link.whole)

    def _stir(self) -> None:
        """Its data was replaced, an index changed, or a connection broke."""
        if self._link is not None and not self._link.connected:
            self.trouble = "the connection to it was lost"
        elif not self.trouble:
            self.trouble = "its data or indexes have changed"
        self.service = None  # What it has cached may be of before.
        self._on_change(self)

    @property
    def link(self) -> ReplicaLink | None:
        """The link to it, while there is one."""
        return self._link

    async def leave_out(self, why: str) -> None:
        """Break off: whoever waits for it learns at once that it will not answer."""
        self.trouble = why
        self.service = None
        link, self._link = self._link, None
        if link is not None:
            await link.close()


class ReplicaLink(PipelinedLink):
    """A link to a replica: its answers are whole, or errors.

    Attributes
    ----------
    whole
        Indexes that were seen complete since the data was last replaced.
    generation
        Counts how often the data was replaced or an index changed.
    """

    def __init__(
        self, url: str, connections: int, timeout_s: float, namespace: str, on_change: Callable[[], None]
    ) -> None:
        super().__init__(
            url,
            connections=connections,
            timeout_s=timeout_s,
            # The server also tells its tracking clients when all data goes, as before it loads another copy.
            greeting=[("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", f"{namespace}:index_schema:")],
            on_push=self._told,
            on_lost=self._broke,
        )
        self._on_change = on_change
        self.whole: set[bytes] = set()
        self.generation = 0

    async def execute(self, *arguments: Any, retry: bool = True, timeout_s: float | None = None) -> Any:
        """As `PipelinedLink.execute`; a search of an index that may be incomplete is an error."""
        self._check_whole(arguments)
        generation = self.generation
        answer = await super().execute(*arguments, retry=retry, timeout_s=timeout_s)
        self._check_generation(generation)
        return answer

    async def pipeline(
        self, commands: Sequence[Command], *, transaction: bool = False, timeout_s: float | None = None
    ) -> list[Any]:
        """As `execute`, for several commands."""
        for command in commands:
            self._check_whole(command)
        generation = self.generation
        answers = await super().pipeline(commands, transaction=transaction, timeout_s=timeout_s)
        self._check_generation(generation)
        return answers

    def _check_whole(self, command: Command) -> None:
        if command[0] in _SEARCHES:
            name = command[1].encode() if isinstance(command[1], str) else command[1]
            if name not in self.whole:
                raise _unfit(self.address, f"has not been seen to hold all of {name.decode()}", "Ask another server.")

    def _check_generation(self, generation: int) -> None:
        if self.generation != generation:
            raise _unfit(self.address, "has replaced its data", "Ask another server.")

    def _told(self, push: list[Any]) -> None:
        if push[0] == b"invalidate":
            self.generation += 1
            self.whole.clear()
            self._on_change()

    def _broke(self, error: Exception) -> None:  # noqa: ARG002 - those who waited have been told.
        self._on_change()


class ReplicaUnfitError(StoreUnavailableError):
    """A replica that may not answer now."""


def _unfit(address: str, what: str, remedy: str) -> ReplicaUnfitError:
    return ReplicaUnfitError(f"the replica at {address} {what}.", remedy=remedy)


def _not_allowed(address: str, error: AccessDeniedError) -> ServerUnsuitableError:
    return ServerUnsuitableError(
        f"Redis at {address} does not let this user ask about replication: {error.message}",
        remedy="Allow its user INFO, FT._LIST, FT.INFO and CLIENT TRACKING.",
    )
