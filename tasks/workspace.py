"""Where a flow or task works: settings, servers, the ledger, and the one bridge from sync to async code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import memory
from memory import embedded
from memory.errors import EmbeddedServerError
from memory.ledger import Archive, FencingToken, Ledger
from memory.ledger.host import host_name
from memory.settings import Settings
from tasks.termination import run_until_told_to_end

Result = TypeVar("Result")

_OPEN: ContextVar[Workspace | None] = ContextVar("open_workspace", default=None)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Open servers of one namespace; valid inside `open_workspace` only."""

    settings: Settings
    redis_url: str = field(repr=False)
    ledger: Ledger
    archive: Archive

    @property
    def namespace(self) -> str:
        """Name of the memory."""
        return self.settings.namespace

    def with_memory(
        self, function: Callable[[memory.MemoryConnection], Awaitable[Result]], *, encoder_id: str | None = None
    ) -> Result:
        """Run an async function on a fresh connection, in an event loop of its own, and return its result.

        Questions are asked in the encoder named, or in the namespace's current one.
        """

        async def call() -> Result:
            async with memory.connect(
                redis_url=self.redis_url, encoder_id=encoder_id, settings=self.settings
            ) as connection:
                return await function(connection)

        return run_until_told_to_end(call())

    def check_redis(self) -> None:
        """Connect to Redis once.

        Raises
        ------
        StoreUnavailableError
            It does not answer within the setting `redis_timeout_s`.
        ServerUnsuitableError
            It has no search, or is too old.
        """

        async def nothing(connection: memory.MemoryConnection) -> None:
            """Opening the connection is the check."""

        self.with_memory(nothing)

    def raise_fence(self, token: FencingToken) -> None:
        """Tell Redis who may write from now on: a run that was overtaken is refused there from this moment."""
        self.with_memory(lambda mem: mem.fence.raise_to(token.value))


@contextmanager
def open_workspace(namespace: str, host: str | None = None) -> Iterator[Workspace]:
    """Open the configured servers, or the embedded ones of the home; they stay up while any workspace is open.

    Inside another workspace of the same namespace, that one is used: tasks share what their flow has opened.
    Cost: about 0.2 s where the servers run, about a second where they must be started.

    Parameters
    ----------
    namespace
        Name of the memory.
    host
        `host_name()` of the flow that a task works for; None for one that works for itself.

    Raises
    ------
    EmbeddedServerError
        The flow runs on another machine, and this process would start servers, or read an archive, of its own.
    ServerUnsuitableError, StoreUnavailableError
        A configured server cannot be used, or does not answer.
    """
    outer = _OPEN.get()
    if outer is not None and outer.namespace == namespace:
        yield outer
        return
    settings = Settings(namespace=namespace)
    if host is not None and host != host_name():
        _check_shared(settings, host)
    with open_servers(settings) as (redis_url, database_url), Ledger.open(database_url) as ledger:
        workspace = Workspace(settings, redis_url, ledger, Archive(settings.archive_location))
        outside = _OPEN.set(workspace)
        try:
            yield workspace
        finally:
            _OPEN.reset(outside)


@contextmanager
def open_servers(settings: Settings) -> Iterator[tuple[str, str]]:
    """URLs of Redis and of the ledger's database: the configured ones, or embedded servers while the block runs.

    Raises
    ------
    ServerUnsuitableError, StoreUnavailableError
        A configured server cannot be used, or does not answer: none is started beside it.
    """
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    database_url = settings.database_url.get_secret_value() if settings.database_url else None
    wanted = [service for service, url in (("redis", redis_url), ("postgres", database_url)) if url is None]
    with ExitStack() as stack:
        if wanted:
            if not embedded.home_status(settings.home).servers:
                embedded.check_configured(redis_url, database_url)
            session = stack.enter_context(
                embedded.open_session(settings.home, wanted, timeout_s=settings.start_timeout_s)
            )
            redis_url = redis_url or session.endpoints.redis_url
            database_url = database_url or session.endpoints.database_url
        if redis_url is None or database_url is None:
            raise RuntimeError("an embedded session gave no address for a service it was asked for")
        yield redis_url, database_url


def _check_shared(settings: Settings, host: str) -> None:
    """Refuse to work for a flow on another machine with what only this one can reach."""
    missing = [f"COINSWARM_{name.upper()}" for name in ("redis_url", "database_url") if getattr(settings, name) is None]
    if missing:
        raise EmbeddedServerError(
            f"a worker on {host_name()} works for a flow on {host}, and embedded servers serve one machine.",
            remedy=f"Set {' and '.join(missing)} for the flow and its workers alike.",
        )
    if settings.archive_location.startswith("file://") and settings.archive_url is None:
        raise EmbeddedServerError(
            f"a worker on {host_name()} works for a flow on {host}, and would look for the archive in its own home.",
            remedy="Set COINSWARM_ARCHIVE_URL, for the flow and its workers alike, to a place that all of them reach.",
        )
