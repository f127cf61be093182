"""The shared pool: what enters it, who finds it, from when on, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection
from memory.asof import ReplayClock, replaying
from memory.errors import ConflictingRecordError, FencedOutError, InvalidQueryError, InvalidRecordError
from memory.retrieval.shared import ShareStatus
from tests.memory.store.pooling import DAY, GOOD, MINUTE, RETENTION, shared, steps

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


# --- from when on, until when ----------------------------------------------------------------------------------


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


# --- pruning ---------------------------------------------------------------------------------------------------


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
