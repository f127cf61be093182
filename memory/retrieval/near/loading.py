"""Loading agents in the background, page by page, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

from redis.exceptions import RedisError

from memory.errors import CoinswarmError
from memory.retrieval.near.fetch import RowFetcher
from memory.retrieval.near.rows import OBJECT_BYTES, VECTOR_TYPES, AgentRows
from memory.retrieval.near.space import Space, Spaces
from memory.store.indexes import Indexes
from memory.store.keys import scope_tag
from memory.store.link import RedisLink
from memory.store.scan import Reader, select

LOAD_PAGE = 25
"""Records of one round trip: 0.1 ms of the server's time, about one of this process's, with questions in between."""
UNREADY_S = 1.0
"""Pause after a load that found the index still being built, or counted what changed meanwhile as lost."""
RETRY_S = 30.0
"""Pause after a load that failed, or did not fit."""
CONTENT_BYTES = 750
"""Key, body, bounds and columns of a record, about, before it is known."""

_log = logging.getLogger(__name__)


class Loader:
    """Loads the agents that are wanted.

    Parameters
    ----------
    link, indexes, reader, fetcher
        What records are read with.
    spaces
        Where there must be room.
    still_valid
        Makes a check: whether all changes since it was made were seen.
    on_loaded
        Called with a space that has new rows; what changed meanwhile is noted in it.
    """

    def __init__(
        self,
        link: RedisLink,
        indexes: Indexes,
        reader: Reader,
        fetcher: RowFetcher,
        spaces: Spaces,
        *,
        still_valid: Callable[[], Callable[[], bool]],
        on_loaded: Callable[[Space], None],
    ) -> None:
        self._link = link
        self._indexes = indexes
        self._reader = reader
        self._fetcher = fetcher
        self._spaces = spaces
        self._still_valid = still_valid
        self._on_loaded = on_loaded
        self._wanted: deque[Space] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Agents that are being loaded, or wait for it."""
        return len(self._wanted)

    def want(self, space: Space) -> None:
        """Load an agent when its turn comes; nothing happens where that is under way."""
        if space in self._wanted:
            return
        self._wanted.append(space)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="near cache: loader")
            self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Load nothing more."""
        self._wanted.clear()
        task = self._task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "The near cache failed to load agents; it tries again when they are asked about.", exc_info=error
            )
            self._wanted.clear()

    async def _run(self) -> None:
        while self._wanted:
            space = self._wanted[0]
            try:
                await self._load(space)
            except (CoinswarmError, RedisError) as error:
                # Fewer records than there are at the end may be all that there were: some came, and some have gone.
                space.not_before = time.monotonic() + (UNREADY_S if space.meanwhile else RETRY_S)
                space.note(f"{type(error).__name__}: {error}")
            finally:
                space.meanwhile = None
                if self._wanted and self._wanted[0] is space:
                    self._wanted.popleft()

    async def _load(self, space: Space) -> None:
        """Read all records of an agent. What changes meanwhile is noted, and read again before the first answer."""
        schema = space.schema
        valid = self._still_valid()
        space.meanwhile = set()
        if not valid() or not await self._complete(space):
            space.not_before = time.monotonic() + UNREADY_S
            return
        selection = select(tags=[cast("str", scope_tag(space.agent_id))])
        expected = await self._reader.count(schema, selection)
        vector_bytes = schema.dimension * VECTOR_TYPES[schema.vector_type].itemsize
        needed = expected * (vector_bytes + OBJECT_BYTES + CONTENT_BYTES)
        if not self._spaces.make_room(space, needed, time.monotonic()):
            space.not_before = time.monotonic() + RETRY_S
            space.note(
                f"its {expected} experiences need {needed / 2**20:.0f} MiB beside the "
                f"{self._spaces.nbytes / 2**20:.0f} MiB of other agents: raise COINSWARM_NEAR_CACHE_MB"
            )
            return
        rows = AgentRows(schema.vector_type, schema.dimension, expected)
        pages = self._reader.pages(schema, selection, fields=("timestamp",), page_size=LOAD_PAGE)
        try:
            async for page in pages:
                fetched = await self._fetcher.fetch([row[b"__key"] for row in page], schema)
                rows.fill([row for row in fetched if row is not None])
                if not valid():
                    return
        finally:
            await cast("AsyncGenerator[Any]", pages).aclose()
        await asyncio.to_thread(rows.settle)
        if not await self._complete(space) or not valid():
            return
        space.rows = rows
        space.changed |= space.meanwhile
        space.problem = None
        self._on_loaded(space)

    async def _complete(self, space: Space) -> bool:
        """Whether the index is the current one of its encoder, and holds everything: what it lacks is not loaded."""
        schema = space.schema
        if await self._indexes.current_schema(schema.encoder_id) != schema:
            self._spaces.discard(space)  # From now on questions name another index.
            return False
        return await self._indexes.is_built(schema.name)
