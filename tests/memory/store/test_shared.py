"""The shared pool: what enters it, who finds it, from when on, and until when."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import Action, EpisodicMemory, MemoryConnection, Side
from memory.asof import ReplayClock, replaying
from memory.errors import ConflictingRecordError, FencedOutError, InvalidQueryError, InvalidRecordError
from memory.retrieval.shared import ShareStatus

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RETENTION = timedelta(days=30)
GOOD = 0.9


def steps(hits: Any) -> set[int]:
    return {hit.memory.step for hit in hits}


async def shared(pool: Any, question: Any, **asked: Any) -> set[int]:
    return steps(await pool.retrieve_shared_experiences(question, **{"top_k": 100, **asked}))


# --- what enters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "status"),
    [
        (0.7, ShareStatus.SHARED),
        (1.0, ShareStatus.SHARED),
        (0.6999999999, ShareStatus.BELOW_QUALITY),
        (0.0, ShareStatus.BELOW_QUALITY),
        (None, ShareStatus.UNSCORED),
    ],
)
async def test_the_threshold_is_the_least_quality_that_is_shared(
    mem: MemoryConnection, make: Any, quality: float | None, status: ShareStatus
) -> None:
    outcome = await mem.shared.add_shared_experience(make(1), quality)
    assert (outcome.status, outcome.quality, outcome.min_quality) == (status, quality, 0.7)
    assert outcome.shared == (status is ShareStatus.SHARED) == (await mem.shared.count() == 1)
    assert await mem.dead_letters.count() == 0


async def test_the_threshold_is_a_setting(servers: Any, namespace: str, make: Any) -> None:
    strict = memory.Settings(shared_min_quality=0.95)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=strict) as mem:
        report = await mem.shared.add_shared_experiences([make(1, quality=0.94), make(2, quality=0.95), make(3)])
    assert (len(report.stored), len(report.below_quality), len(report.unscored)) == (1, 1, 1)


async def test_the_quality_that_is_given_wins_and_leaves_the_callers_record_alone(
    mem: MemoryConnection, make: Any
) -> None:
    record = make(1, quality=0.1)
    assert (await mem.shared.add_shared_experience(record, 0.8)).shared
    (hit,) = await mem.shared.retrieve_shared_experiences(record.state_vector)
    assert (hit.memory.quality, record.quality) == (0.8, 0.1)


@pytest.mark.parametrize("quality", [float("nan"), 1.5, -0.1, "0.9", True])
async def test_a_quality_that_is_none_is_refused_with_the_remedy(
    mem: MemoryConnection, make: Any, quality: Any
) -> None:
    with pytest.raises(InvalidRecordError, match="quality"):
        await mem.shared.add_shared_experience(make(1), quality)
    (letter,) = await mem.dead_letters.read()
    assert (letter.field, letter.origin) == ("quality", "shared")


@pytest.mark.parametrize("field", ["agent_id", "product_id", "run_id", "encoder_id"])
@pytest.mark.parametrize("value", ["a:b", "a,b", "*", "a\nb", "", "x" * 129, "a|p=BTC", "ä"])
async def test_hostile_ids_are_refused_and_kept_with_the_reason(
    mem: MemoryConnection, make: Any, field: str, value: str
) -> None:
    if field == "encoder_id" and value == "":
        assert (await mem.shared.add_shared_experience(make(1, encoder_id=""), GOOD)).shared
        return
    report = await mem.shared.add_shared_experiences([make(1, quality=GOOD, **{field: value}), make(2, quality=GOOD)])
    assert len(report.stored) == 1
    assert [item.position for item in report.rejections] == [0]
    assert [letter.field for letter in await mem.dead_letters.read()] == [field]


async def test_a_shared_experience_comes_back_whole_and_says_whose_it_is(
    mem: MemoryConnection, make: Any, same: Any
) -> None:
    record = make(5, quality=GOOD, cumulative_return=None, return_known_at=None)
    await mem.shared.add_shared_experience(record)
    (hit,) = await mem.shared.retrieve_shared_experiences(record.state_vector, with_next_state=True)
    assert same(hit.memory, record)
    assert hit.distance == pytest.approx(0.0, abs=1e-6)


async def test_a_shared_experience_outlives_the_record_that_it_was_made_of(mem: MemoryConnection, make: Any) -> None:
    records = [make(minute, quality=GOOD) for minute in range(4)]
    await mem.episodic.add_many(records)
    await mem.shared.add_shared_experiences(records)
    await mem.episodic.forget(agent_id="momentum")
    hits = await mem.shared.retrieve_shared_experiences(records[0].state_vector, with_next_state=True)
    assert steps(hits) == {0, 1, 2, 3}
    for hit in hits:
        assert np.array_equal(hit.memory.next_state_vector, records[hit.memory.step].next_state_vector)


async def test_sharing_again_is_a_no_op_whatever_it_is_scored_the_second_time(mem: MemoryConnection, make: Any) -> None:
    await mem.shared.add_shared_experience(make(1), 0.8)
    again = await mem.shared.add_shared_experience(make(1), 0.9)
    assert (again.status, again.shared) == (ShareStatus.DUPLICATE, True)
    (hit,) = await mem.shared.retrieve_shared_experiences(make(1).state_vector)
    assert hit.memory.quality == 0.8
    assert await mem.dead_letters.count() == 0


async def test_when_it_is_shared_again_makes_it_no_other_experience(mem: MemoryConnection, make: Any) -> None:
    first = DAY + timedelta(hours=1)
    await mem.shared.add_shared_experience(make(1), GOOD, shared_at=first)
    for again in (None, DAY, first + timedelta(hours=1)):
        outcome = await mem.shared.add_shared_experience(make(1), GOOD, shared_at=again)
        assert outcome.status is ShareStatus.DUPLICATE
    (hit,) = await mem.shared.retrieve_shared_experiences(make(1).state_vector)
    assert hit.memory.known_at == first


async def test_other_content_under_the_same_id_is_refused_and_what_was_shared_stands(
    mem: MemoryConnection, make: Any
) -> None:
    await mem.shared.add_shared_experience(make(1), GOOD)
    with pytest.raises(ConflictingRecordError, match="run_id or step"):
        await mem.shared.add_shared_experience(make(1, reward=0.5), GOOD)
    (hit,) = await mem.shared.retrieve_shared_experiences(make(1).state_vector)
    assert hit.memory.reward == make(1).reward
    assert [letter.origin for letter in await mem.dead_letters.read()] == ["shared"]


async def test_agents_that_act_in_one_state_do_not_meet_under_one_key(mem: MemoryConnection, make: Any) -> None:
    agents = [f"agent-{number}" for number in range(12)]
    report = await mem.shared.add_shared_experiences([make(1, agent_id=agent, quality=GOOD) for agent in agents])
    assert len(set(report.stored)) == 12
    hits = await mem.shared.retrieve_shared_experiences(make(1).state_vector, top_k=20)
    assert sorted(hit.memory.agent_id for hit in hits) == sorted(agents)


# --- who finds it ----------------------------------------------------------------------------------------------


async def test_namespaces_are_apart_even_where_one_name_begins_with_the_other(
    servers: Any, namespace: str, make: Any
) -> None:
    async with (
        memory.connect(redis_url=servers.redis_url, namespace=namespace) as one,
        memory.connect(redis_url=servers.redis_url, namespace=f"{namespace}-b") as other,
    ):
        await one.shared.add_shared_experience(make(1), GOOD)
        assert await shared(other.shared, make(1).state_vector) == set()
        await other.shared.add_shared_experience(make(2), GOOD)
        assert await shared(one.shared, make(1).state_vector) == {1}
        assert await other.shared.count() == 1


async def test_the_pool_and_what_agents_recorded_are_apart(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(1, quality=GOOD))
    assert await shared(mem.shared, make(1).state_vector) == set()
    await mem.shared.add_shared_experience(make(2), GOOD)
    assert steps(await mem.retrieval.retrieve_similar_experiences(make(1).state_vector)) == {1}
    assert (await mem.episodic.count(), await mem.shared.count()) == (1, 1)


async def test_only_vectors_of_the_encoder_that_is_asked_in_are_found(servers: Any, namespace: str, make: Any) -> None:
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        await mem.shared.add_shared_experiences(
            [make(1, quality=GOOD), make(2, quality=GOOD, encoder_id="other-2", agent_id="hold")]
        )
        assert await shared(mem.shared, make(1).state_vector) == {1}
        assert await mem.shared.count() == 2
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, encoder_id="other-2") as mem:
        assert await shared(mem.shared, make(1).state_vector) == {2}


async def test_an_agent_that_is_excluded_takes_no_place_among_the_results(mem: MemoryConnection, make: Any) -> None:
    question = make(0).state_vector
    own = [make(minute, quality=GOOD, state_vector=question) for minute in range(50)]
    others = [make(minute, quality=GOOD, agent_id="hold") for minute in range(100, 105)]
    await mem.shared.add_shared_experiences([*own, *others])
    hits = await mem.shared.retrieve_shared_experiences(question, exclude_agent_id="momentum", top_k=5)
    assert steps(hits) == set(range(100, 105))
    assert {hit.memory.agent_id for hit in hits} == {"hold"}


async def test_the_least_quality_and_reward_are_included(mem: MemoryConnection, make: Any) -> None:
    records = [make(minute, quality=0.7 + minute / 100, reward=minute / 8) for minute in range(5)]
    await mem.shared.add_shared_experiences(records)
    question = records[0].state_vector
    assert await shared(mem.shared, question, min_quality=records[3].quality) == {3, 4}
    assert await shared(mem.shared, question, min_reward=0.125, min_quality=0.7) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("product_id", "BTC|x"),
        ("exclude_agent_id", "a b"),
        ("exclude_agent_id", ""),
        ("min_quality", 1.5),
        ("min_quality", float("nan")),
        ("top_k", 0),
        ("regime", "CALM"),
        ("as_of", datetime(2021, 6, 17)),
    ],
)
async def test_an_argument_that_cannot_be_is_named(mem: MemoryConnection, make: Any, argument: str, value: Any) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        await mem.shared.retrieve_shared_experiences(make(1).state_vector, **{argument: value})
    assert caught.value.argument == argument


async def test_an_empty_pool_has_nothing_to_say(mem: MemoryConnection, make: Any) -> None:
    assert await mem.shared.retrieve_shared_experiences(make(1).state_vector) == []
    assert await mem.shared.count() == 0


# --- from when on, until when ------------------------------------------------------------------------------------


async def test_a_replayed_experience_is_in_the_pool_once_it_was_known(mem: MemoryConnection, make: Any) -> None:
    record = make(1)
    await mem.shared.add_shared_experience(record, GOOD)
    known_at = record.known_at
    assert await shared(mem.shared, record.state_vector, as_of=known_at - timedelta(milliseconds=1)) == set()
    assert await shared(mem.shared, record.state_vector, as_of=known_at) == {1}


async def test_what_a_replay_shares_late_is_in_the_pool_from_then_on(mem: MemoryConnection, make: Any) -> None:
    record, hour_later = make(1), DAY + timedelta(hours=1)
    await mem.shared.add_shared_experience(record, GOOD, shared_at=hour_later)
    question = record.state_vector
    assert await shared(mem.shared, question, as_of=hour_later - timedelta(milliseconds=1)) == set()
    assert await shared(mem.shared, question, as_of=hour_later) == {1}
    (hit,) = await mem.shared.retrieve_shared_experiences(question)
    assert hit.memory.known_at == hour_later


async def test_inside_a_replay_its_present_is_when_things_are_shared(mem: MemoryConnection, make: Any) -> None:
    clock = ReplayClock(DAY + timedelta(hours=2))
    with replaying(clock):
        await mem.shared.add_shared_experience(make(1), GOOD)
        with pytest.raises(InvalidQueryError, match="present of the replay"):
            await mem.shared.add_shared_experience(make(2), GOOD, shared_at=DAY)
        with pytest.raises(InvalidQueryError, match="see the future"):
            await mem.shared.retrieve_shared_experiences(make(1).state_vector)
        assert await shared(mem.at(clock.now).shared, make(1).state_vector) == {1}
    assert await shared(mem.shared, make(1).state_vector, as_of=clock.now - MINUTE) == set()


async def test_a_live_experience_is_shared_when_it_arrives_whatever_it_says(mem: MemoryConnection, make: Any) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=1)
    decided = begun - timedelta(hours=3)
    record = make(1, source="live", timestamp=decided, known_at=decided + MINUTE)
    await mem.shared.add_shared_experience(record, GOOD)
    assert await shared(mem.shared, record.state_vector, as_of=begun) == set()
    (hit,) = await mem.shared.retrieve_shared_experiences(record.state_vector)
    assert hit.memory.known_at is not None
    assert hit.memory.known_at >= begun


async def test_a_return_that_was_known_later_is_hidden(mem: MemoryConnection, make: Any) -> None:
    record = make(1)
    await mem.shared.add_shared_experience(record, GOOD)
    (before,) = await mem.shared.retrieve_shared_experiences(
        record.state_vector, as_of=record.return_known_at - timedelta(milliseconds=1)
    )
    (after,) = await mem.shared.retrieve_shared_experiences(record.state_vector, as_of=record.return_known_at)
    assert (before.memory.cumulative_return, after.memory.cumulative_return) == (None, 0.25)


async def test_thirty_days_count_from_the_decision_to_the_time_that_is_asked_about(
    mem: MemoryConnection, make: Any
) -> None:
    record = make(1)
    await mem.shared.add_shared_experience(record, GOOD)
    question, last = record.state_vector, record.timestamp + RETENTION
    assert await shared(mem.shared, question, as_of=last) == {1}
    assert await shared(mem.shared, question, as_of=last + timedelta(milliseconds=1)) == set()
    assert await shared(mem.at(last + MINUTE).shared, question) == set()
    assert await shared(mem.shared, question, since=DAY - timedelta(days=400), as_of=last + MINUTE) == set()


async def test_without_a_time_live_experiences_age_by_the_clock_and_replays_do_not(
    mem: MemoryConnection, make: Any
) -> None:
    now = datetime.now(UTC)
    records = [
        make(1),
        make(2, source="live", timestamp=now - RETENTION - timedelta(hours=1), known_at=None),
        make(3, source="live", timestamp=now - RETENTION + timedelta(hours=1), known_at=None),
    ]
    for record in records:
        await mem.shared.add_shared_experience(record, GOOD)
    assert await shared(mem.shared, records[0].state_vector) == {1, 3}
    assert await mem.shared.count() == 3


async def test_the_servers_time_to_live_never_comes_before_the_thirty_days(mem: MemoryConnection, make: Any) -> None:
    live = make(1, source="live", timestamp=datetime.now(UTC), known_at=None, quality=GOOD)
    replay = make(2, quality=GOOD)
    await mem.shared.add_shared_experiences([live, replay])
    ttl = await mem.link.execute("PTTL", mem.keys.shared(live.product_id, live.memory_id))
    assert ttl > RETENTION.total_seconds() * 1000
    assert await mem.link.execute("PTTL", mem.keys.shared(replay.product_id, replay.memory_id)) == -1


async def test_a_locked_pool_answers_as_of_its_time_and_takes_nothing(mem: MemoryConnection, make: Any) -> None:
    await mem.shared.add_shared_experiences([make(1, quality=GOOD), make(9, quality=GOOD)])
    past = mem.at(make(1).known_at).shared
    assert await shared(past, make(1).state_vector) == {1}
    assert await past.count() == 1
    with pytest.raises(InvalidQueryError, match="locked"):
        await past.retrieve_shared_experiences(make(1).state_vector, as_of=DAY + timedelta(days=1))
    with pytest.raises(InvalidQueryError, match="locked"):
        await past.add_shared_experience(make(2), GOOD)


# --- pruning -----------------------------------------------------------------------------------------------------


async def test_pruning_removes_what_is_past_its_time_at_a_windows_end_and_a_dry_run_only_counts(
    mem: MemoryConnection, make: Any
) -> None:
    day = timedelta(days=1)
    records = [make(n, timestamp=DAY + n * day, known_at=None, quality=GOOD) for n in range(5)]
    await mem.shared.add_shared_experiences(records)
    end = DAY + 2 * day + RETENTION
    dry = await mem.shared.forget(until=end, dry_run=True)
    assert (dry.experiences, dry.dry_run, await mem.shared.count()) == (2, True, 5)
    assert (await mem.shared.forget(until=end)).experiences == 2
    assert await shared(mem.shared, records[0].state_vector) == {2, 3, 4}
    assert (await mem.shared.forget(until=end)).experiences == 0


async def test_a_run_that_was_overtaken_prunes_nothing(mem: MemoryConnection, make: Any) -> None:
    await mem.shared.add_shared_experience(make(1), GOOD)
    await mem.fence.raise_to(7)
    with pytest.raises(FencedOutError):
        await mem.shared.forget(until=DAY + timedelta(days=365), token=6)
    assert await mem.shared.count() == 1


# --- many, and many at once --------------------------------------------------------------------------------------

SHARE = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
import numpy as np
import memory
from memory import Action, EpisodicMemory, Side

url, namespace, agent = sys.argv[1:]
DAY = datetime(2021, 6, 17, tzinfo=UTC)

def make(step, agent_id):
    vector = np.random.default_rng(step).standard_normal(256).astype(np.float32)
    return EpisodicMemory(
        agent_id=agent_id, timestamp=DAY + timedelta(minutes=step), state_vector=vector / np.linalg.norm(vector),
        action=Action(Side.BUY), reward=0.5, product_id="BTC-USD", regime="QUIET", source="replay", run_id="r",
        step=step, known_at=DAY + timedelta(minutes=step + 1), quality=0.9)

async def main():
    async with memory.connect(redis_url=url, namespace=namespace, encoder_id="rff-1") as mem:
        print("ready", flush=True)
        sys.stdin.readline()
        records = [make(step, who) for step in range(400) for who in ("both", agent)]
        report = await mem.shared.add_shared_experiences(records)
        print(len(report.stored), len(report.duplicates), len(report.rejections))

asyncio.run(main())
"""


async def test_two_processes_that_share_at_once_leave_each_experience_once(servers: Any, mem: MemoryConnection) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SHARE), servers.redis_url, mem.namespace]
    processes = [
        subprocess.Popen([*command, agent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for agent in ("one", "two")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        answers = await asyncio.gather(
            *(asyncio.to_thread(process.communicate, "go\n", timeout=60) for process in processes)
        )
    finally:
        for process in processes:
            process.kill()
            process.wait()
    counts = np.array([[int(number) for number in answer.split()] for answer, _ in answers])
    assert counts.sum(axis=0).tolist() == [1200, 400, 0]
    assert await mem.shared.count() == 1200
    assert [await mem.shared.count(agent_id=agent) for agent in ("both", "one", "two")] == [400, 400, 400]


def drawn_vectors(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """States that lie in clumps, as markets do."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((60, 256))
    drawn = centres[rng.integers(0, 60, count)] + 0.5 * rng.standard_normal((count, 256))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.slow
async def test_a_pool_of_twenty_thousand_is_searched_exactly(mem: MemoryConnection, make: Any) -> None:
    count, agents, products = 20_000, ("a", "b", "c", "d", "e"), ("BTC-USD", "ETH-USD")
    vectors = drawn_vectors(count, 1)
    records = [
        make(
            step,
            state_vector=vectors[step],
            next_state_vector=None,
            agent_id=agents[step % 5],
            product_id=products[step % 2],
            quality=0.7 + 0.3 * ((step * 7) % 100) / 100,
        )
        for step in range(count)
    ]
    report = await mem.shared.add_shared_experiences(records)
    assert len(report.stored) == count
    agent = np.arange(count) % 5
    product = np.arange(count) % 2
    as_of = DAY + timedelta(minutes=15_000)
    known = np.arange(count) + 1 <= 15_000
    for question in drawn_vectors(25, 2):
        similarity = vectors @ question
        for asked, mask in (
            ({}, np.ones(count, bool)),
            ({"exclude_agent_id": "a"}, agent != 0),
            ({"product_id": "ETH-USD", "exclude_agent_id": "b"}, (product == 1) & (agent != 1)),
            ({"product_id": "BTC-USD", "exclude_agent_id": "c", "as_of": as_of}, (product == 0) & (agent != 2) & known),
        ):
            hits = await mem.shared.retrieve_shared_experiences(question, **asked)
            best = np.argsort(-np.where(mask, similarity, -2.0))[:10]
            assert steps(hits) == set(best.tolist())


# --- against a model ---------------------------------------------------------------------------------------------

TIMES = st.integers(0, 60 * 24).map(lambda hours: DAY + timedelta(hours=hours))
AGENTS = ("a", "a.b", "A")
PRODUCTS = ("BTC-USD", "BTC")


@st.composite
def offered(draw: st.DrawFn) -> list[tuple[EpisodicMemory, datetime | None]]:
    records = []
    for step in range(draw(st.integers(1, 20))):
        timestamp = draw(TIMES)
        vector = np.random.default_rng(step).standard_normal(256).astype(np.float32)
        records.append(
            (
                EpisodicMemory(
                    agent_id=draw(st.sampled_from(AGENTS)),
                    timestamp=timestamp,
                    state_vector=vector / np.linalg.norm(vector),
                    action=Action(Side.HOLD),
                    reward=draw(st.sampled_from([-0.5, 0.0, 0.25])),
                    product_id=draw(st.sampled_from(PRODUCTS)),
                    regime=draw(st.sampled_from(["QUIET", "VOLATILE"])),
                    source=draw(st.sampled_from(["backtest", "replay"])),
                    step=step,
                    known_at=timestamp + timedelta(hours=draw(st.integers(0, 48))),
                    quality=draw(st.sampled_from([None, 0.0, 0.69, 0.7, 0.71, 1.0])),
                ),
                draw(st.none() | TIMES),
            )
        )
    return records


QUESTIONS = st.fixed_dictionaries(
    {},
    optional={
        "product_id": st.sampled_from(PRODUCTS),
        "regime": st.sampled_from(["QUIET", "VOLATILE"]),
        "exclude_agent_id": st.sampled_from(AGENTS),
        "since": TIMES,
        "as_of": TIMES,
        "min_reward": st.sampled_from([-0.5, 0.0, 0.1]),
        "min_quality": st.sampled_from([0.7, 0.705, 0.71, 1.0]),
    },
)


def fits(record: EpisodicMemory, shared_at: datetime | None, asked: dict[str, Any]) -> bool:
    assert record.known_at is not None
    in_pool_from = max(record.known_at, shared_at or record.known_at)
    return (
        record.quality is not None
        and record.quality >= max(0.7, asked.get("min_quality", 0.0))
        and record.agent_id != asked.get("exclude_agent_id")
        and record.product_id == asked.get("product_id", record.product_id)
        and record.regime == asked.get("regime", record.regime)
        and record.timestamp >= asked.get("since", record.timestamp)
        and record.reward >= asked.get("min_reward", -1.0)
        and ("as_of" not in asked or record.timestamp >= asked["as_of"] - RETENTION)
        and ("as_of" not in asked or in_pool_from <= asked["as_of"])
    )


@given(records=offered(), questions=st.lists(QUESTIONS, min_size=1, max_size=8))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_found_is_what_a_plain_list_would_give(
    servers: Any, records: list[tuple[EpisodicMemory, datetime | None]], questions: list[dict[str, Any]]
) -> None:
    async def check() -> None:
        name = f"s-{np.random.default_rng().integers(2**60):x}"
        async with memory.connect(redis_url=servers.redis_url, namespace=name, encoder_id="rff-1") as mem:
            for record, shared_at in records:
                await mem.shared.add_shared_experience(record, shared_at=shared_at)
            question = records[0][0].state_vector
            for asked in questions:
                expected = {record.step for record, shared_at in records if fits(record, shared_at, asked)}
                assert await shared(mem.shared, question, **asked) == expected
            for index in await mem.indexes.health():
                await mem.link.execute("FT.DROPINDEX", index.name, "DD")

    asyncio.run(check())
