"""Reads over replicas, writes to the primary."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from memory.asof import check_lock
from memory.errors import InvalidQueryError, StoreUnavailableError
from memory.retrieval.arguments import check_count, check_flag, check_number
from memory.retrieval.replica_policy import LONGEST_S, ReplicaPolicy, ServerState, check_replica_urls
from memory.retrieval.replica_set import ReplicaSet
from memory.retrieval.replication import WriteToken
from memory.retrieval.routed import Answer, Gate, Question, RoutedRetrieval

if TYPE_CHECKING:
    from memory.connection import MemoryConnection
    from memory.retrieval.shared import SharedMemoryPool
    from memory.store.episodic import EpisodicStore
    from memory.store.inbox import Inbox
    from memory.store.semantic import SemanticStore

__all__ = ["LoadBalancedMemoryRetrieval", "ReplicaPolicy", "ServerState", "WriteToken"]


class LoadBalancedMemoryRetrieval(RoutedRetrieval):
    """Answers questions from replicas; writes go to the primary.

    .. code-block:: python

        async with memory.connect() as mem, LoadBalancedMemoryRetrieval(mem, ["redis://replica:6379"]) as balanced:
            await balanced.episodic.add(experience)
            hits = await balanced.retrieve_similar_experiences(state_vector, product_id="BTC-USDT")
            own = await balanced.reading(read_your_writes=True).retrieve_similar_experiences(state_vector)

    It has all the questions of `MemoryRetrievalService`. A question is answered by one server, whole; where that server
    fails it is asked elsewhere, within the deadline, and the caller does not notice. A replica answers only while it
    follows the primary within the policy's lag and all its indexes are complete.

    Parameters
    ----------
    primary
        The open memory, or the URL of the primary, which is then opened and closed here.
    replica_urls
        ``redis://``, ``rediss://`` or ``unix://`` of its replicas.
    policy
        Which replicas may answer, and how reads are spread.
    timeout_s
        Deadline of a question, all attempts included, in seconds; by default COINSWARM_REDIS_TIMEOUT_S.
    random_state
        Seed of the choices between replicas.

    Raises
    ------
    InvalidQueryError
        An argument is not what it should be; nothing was sent.

    Attributes
    ----------
    mem
        The memory at the primary. What is written through it directly, `reading(read_your_writes=True)` does not know
        of: write through the stores here, or call `note_write`.

    Notes
    -----
    Retrievals are counted at the primary. The encoder that questions are asked in is the same on all servers.
    """

    def __init__(
        self,
        primary: MemoryConnection | str,
        replica_urls: Sequence[str],
        *,
        policy: ReplicaPolicy | None = None,
        timeout_s: float | None = None,
        random_state: int = 0,
    ) -> None:
        urls = check_replica_urls(replica_urls)
        if timeout_s is not None:
            timeout_s = check_number(timeout_s, "timeout_s", 0.0, LONGEST_S)
        random_state = check_count(random_state, "random_state", 0)
        if isinstance(primary, str):
            from memory.connection import connect

            self.mem, self._own_primary = connect(redis_url=primary), True
        else:
            self.mem, self._own_primary = primary, False
        self.policy = policy or ReplicaPolicy()
        self._urls = urls
        self._timeout_s = self.mem.settings.redis_timeout_s if timeout_s is None else timeout_s
        self._servers = ReplicaSet(self.policy, random.Random(random_state))  # noqa: S311 - no secret
        self._gate = Gate("LoadBalancedMemoryRetrieval")
        self._after: WriteToken | Literal["own"] | None = None
        self._locked_to: datetime | None = None

    # --- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> LoadBalancedMemoryRetrieval:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Look at the primary, then at each replica; one that cannot be used yet is looked at again and again.

        Raises
        ------
        StoreUnavailableError
            The primary does not answer, or is a replica itself; or this is open already, and stays so.
        ServerUnsuitableError
            Its user may not ask about replication.
        """
        self._gate.check()
        self._servers.check_unopened()
        if self._own_primary:
            await self.mem.open()
        try:
            await self._servers.open(self.mem, self._urls)
        except BaseException:
            await self.close(0.0)
            raise

    async def close(self, timeout_s: float | None = None) -> None:
        """Refuse new questions, wait for those under way (by default up to the deadline), and disconnect."""
        try:
            await self._gate.shut(self._timeout_s if timeout_s is None else timeout_s)
        finally:
            await self._servers.close()
            if self._own_primary:
                await self.mem.close()

    def at(self, as_of: datetime) -> LoadBalancedMemoryRetrieval:
        """The same, locked to what was known at a time; it shares the servers, and is closed with them."""
        other = self._alike()
        other._locked_to = check_lock(as_of, self._locked_to)
        return other

    def reading(
        self, *, read_your_writes: bool = False, after: WriteToken | None = None
    ) -> LoadBalancedMemoryRetrieval:
        """The same, whose answers hold certain writes: only servers that have come so far are asked, else the primary.

        Parameters
        ----------
        read_your_writes
            Everything that was written through this object, or noted by `note_write`, before the question.
        after
            Everything before this token, which may come from another process.
        """
        check_flag(read_your_writes, "read_your_writes")
        if after is not None and not isinstance(after, WriteToken):
            raise InvalidQueryError(
                f"after is {type(after).__name__}, not a WriteToken.",
                remedy="Pass what write_token() returned, or build a WriteToken of its history and offset.",
                argument="after",
            )
        if read_your_writes and after is not None:
            raise InvalidQueryError(
                "both read_your_writes and after are given.", remedy="Give one of them.", argument="after"
            )
        other = self._alike()
        other._after = "own" if read_your_writes else after
        return other

    def _alike(self) -> LoadBalancedMemoryRetrieval:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    # --- writing ---------------------------------------------------------------------------------------------

    @property
    def episodic(self) -> EpisodicStore:
        """The primary's; what it writes counts for `reading`."""
        return cast("EpisodicStore", _Noting(self.mem.episodic, self._writing))

    @property
    def semantic(self) -> SemanticStore:
        """The primary's; what it writes counts for `reading`."""
        return cast("SemanticStore", _Noting(self.mem.semantic, self._writing))

    @property
    def shared(self) -> SharedMemoryPool:
        """The primary's; what it writes counts for `reading`."""
        return cast("SharedMemoryPool", _Noting(self.mem.shared, self._writing))

    @property
    def inbox(self) -> Inbox:
        """The primary's; what it writes counts for `reading`."""
        return cast("Inbox", _Noting(self.mem.inbox, self._writing))

    def note_write(self) -> None:
        """Say that something was written at the primary by another way."""
        self._servers.note_write()

    async def write_token(self) -> WriteToken:
        """A point after everything that was written at the primary so far; one round trip to it.

        Raises
        ------
        StoreUnavailableError
            The primary does not answer.
        """
        primary = self._servers.primary
        await primary.ask(self._timeout_s)
        return WriteToken(primary.history, primary.offset)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        try:
            yield
        except StoreUnavailableError as error:
            successor = self._servers.successor()
            if successor is None:
                raise
            raise StoreUnavailableError(
                f"the primary cannot be written to, and its replica at {successor} has taken over.",
                remedy=f"Open the memory there (COINSWARM_REDIS_URL={successor}); what was stored is safe, and sending "
                "the same again stores nothing twice.",
            ) from error
        finally:
            self.note_write()

    # --- reading ---------------------------------------------------------------------------------------------

    def describe(self) -> list[ServerState]:
        """All servers as they are now, the primary first."""
        return self._servers.describe()

    async def _ask(self, question: Question[Answer]) -> Answer:
        with self._gate:
            return await self._servers.ask(question, self._timeout_s, self._locked_to, self._after)


class _Noting:
    """A store, of which each call counts as a write once it has ended."""

    def __init__(self, store: Any, writing: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._store = store
        self._writing = writing

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if not inspect.iscoroutinefunction(value):
            return value

        @functools.wraps(value)
        async def noted(*arguments: Any, **named: Any) -> Any:
            async with self._writing():
                return await value(*arguments, **named)

        return noted
