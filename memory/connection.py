"""One door to the memory: `connect` opens it, `MemoryConnection` holds what is behind it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

from memory.errors import StoreUnavailableError
from memory.retrieval.context import QuestionContext
from memory.retrieval.service import MemoryRetrievalService
from memory.settings import Settings
from memory.store.access import AccessCounters
from memory.store.dead_letters import DeadLetters
from memory.store.encoders import EncoderRegistry
from memory.store.episodic import EpisodicStore
from memory.store.fence import Fence
from memory.store.inbox import Inbox
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.publishing import Publisher
from memory.store.recording import Recorder
from memory.store.scan import Reader
from memory.store.semantic import SemanticStore
from memory.validation import validate_identifier, validate_timestamp

if TYPE_CHECKING:
    from memory.embedded import Session


def connect(
    *,
    redis_url: str | None = None,
    namespace: str | None = None,
    encoder_id: str | None = None,
    settings: Settings | None = None,
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

    Returns
    -------
    MemoryConnection
        To be used in the event loop that opens it.
    """
    return MemoryConnection(settings or Settings(), redis_url=redis_url, namespace=namespace, encoder_id=encoder_id)


class MemoryConnection:
    """An open memory.

    Attributes
    ----------
    episodic, semantic, retrieval, inbox, dead_letters, encoders
        The services.
    indexes, access, fence, reader, keys, link
        What they are made of, for jobs and tools.
    """

    episodic: EpisodicStore
    semantic: SemanticStore
    retrieval: MemoryRetrievalService
    inbox: Inbox
    dead_letters: DeadLetters
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
    ) -> None:
        self.settings = settings
        self.keys = Keys(namespace or settings.namespace)
        self._redis_url = redis_url or (settings.redis_url.get_secret_value() if settings.redis_url else None)
        self._encoder_id = None if encoder_id is None else validate_identifier(encoder_id, "encoder_id")
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
        EmbeddedServerError
            The embedded server does not start.
        """
        if self._open:
            raise StoreUnavailableError("this memory is open already.", remedy="Call memory.connect() again.")
        url = self._redis_url or await self._start_embedded()
        self.link = RedisLink(
            url, max_connections=self.settings.redis_max_connections, timeout_s=self.settings.redis_timeout_s
        )
        try:
            await self.link.open()
        except BaseException:
            await self._stop_embedded()
            raise
        self._open = True
        self._assemble()

    async def close(self) -> None:
        """Write what waits to be written, and disconnect."""
        if not self._open:
            return
        self._open = False
        try:
            await self.access.flush()
        finally:
            await self.link.close()
            await self._stop_embedded()

    def at(self, as_of: datetime) -> PastMemory:
        """The same memory, for reading, locked to what was known at a time."""
        return PastMemory(self, validate_timestamp(as_of, "as_of"))

    def _assemble(self) -> None:
        link, keys, settings = self.link, self.keys, self.settings
        self.indexes = Indexes(link, keys, settings)
        self.encoders = EncoderRegistry(link, keys, self.indexes)
        self.reader = Reader(link, keys)
        self.fence = Fence(link, keys)
        self.access = AccessCounters(link, keys)
        self.dead_letters = DeadLetters(link, keys, settings.dead_letter_limit)
        self.inbox = Inbox(link, keys, self.dead_letters)
        recorder = Recorder(
            link,
            keys,
            self.indexes,
            self.encoders,
            self.dead_letters,
            retention_days=settings.episodic_retention_days,
            default_encoder_id=self._encoder_id,
        )
        self.episodic = EpisodicStore(link, keys, self.indexes, self.reader, recorder, self.fence)
        publisher = Publisher(link, keys, self.indexes, self.encoders, self.fence)
        self.semantic = SemanticStore(link, keys, self.indexes, publisher, self.fence, self.access)
        self.retrieval = MemoryRetrievalService(
            QuestionContext(
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
        )

    async def _start_embedded(self) -> str:
        from memory.embedded import open_session

        self._session = await asyncio.to_thread(open_session, self.settings.home, ("redis",))
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
    retrieval, semantic
        The services; questions may be asked as of an earlier time, and nothing can be written.
    """

    def __init__(self, mem: MemoryConnection, as_of: datetime) -> None:
        self.as_of = as_of
        self.semantic = mem.semantic.at(as_of)
        self.retrieval = mem.retrieval.at(as_of)
