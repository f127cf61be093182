"""One door to the memory: `connect` opens it, `MemoryConnection` holds what is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from memory.asof import check_time
from memory.errors import StoreUnavailableError
from memory.retrieval.context import QuestionContext
from memory.retrieval.freshness import Freshness, FreshnessSearch
from memory.retrieval.near.cache import NearCache
from memory.retrieval.service import MemoryRetrievalService
from memory.retrieval.shared import SharedMemoryPool
from memory.secrets import remember_url
from memory.settings import Settings
from memory.store.access import AccessCounters
from memory.store.collection import Collection, EpisodicCollection, SharedCollection
from memory.store.dead_letters import DeadLetters
from memory.store.decisions import DecisionStore
from memory.store.encoders import EncoderRegistry
from memory.store.episodic import EpisodicStore
from memory.store.fence import Fence
from memory.store.inbox import Inbox
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.message_log import MessageLog
from memory.store.message_mailbox import Retention
from memory.store.messages import Messages
from memory.store.publishing import Publisher
from memory.store.recording import Recorder
from memory.store.scan import Reader
from memory.store.semantic import SemanticStore
from memory.store.servers import named_replicas, split_urls
from memory.store.shared import SharedStore
from memory.store.unfinished import check_whole
from memory.validation import validate_identifier

if TYPE_CHECKING:
    from memory.embedded import Session
    from memory.retrieval.replicas import LoadBalancedMemoryRetrieval
    from memory.store.health import Check


def connect(
    *,
    redis_url: str | None = None,
    namespace: str | None = None,
    encoder_id: str | None = None,
    settings: Settings | None = None,
    replica_urls: Sequence[str] | None = None,
) -> MemoryConnection:
    """Open a memory: ``async with memory.connect() as mem``.

    Parameters
    ----------
    redis_url
        Redis with search; by default what COINSWARM_REDIS_URL names, else an embedded server, which is started
        where it does not run and stops with its last user.
    namespace
        Name of the memory; by default COINSWARM_NAMESPACE.
    encoder_id
        Encoder of this client's vectors: the one that its questions are asked in, and that its records carry unless
        they name another. By default the namespace's current one, as it is when first asked.
    settings
        Settings in place of those of the environment.
    replica_urls
        Replicas of that Redis, over which questions are spread; by default COINSWARM_REDIS_REPLICA_URLS. Without any,
        questions about single agents are answered by a near cache in this process (COINSWARM_NEAR_CACHE_MB).

    Returns
    -------
    MemoryConnection
        To be used in the event loop that opens it.
    """
    return MemoryConnection(
        settings or Settings(),
        redis_url=redis_url,
        namespace=namespace,
        encoder_id=encoder_id,
        replica_urls=replica_urls,
    )


class MemoryConnection:
    """An open memory.

    Attributes
    ----------
    episodic, semantic, shared, retrieval, messages, inbox, dead_letters, decisions, encoders
        The services.
    near
        The cache that answers questions about single agents in this process; None where replicas do.
    replicas
        The service that spreads questions over replicas; None where there are none.
    indexes, access, fence, reader, keys, link
        What they are made of, for jobs and tools.
    """

    episodic: EpisodicStore
    semantic: SemanticStore
    shared: SharedMemoryPool
    retrieval: MemoryRetrievalService
    messages: Messages
    inbox: Inbox
    dead_letters: DeadLetters
    decisions: DecisionStore
    encoders: EncoderRegistry
    indexes: Indexes
    access: AccessCounters
    fence: Fence
    reader: Reader
    link: RedisLink

    def __init__(
        self,
        settings: Settings,
        *,
        redis_url: str | None = None,
        namespace: str | None = None,
        encoder_id: str | None = None,
        replica_urls: Sequence[str] | None = None,
    ) -> None:
        self.settings = settings
        self.keys = Keys(settings.namespace if namespace is None else namespace)
        self._redis_url = redis_url or (settings.redis_url.get_secret_value() if settings.redis_url else None)
        for url in (redis_url, *(replica_urls or ())):
            if isinstance(url, str):
                remember_url(url)
        self._encoder_id = None if encoder_id is None else validate_identifier(encoder_id, "encoder_id")
        named = settings.redis_replica_urls.get_secret_value() if settings.redis_replica_urls else ""
        self._replica_urls = tuple(split_urls(named) if replica_urls is None else replica_urls)
        self.near: NearCache | None = None
        self.replicas: LoadBalancedMemoryRetrieval | None = None
        self._session: Session | None = None
        self._open = False

    @property
    def namespace(self) -> str:
        """Name of the memory."""
        return self.keys.namespace

    @property
    def encoder_id(self) -> str | None:
        """Encoder that this client was opened with; None where it follows the namespace's current one."""
        return self._encoder_id

    async def __aenter__(self) -> MemoryConnection:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect; starts the embedded server where no URL is configured.

        Raises
        ------
        StoreUnavailableError, ServerUnsuitableError
            Redis cannot be reached or used.
        RestoreUnfinishedError
            A restore of the namespace has begun and not ended.
        EmbeddedServerError
            The embedded server does not start.
        """
        if self._open:
            raise StoreUnavailableError("this memory is open already.", remedy="Call memory.connect() again.")
        url = self._redis_url or await self._start_embedded()
        self.link = RedisLink(
            url,
            max_connections=self.settings.redis_max_connections,
            timeout_s=self.settings.redis_timeout_s,
            own_key=self.keys.on_disk,
        )
        try:
            await self.link.open()
            await check_whole(self.link, self.keys)
        except BaseException:
            await self.link.close()
            await self._stop_embedded()
            raise
        self._open = True
        self._assemble()
        try:
            await self._speed_up(url)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Write what waits to be written, and disconnect."""
        if not self._open:
            return
        self._open = False
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._stop_embedded)
            closing.push_async_callback(self.link.close)
            closing.push_async_callback(self.access.flush)
            closing.push_async_callback(self.messages.close)
            if self.near is not None:
                closing.push_async_callback(self.near.close)
            if self.replicas is not None:
                closing.push_async_callback(self.replicas.close)

    def at(self, as_of: datetime) -> PastMemory:
        """The same memory, for reading, locked to what was known at a time."""
        return PastMemory(self, check_time(as_of, "as_of"))

    async def freshness(self, *, as_of: datetime | None = None, now: datetime | None = None) -> Freshness:
        """The newest knowledge that was published: its window, and how long ago it became known; one round trip.

        Of the line that answers this client's questions. `mem.at(t).freshness()` says it as of a time.

        Parameters
        ----------
        as_of
            Only what was known then, by the line that was read then; inside a replay it is needed, as for all
            questions.
        now
            The time that the age is counted to; by default `as_of`, else the server's clock.

        Raises
        ------
        InvalidQueryError
            A time is not aware, or the question is not bounded inside a replay.
        StoreUnavailableError
            Redis cannot be reached.
        """
        return await self._freshness.freshness(as_of=as_of, now=now)

    async def health(self, announce: Callable[[str], None] | None = None) -> list[Check]:
        """Whether this memory and its Redis are well, check by check; see `memory.store.health.check_memory`."""
        from memory.store.health import check_memory

        return await (check_memory(self) if announce is None else check_memory(self, announce))

    async def _speed_up(self, url: str) -> None:
        """Let replicas answer where there are any, else a cache in this process."""
        if not self._replica_urls:
            self.near = self._context.near = NearCache(
                self.link,
                url,
                self.keys,
                self.indexes,
                self.reader,
                budget_mb=self.settings.near_cache_mb,
                after=self.settings.near_cache_after,
            )
            return
        from memory.retrieval.replicas import LoadBalancedMemoryRetrieval, ReplicaPolicy

        policy = ReplicaPolicy(max_lag_s=self.settings.replica_max_lag_s)
        urls = await named_replicas(self._replica_urls, self.settings.redis_timeout_s)
        self.replicas = LoadBalancedMemoryRetrieval(self, urls, policy=policy)
        await self.replicas.open()
        self.retrieval = self.replicas

    def over(self, link: RedisLink) -> MemoryConnection:
        """The same memory through another link, which is its caller's to open and close.

        What it retrieves is counted as accessed through this memory: that is where the counters are.
        """
        other = type(self)(self.settings, namespace=self.namespace, encoder_id=self.encoder_id)
        other.link = link
        other._assemble()
        other._context.access = self.access
        return other

    def _assemble(self) -> None:
        link, keys, settings = self.link, self.keys, self.settings
        self.indexes = Indexes(link, keys, settings)
        self.encoders = EncoderRegistry(link, keys, self.indexes)
        self.reader = Reader(link, keys)
        self.fence = Fence(link, keys)
        self.access = AccessCounters(link, keys)
        self.dead_letters = DeadLetters(link, keys, settings.dead_letter_limit)
        self.inbox = Inbox(link, keys, self.dead_letters)
        kept = timedelta(days=settings.message_retention_days)
        skew = timedelta(seconds=settings.message_clock_skew_s)
        self.messages = Messages(link, keys, self.dead_letters, Retention(settings.message_limit, kept, skew))
        self.decisions = DecisionStore(link, keys, self.encoders, settings.episodic_retention_days)
        recorder = self._recorder(EpisodicCollection(keys, self.indexes, settings.episodic_retention_days))
        self.episodic = EpisodicStore(link, keys, self.indexes, self.reader, recorder, self.fence)
        publisher = Publisher(link, keys, self.indexes, self.encoders, self.fence)
        self.semantic = SemanticStore(link, keys, self.indexes, publisher, self.fence, self.access)
        self._context = QuestionContext(
            link,
            keys,
            self.indexes,
            self.encoders,
            self.reader,
            self.episodic,
            self.semantic,
            self.access,
            max_top_k=settings.max_top_k,
            encoder_id=self._encoder_id,
        )
        self.retrieval = MemoryRetrievalService(self._context, settings)
        self._freshness = FreshnessSearch(self._context)
        pool = SharedCollection(keys, self.indexes, settings.shared_retention_days)
        store = SharedStore(
            link,
            pool,
            self.indexes,
            self.reader,
            self._recorder(pool),
            self.fence,
            min_quality=settings.shared_min_quality,
            retention_days=settings.shared_retention_days,
        )
        self.shared = SharedMemoryPool(store, self._context)

    def _recorder(self, collection: Collection) -> Recorder:
        return Recorder(
            self.link,
            self.keys,
            collection,
            self.encoders,
            self.dead_letters,
            default_encoder_id=self._encoder_id,
        )

    async def _start_embedded(self) -> str:
        from memory.embedded import open_session

        self._session = await asyncio.to_thread(
            open_session, self.settings.home, ("redis",), timeout_s=self.settings.start_timeout_s
        )
        url = self._session.endpoints.redis_url
        if url is None:
            raise StoreUnavailableError(
                "the embedded servers run without Redis.", remedy="Close all their users, then try again."
            )
        return url

    async def _stop_embedded(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await asyncio.to_thread(session.close)


class PastMemory:
    """A memory locked to a time: its services see what was known then, and nothing else.

    Attributes
    ----------
    as_of
        The time.
    retrieval, semantic, shared
        The services; questions may be asked as of an earlier time, and nothing can be written.
    messages
        What agents had told one another by then.
    """

    messages: MessageLog

    def __init__(self, mem: MemoryConnection, as_of: datetime) -> None:
        self.as_of = as_of
        self.semantic = mem.semantic.at(as_of)
        self.retrieval = mem.retrieval.at(as_of)
        self.shared = mem.shared.at(as_of)
        self.messages = mem.messages.at(as_of)
        self._freshness = mem._freshness.at(as_of)

    async def freshness(self, *, as_of: datetime | None = None, now: datetime | None = None) -> Freshness:
        """The newest knowledge that was published by then, and its age then; see `MemoryConnection.freshness`."""
        return await self._freshness.freshness(as_of=as_of, now=now)
