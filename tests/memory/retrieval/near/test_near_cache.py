"""The near cache answers as the server does: after every write, loss, expiry and restart, or not at all."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

import memory
from memory.errors import StoreUnavailableError
from memory.records import Action, EpisodicMemory, Side, to_ms
from memory.retrieval.near.decode import copy_experience
from tests.memory.retrieval.latency_proxy import LatencyProxy
from tests.memory.retrieval.redis_processes import RedisProcess

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LATE = DAY + timedelta(days=300)
LOADED = {"agent_id": "momentum"}


def agree(hits: Any, expected: Any) -> bool:
    """Whether two answers are the same: distances by position, and ids, which rounding may swap in near ties only."""
    assert hits is not None
    distance = {hit.memory.memory_id: hit.distance for hit in expected}
    ids = [hit.memory.memory_id for hit in hits]
    return (
        len(ids) == len(set(ids)) == len(expected)
        and np.allclose([hit.distance for hit in hits], [hit.distance for hit in expected], atol=1e-5)
        and all(abs(distance.get(hit.memory.memory_id, 9.0) - hit.distance) < 1e-5 for hit in hits)
    )


def same(one: EpisodicMemory, other: EpisodicMemory) -> bool:
    for item in dataclasses.fields(EpisodicMemory):
        left, right = getattr(one, item.name), getattr(other, item.name)
        equal = np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right
        if not equal:
            return False
    return True


async def test_an_agent_is_answered_from_memory_after_it_was_asked_about(
    servers: Any, mem: memory.MemoryConnection, make: Any, vector: Any, open_near: Any
) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(30)])
    near = await open_near(mem, servers.redis_url, after=3)
    for _ in range(3):
        assert await near.ask(vector(0), **LOADED) is None
    assert near.cache.describe().loading == 0
    assert agree(await near.answer(vector(0), **LOADED), await near.wire(vector(0), **LOADED))
    state = near.cache.describe()
    assert (state.agents, state.rows, state.hits, state.reason, state.problems) == (1, 30, 1, None, {})
    assert 30 * 1024 < state.bytes < 30 * 8192
    assert state.misses >= 4


async def test_questions_about_all_agents_are_the_servers(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add(make(0))
    assert await near.ask(vector(0)) is None
    assert await near.ask(vector(0), product_id="BTC-USDT") is None
    assert near.cache.describe().loading == 0


async def test_a_hit_is_the_same_as_the_servers_in_every_field(near: Any, make: Any, vector: Any) -> None:
    records = [
        make(minute, next_state_vector=vector(minute + 1), other_agent_actions={"hold": Action(Side.HOLD, 0.0)})
        for minute in range(5)
    ]
    await near.mem.episodic.add_many(records)
    for asked in ({}, {"with_next_state": True}, {"as_of": DAY + 3 * MINUTE}, {"as_of": DAY + timedelta(days=2)}):
        hits = await near.answer(vector(0), **LOADED, **asked)
        expected = await near.wire(vector(0), **LOADED, **asked)
        assert hits
        assert agree(hits, expected)
        assert all(same(one.memory, other.memory) for one, other in zip(hits, expected, strict=True))
        assert [hit.score for hit in hits] == [1.0 - hit.distance for hit in hits]


async def test_answers_share_nothing_that_can_be_changed(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add(make(0, other_agent_actions={"hold": Action(Side.HOLD, 0.0)}))
    (first,) = await near.answer(vector(0), **LOADED)
    with pytest.raises(TypeError):
        first.memory.features["trend"] = 99.0
    first.memory.other_agent_actions.clear()
    first.memory.reward = 99.0
    with pytest.raises(ValueError, match="read-only"):
        first.memory.state_vector[0] = 1.0
    (second,) = await near.answer(vector(0), **LOADED)
    assert same(second.memory, (await near.wire(vector(0), **LOADED))[0].memory)


def test_a_copy_has_every_field(make: Any) -> None:
    original = make(3, other_agent_actions={"hold": Action(Side.HOLD, 0.0)}, quality=0.5, pattern_ids=("p-1",))
    copy = copy_experience(original)
    assert same(copy, original)
    assert copy.other_agent_actions is not original.other_agent_actions


async def test_ones_own_writes_are_seen_at_once(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add(make(0))
    await near.answer(vector(0), **LOADED)
    for minute in range(1, 40):
        await near.mem.episodic.add(make(minute))
        hits = await near.ask(vector(minute), 1, **LOADED)
        assert hits is not None
        assert hits[0].memory.step == minute
    await near.mem.episodic.forget(before=DAY + 20 * MINUTE)
    hits = await near.ask(vector(0), 100, **LOADED)
    assert sorted(hit.memory.step for hit in hits) == list(range(20, 40))


async def test_what_others_wrote_is_seen_as_soon_as_they_were_told(
    servers: Any, near: Any, make: Any, vector: Any
) -> None:
    await near.mem.episodic.add(make(0))
    await near.answer(vector(0), **LOADED)
    async with memory.connect(redis_url=servers.redis_url, namespace=near.mem.namespace) as other:

        async def write_and_ask(first: int) -> None:
            for minute in range(first, first + 25):
                await other.episodic.add(make(minute, agent_id="momentum"))
                hits = await near.ask(vector(minute), 1, **LOADED)
                if hits is None:
                    hits = await near.wire(vector(minute), 1, **LOADED)
                assert hits[0].memory.step == minute

        await asyncio.gather(*(write_and_ask(1 + 25 * writer) for writer in range(8)))
    assert agree(await near.answer(vector(5), 300, **LOADED), await near.wire(vector(5), 300, **LOADED))
    assert near.cache.describe().hits > 50


async def test_a_record_that_is_packed_anew_is_read_anew(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add(make(0))
    (hit,) = await near.answer(vector(0), **LOADED)
    key = near.mem.keys.episodic("momentum", "BTC-USDT", to_ms(DAY), hit.memory.memory_id)
    await near.mem.link.execute("HSET", key, "known_at", to_ms(DAY + timedelta(days=3)))
    as_of = {"as_of": DAY + timedelta(days=2)}
    assert await near.ask(vector(0), **LOADED, **as_of) == await near.wire(vector(0), **LOADED, **as_of) == []
    (hit,) = await near.ask(vector(0), **LOADED)
    assert hit.memory.known_at == DAY + timedelta(days=3)


async def test_records_of_another_encoder_are_not_answered(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add_many([make(0), make(1, encoder_id="rff-2")])
    assert [hit.memory.step for hit in await near.answer(vector(0), **LOADED)] == [0]
    await near.mem.episodic.add(make(2, encoder_id="rff-2"))
    assert [hit.memory.step for hit in await near.answer(vector(0), **LOADED)] == [0]


async def test_expired_records_are_gone_at_their_time(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add_many([make(0), make(1)])
    hits = await near.answer(vector(0), **LOADED)
    key = near.mem.keys.episodic("momentum", "BTC-USDT", to_ms(DAY), hits[0].memory.memory_id)
    # No sampling by the server: what has expired stays in its keyspace until somebody touches it.
    await near.mem.link.execute("PEXPIRE", key, 150)
    assert len(await near.answer(vector(0), **LOADED)) == 2
    await asyncio.sleep(0.2)
    assert [hit.memory.step for hit in await near.answer(vector(0), **LOADED)] == [1]


async def test_nothing_is_lost_that_is_written_while_an_agent_is_loaded(
    servers: Any, near: Any, make: Any, vector: Any
) -> None:
    await near.mem.episodic.add_many([make(minute) for minute in range(600)])
    minute = 600
    async with memory.connect(redis_url=servers.redis_url, namespace=near.mem.namespace) as other:
        for _ in range(4):
            near.cache._lost()
            loading = asyncio.ensure_future(near.answer(vector(0), **LOADED))
            written = 0
            while not loading.done():
                await other.episodic.add(make(minute))
                # A record that may have been read already changes, and one goes.
                (hit,) = await near.wire(vector(minute - 600), 1, **LOADED)
                known = hit.memory
                key = near.mem.keys.episodic("momentum", "BTC-USDT", to_ms(known.timestamp), known.memory_id)
                await other.link.execute("HSET", key, "known_at", to_ms(LATE))
                await other.episodic.forget(before=DAY + (minute - 600) * MINUTE)
                minute += 1
                written += 1
            assert written > 1
            hits = await near.answer(vector(0), 1000, **LOADED)
            assert agree(hits, await near.wire(vector(0), 1000, **LOADED))
            before = {"as_of": LATE - MINUTE}
            assert agree(
                await near.answer(vector(0), 1000, **LOADED, **before),
                await near.wire(vector(0), 1000, **LOADED, **before),
            )


async def test_an_agent_that_records_and_forgets_while_it_is_loaded_is_loaded_soon(
    near: Any, make: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await near.mem.episodic.add_many([make(minute) for minute in range(200)])
    fetcher = near.cache._fetcher
    fetch = fetcher.fetch

    read: list[bytes] = []

    async def fetch_and_change(keys: Any, schema: Any) -> Any:
        # One that no page has held yet goes, and one comes after the last page: as many as before, and one fewer read.
        if not read:
            (hit,) = await near.wire(vector(150), 1, **LOADED)
            known = hit.memory
            key = near.mem.keys.episodic("momentum", "BTC-USDT", to_ms(known.timestamp), known.memory_id)
            await near.mem.link.execute("UNLINK", key)
        read.extend(keys)
        if len(read) == 199:
            await near.mem.episodic.add(make(300))
        return await fetch(keys, schema)

    monkeypatch.setattr(fetcher, "fetch", fetch_and_change)
    hits = await near.answer(vector(0), 1000, **LOADED)
    assert {hit.memory.step for hit in hits} == {*range(200), 300} - {150}
    assert near.cache.describe().problems == {}


async def test_a_write_is_seen_before_its_name_was_read(servers: Any, near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add(make(0))
    (hit,) = await near.answer(vector(0), **LOADED)
    key = near.mem.keys.episodic("momentum", "BTC-USDT", to_ms(DAY), hit.memory.memory_id)
    with redis.Redis.from_url(servers.redis_url) as client:
        for day in range(1, 30):
            known_at = DAY + timedelta(days=day)
            client.hset(key, "known_at", to_ms(known_at))  # Blocks the event loop: the cache has heard nothing of it.
            (hit,) = await near.ask(vector(0), **LOADED)
            assert hit.memory.known_at == known_at


async def test_agents_give_way_when_there_is_no_room(
    servers: Any, mem: memory.MemoryConnection, make: Any, vector: Any, open_near: Any, monkeypatch: Any
) -> None:
    for agent in ("a", "b"):
        await mem.episodic.add_many([make(minute, agent_id=agent) for minute in range(250)])
    near = await open_near(mem, servers.redis_url, budget_mb=0.9)
    await near.answer(vector(0), agent_id="a")
    assert await near.ask(vector(0), agent_id="b") is None
    while near.cache.describe().loading:
        await asyncio.sleep(0.005)
    state = near.cache.describe()
    assert state.agents == 1
    assert "COINSWARM_NEAR_CACHE_MB" in state.problems["b"]
    assert await near.ask(vector(0), agent_id="a") is not None
    # The first has not been asked about for long, and the second may be tried again.
    for space in near.cache._spaces:
        space.last_asked -= 120.0
        space.not_before = 0.0
    await near.answer(vector(0), agent_id="b")
    state = near.cache.describe()
    assert (state.agents, state.problems) == (1, {})
    assert state.bytes <= state.budget_bytes


async def test_a_budget_of_nothing_switches_it_off(
    servers: Any, mem: memory.MemoryConnection, make: Any, vector: Any, open_near: Any
) -> None:
    await mem.episodic.add(make(0))
    near = await open_near(mem, servers.redis_url, budget_mb=0)
    assert await near.ask(vector(0), **LOADED) is None
    assert near.cache.describe().reason == "near_cache_mb is 0"


async def test_half_precision_is_answered_as_the_server_does(
    servers: Any, namespace: str, make: Any, vector: Any, open_near: Any
) -> None:
    half = memory.Settings(vector_type="FLOAT16")
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=half) as mem:
        await mem.episodic.add_many([make(minute) for minute in range(40)])
        near = await open_near(mem, servers.redis_url)
        hits, expected = await near.answer(vector(900), **LOADED), await near.wire(vector(900), **LOADED)
        np.testing.assert_allclose([hit.distance for hit in hits], [hit.distance for hit in expected], atol=1e-4)
        assert hits[0].memory.memory_id == expected[0].memory.memory_id
        assert same(hits[0].memory, expected[0].memory)
        await near.cache.close()


async def test_what_is_held_by_an_index_that_is_replaced_goes(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add(make(0))
    await near.answer(vector(0), **LOADED)
    key = near.mem.keys.index_schema("rff-1")
    packed = await near.mem.link.execute("GET", key)
    await near.mem.link.execute("SET", near.mem.keys.index_schema("rff-2"), packed)
    await near.cache._follower.fence()
    assert near.cache.describe().agents == 1
    await near.mem.link.execute("SET", key, packed.replace(b"FLAT", b"HNSW"))
    await near.cache._follower.fence()
    assert near.cache.describe().agents == 0
    # Asked by the old schema it stays with the server, and the client learns of the new one.
    assert await near.ask(vector(0), **LOADED) is None
    assert len(await near.answer(vector(0), **LOADED)) == 1
    schema = await near.mem.indexes.episodic("rff-1")
    assert schema is not None
    assert schema.algorithm == "HNSW"
    assert near.cache.describe().problems == {}


async def test_an_emptied_server_is_not_remembered(own_redis: Any, make: Any, vector: Any, open_near: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="emptied") as mem:
        near = await open_near(mem, own_redis.url)
        await mem.episodic.add_many([make(minute) for minute in range(5)])
        assert len(await near.answer(vector(0), **LOADED)) == 5
        await mem.link.execute("FLUSHALL")
        assert not await near.ask(vector(0), **LOADED)
        assert await near.wire(vector(0), **LOADED) == []
        await mem.episodic.add_many([make(minute) for minute in range(3)])
        assert len(await near.answer(vector(0), **LOADED)) == 3
        await near.cache.close()


async def test_a_killed_following_connection_costs_no_answer_and_comes_back(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add_many([make(minute) for minute in range(5)])
    await near.answer(vector(0), **LOADED)
    own = await near.cache._follower._connection.execute("CLIENT", "ID")
    await near.mem.link.execute("CLIENT", "KILL", "ID", own)
    await near.mem.episodic.add(make(6))
    hits = await near.ask(vector(6), 1, **LOADED)
    assert hits is None or hits[0].memory.step == 6
    assert (await near.answer(vector(6), 1, **LOADED))[0].memory.step == 6
    assert near.cache.describe().reason is None


async def test_a_server_that_dies_and_comes_back_is_followed_again(
    own_redis: Any, make: Any, vector: Any, open_near: Any
) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="dies") as mem:
        near = await open_near(mem, own_redis.url)
        await mem.episodic.add_many([make(minute) for minute in range(5)])
        await near.answer(vector(0), **LOADED)
        own_redis.kill()
        assert await near.ask(vector(0), **LOADED) is None
        assert near.cache.describe().reason is not None
        own_redis.start()
        hits = await near.answer(vector(0), **LOADED)
        assert agree(hits, await near.wire(vector(0), **LOADED))
        assert len(hits) == 5
        await near.cache.close()


async def test_ones_own_writes_are_seen_at_once_on_the_server_that_took_over(
    tmp_path: Path, make: Any, vector: Any, open_near: Any
) -> None:
    former = RedisProcess(tmp_path / "former")
    latter = RedisProcess(tmp_path / "latter", follows=former.port)
    former.start()
    latter.start()
    latter.wait_for("INFO replication", "master_link_status:up")
    try:
        async with (
            LatencyProxy(former.port, 0.0) as proxy,
            memory.connect(redis_url=proxy.url, namespace="over", settings=memory.Settings(near_cache_mb=0)) as mem,
        ):
            await mem.episodic.add_many([make(minute) for minute in range(20)])
            near = await open_near(mem, proxy.url)
            await near.answer(vector(0), **LOADED)
            offset = former.ask("INFO", "replication").split("master_repl_offset:")[1].split()[0]
            latter.wait_for("INFO replication", f"slave_repl_offset:{offset}")
            latter.ask("REPLICAOF", "NO", "ONE")
            former.ask("REPLICAOF", "127.0.0.1", "1")  # Cut off, and open to those who are connected.
            proxy.lead_to(latter.port)
            await mem.episodic.add(make(30))
            hits = await near.ask(vector(30), 1, **LOADED)
            assert hits is None or hits[0].memory.step == 30
            assert (await near.wire(vector(30), 1, **LOADED))[0].memory.step == 30
            assert (await near.answer(vector(30), 1, **LOADED))[0].memory.step == 30
            await near.cache.close()
    finally:
        former.kill()
        latter.kill()


async def test_a_halted_server_is_reported_as_over_the_wire(
    own_redis: Any, make: Any, vector: Any, open_near: Any
) -> None:
    import signal

    quick = memory.Settings(redis_timeout_s=0.5)
    async with memory.connect(redis_url=own_redis.url, namespace="halts", settings=quick) as mem:
        near = await open_near(mem, own_redis.url)
        await mem.episodic.add(make(0))
        await near.answer(vector(0), **LOADED)
        own_redis.signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailableError, match="did not answer"):
                await near.ask(vector(0), **LOADED)
        finally:
            own_redis.signal(signal.SIGCONT)
        assert len(await near.answer(vector(0), **LOADED)) == 1
        await near.cache.close()


async def test_many_callers_at_once_get_what_they_asked_for(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add_many([make(minute, product_id=("BTC", "ETH")[minute % 2]) for minute in range(60)])
    await near.answer(vector(0), **LOADED)

    async def ask(minute: int) -> None:
        hits = await near.answer(vector(minute), 1, **LOADED, product_id=("BTC", "ETH")[minute % 2])
        assert hits[0].memory.step == minute

    callers = [asyncio.ensure_future(ask(minute)) for minute in range(60)]
    await asyncio.sleep(0)
    for caller in callers[::7]:
        caller.cancel()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [outcome for number, outcome in enumerate(outcomes) if number % 7] == [None] * (60 - len(callers[::7]))


async def test_after_closing_the_server_is_asked(near: Any, make: Any, vector: Any) -> None:
    await near.mem.episodic.add(make(0))
    await near.answer(vector(0), **LOADED)
    await near.cache.close()
    assert await near.ask(vector(0), **LOADED) is None
    assert near.cache.describe().reason == "closed"
