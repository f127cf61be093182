"""How fast and how exact retrieval is, measured on the memories that a namespace really holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from memory.errors import WindowError
from memory.records import EpisodicMemory

if TYPE_CHECKING:
    from memory.connection import MemoryConnection

Milliseconds = npt.NDArray[np.float64]

NUDGE = 0.05
"""Length of the random vector that is added to a remembered state to make a query that was never recorded."""
WARM_UP_QUERIES = 20
REFERENCE_EVERY = 4
"""Queries after which a round trip is timed: it meets the same load as they do."""


@dataclass(frozen=True, slots=True)
class RetrievalFigures:
    """What was measured.

    Attributes
    ----------
    documents
        Experiences in the namespace (of the connection's encoder).
    latencies_ms
        By kind of query, one after the other from one client: milliseconds, shape (queries,).
    concurrent_ms
        Milliseconds a query while `agents` clients ask at the same time, shape (queries,).
    agents, queries_per_s
        How many asked at the same time, and their queries a second, all together.
    recall
        Share of the true `top_k` nearest that were returned, over `recall_queries` queries.
    """

    documents: int
    latencies_ms: dict[str, Milliseconds]
    concurrent_ms: Milliseconds
    agents: int
    queries_per_s: float
    recall: float
    recall_queries: int
    top_k: int
    round_trip_ms: Milliseconds
    """Milliseconds of single reads of one key, between the queries of one client: what machine and link cost by
    themselves. A latency in round trips says how a search does on a machine that is busy with something else."""


async def measure_retrieval(
    mem: MemoryConnection,
    start: datetime,
    end: datetime,
    *,
    queries: int = 300,
    agents: int = 10,
    recall_queries: int = 50,
    top_k: int = 10,
    random_state: int = 0,
) -> RetrievalFigures:
    """Measure retrieval with queries near states that one agent met in a span.

    Parameters
    ----------
    mem
        An open memory.
    start, end
        Span that the queries are drawn from; all of the namespace is searched.
    queries
        Queries of each kind, after a warm-up.
    agents
        Clients that ask at the same time.
    recall_queries
        Queries that are compared with brute force over all memories of one agent and product.
    top_k
        Results a query.
    random_state
        Seed of the choice of queries.

    Raises
    ------
    WindowError
        The span holds no experience of the connection's encoder.

    Notes
    -----
    Cost: about a second, and one read of one agent's experiences with one product.
    """
    generator = np.random.default_rng(random_state)
    states = await _states_of_one_agent(mem, start, end)
    asked = [_nudged(states[row], generator) for row in generator.integers(0, len(states), queries)]
    latest = max(memory.known_at or end for memory, _ in asked)

    async def by_scope(query: _Query) -> None:
        memory, vector = query
        await mem.retrieval.retrieve_similar_experiences(
            vector, agent_id=memory.agent_id, product_id=memory.product_id, regime=memory.regime, top_k=top_k
        )

    async def by_scope_as_of(query: _Query) -> None:
        memory, vector = query
        await mem.retrieval.retrieve_similar_experiences(
            vector,
            agent_id=memory.agent_id,
            product_id=memory.product_id,
            regime=memory.regime,
            as_of=latest,
            top_k=top_k,
        )

    async def by_agent(query: _Query) -> None:
        memory, vector = query
        await mem.retrieval.retrieve_similar_experiences(vector, agent_id=memory.agent_id, top_k=top_k)

    async def round_trip(_: _Query) -> None:
        await mem.link.execute("GET", mem.keys.fence)

    latencies, round_trips = {}, []
    for name, ask in (
        ("agent, product and regime", by_scope),
        ("the same as of a time", by_scope_as_of),
        ("agent alone", by_agent),
    ):
        await _timed(ask, asked[:WARM_UP_QUERIES])
        latencies[name], reference = await _timed_beside(ask, round_trip, asked)
        round_trips.append(reference)
    begun = time.perf_counter()
    concurrent = await asyncio.gather(*(_timed(by_scope, asked) for _ in range(agents)))
    took = time.perf_counter() - begun
    recall = await _recall(mem, asked[:recall_queries], top_k)
    return RetrievalFigures(
        documents=await mem.episodic.count(encoder_id=states[0].encoder_id),
        latencies_ms=latencies,
        concurrent_ms=np.concatenate(concurrent),
        agents=agents,
        queries_per_s=agents * queries / took,
        recall=recall,
        recall_queries=min(recall_queries, queries),
        top_k=top_k,
        round_trip_ms=np.concatenate(round_trips),
    )


_Query = tuple[EpisodicMemory, npt.NDArray[np.float32]]


async def _states_of_one_agent(mem: MemoryConnection, start: datetime, end: datetime) -> list[EpisodicMemory]:
    """What the first agent met in a span, in order."""
    encoder_id = mem.encoder_id or await mem.encoders.current()
    async for page in mem.episodic.read_window(start, end, encoder_id=encoder_id):
        first = min(memory.agent_id for memory in page)
        break
    else:
        raise WindowError(
            f"there is no experience from {start.isoformat()} to {end.isoformat()} to measure with.",
            remedy="Record the window first, or name another.",
        )
    found = [
        memory
        async for page in mem.episodic.read_window(start, end, encoder_id=encoder_id, agent_id=first)
        for memory in page
    ]
    return sorted(found, key=lambda memory: (memory.product_id, memory.timestamp, memory.memory_id))


def _nudged(memory: EpisodicMemory, generator: np.random.Generator) -> _Query:
    step = generator.standard_normal(len(memory.state_vector))
    moved = memory.state_vector + NUDGE * step / np.linalg.norm(step)
    return memory, (moved / np.linalg.norm(moved)).astype(np.float32)


async def _timed(ask: Callable[[_Query], Awaitable[None]], asked: Sequence[_Query]) -> Milliseconds:
    taken = np.empty(len(asked))
    for position, query in enumerate(asked):
        begun = time.perf_counter()
        await ask(query)
        taken[position] = 1000 * (time.perf_counter() - begun)
    return taken


async def _timed_beside(
    ask: Callable[[_Query], Awaitable[None]], reference: Callable[[_Query], Awaitable[None]], asked: Sequence[_Query]
) -> tuple[Milliseconds, Milliseconds]:
    """Milliseconds of each query, and of a reference after every few of them."""
    taken, beside = [], []
    for first in range(0, len(asked), REFERENCE_EVERY):
        taken.append(await _timed(ask, asked[first : first + REFERENCE_EVERY]))
        beside.append(await _timed(reference, asked[first : first + 1]))
    return np.concatenate(taken), np.concatenate(beside)


async def _recall(mem: MemoryConnection, asked: Sequence[_Query], top_k: int) -> float:
    """Share of the true nearest, among the memories of one agent and product, that retrieval returns."""
    agent_id, product_id = asked[0][0].agent_id, asked[0][0].product_id
    held = [
        memory
        async for page in mem.episodic.read_window(
            datetime.min.replace(tzinfo=asked[0][0].timestamp.tzinfo),
            datetime.max.replace(tzinfo=asked[0][0].timestamp.tzinfo),
            encoder_id=asked[0][0].encoder_id,
            agent_id=agent_id,
            product_id=product_id,
        )
        for memory in page
    ]
    vectors = np.stack([memory.state_vector for memory in held]).astype(np.float64)
    shares = []
    for _, vector in asked:
        similarity = vectors @ vector.astype(np.float64)
        wanted = min(top_k, len(held))
        # Equal distances are interchangeable: whatever is as near as the last true neighbour counts.
        least = np.partition(similarity, -wanted)[-wanted]
        hits = await mem.retrieval.retrieve_similar_experiences(
            vector, agent_id=agent_id, product_id=product_id, top_k=top_k
        )
        near = [float(hit.memory.state_vector.astype(np.float64) @ vector.astype(np.float64)) for hit in hits]
        shares.append(sum(value >= least - 1e-6 for value in near) / wanted)
    return float(np.mean(shares))
