"""No answer holds what belongs to another namespace, another encoder, or, where one is named, another agent or product.

Names are made to be confused: prefixes of each other, with all the signs that ids may hold, agents named like products.
Every experience has the same state, so that nothing but its owner keeps it out of an answer.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import Action, BatchedMemoryRetrieval, EpisodicMemory, Hit, MemoryConnection, SemanticType, Side
from memory.records import IDENTIFIER_PATTERN
from tests.memory.retrieval.conftest import correlation_memory, pattern_memory, regime_memory, unit_vector
from tests.thoroughness import examples, is_thorough

DAY = datetime(2021, 6, 17, tzinfo=UTC)
PRESENT = DAY + timedelta(days=1)
NAMESPACES = ("", "-a", "a")
"""What follows a name that they have in common."""
ENCODERS = ("rff", "rff-1", "rff-1.1")
AGENTS = ("a", "a.b", "a-b", "ab", "a_b", "A", "BTC-USD", "rff-1")
PRODUCTS = ("BTC-USD", "BTC", "a", "a.b")
STATE = unit_vector(1)
EVERYTHING = 1000


@dataclass(frozen=True)
class Owner:
    """Whose an experience is."""

    namespace: str
    encoder: str
    agent: str
    product: str


def experience(owner: Owner, number: int) -> EpisodicMemory:
    """An experience that says whose it is: ids of other namespaces' experiences are the same, rewards are not."""
    return EpisodicMemory(
        agent_id=owner.agent,
        timestamp=DAY,
        state_vector=STATE.copy(),
        action=Action(Side.HOLD),
        reward=float(number),
        product_id=owner.product,
        regime="QUIET",
        encoder_id=owner.encoder,
        source="replay",
        run_id=owner.encoder,
        known_at=DAY,
        quality=0.9,
    )


def rewards(hits: Iterable[Hit]) -> list[float]:
    return sorted(hit.memory.reward for hit in hits)


async def near_answer(mem: MemoryConnection, **asked: Any) -> list[Hit]:
    """The answer of the near cache, or the server's where the question is none for the cache."""
    assert mem.near is not None
    deadline = asyncio.get_running_loop().time() + 15
    while True:
        misses = mem.near.describe().misses
        hits: list[Hit] = await mem.retrieval.retrieve_similar_experiences(STATE, top_k=EVERYTHING, **asked)
        if asked.get("agent_id") is None or mem.near.describe().misses == misses:
            return hits
        assert asyncio.get_running_loop().time() < deadline, mem.near.describe()
        await asyncio.sleep(0.002)


def fit(owner: Owner, asked: dict[str, str | None]) -> bool:
    """Whether an experience of an owner may be in an answer."""
    return (
        asked.get("agent_id") in (None, owner.agent)
        and asked.get("product_id") in (None, owner.product)
        and asked.get("exclude_agent_id") != owner.agent
    )


Ask = Callable[..., Awaitable[list[Hit]]]


class Door:
    """One namespace as a client of one encoder sees it, by all ways."""

    def __init__(self, url: str, namespace: str, encoder: str, layout: str) -> None:
        self.namespace, self.encoder = namespace, encoder
        self._settings = [
            memory.Settings(
                redis_url=url, namespace=namespace, near_cache_mb=size, near_cache_after=0, index_layout=layout
            )
            for size in (0, 16)
        ]

    async def open(self, stack: AsyncExitStack) -> Door:
        self.wire, self.near = [
            await stack.enter_async_context(memory.connect(settings=configured, encoder_id=self.encoder))
            for configured in self._settings
        ]
        self.batched = await stack.enter_async_context(BatchedMemoryRetrieval(self.wire))
        return self

    def ways(self) -> dict[str, Ask]:
        async def near(**asked: Any) -> list[Hit]:
            return await near_answer(self.near, **asked)

        async def wire(**asked: Any) -> list[Hit]:
            return await self.wire.retrieval.retrieve_similar_experiences(STATE, top_k=EVERYTHING, **asked)

        async def batched(**asked: Any) -> list[Hit]:
            return await self.batched.retrieve_async(STATE, top_k=EVERYTHING, **asked)

        async def shared(**asked: Any) -> list[Hit]:
            return await self.wire.shared.retrieve_shared_experiences(STATE, top_k=EVERYTHING, **asked)

        async def past(**asked: Any) -> list[Hit]:
            return await self.near.at(PRESENT).retrieval.retrieve_similar_experiences(STATE, top_k=EVERYTHING, **asked)

        return {"wire": wire, "near": near, "batched": batched, "shared": shared, "past": past}


async def drop(mem: MemoryConnection, namespaces: Iterable[str]) -> None:
    for index in await mem.link.execute("FT._LIST"):
        if index.decode().split(":")[0] in namespaces:
            await mem.link.execute("FT.DROPINDEX", index, "DD")


async def fill(doors: Iterable[Door], owners: dict[Owner, int]) -> None:
    for door in doors:
        own = [owner for owner in owners if (owner.namespace, owner.encoder) == (door.namespace, door.encoder)]
        for add in (door.wire.episodic.add_many, door.wire.shared.add_shared_experiences):
            report = await add([experience(owner, owners[owner]) for owner in own])
            assert len(report.stored) == len(own)


QUESTIONS: list[dict[str, str | None]] = [
    *({"agent_id": agent, "product_id": product} for agent in (None, *AGENTS) for product in (None, *PRODUCTS)),
    *({"exclude_agent_id": agent, "product_id": product} for agent in AGENTS for product in (None, "a")),
    *({"agent_id": "a", "exclude_agent_id": agent} for agent in AGENTS),
]


@pytest.mark.parametrize("layout", ["single", "partitioned"])
async def test_answers_hold_what_belongs_to_those_who_were_asked_about(servers: Any, layout: str) -> None:
    base = f"i-{uuid.uuid4().hex[:8]}"
    namespaces = [base + end for end in (NAMESPACES if layout == "single" else NAMESPACES[:1])]
    encoders = ENCODERS if layout == "single" else ENCODERS[:2]
    places = [(namespace, encoder) for namespace in namespaces for encoder in encoders]
    every = [Owner(*place, agent, product) for place in places for agent in AGENTS for product in PRODUCTS]
    owners = {owner: number for number, owner in enumerate(every)}
    async with AsyncExitStack() as stack:
        doors = [await Door(servers.redis_url, *place, layout).open(stack) for place in places]
        await fill(doors, owners)
        # All hold something; each namespace and each encoder asks, with all of the others beside it.
        asking = doors if len(namespaces) == 1 or is_thorough() else doors[:: len(encoders) + 1]
        assert {(door.namespace, door.encoder) for door in asking} >= set(zip(namespaces, encoders, strict=False))
        for door in asking:
            own = {owner: number for owner, number in owners.items() if owner.namespace == door.namespace}
            own = {owner: number for owner, number in own.items() if owner.encoder == door.encoder}
            for way, ask in door.ways().items():
                for asked in QUESTIONS:
                    wanted = [float(number) for owner, number in own.items() if fit(owner, asked)]
                    assert rewards(await ask(**asked)) == wanted, (door.namespace, door.encoder, way, asked)
            for agent in AGENTS:
                assert await door.wire.episodic.count(agent_id=agent, encoder_id=door.encoder) == len(PRODUCTS)
                assert await door.wire.shared.count(agent_id=agent) == len(PRODUCTS) * len(encoders)
        await drop(doors[0].wire, namespaces)


async def test_what_is_removed_is_removed_where_it_was_asked_for(servers: Any) -> None:
    base = f"i-{uuid.uuid4().hex[:8]}"
    namespaces = [base + end for end in NAMESPACES[:2]]
    places = [(namespace, encoder) for namespace in namespaces for encoder in ENCODERS[:2]]
    every = [Owner(*place, agent, product) for place in places for agent in AGENTS for product in PRODUCTS]
    owners = {owner: number for number, owner in enumerate(every)}
    async with AsyncExitStack() as stack:
        doors = [await Door(servers.redis_url, *place, "single").open(stack) for place in places]
        await fill(doors, owners)
        for door in doors:
            for agent in AGENTS:
                assert len(await near_answer(door.near, agent_id=agent)) == len(PRODUCTS)
        for criteria in ({"agent_id": "a"}, {"product_id": "a"}, {"agent_id": "a.b", "product_id": "BTC"}):
            await doors[0].wire.episodic.forget(**criteria)
            for owner in list(owners):
                gone = criteria.get("agent_id", owner.agent) == owner.agent
                gone = gone and criteria.get("product_id", owner.product) == owner.product
                if gone and owner.namespace == namespaces[0]:
                    del owners[owner]
            for door in doors:
                for agent in (*AGENTS, None):
                    left = [
                        float(number)
                        for owner, number in owners.items()
                        if (owner.namespace, owner.encoder) == (door.namespace, door.encoder)
                        and agent in (None, owner.agent)
                    ]
                    for way in ("wire", "near", "batched"):
                        assert rewards(await door.ways()[way](agent_id=agent)) == left, (criteria, way, agent)
        assert len(await doors[0].ways()["shared"]()) == len(AGENTS) * len(PRODUCTS)
        await drop(doors[0].wire, namespaces)


NAMES = st.one_of(
    st.sampled_from(["a", "a.b", "a-b", "ab", "a_", "a-", "a.", "0", "A"]),
    st.from_regex(IDENTIFIER_PATTERN, fullmatch=True),
    st.text("a.-_", max_size=5).map(lambda end: f"a{end}"),
)


@given(
    names=st.lists(NAMES, min_size=2, max_size=6, unique=True),
    places=st.lists(
        st.tuples(*(st.integers(0, limit) for limit in (1, 1, 5, 5))), min_size=1, max_size=24, unique=True
    ),
    layout=st.sampled_from(["single", "single", "partitioned"]),
)
@settings(max_examples=examples(3, 18), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_are_kept_apart(
    servers: Any, names: list[str], places: list[tuple[int, int, int, int]], layout: str
) -> None:
    """Agents, products and encoders share their names."""
    base = f"i-{uuid.uuid4().hex[:8]}"
    namespaces, encoders = [base, f"{base}-a"], names[:2]
    every = dict.fromkeys(
        Owner(namespaces[space], encoders[encoder], names[agent % len(names)], names[product % len(names)])
        for space, encoder, agent, product in places
    )
    owners = {owner: number for number, owner in enumerate(every)}

    async def run() -> None:
        async with AsyncExitStack() as stack:
            doors = [
                await Door(servers.redis_url, namespace, encoder, layout).open(stack)
                for namespace in namespaces
                for encoder in encoders
            ]
            await fill(doors, owners)
            for door in doors:
                for way, ask in door.ways().items():
                    for asked in [
                        {},
                        *({"agent_id": name} for name in names),
                        *({"product_id": name} for name in names),
                        *({"agent_id": name, "product_id": names[0]} for name in names),
                        *({"exclude_agent_id": name} for name in names),
                    ]:
                        wanted = [
                            float(number)
                            for owner, number in owners.items()
                            if (owner.namespace, owner.encoder) == (door.namespace, door.encoder) and fit(owner, asked)
                        ]
                        assert rewards(await held(door, way, ask, asked)) == wanted, (door.encoder, way, asked)
            await drop(doors[0].wire, namespaces)

    asyncio.run(run())


async def held(door: Door, way: str, ask: Ask, asked: dict[str, str]) -> list[Hit]:
    """The answer; of the near cache only where the memory has an index that the cache can follow."""
    if way == "near" and await door.near.indexes.episodic(door.encoder) is None:
        return await door.near.retrieval.retrieve_similar_experiences(STATE, top_k=EVERYTHING, **asked)
    return await ask(**asked)


# --- what was learned ----------------------------------------------------------------------------------------


@pytest.fixture
async def learned(servers: Any) -> AsyncIterator[dict[tuple[str, str], MemoryConnection]]:
    """The same memories under the same ids in every namespace and encoder; what they say tells whose they are.

    Each line is beside one that is not read, whose name begins alike.
    """
    base = f"i-{uuid.uuid4().hex[:8]}"
    namespaces = [base + end for end in NAMESPACES[:3]]
    async with AsyncExitStack() as stack:
        opened = {}
        for space, namespace in enumerate(namespaces):
            for number, encoder in enumerate(ENCODERS):
                mem = await stack.enter_async_context(
                    memory.connect(redis_url=servers.redis_url, namespace=namespace, encoder_id=encoder)
                )
                opened[namespace, encoder] = mem
                for line, mark in ((f"{base}/{encoder}/1", 0), (f"{base}/{encoder}/10", 100)):
                    of_line = {"line": line, "encoder_id": encoder}
                    value = mark + 10 * space + number
                    await mem.link.execute("SET", mem.keys.fence, 1)
                    await mem.semantic.publish(
                        [
                            *(pattern_memory(name, 1, states=value, **of_line) for name in ("p-1", "p-10", "p")),
                            regime_memory("QUIET", seed=1, states=value, **of_line),
                            correlation_memory("BTC", "BTC-USD", 0.5, n=value, **of_line),
                        ],
                        line=line,
                        kinds=tuple(SemanticType),
                        token=1,
                        valid_from=DAY,
                    )
        yield opened
        await drop(mem, namespaces)


async def test_what_was_learned_is_told_to_its_own_encoder_and_namespace(
    learned: dict[tuple[str, str], MemoryConnection],
) -> None:
    namespaces = list(dict.fromkeys(namespace for namespace, _ in learned))
    for (namespace, encoder), mem in learned.items():
        value = 10 * namespaces.index(namespace) + ENCODERS.index(encoder)
        for retrieval in (mem.retrieval, mem.at(PRESENT).retrieval):
            patterns = await retrieval.retrieve_patterns(STATE, top_k=50)
            assert [(hit.memory.memory_id, hit.memory.states, hit.memory.encoder_id) for hit in patterns] == [
                (name, value, encoder) for name in ("p", "p-1", "p-10")
            ]
            best = await retrieval.find_similar_pattern(STATE)
            assert best is not None
            assert best.memory.states == value
            known = await retrieval.retrieve_regime_knowledge("QUIET")
            assert known.memory is not None
            assert known.memory.states == value
            regimes = await retrieval.retrieve_similar_regimes(STATE)
            assert [hit.memory.states for hit in regimes.memories] == [value]
            correlations = await retrieval.retrieve_correlations("BTC")
            assert [hit.memory.n for hit in correlations] == [value]
        line = await mem.semantic.current_line(encoder)
        assert {(item.encoder_id, item.line) for item in await mem.semantic.current(line=line)} == {(encoder, line)}


async def test_what_is_retrieved_is_counted_in_its_own_namespace_and_under_its_own_id(
    learned: dict[tuple[str, str], MemoryConnection],
) -> None:
    ids = ["p", "p-1", "p-10"]
    for number, mem in enumerate(learned.values(), start=1):
        assert await mem.retrieval.find_similar_pattern(STATE, as_of=DAY + timedelta(hours=number)) is not None
        await mem.access.flush()
    first, _, _, other, *_ = learned.values()
    for _ in range(2):
        await other.retrieval.retrieve_patterns(STATE, top_k=2, as_of=DAY)
    await other.access.flush()
    for mem, wanted in ((first, [3, 0, 0]), (other, [5, 2, 0])):
        counted = await mem.semantic.access_counts(ids, until=PRESENT, days=1)
        assert [counted[name].count for name in ids] == wanted


async def test_a_client_asks_in_its_own_encoder_while_the_current_one_changes(
    learned: dict[tuple[str, str], MemoryConnection],
) -> None:
    (namespace, encoder), mem = next(iter(learned.items()))
    await mem.encoders.set_current(ENCODERS[2])
    hits = await mem.retrieval.retrieve_patterns(STATE)
    assert {hit.memory.encoder_id for hit in hits} == {encoder}
    async with memory.connect(redis_url=mem._redis_url, namespace=namespace) as follower:
        hits = await follower.retrieval.retrieve_patterns(STATE)
        assert {hit.memory.encoder_id for hit in hits} == {ENCODERS[2]}
        await mem.encoders.set_current(encoder)
        hits = await follower.retrieval.retrieve_patterns(STATE)
        assert {hit.memory.encoder_id for hit in hits} == {ENCODERS[2]}


async def test_vectors_of_another_encoder_are_no_part_of_an_answer(mem: MemoryConnection, servers: Any) -> None:
    """The same experience in two encoders of different dimensions is found by each in its own vectors."""
    await mem.encoders.register("wide", fitted_until=DAY, definition={}, dimension=512)
    wide = np.concatenate([STATE, STATE]).astype(np.float32)
    wide = (wide / np.linalg.norm(wide)).astype(np.float32)
    narrow_record = experience(Owner(mem.namespace, "rff", "a", "BTC"), 1)
    wide_record = experience(Owner(mem.namespace, "wide", "a", "BTC"), 2)
    wide_record.state_vector = wide
    await mem.episodic.add_many([narrow_record, wide_record])
    for encoder, vector, reward in (("rff", STATE, 1.0), ("wide", wide, 2.0)):
        async with memory.connect(
            settings=memory.Settings(redis_url=servers.redis_url, namespace=mem.namespace, near_cache_after=0),
            encoder_id=encoder,
        ) as client:
            for asked in ({}, {"agent_id": "a"}, {"agent_id": "a", "product_id": "BTC", "as_of": PRESENT}):
                for _ in range(5):
                    hits = await client.retrieval.retrieve_similar_experiences(vector, **asked)
                    assert [(hit.memory.reward, hit.memory.encoder_id) for hit in hits] == [(reward, encoder)]
                    assert hits[0].distance == pytest.approx(0.0, abs=1e-6)
