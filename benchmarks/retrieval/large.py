"""The run over millions of memories: recorded through the project, asked by the largest scopes, also under reads."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from benchmarks.retrieval.bars import UNDER_READS
from benchmarks.retrieval.contestant import Contestant, Memories
from benchmarks.retrieval.corpus import Corpus, Scope
from benchmarks.retrieval.data import Dataset
from benchmarks.retrieval.floor import NumpyFloor
from benchmarks.retrieval.measure import Plan, Workload, measure_agents, measure_workloads
from benchmarks.retrieval.ours import NAMESPACE, BareSearch, OursNearCache, OursOverTheWire
from benchmarks.retrieval.reader import reading
from benchmarks.retrieval.run import (
    AS_OF,
    BY_AGENT,
    BY_SCOPE,
    Described,
    Outcome,
    Say,
    close_all,
    describe,
    peers,
    scope_sizes,
)
from benchmarks.retrieval.servers import Servers
from memory.records import from_ms

LARGE_NEAR_CACHE_MB = 4096
"""What five agents of 390,000 memories with FLOAT16 take is above the default: a process that asks about all of them
on this scale must be given as much."""
LARGE_SCOPES = 5
"""The largest scopes, which are asked by: with five agents on one market, the same regime and product of each."""


def large_workloads(corpus: Corpus, scopes: list[Scope], plan: Plan) -> list[Workload]:
    """Questions near memories of the largest scopes."""
    by_agent = corpus.queries(plan.queries, by_agent_only=True, scopes=scopes)
    workloads = [
        Workload(BY_SCOPE, corpus.queries(plan.queries, scopes=scopes), as_of=False),
        Workload(BY_AGENT, by_agent, as_of=False),
    ]
    for words, share in AS_OF.items():
        asked = corpus.queries(plan.queries, scopes=scopes, as_of_ms=corpus.known_at_share(share))
        workloads.append(Workload(f"{BY_SCOPE}, {words}", asked, as_of=True))
    return workloads


async def compare_large(servers: Servers, dataset: Dataset, plan: Plan, say: Say, *, with_peers: bool) -> Outcome:
    """The project, bare search and numpy (and peers) on millions of memories, which are never all in this process.

    FLOAT16, in the layout that the settings choose for the expected number. Cost: recording 1,944,000 into
    HNSW at 4,000/s is eight minutes, and 6 GB in Redis; peers read the data anew, each.
    """
    chosen = {"vector_type": "FLOAT16", "expected_memories": dataset.count}
    wire = OursOverTheWire(servers.redis_url, servers.home, **chosen)
    near = OursNearCache(servers.redis_url, servers.home, near_cache_mb=LARGE_NEAR_CACHE_MB, **chosen)
    opened: list[Contestant] = []
    try:
        for own in (wire, near):
            await own.open()
            opened.append(own)
        corpus = await wire.record(dataset, say)
        scopes = [scope for scope, _ in corpus.largest_scopes(LARGE_SCOPES)]
        asked = [*scopes, *dict.fromkeys((agent, None, None) for agent, _, _ in scopes)]
        contestants: list[Contestant] = [near, wire, BareSearch(servers.redis_url, wire), NumpyFloor(asked)]
        others = peers(servers) if with_peers else []
        contestants += [item for item in others if isinstance(item, Contestant)]
        described = []
        for item in contestants:
            if item not in opened:
                opened.append(item)
            begun = time.perf_counter()
            described.append(describe(item, await item.load(Memories(dataset, corpus))))
            say(f"{item.name}: ready after {time.perf_counter() - begun:.1f} s")
        workloads = large_workloads(corpus, scopes, plan)
        by_workload = await measure_workloads(contestants, workloads, corpus, plan, say)
        by_agents = await measure_agents(contestants, workloads[0], plan, say)
        day = from_ms(corpus.known_at_share(0.5)).date()
        async with reading(servers.redis_url, NAMESPACE, servers.home, day) as readings:
            under_reads = replace(workloads[0], name=UNDER_READS)
            on_redis = [item for item in contestants if isinstance(item, (OursOverTheWire, OursNearCache, BareSearch))]
            by_workload |= await measure_workloads(on_redis, [under_reads], corpus, plan, say)
            notes: dict[str, Any] = {
                "window": day.isoformat(),
                "readings": len(readings),
                "experiences": readings[-1][0],
                "seconds": sorted(seconds for _, seconds in readings)[len(readings) // 2],
            }
    finally:
        await close_all(opened)
    return Outcome(
        name=f"{dataset.name} {len(corpus):,}",
        source=dataset.source,
        count=len(corpus),
        scopes=scope_sizes(corpus),
        contestants=[*described, *(item for item in others if isinstance(item, Described))],
        workloads=by_workload,
        agents=by_agents,
        first_batch=wire.first_batch,
        notes=notes,
    )
