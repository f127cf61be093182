"""The project itself, over the wire and with its near cache; and bare FT.SEARCH on the same data, the wire's floor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

import memory
from benchmarks.retrieval.contestant import AsyncContestant, Loaded, Memories
from benchmarks.retrieval.corpus import TOP_K, Corpus, CorpusBuilder, Query
from benchmarks.retrieval.data import Dataset
from memory.records import from_ms
from memory.settings import Settings
from memory.store.codec import pack_vector
from memory.store.keys import scope_tag
from memory.store.layout import IndexSchema, SearchTarget

NAMESPACE = "benchmark"
BARE_CONNECTIONS = 64
"""One for each agent: tasks that share a few starve each other."""
FILL_SEED = 1
"""Questions that the near cache is filled by are other than those that are measured."""
FILL_PATIENCE_S, FILL_POLL_S = 600.0, 0.05
PROGRESS_EVERY = 100_000


def known(corpus: Corpus | None) -> Corpus:
    """The corpus, which is there once a contestant was loaded."""
    if corpus is None:
        raise AssertionError("load() comes first.")
    return corpus


class Ours(AsyncContestant):
    """The retrieval service, asked as agents ask it."""

    returns = "whole records, parsed, with vector, distance and score"

    def __init__(self, redis_url: str, home: Path, **settings: Any) -> None:
        self.settings = Settings(home=home, redis_url=None, database_url=None, **settings)
        self.mem = memory.connect(redis_url=redis_url, namespace=NAMESPACE, settings=self.settings)
        self.corpus: Corpus | None = None

    async def open(self) -> None:
        """Connect."""
        await self.mem.open()

    async def ask(self, query: Query) -> list[memory.Hit]:
        """One question to the service."""
        return await self.mem.retrieval.retrieve_similar_experiences(
            query.vector,
            agent_id=query.agent_id,
            product_id=query.product_id,
            regime=query.regime,
            as_of=query.as_of,
            top_k=query.top_k,
        )

    def numbers(self, answer: list[memory.Hit]) -> Sequence[int]:
        """Numbers of the records."""
        corpus = known(self.corpus)
        return [corpus.number(hit.memory.agent_id, hit.memory.product_id, hit.memory.timestamp) for hit in answer]

    async def close(self) -> None:
        """Disconnect."""
        await self.mem.close()


class OursOverTheWire(Ours):
    """Every question goes to Redis; this one also records the memories.

    Attributes
    ----------
    first_batch
        Memories of the first batch and the seconds that recording them took: a night, where the data are real.
    """

    name = "ours, over the wire"

    def __init__(self, redis_url: str, home: Path, **settings: Any) -> None:
        super().__init__(redis_url, home, near_cache_mb=0, **settings)
        self.first_batch = (0, 0.0)
        self._described = ""
        self._loaded: Loaded | None = None

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return f"{self._described}; near cache off"

    async def record(self, dataset: Dataset, say: Callable[[str], None]) -> Corpus:
        """Record everything through `add_many`, and collect the corpus meanwhile (not timed)."""
        builder = CorpusBuilder(dataset.shared_states)
        before = await self.used_bytes()
        seconds, count = 0.0, 0
        for batch in dataset.batches():
            begun = time.perf_counter()
            report = await self.mem.episodic.add_many(batch.records)
            took = time.perf_counter() - begun
            if len(report.stored) != len(batch.records):
                raise AssertionError(f"{len(batch.records)} were recorded, {len(report.stored)} stored.")
            if not count:
                self.first_batch = len(batch.records), took
            seconds += took
            count += len(batch.records)
            builder.add(batch)
            if count // PROGRESS_EVERY > (count - len(batch.records)) // PROGRESS_EVERY:
                say(f"{count:,} recorded at {count / seconds:,.0f}/s")
        schema = await self.mem.indexes.episodic(dataset.encoder_id)
        if schema is None:
            raise AssertionError("nothing was recorded.")
        self._described = schema.describe()
        bytes_each = (await self.used_bytes() - before) / count
        self._loaded = Loaded(seconds, bytes_each, "Redis' used_memory, index included")
        self.corpus = builder.build()
        return self.corpus

    async def load(self, memories: Memories) -> Loaded | None:  # noqa: ARG002
        """What `record` did."""
        return self._loaded

    async def used_bytes(self) -> int:
        """Memory that Redis uses."""
        info = await self.mem.link.execute("INFO", "memory")
        return int(info.split(b"used_memory:")[1].split(b"\r")[0])


class OursNearCache(Ours):
    """The default settings: experiences of the agents that are asked about are also held in the process that asks."""

    name = "ours, near cache"

    def __init__(self, redis_url: str, home: Path, **settings: Any) -> None:
        super().__init__(redis_url, home, **settings)
        self._held = ""

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return f"near_cache_mb {self.settings.near_cache_mb}; {self._held}"

    async def load(self, memories: Memories) -> Loaded:
        """Ask about each agent until the cache holds it or says why not: the other one has recorded the memories.

        Raises
        ------
        TimeoutError
            The cache is still loading after ten minutes.
        """
        corpus = self.corpus = memories.corpus
        begun = time.perf_counter()
        queries = [corpus.queries(1, scopes=[(agent, None, None)], seed=FILL_SEED)[0] for agent in corpus.agents]
        for query in queries:
            for _ in range(self.settings.near_cache_after + 1):
                await self.ask(query)
        async with asyncio.timeout(FILL_PATIENCE_S):
            while (state := self.mem.near.describe()).loading:
                await asyncio.sleep(FILL_POLL_S)
        self._held = f"holds {state.agents} of {len(queries)} agents"
        for why in dict.fromkeys(filter(None, [state.reason, *state.problems.values()])):
            self._held += f"; {why}"
        bytes_each = state.bytes / state.rows if state.rows else 0.0
        return Loaded(time.perf_counter() - begun, bytes_each, "its own count, in the process that asks, beside Redis")


class BareSearch(AsyncContestant):
    """FT.SEARCH through redis-py's asyncio client on the project's own index, its answer left as it comes."""

    name = "bare FT.SEARCH"
    returns = "the packed record and the distance, as bytes"
    agents = "tasks of one event loop, with a connection each"

    def __init__(self, redis_url: str, ours: Ours) -> None:
        pool = BlockingConnectionPool.from_url(redis_url, max_connections=BARE_CONNECTIONS, timeout=None, protocol=3)
        self._client: Any = Redis.from_pool(pool)
        self._client.response_callbacks.clear()
        self._ours = ours
        self._schema: Any = None
        self._corpus: Corpus | None = None

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return "redis-py asyncio with hiredis, RESP3, scope tag, negated range as of a time; two fields returned"

    async def load(self, memories: Memories) -> None:
        """Look up the index that the project filled."""
        self._corpus = memories.corpus
        self._schema = await self._ours.mem.indexes.episodic(memories.dataset.encoder_id)

    async def ask(self, query: Query) -> Any:
        """One command; one for each product where the layout is partitioned and none is named."""
        schema = self._schema
        targets = self._ours.mem.indexes.targets(schema, query.agent_id, query.product_id)
        commands = [self._command(target, schema, query) for target in targets]
        if len(commands) == 1:
            return [await self._client.execute_command(*commands[0])]
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return await pipe.execute()

    def _command(self, target: SearchTarget, schema: IndexSchema, query: Query) -> tuple[Any, ...]:
        condition = "@scope:{$scope}"
        parameters: list[Any] = ["scope", scope_tag(*query.scope)]
        if query.as_of_ms is not None:
            condition += " -@known_at:[($as_of +inf]"
            parameters += ["as_of", query.as_of_ms]
        parameters += ["vector", pack_vector(query.vector, schema.vector_type)]
        return (
            *("FT.SEARCH", target.index),
            f"({condition})=>[KNN {query.top_k} @{target.vector_attribute} $vector{target.clause} AS distance]",
            *("RETURN", 2, "body", "distance", "SORTBY", "distance", "LIMIT", 0, query.top_k),
            *("PARAMS", len(parameters), *parameters, "DIALECT", 2),
        )

    def numbers(self, answer: Any) -> Sequence[int]:
        """Numbers of the keys."""
        corpus = known(self._corpus)
        rows = [row for part in answer for row in part[b"results"]]
        rows.sort(key=lambda row: float(row[b"extra_attributes"][b"distance"]))
        keys = [self._ours.mem.keys.parse_episodic(row[b"id"]) for row in rows[:TOP_K]]
        return [corpus.number(key.agent_id, key.product_id, from_ms(key.timestamp_ms)) for key in keys]

    async def close(self) -> None:
        """Disconnect."""
        await self._client.aclose()
