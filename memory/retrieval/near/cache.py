"""The near cache: an agent's experiences in the memory of its process, as exact and as current as the server.

A question about an agent that has been asked about often enough is answered here: one PING instead of a search (see
`follower`), and an exact search over arrays (see `search`). All other questions, and all questions while anything is
not certain, are left to the server: `NearCache.nearest` then returns None.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from memory.records import Vector
from memory.retrieval.hits import Hit
from memory.retrieval.near.answer import Answerer
from memory.retrieval.near.decode import DECODED_BYTES, Decoder
from memory.retrieval.near.fetch import RowFetcher
from memory.retrieval.near.follower import Follower, NotFollowingError
from memory.retrieval.near.loading import RETRY_S, Loader
from memory.retrieval.near.rows import AgentRows, StoredRow
from memory.retrieval.near.space import NearCacheState, Space, Spaces
from memory.retrieval.query import Bounds
from memory.retrieval.ranking import Relevance
from memory.store.indexes import Indexes, IndexSchema
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.scan import Reader

REFRESH_PAGE = 100
ROUNDS = 3
"""Looks at the fence before the server is asked: an agent that is written to without a pause is quicker asked there."""
IDLE_S = 60.0
DECODED_SHARE = 5
"""A fifth of the budget is for decoded experiences."""


class NearCache:
    """Answers questions about single agents from memory.

    Parameters
    ----------
    link, url
        The link to the server, and where that is; the follower must reach the same server.
    keys, indexes, reader
        Of the same namespace.
    budget_mb
        Memory that may be taken, in MiB; 0 switches the cache off.
    after
        Questions about an agent before it is loaded; 0 loads it at the first.

    Notes
    -----
    Memory: about 1.9 kB a record with 256 dimensions FLOAT32. Cost of an answer: one PING, 0.05 ms for 2,000 rows and
    0.15 ms for 25,000, and 5 microseconds a hit.
    """

    def __init__(
        self, link: RedisLink, url: str, keys: Keys, indexes: Indexes, reader: Reader, *, budget_mb: float, after: int
    ) -> None:
        self._budget = int(budget_mb * 2**20)
        self._after = after
        self._hits = 0
        self._misses = 0
        self._losses = 0
        self._keys = keys
        self._episodic = keys.episodic_prefix.encode()
        decoded = self._budget // DECODED_SHARE
        self._spaces = Spaces(self._budget - decoded, IDLE_S)
        self._fetcher = RowFetcher(link, keys, reader)
        self._decoder = Decoder(keys, decoded // DECODED_BYTES, self._fetcher.names)
        self._answerer = Answerer(keys, self._decoder)
        self._loader = Loader(
            link,
            indexes,
            reader,
            self._fetcher,
            self._spaces,
            still_valid=self._still_valid,
            on_loaded=self._loaded,
        )
        self._follower = Follower(
            link,
            url,
            # A schema is written when an index is built: what is cached by another one must go.
            (keys.episodic_prefix, keys.index_schema("")),
            on_keys=self._changed,
            on_lost=self._lost,
            on_ready=self._load_again,
        )

    async def close(self) -> None:
        """Let go of everything; questions are left to the server from here on."""
        await self._follower.close()
        await self._loader.close()
        for task in [space.refresh for space in self._spaces if space.refresh is not None]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._spaces.clear()
        self._decoder.clear()

    def describe(self) -> NearCacheState:
        """What the cache holds at this moment."""
        rows = [space.rows for space in self._spaces if space.rows is not None]
        return NearCacheState(
            agents=len(rows),
            rows=sum(map(len, rows)),
            bytes=self._spaces.nbytes + self._decoder.nbytes,
            budget_bytes=self._budget,
            hits=self._hits,
            misses=self._misses,
            loading=self._loader.waiting,
            reason=self._follower.reason if self._budget else "near_cache_mb is 0",
            problems={space.agent_id: space.problem for space in self._spaces if space.problem is not None},
        )

    # --- questions -------------------------------------------------------------------------------------------

    async def nearest(
        self, schema: IndexSchema, state_vector: Vector, bounds: Bounds, top_k: int, *, with_next_state: bool = False
    ) -> list[Hit] | None:
        """The experiences nearest to a state within checked bounds, nearest first, ties by memory id.

        Parameters
        ----------
        schema
            Index in which the question would be asked.
        state_vector
            Unit length, float32, as `check_vector` leaves it.
        bounds
            Limits; a question without an agent is the server's.
        top_k
            Results wanted.
        with_next_state
            Fill in `next_state_vector`.

        Returns
        -------
        list of Hit, or None
            What the server would answer to whoever asked it now; None where it has to be asked.

        Raises
        ------
        StoreUnavailableError
            The server did not answer within the link's deadline.
        """
        held = await self._current_rows(schema, bounds)
        if held is None:
            return None
        rows, now_ms = held
        return self._answerer.answer(rows, schema, state_vector, bounds, top_k, now_ms, with_next_state=with_next_state)

    async def most_relevant(
        self,
        schema: IndexSchema,
        state_vector: Vector,
        bounds: Bounds,
        top_k: int,
        relevance: Relevance,
        *,
        with_next_state: bool = False,
    ) -> list[Hit] | None:
        """The most relevant experiences within checked bounds, ties by memory id: of all that there are.

        Parameters, results and errors as of `nearest`. None as well where more are equally relevant than is worth
        deciding between here.
        """
        held = await self._current_rows(schema, bounds)
        if held is None:
            return None
        rows, now_ms = held
        return self._answerer.most_relevant(
            rows, schema, state_vector, bounds, top_k, relevance, now_ms, with_next_state=with_next_state
        )

    async def _current_rows(self, schema: IndexSchema, bounds: Bounds) -> tuple[AgentRows, int] | None:
        """Rows that are as current as the server, and its time; None where it has to be asked.

        Valid until the caller waits for anything: they are those of one moment on the server.
        """
        space = self._asked_about(schema, bounds)
        if space is None or space.rows is None:
            self._misses += 1
            return None
        for _ in range(ROUNDS):
            try:
                await self._follower.fence()
            except NotFollowingError:
                break
            if space.rows is None:
                break
            if space.current:
                self._hits += 1
                return space.rows, time.time_ns() // 1_000_000 + self._follower.clock_offset_ms
            await self._refreshed(space)
        self._misses += 1
        return None

    def _asked_about(self, schema: IndexSchema, bounds: Bounds) -> Space | None:
        agent_id = bounds.agent_id
        if agent_id is None or not self._budget:
            return None
        if bounds.min_quality is not None or bounds.live_since_ms is not None:
            return None  # Limits of the shared pool, which is not held here.
        space = self._spaces.find(agent_id, schema)
        space.last_asked = time.monotonic()
        space.asked += 1
        if space.asked > self._after:
            self._follower.start()
        if not self._follower.following:
            return None
        if (space.rows is None or space.rows.outgrown) and self._wanted(space):
            self._loader.want(space)
        return space

    def _wanted(self, space: Space) -> bool:
        return space.asked > self._after and space.last_asked >= space.not_before

    # --- what changes ----------------------------------------------------------------------------------------

    def _changed(self, keys: list[bytes]) -> None:
        """Note which keys to read again. Called in order with the answers at the fence."""
        start = len(self._episodic)
        for key in keys:
            if not key.startswith(self._episodic):
                self._replaced(key)
                continue
            for space in self._spaces.of(key[start : key.find(b":", start)]):
                if space.meanwhile is not None:
                    space.meanwhile.add(key)
                if space.rows is not None:
                    space.changed.add(key)
                    if space.refresh is None:
                        self._refresh_soon(space)

    def _replaced(self, key: bytes) -> None:
        """The schema under a key has changed: what is held by it must go."""
        if any(self._keys.index_schema(space.schema.encoder_id).encode() == key for space in self._spaces):
            self._lost()
            self._spaces.clear()

    def _lost(self) -> None:
        """Nothing that is held is certain any more."""
        self._losses += 1
        self._decoder.clear()
        for space in self._spaces:
            space.drop()

    def _load_again(self) -> None:
        """Load at once what was in use before the server was lost."""
        for space in self._spaces:
            space.not_before = 0.0
            if self._wanted(space):
                self._loader.want(space)

    def _still_valid(self) -> Callable[[], bool]:
        losses = self._losses
        return lambda: losses == self._losses and self._follower.following

    def _loaded(self, space: Space) -> None:
        if space.changed and space.refresh is None:
            self._refresh_soon(space)
        self._spaces.fit()

    # --- reading again ---------------------------------------------------------------------------------------

    async def _refreshed(self, space: Space) -> None:
        """Wait until what is known to have changed has been read again, or that has failed."""
        # It goes on for others where this caller is cancelled, and deals with its own failure.
        await asyncio.wait([space.refresh or self._refresh_soon(space)])

    def _refresh_soon(self, space: Space) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._refresh(space), name="near cache: refresh")
        space.refresh = task

        def done(finished: asyncio.Task[None]) -> None:
            space.refresh = None
            if finished.cancelled():
                return
            error = finished.exception()
            if error is not None:
                space.drop()
                space.not_before = time.monotonic() + RETRY_S
                space.note(f"{type(error).__name__}: {error}")
            elif space.changed and space.rows is not None:
                self._refresh_soon(space)

        task.add_done_callback(done)
        return task

    async def _refresh(self, space: Space) -> None:
        while space.changed and (rows := space.rows) is not None:
            keys = [space.changed.pop() for _ in range(min(REFRESH_PAGE, len(space.changed)))]
            space.fetching = True
            try:
                fetched = await self._fetcher.fetch(keys, space.schema)
            finally:
                space.fetching = False
            if space.rows is rows:
                self._apply(space, rows, keys, fetched)
        self._spaces.fit()

    @staticmethod
    def _apply(space: Space, rows: AgentRows, keys: list[bytes], fetched: list[StoredRow | None]) -> None:
        for key, row in zip(keys, fetched, strict=True):
            if key in space.changed:
                continue  # It changed again since it was sent for, and is read again.
            if row is None:
                rows.remove(key)
            else:
                rows.put(row)
