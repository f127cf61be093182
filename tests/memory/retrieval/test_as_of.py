"""What is filtered here and what the server filters give the same answers: as of a time, in a span, ties included."""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import Action, EpisodicMemory, MemoryConnection, Side
from memory.errors import EncoderError
from memory.retrieval.depth import AS_OF_BUCKET_MS, KINDS, MOST_PER_RESULT, TRIED_AGAIN_AFTER, Depth, Depths, most_rows
from memory.retrieval.query import check_bounds
from tests.thoroughness import examples

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
AGENTS = ("hold", "momentum", "random")
PRODUCTS = ("BTC-USDT", "ETH-USDT")
STATES = 40
RECORDS = 600


def unit_vector(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).standard_normal(256).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def state_of(record: EpisodicMemory) -> int:
    return int(record.features["state"])


def some_records() -> list[EpisodicMemory]:
    """Experiences of few states, so that many are equally far from any question."""
    draw = random.Random(7)
    records = []
    for step in range(RECORDS):
        timestamp = DAY + draw.randrange(1440) * MINUTE
        state = draw.randrange(STATES)
        records.append(
            EpisodicMemory(
                agent_id=draw.choice(AGENTS),
                timestamp=timestamp,
                state_vector=unit_vector(state),
                action=Action(Side.HOLD),
                reward=draw.choice([-0.5, 0.0, 0.25, 0.1 + 0.2]),
                product_id=draw.choice(PRODUCTS),
                regime="QUIET",
                encoder_id="rff-1",
                source="backtest",
                step=step,
                known_at=timestamp + draw.randrange(7200) * timedelta(seconds=1),
                features={"state": float(state)},
            )
        )
    return records


@pytest.fixture(scope="module", params=["single", "partitioned"])
def past(request: pytest.FixtureRequest, servers: Any) -> tuple[str, list[EpisodicMemory], memory.Settings]:
    """A namespace with many experiences, and those that it holds; in either layout of indexes."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    records = some_records()
    configured = memory.Settings(index_layout=request.param, redis_url=servers.redis_url, namespace=name)

    async def fill() -> None:
        async with memory.connect(settings=configured) as mem:
            assert len((await mem.episodic.add_many(records)).stored) == RECORDS

    asyncio.run(fill())
    return name, records, configured


TIMES = st.integers(-60, 1500).map(lambda minute: DAY + minute * MINUTE)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "agent_id": st.sampled_from(AGENTS),
        "product_id": st.sampled_from(PRODUCTS),
        "market_phase": st.sampled_from(["OPEN", "MIDDAY", "CLOSE"]),
        "exclude_agent_id": st.sampled_from(AGENTS),
        "since": TIMES,
        "until": TIMES,
        "as_of": TIMES,
        "min_reward": st.sampled_from([-1.0, 0.0, 0.25, 0.1 + 0.2, 1.0]),
        "top_k": st.integers(1, 60),
    },
).filter(lambda asked: "since" not in asked or "until" not in asked or asked["since"] <= asked["until"])


def expected(records: list[EpisodicMemory], question: Any, asked: dict[str, Any]) -> list[str]:
    """Ids of the experiences that a plain reading of the question gives, best first."""
    distances = {state: 1.0 - float(np.dot(unit_vector(state).astype(float), question)) for state in range(STATES)}
    fit = [
        record
        for record in records
        if asked.get("agent_id", record.agent_id) == record.agent_id
        and asked.get("product_id", record.product_id) == record.product_id
        and asked.get("market_phase", record.market_phase) == record.market_phase
        and asked.get("exclude_agent_id") != record.agent_id
        and asked.get("since", record.timestamp) <= record.timestamp
        and ("until" not in asked or record.timestamp < asked["until"])
        and ("as_of" not in asked or (record.known_at is not None and record.known_at <= asked["as_of"]))
        and asked.get("min_reward", -1.0) <= record.reward
    ]
    fit.sort(key=lambda record: (distances[state_of(record)], record.memory_id))
    return [record.memory_id for record in fit[: asked.get("top_k", 10)]]


class Fixed(Depths):
    """Depths that have learned one thing, and learn no other."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self._fixed = (mean, deviation)

    def of(self, limits: int, one_agent: bool, as_of_ms: int | None) -> Depth:
        return Depth(*self._fixed)


@given(questions=st.lists(LIMITS, min_size=5, max_size=10), seed=st.integers(1000, 1100))
@settings(max_examples=examples(10, 60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_are_the_same_however_deep_is_looked_and_whoever_filters(
    past: tuple[str, list[EpisodicMemory], memory.Settings], questions: list[dict[str, Any]], seed: int
) -> None:
    _, records, configured = past
    question = unit_vector(seed)

    async def check() -> None:
        async with memory.connect(settings=configured) as mem:
            context = mem.retrieval._context
            for asked in questions:
                wanted = expected(records, question.astype(float), asked)
                server_filters, shallowest, deep = Fixed(99.0, 0.0), Fixed(1.0, 0.0), Fixed(4.0, 1.0)
                for depths in (context.depths, server_filters, shallowest, deep):
                    context.depths = depths
                    hits = await mem.retrieval.retrieve_similar_experiences(question, **asked)
                    assert [hit.memory.memory_id for hit in hits] == wanted, (asked, depths)

    asyncio.run(check())


async def test_equally_far_experiences_are_cut_by_memory_id(mem: MemoryConnection, make: Any, vector: Any) -> None:
    records = [make(minute, state_vector=vector(0)) for minute in range(40)]
    await mem.episodic.add_many(records[20:])
    await mem.episodic.add_many(records[:20])
    ids = sorted(record.memory_id for record in records)
    for top_k in (1, 7, 39, 40, 41):
        for _ in range(3):
            hits = await mem.retrieval.retrieve_similar_experiences(vector(0), top_k=top_k)
            assert [hit.memory.memory_id for hit in hits] == ids[:top_k]


async def test_what_was_learned_of_the_past_costs_one_search_and_shows_nothing_of_the_future(
    mem: MemoryConnection, make: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mem.encoders.register("rff-1", fitted_until=DAY, definition={"seed": 1})
    await mem.episodic.add_many([make(minute) for minute in range(300)])
    as_of = DAY + 150 * MINUTE
    searches: list[int] = []
    execute = mem.link.execute

    async def counted(*arguments: Any, **named: Any) -> Any:
        searches[-1] += arguments[0] == "FT.SEARCH"
        return await execute(*arguments, **named)

    monkeypatch.setattr(mem.link, "execute", counted)
    for seed in range(500, 560):
        searches.append(0)
        past = mem.at(as_of).retrieval  # Each has the depths of its memory.
        hits = await past.retrieve_similar_experiences(vector(seed), top_k=10)
        assert len(hits) == 10
        assert all(hit.memory.known_at is not None and hit.memory.known_at <= as_of for hit in hits)
    assert sum(searches[20:]) <= 44  # Forty questions, a few of which had to ask twice.


async def test_an_encoder_that_is_registered_later_is_seen_by_the_next_question(
    mem: MemoryConnection, make: Any, vector: Any
) -> None:
    await mem.episodic.add(make(0))
    as_of = DAY + 5 * MINUTE
    assert len(await mem.retrieval.retrieve_similar_experiences(vector(0), as_of=as_of)) == 1
    await mem.encoders.register("rff-1", fitted_until=DAY + 6 * MINUTE, definition={"seed": 1})
    for _ in range(2):
        with pytest.raises(EncoderError, match="rff-1 was fitted"):
            await mem.retrieval.retrieve_similar_experiences(vector(0), as_of=as_of)
    assert len(await mem.retrieval.retrieve_similar_experiences(vector(0), as_of=DAY + 6 * MINUTE)) == 1


async def test_an_agent_that_is_asked_for_and_excluded_has_nothing(
    mem: MemoryConnection, make: Any, vector: Any
) -> None:
    await mem.episodic.add(make(0))
    retrieve = mem.retrieval.retrieve_similar_experiences
    assert await retrieve(vector(0), agent_id="momentum", exclude_agent_id="momentum") == []


# --- how deep ------------------------------------------------------------------------------------------------


def test_where_nothing_is_left_out_one_more_than_wanted_is_fetched() -> None:
    depth = Depth(deviation=0.5)
    for _ in range(60):
        depth.learn(10, 10)
    assert depth.rows(10) == 11
    assert depth.shallow
    assert not depth.few()


def test_the_depth_follows_what_questions_needed() -> None:
    depth = Depth()
    draw = random.Random(1)
    needed = [draw.randrange(15, 26) for _ in range(400)]
    enough = 0
    for rows in needed:
        enough += depth.rows(10) > rows
        depth.learn(10, rows)
    assert enough / len(needed) > 0.9
    assert depth.rows(10) <= 30


def test_where_nearly_all_is_left_out_the_server_filters_and_is_doubted_after_a_while() -> None:
    depth = Depth()
    for _ in range(40):
        depth.learn(10, 120)
    assert not depth.shallow
    assert depth.few()
    assert depth.rows(10) <= most_rows(10) + 1
    questions = 0
    while not depth.shallow:
        depth.fade()
        questions += 1
    assert 10 <= questions <= 40
    assert depth.mean == pytest.approx(MOST_PER_RESULT, rel=0.05)


def test_only_the_kinds_that_were_asked_last_are_remembered() -> None:
    depths = Depths()
    for bucket in range(KINDS + 1):
        depths.of(1, True, bucket * AS_OF_BUCKET_MS).learn(10, 100)
    assert depths.of(1, True, KINDS * AS_OF_BUCKET_MS).mean > 1
    assert depths.of(1, True, 0).mean == 1


@pytest.mark.parametrize("quicker", [True, False])
def test_the_quicker_form_of_a_filter_is_used_and_the_other_is_timed_now_and_then(quicker: bool) -> None:
    depth = Depth()
    used = []
    for _ in range(3 * TRIED_AGAIN_AFTER):
        few = depth.few()
        used.append(few)
        depth.took(few, 0.001 if few is quicker else 0.007)
    assert 1 <= used.count(not quicker) <= 5


def test_kinds_of_question_learn_apart() -> None:
    depths = Depths()
    bounded = check_bounds(agent_id="hold", as_of=DAY)
    spanned = check_bounds(agent_id="hold", since=DAY)
    depths.of(bounded.limits, True, 0).learn(10, 100)
    assert depths.of(bounded.limits, True, 1).mean > 1
    assert depths.of(bounded.limits, True, AS_OF_BUCKET_MS).mean == 1
    assert depths.of(bounded.limits, False, 0).mean == depths.of(spanned.limits, True, None).mean == 1
    assert check_bounds(agent_id="hold", product_id="BTC", regime="QUIET", market_phase="OPEN").limits == 0


@pytest.mark.parametrize(
    "asked",
    [
        {"exclude_agent_id": "hold"},
        {"since": DAY},
        {"until": DAY},
        {"as_of": DAY},
        {"min_reward": 0.0},
        {"min_quality": 0.5},
    ],
)
def test_each_limit_is_its_own_kind_and_filters_in_both_forms(asked: dict[str, Any]) -> None:
    bounds = check_bounds(agent_id="momentum", **asked)
    assert bounds.limits.bit_count() == 1
    assert bounds.scope().parameters == ("scope", "a=momentum")
    for few in (False, True):
        assert bounds.filter(few=few).text != bounds.scope().text
        assert len(bounds.filter(few=few).parameters) == 4
