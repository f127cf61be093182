"""One run over one set of memories: load, ask in rounds, collect."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.retrieval.contestant import Contestant, Loaded, Memories
from benchmarks.retrieval.corpus import Corpus
from benchmarks.retrieval.data import Dataset
from benchmarks.retrieval.floor import NumpyFloor
from benchmarks.retrieval.measure import Figures, Plan, Workload, measure_agents, measure_workloads
from benchmarks.retrieval.ours import BareSearch, OursNearCache, OursOverTheWire
from benchmarks.retrieval.postgres import Pgvector, PgvectorExact, PgvectorHnsw
from benchmarks.retrieval.servers import Servers
from benchmarks.retrieval.vector_stores import LanceDb, QdrantEdge, Usearch

BY_SCOPE, BY_AGENT = "agent, product and regime", "agent"
AS_OF = {"as of the middle": 0.5, "as of near the end": 0.95}
"""Shares of the memories that are known at the times that are asked as of."""
LEAST_RECALL = 0.95
"""A variant of pgvector with less is not taken for the better one."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Described:
    """A contestant in a report; `missing` says why it did not take part."""

    name: str
    configuration: str = ""
    returns: str = ""
    agents: str = ""
    loaded: Loaded | None = None
    missing: str | None = None


@dataclass(slots=True)
class Outcome:
    """What was found on one set of memories.

    Attributes
    ----------
    name, source, count
        The memories.
    scopes
        Number of scopes of agent, product and regime; sizes of the smallest, median and largest.
    workloads
        Figures by kind of question and contestant.
    agents
        Figures by number of agents that ask at the same time and contestant.
    first_batch
        Memories of the first batch and the seconds that recording them took.
    """

    name: str
    source: str
    count: int
    scopes: tuple[int, int, int, int]
    contestants: list[Described]
    workloads: dict[str, dict[str, Figures]]
    agents: dict[int, dict[str, Figures]]
    first_batch: tuple[int, float]
    replay_seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def standard_workloads(corpus: Corpus, plan: Plan) -> list[Workload]:
    """Both scopes, with and without as-of, near the same memories."""
    workloads = []
    for name, by_agent_only in ((BY_SCOPE, False), (BY_AGENT, True)):
        plain = corpus.queries(plan.queries, by_agent_only=by_agent_only)
        workloads.append(Workload(name, plain, as_of=False))
        for words, share in AS_OF.items():
            asked = corpus.queries(plan.queries, by_agent_only=by_agent_only, as_of_ms=corpus.known_at_share(share))
            workloads.append(Workload(f"{name}, {words}", asked, as_of=True))
    return workloads


def peers(servers: Servers) -> list[Contestant | Described]:
    """The peers whose packages are installed, and a line for each that is not."""
    made: list[tuple[type[Contestant], Callable[[], Contestant]]] = [
        (PgvectorExact, lambda: PgvectorExact(servers.database_url)),
        (PgvectorHnsw, lambda: PgvectorHnsw(servers.database_url)),
        (QdrantEdge, lambda: QdrantEdge(servers.home)),
        (LanceDb, lambda: LanceDb(servers.home)),
        (Usearch, Usearch),
    ]
    return [make() if kind.missing() is None else Described(kind.name, missing=kind.missing()) for kind, make in made]


async def compare(servers: Servers, dataset: Dataset, plan: Plan, say: Say, *, only: Sequence[str] = ()) -> Outcome:
    """All contestants on one set of memories that fits in this process.

    Cost: at 100,000 about five minutes on two cores.

    Parameters
    ----------
    only
        Words of which a contestant's name must hold one to take part; all take part where there are none.
    """
    wire = OursOverTheWire(servers.redis_url, servers.home)
    near = OursNearCache(servers.redis_url, servers.home)
    bare = BareSearch(servers.redis_url, wire)
    everyone = [near, wire, bare, *peers(servers), NumpyFloor()]
    chosen = [item for item in everyone if not only or any(word.lower() in item.name.lower() for word in only)]
    missing = [item for item in chosen if isinstance(item, Described)]
    contestants = [item for item in chosen if isinstance(item, Contestant)]
    opened: list[Contestant] = []
    try:
        for own in (wire, near) if near in contestants else (wire,):
            await own.open()
            opened.append(own)
        corpus = await wire.record(dataset, say)
        described = []
        for item in contestants:
            if item not in opened:
                opened.append(item)
            begun = time.perf_counter()
            loaded = await item.load(Memories(dataset, corpus))
            described.append(describe(item, loaded))
            say(f"{item.name}: ready after {time.perf_counter() - begun:.1f} s")
        workloads = standard_workloads(corpus, plan)
        by_workload = await measure_workloads(contestants, workloads, corpus, plan, say)
        by_agents = await measure_agents(contestants, workloads[0], plan, say)
    finally:
        await close_all(opened)
    return Outcome(
        name=f"{dataset.name} {len(corpus):,}",
        source=dataset.source,
        count=len(corpus),
        scopes=scope_sizes(corpus),
        contestants=[*described, *missing],
        workloads=by_workload,
        agents=by_agents,
        first_batch=wire.first_batch,
    )


def describe(item: Contestant, loaded: Loaded | None) -> Described:
    """A contestant as a report shows it, once it is loaded."""
    return Described(item.name, item.configuration, item.returns, item.agents, loaded)


async def close_all(opened: Sequence[Contestant]) -> None:
    """Close everyone, whoever fails."""
    errors: list[Exception] = []
    for item in opened:
        try:
            await item.close()
        except Exception as error:  # noqa: BLE001 - raised below, once everyone is closed
            errors.append(error)
    if errors:
        raise ExceptionGroup("not everything could be closed", errors)


def scope_sizes(corpus: Corpus) -> tuple[int, int, int, int]:
    """Number of scopes of agent, product and regime, and the smallest, median and largest size."""
    sizes = [size for _, size in corpus.largest_scopes()]
    return len(sizes), sizes[-1], sizes[len(sizes) // 2], sizes[0]


def better_pgvector(figures: dict[str, Figures]) -> str | None:
    """The variant of pgvector with the lower median among those that find enough."""
    names = [kind.name for kind in Pgvector.__subclasses__() if kind.name in figures]
    enough = [name for name in names if (figures[name].recall or 0.0) >= LEAST_RECALL]
    return min(enough or names, key=lambda name: figures[name].p50, default=None)
