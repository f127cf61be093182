"""Experiences are stored once, found again, and removed on purpose only."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import Action, MemoryConnection, Side
from memory.errors import ConflictingRecordError, FencedOutError, InvalidQueryError, InvalidRecordError
from memory.records import to_ms
from memory.store.codec import following_reference, unpack_body

DAY = datetime(2021, 6, 17, tzinfo=UTC)


async def raw(mem: MemoryConnection, record: Any) -> dict[bytes, bytes]:
    key = mem.keys.episodic(record.agent_id, record.product_id, to_ms(record.timestamp), record.memory_id)
    answer: dict[bytes, bytes] = await mem.link.execute("HGETALL", key)
    return answer


async def test_what_is_added_is_found_again(mem: MemoryConnection, make: Any, same: Any) -> None:
    record = make(3)
    memory_id = await mem.episodic.add(record)
    found = await mem.episodic.get(memory_id)
    assert found is not None
    assert same(found, record)
    assert found.recorded_at is not None


async def test_a_record_is_found_without_a_scan_where_its_place_is_known(mem: MemoryConnection, make: Any) -> None:
    record = make(3)
    memory_id = await mem.episodic.add(record)
    place = {"agent_id": "momentum", "product_id": "BTC-USDT", "timestamp": record.timestamp}
    assert (await mem.episodic.get(memory_id, **place)) is not None
    assert (await mem.episodic.get(memory_id, **{**place, "agent_id": "hold"})) is None


async def test_the_same_record_again_is_a_no_op(mem: MemoryConnection, make: Any) -> None:
    first = await mem.episodic.add_many([make(minute) for minute in range(5)])
    before = await raw(mem, (record := make(2)) and await _with_id(record))
    second = await mem.episodic.add_many([make(minute) for minute in range(5)])
    assert (len(first.stored), len(first.duplicates)) == (5, 0)
    assert (len(second.stored), len(second.duplicates), second.rejections) == (0, 5, ())
    assert await raw(mem, await _with_id(make(2))) == before
    assert await mem.dead_letters.count() == 0


async def _with_id(record: Any) -> Any:
    from memory.validation import validate_experience

    return validate_experience(record)


async def test_other_content_under_one_id_is_reported_and_kept_apart(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(1))
    report = await mem.episodic.add_many([make(0), make(1, reward=0.9)])
    assert [rejection.position for rejection in report.conflicts] == [1]
    stored = await mem.episodic.get((await _with_id(make(1))).memory_id)
    assert stored is not None
    assert stored.reward == 0.001
    letters = await mem.dead_letters.read()
    assert [letter.agent_id for letter in letters] == ["momentum"]
    assert letters[0].content()["reward"] == 0.9


async def test_a_conflict_raises_from_a_single_add(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(1))
    with pytest.raises(ConflictingRecordError, match="run_id or step"):
        await mem.episodic.add(make(1, reward=0.9))


async def test_another_known_at_is_other_content(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(1))
    with pytest.raises(ConflictingRecordError):
        await mem.episodic.add(make(1, known_at=DAY + timedelta(hours=1)))


async def test_bad_records_of_a_batch_are_reported_by_position_and_good_ones_stored(
    mem: MemoryConnection, make: Any
) -> None:
    batch = [
        make(0),
        make(1, state_vector=np.full(256, np.nan, dtype=np.float32)),
        make(2, state_vector=np.ones(3, dtype=np.float32)),
        make(3, regime="BULLISH"),
        make(4, agent_id="a:b"),
        make(5, reward="much"),
        make(6, features=None),
        make(7, terminal="yes"),
        make(8, encoder_id="*"),
        "not a record",
        make(9, timestamp=datetime(2021, 6, 17)),
        make(10),
    ]
    report = await mem.episodic.add_many(batch)
    assert len(report.stored) == 2
    assert [rejection.position for rejection in report.invalid] == list(range(1, 11))
    fields = [rejection.error.field for rejection in report.invalid]
    assert fields == [
        *("state_vector", "state_vector", "regime", "agent_id", "reward", "features", "terminal", "encoder_id"),
        *("memory", "timestamp"),
    ]
    assert await mem.dead_letters.count() == 10
    assert await mem.episodic.count() == 2


async def test_a_zero_vector_is_refused(mem: MemoryConnection, make: Any) -> None:
    with pytest.raises(InvalidRecordError, match="length 0"):
        await mem.episodic.add(make(1, state_vector=np.zeros(256, dtype=np.float32)))


async def test_a_next_state_that_is_stored_anyway_is_kept_by_reference(
    mem: MemoryConnection, make: Any, same: Any
) -> None:
    records = [make(minute) for minute in (2, 0, 1)]
    await mem.episodic.add_many(records)
    bodies = {record.step: unpack_body((await raw(mem, record))[b"body"]) for record in records}
    assert following_reference(bodies[0]) is not None
    assert following_reference(bodies[1]) is not None
    assert isinstance(bodies[2].following, bytes)
    for record in records:
        found = await mem.episodic.get(record.memory_id)
        assert found is not None
        assert same(found, record)


async def test_a_reference_never_leads_to_another_vector(
    mem: MemoryConnection, make: Any, build: Any, same: Any
) -> None:
    other = make(1, state_vector=build["vector"](77))
    await mem.episodic.add(other)
    first = make(0)
    report = await mem.episodic.add_many([first, make(1)])
    assert len(report.conflicts) == 1
    found = await mem.episodic.get(first.memory_id)
    assert found is not None
    assert same(found, first)


async def test_the_first_of_two_records_with_one_id_in_a_batch_is_stored(mem: MemoryConnection, make: Any) -> None:
    report = await mem.episodic.add_many([make(1), make(1, reward=0.9)])
    assert [rejection.position for rejection in report.conflicts] == [1]
    found = await mem.episodic.get(report.stored[0])
    assert found is not None
    assert found.reward == 0.001


async def test_known_at_defaults_to_the_time_of_recording(mem: MemoryConnection, make: Any) -> None:
    record = make(1, known_at=None)
    await mem.episodic.add(record)
    found = await mem.episodic.get(record.memory_id)
    assert found is not None
    assert found.known_at == found.recorded_at
    assert abs((datetime.now(UTC) - found.known_at).total_seconds()) < 60
    assert (await mem.episodic.add_many([make(1, known_at=None)])).duplicates == (record.memory_id,)


@pytest.mark.parametrize(("source", "expires"), [("live", True), ("replay", False), ("backtest", False)])
async def test_only_live_records_expire_and_long_after_they_are_pruned(
    mem: MemoryConnection, make: Any, source: str, expires: bool
) -> None:
    record = make(1, source=source)
    await mem.episodic.add(record)
    key = mem.keys.episodic("momentum", "BTC-USDT", to_ms(record.timestamp), record.memory_id)
    ttl_ms = await mem.link.execute("PTTL", key)
    retention_ms = mem.settings.episodic_retention_days * 86_400_000
    assert (ttl_ms > 1.9 * retention_ms) if expires else (ttl_ms == -1)


async def test_records_below_the_quality_wanted_are_left_out_and_counted(mem: MemoryConnection, make: Any) -> None:
    report = await mem.episodic.add_many(
        [make(0, quality=0.1), make(1, quality=0.9), make(2, quality=None)], min_quality=0.5
    )
    assert (len(report.stored), len(report.below_quality)) == (2, 1)


async def test_counting_knows_every_filter(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(
        [make(minute, agent_id=agent, run_id=f"run-{agent}") for minute in range(4) for agent in ("a", "b")]
    )
    count = mem.episodic.count
    assert await count() == 8
    assert await count(agent_id="a") == 4
    assert await count(agent_id="a", product_id="BTC-USDT", regime="QUIET") == 4
    assert await count(regime="CRISIS") == 0
    assert await count(source="replay", run_id="run-b") == 4
    assert await count(since=DAY + timedelta(minutes=1), until=DAY + timedelta(minutes=3)) == 4
    assert await count(as_of=DAY + timedelta(minutes=2)) == 4
    assert await count(encoder_id="rff-2") == 0


async def test_a_window_is_read_whole_in_small_pages(mem: MemoryConnection, make: Any, same: Any) -> None:
    records = {record.memory_id: record for record in [await _with_id(make(minute)) for minute in range(25)]}
    await mem.episodic.add_many(list(records.values()))
    start, end = DAY + timedelta(minutes=5), DAY + timedelta(minutes=20)
    pages = [page async for page in mem.episodic.read_window(start, end, page_size=4, with_next_state=True)]
    assert max(len(page) for page in pages) <= 4
    found = [record for page in pages for record in page]
    assert sorted(record.step for record in found) == list(range(5, 20))
    assert all(same(record, records[record.memory_id]) for record in found)


async def test_two_encoders_keep_to_themselves(mem: MemoryConnection, make: Any, build: Any) -> None:
    await mem.episodic.add_many([make(0), make(0, encoder_id="rff-2", run_id="run-2")])
    assert await mem.episodic.count(encoder_id="rff-1") == 1
    assert await mem.episodic.count(encoder_id="rff-2") == 1
    assert await mem.encoders.ids() == ["rff-1", "rff-2"]
    assert await mem.encoders.current() == "rff-1"
    hits = await mem.retrieval.retrieve_similar_experiences(build["vector"](0))
    assert [hit.memory.encoder_id for hit in hits] == ["rff-1"]


async def test_the_alias_follows_the_current_encoder(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(0), make(0, encoder_id="rff-2", run_id="run-2"), make(1, encoder_id="rff-2")])
    alias = mem.keys.episodic_alias
    assert (await mem.link.execute("FT.SEARCH", alias, "*", "LIMIT", 0, 0))[b"total_results"] == 1
    await mem.encoders.set_current("rff-2")
    assert await mem.encoders.current() == "rff-2"
    assert (await mem.link.execute("FT.SEARCH", alias, "*", "LIMIT", 0, 0))[b"total_results"] == 2


async def test_forgetting_removes_what_a_dry_run_names(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(6)])
    until = DAY + timedelta(minutes=4)
    dry = await mem.episodic.forget(before=until, dry_run=True)
    assert (dry.experiences, await mem.episodic.count()) == (4, 6)
    done = await mem.episodic.forget(before=until)
    assert (done.experiences, await mem.episodic.count()) == (4, 2)


async def test_forgetting_one_run_leaves_the_others(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(0), make(0, run_id="run-2"), make(0, agent_id="hold")])
    assert (await mem.episodic.forget(run_id="run-2")).experiences == 1
    assert await mem.episodic.count() == 2


async def test_forgetting_everything_by_accident_is_refused(mem: MemoryConnection) -> None:
    with pytest.raises(InvalidQueryError, match="which experiences"):
        await mem.episodic.forget()


async def test_a_run_that_was_overtaken_removes_nothing(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(0))
    await mem.fence.raise_to(7)
    await mem.fence.raise_to(8)
    with pytest.raises(FencedOutError, match="token 7"):
        await mem.episodic.forget(agent_id="momentum", token=7)
    assert await mem.episodic.count() == 1


async def test_namespaces_do_not_see_each_other(servers: Any, mem: MemoryConnection, make: Any, build: Any) -> None:
    await mem.episodic.add(make(0))
    async with memory.connect(redis_url=servers.redis_url, namespace=f"{mem.namespace}x") as other:
        assert await other.episodic.count() == 0
        assert await other.retrieval.retrieve_similar_experiences(build["vector"](0)) == []
        await other.episodic.add(make(1))
    assert await mem.episodic.count() == 1


async def test_writers_at_once_store_each_record_once(servers: Any, mem: MemoryConnection, make: Any) -> None:
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as other:
        reports = await asyncio.gather(
            mem.episodic.add_many([make(minute) for minute in range(50)]),
            other.episodic.add_many([make(minute) for minute in range(50)]),
        )
    assert sum(len(report.stored) for report in reports) == 50
    assert sum(len(report.duplicates) for report in reports) == 50
    assert await mem.episodic.count() == 50


async def test_half_precision_and_hnsw_are_settings(servers: Any, namespace: str, make: Any) -> None:
    settings = memory.Settings(vector_algorithm="HNSW", vector_type="FLOAT16")
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem:
        await mem.episodic.add_many([make(minute) for minute in range(20)])
        schema = await mem.indexes.current_schema("rff-1")
        assert schema is not None
        assert (schema.algorithm, schema.vector_type) == ("HNSW", "FLOAT16")
        record = make(4)
        hit = (await mem.retrieval.retrieve_similar_experiences(record.state_vector, top_k=1))[0]
        assert hit.memory.step == 4
        assert np.abs(hit.memory.state_vector - record.state_vector).max() < 1e-3
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        assert len((await mem.episodic.add_many([make(4)])).duplicates) == 1  # the index decides, not the settings


async def test_an_encoder_of_another_dimension_has_an_index_of_its_own(mem: MemoryConnection, make: Any) -> None:
    await mem.encoders.register("small", fitted_until=DAY, definition={"kind": "test"}, dimension=4)
    vector = np.array([1, 0, 0, 0], dtype=np.float32)
    await mem.episodic.add(make(0, encoder_id="small", state_vector=vector, next_state_vector=None))
    assert await mem.episodic.count(encoder_id="small") == 1


async def test_actions_of_numpy_numbers_are_stored_as_plain_ones(mem: MemoryConnection, make: Any) -> None:
    record = make(0, action=Action(Side.SELL, np.float32(0.5)), terminal=np.bool_(True))
    await mem.episodic.add(record)
    found = await mem.episodic.get(record.memory_id)
    assert found is not None
    assert found.action == Action(Side.SELL, 0.5)
    assert found.terminal is True


async def test_an_emptied_server_is_filled_again(own_redis: Any, make: Any, build: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="ns") as mem:
        await mem.episodic.add_many([make(minute) for minute in range(5)])
        await mem.link.execute("FLUSHALL")
        assert await mem.retrieval.retrieve_similar_experiences(build["vector"](0)) == []
        await mem.episodic.add_many([make(minute) for minute in range(5)])
        hits = await mem.retrieval.retrieve_similar_experiences(build["vector"](3), top_k=1)
        assert hits[0].memory.features == make(3).features


async def test_a_live_experience_is_known_from_its_arrival_on_whatever_it_says(
    mem: MemoryConnection, make: Any
) -> None:
    early = make(0, source="live", run_id="live")
    before = datetime.now(UTC)
    await mem.episodic.add(early)
    stored = await mem.episodic.get(early.memory_id)
    assert stored is not None
    assert stored.known_at is not None
    assert stored.known_at >= before - timedelta(seconds=1)
    assert await mem.episodic.get(early.memory_id, as_of=early.timestamp + timedelta(hours=1)) is None


async def test_a_live_experience_that_arrives_again_is_a_duplicate(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(0, source="live"))
    again = await mem.episodic.add_many([make(0, source="live"), make(0, source="live", known_at=None)])
    assert (len(again.stored), len(again.duplicates), again.conflicts) == (0, 2, ())


async def test_a_live_experience_whose_arrival_is_known_keeps_it(mem: MemoryConnection, make: Any) -> None:
    drained = make(0, source="live")
    wanted = drained.known_at
    await mem.episodic.add_many([drained], arrived=True)
    stored = await mem.episodic.get(drained.memory_id)
    assert stored is not None
    assert stored.known_at == wanted


async def test_counting_what_was_recorded_after_a_time(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(0), make(1)])
    found = [item async for page in mem.episodic.read_window(DAY, DAY + timedelta(days=1)) for item in page]
    cut = max(item.recorded_at for item in found)
    assert await mem.episodic.count(recorded_after=cut) == 0
    await asyncio.sleep(0.01)
    await mem.episodic.add(make(2))
    assert await mem.episodic.count(recorded_after=cut) == 1
