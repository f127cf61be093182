"""What the checks of a memory see of its server and of what waits, and what they tell the reader to do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import memory
from memory import MemoryConnection
from memory.store.health import CheckStatus, judge_clock
from tests.memory.store.checking import checked, fill, turned

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def own(own_redis: Any) -> AsyncIterator[MemoryConnection]:
    """A memory on a server of the test's own, with a limit, as it should have."""
    async with memory.connect(redis_url=own_redis.url, namespace="own") as mem:
        await mem.link.execute("CONFIG", "SET", "maxmemory", "2gb")
        yield mem


# --- all is well -----------------------------------------------------------------------------------------------


async def test_a_memory_that_is_well_says_so_in_every_check(own: MemoryConnection, make: Any, build: Any) -> None:
    await fill(own, make)
    await own.shared.add_shared_experiences([make(minute, quality=0.9) for minute in range(5)])
    await own.episodic.add(make(50, source="live", timestamp=datetime.now(UTC), known_at=None))
    await own.inbox.append(make(60))
    found = await checked(own)
    assert turned(found) == set()
    assert "41 experiences in 1 index, 41 keys" in found["episodic index"].seen
    assert "5 shared experiences" in found["shared index"].seen
    assert "rff-1 41" in found["encoders"].seen
    assert "1 entries of 1 agents" in found["inbox"].seen


async def test_an_empty_memory_is_well(own: MemoryConnection) -> None:
    assert turned(await checked(own)) == set()


async def test_checking_writes_nothing(own: MemoryConnection, make: Any) -> None:
    await fill(own, make)
    await own.inbox.append(make(60))

    async def changes() -> str:
        answer = (await own.link.execute("INFO", "persistence")).decode()
        return next(line for line in answer.splitlines() if line.startswith("rdb_changes_since_last_save"))

    before, keys = await changes(), await own.link.execute("DBSIZE")
    await checked(own)
    assert (await changes(), await own.link.execute("DBSIZE")) == (before, keys)


async def test_what_is_looked_at_is_announced(own: MemoryConnection) -> None:
    announced: list[str] = []
    await own.health(announced.append)
    assert announced[0] == "redis"
    assert "indexes and records" in announced


# --- indexes that somebody made --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "fields", "seen"),
    [
        ("own:episodic:", ("TAG", "SEPARATOR", ","), "it lacks the field known_at"),
        ("own:episodic:", ("TAG", "SEPARATOR", "|"), "SEPARATOR of its field scope is |, not ,"),
        ("own:episodic:", ("NUMERIC",), "type of its field scope is NUMERIC, not TAG"),
        ("own:", ("TAG", "SEPARATOR", ","), "begin with own:, not own:episodic:"),
    ],
)
async def test_an_index_that_was_made_again_by_hand_is_told_from_ours(
    own: MemoryConnection, make: Any, prefix: str, fields: tuple[str, ...], seen: str
) -> None:
    await fill(own, make)
    (schema,) = await own.episodic.schemas()
    await own.link.execute("FT.DROPINDEX", schema.name)
    condition = f"exists(@{schema.vector_attribute})"
    vector = ("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", 256, "DISTANCE_METRIC", "COSINE")
    await own.link.execute(
        *("FT.CREATE", schema.name, "ON", "HASH", "PREFIX", 1, prefix, "FILTER", condition, "SCHEMA"),
        *("scope", *fields, "timestamp", "NUMERIC", schema.vector_field, "AS", schema.vector_attribute, *vector),
    )
    await own.indexes.wait_until_built([schema.name])
    check = (await checked(own))["episodic definition"]
    assert (check.status, seen in check.seen) == (CheckStatus.FAIL, True)
    assert f"FT.DROPINDEX {schema.name}" in check.remedy


async def test_partitions_are_compared_as_well(own_redis: Any, make: Any) -> None:
    settings = memory.Settings(index_layout="partitioned")
    async with memory.connect(redis_url=own_redis.url, namespace="own", settings=settings) as own:
        await fill(own, make)
        assert (await checked(own))["episodic definition"].seen == "2 indexes are as they were made"


# --- the server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "allkeys-random"])
async def test_a_server_that_evicts_fails_with_the_setting_to_change(own: MemoryConnection, policy: str) -> None:
    await own.link.execute("CONFIG", "SET", "maxmemory-policy", policy)
    check = (await checked(own))["eviction"]
    assert check.status is CheckStatus.FAIL
    assert policy in check.seen
    assert "maxmemory-policy noeviction" in check.remedy


async def test_memories_that_were_evicted_are_remembered_after_the_policy_is_put_right(
    own: MemoryConnection, make: Any
) -> None:
    await fill(own, make, 200)
    await own.link.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await own.link.execute("CONFIG", "SET", "maxmemory", "1mb")
    with contextlib.suppress(Exception):
        await own.link.execute("SET", "own:more", b"x" * 100_000)
    await own.link.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await own.link.execute("CONFIG", "SET", "maxmemory", "2gb")
    check = (await checked(own))["eviction"]
    assert check.status is CheckStatus.WARN
    assert "0 keys evicted" not in check.seen


@pytest.mark.parametrize(
    ("settings", "status", "seen"),
    [
        ({"appendonly": "no", "save": ""}, CheckStatus.FAIL, "loses everything"),
        ({"appendonly": "no", "save": "60 1000"}, CheckStatus.WARN, "snapshots only"),
        ({"appendfsync": "no"}, CheckStatus.WARN, "half a minute"),
        ({"appendfsync": "everysec"}, CheckStatus.OK, "fsync everysec"),
    ],
)
async def test_what_a_crash_would_cost_is_said(
    own: MemoryConnection, settings: dict[str, str], status: CheckStatus, seen: str
) -> None:
    for name, value in settings.items():
        await own.link.execute("CONFIG", "SET", name, value)
    check = (await checked(own))["persistence"]
    assert (check.status, seen in check.seen) == (status, True)
    if status is not CheckStatus.OK:
        assert "append" in check.remedy


async def test_a_nearly_full_server_is_seen_before_it_refuses_writes(own: MemoryConnection, make: Any) -> None:
    await fill(own, make, 400)
    used = int(dict(line.split(":", 1) for line in (await info(own)).splitlines() if ":" in line)["used_memory"])
    for limit, status in ((used * 100, CheckStatus.OK), (used * 100 // 85, CheckStatus.WARN), (used, CheckStatus.FAIL)):
        await own.link.execute("CONFIG", "SET", "maxmemory", limit)
        check = (await checked(own))["memory"]
        assert check.status is status, check
        assert "bytes an experience" in check.seen
    assert f"coinswarm run prune_memories --namespace {own.namespace})" in check.remedy


async def info(mem: MemoryConnection) -> str:
    return str((await mem.link.execute("INFO", "memory")).decode())


async def test_days_until_it_is_full_come_from_what_was_recorded_lately(own: MemoryConnection, make: Any) -> None:
    await fill(own, make, 1500)
    used = int(dict(line.split(":", 1) for line in (await info(own)).splitlines() if ":" in line)["used_memory"])
    await own.link.execute("CONFIG", "SET", "maxmemory", 3 * used)
    check = (await checked(own))["memory"]
    assert check.status is CheckStatus.WARN
    assert "1,500 a day" in check.seen
    days = int(check.seen.split("full in ")[1].split(" ")[0])
    assert 1 <= days <= 14


async def test_a_server_without_a_limit_is_one_that_the_machine_kills(own: MemoryConnection) -> None:
    await own.link.execute("CONFIG", "SET", "maxmemory", 0)
    check = (await checked(own))["memory"]
    assert (check.status, "CONFIG SET maxmemory" in check.remedy) == (CheckStatus.WARN, True)


async def test_a_replica_is_no_place_to_write_to(own: MemoryConnection) -> None:
    await own.link.execute("REPLICAOF", "127.0.0.1", 1)
    check = (await checked(own))["redis"]
    assert check.status is CheckStatus.FAIL
    assert "primary" in check.remedy


@pytest.mark.parametrize(
    ("there", "status"),
    [
        (timedelta(milliseconds=5), CheckStatus.OK),
        (timedelta(seconds=-0.9), CheckStatus.OK),
        (timedelta(seconds=-1.1), CheckStatus.WARN),
        (timedelta(seconds=90), CheckStatus.WARN),
    ],
)
def test_clocks_may_differ_by_a_second_beside_the_round_trip(there: timedelta, status: CheckStatus) -> None:
    check = judge_clock(NOW, NOW + there, NOW + timedelta(milliseconds=10))
    assert check.status is status
    assert ("NTP" in check.remedy) == (status is CheckStatus.WARN)


async def test_a_user_who_may_not_ask_is_told_and_the_rest_is_checked(own_redis: Any, make: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="own") as mem:
        await fill(mem, make)
        await mem.link.execute("ACL", "SETUSER", "guest", "on", ">pw", "~*", "&*", "+@all", "-info", "-config")
    url = own_redis.url.replace("unix://", "unix://guest:pw@")
    async with memory.connect(redis_url=url, namespace="own") as guest:
        found = await checked(guest)
    assert {found[name].status for name in ("redis", "eviction", "persistence", "memory")} == {CheckStatus.WARN}
    assert "may not ask" in found["eviction"].seen
    assert found["episodic index"].status is CheckStatus.OK


async def test_a_server_that_goes_away_meanwhile_is_a_finding_in_every_check(own_redis: Any) -> None:
    settings = memory.Settings(redis_timeout_s=0.2)
    async with memory.connect(redis_url=own_redis.url, namespace="own", settings=settings) as mem:
        own_redis.kill()
        found = await mem.health()
    assert {check.status for check in found} == {CheckStatus.FAIL}
    assert all("COINSWARM_REDIS" in check.remedy for check in found)


# --- what waits ------------------------------------------------------------------------------------------------


async def test_an_inbox_that_no_drain_came_by_is_a_backlog(mem: MemoryConnection, make: Any) -> None:
    await mem.inbox.append(make(1))
    assert (await checked(mem))["inbox"].status is CheckStatus.OK
    old = int((datetime.now(UTC) - timedelta(hours=30)).timestamp() * 1000)
    await mem.link.execute("XADD", mem.keys.inbox("sleeper"), f"{old}-0", "content", b"x")
    check = (await checked(mem))["inbox"]
    assert (check.status, "30 h old" in check.seen) == (CheckStatus.WARN, True)
    assert "record_experiences" in check.remedy


async def test_entries_that_a_drain_left_behind_are_counted(mem: MemoryConnection, make: Any) -> None:
    await mem.inbox.append_many([make(minute) for minute in range(3)])
    entries = await mem.inbox.read("gone")
    await mem.inbox.acknowledge(entries[:1])
    assert (await checked(mem))["inbox"].status is CheckStatus.OK
    stream = mem.keys.inbox("momentum")
    ids = [entry.entry_id for entry in entries[1:]]
    await mem.link.execute("XCLAIM", stream, "drain", "gone", 0, *ids, "IDLE", 600_000, "JUSTID")
    check = (await checked(mem))["inbox"]
    assert (check.status, "left 2 of them behind" in check.seen) == (CheckStatus.WARN, True)


async def test_dead_letters_are_counted_by_the_field_at_fault(mem: MemoryConnection, make: Any) -> None:
    bad = [make(minute, reward=float("nan")) for minute in range(3)] + [make(9, regime="CALM")]
    await mem.episodic.add_many(bad)
    check = (await checked(mem))["dead letters"]
    assert check.status is CheckStatus.WARN
    assert check.seen.startswith("4 (3 x reward, such as: ")
    assert "1 x regime" in check.seen
    assert "deadletters retry" in check.remedy


async def test_a_full_list_of_dead_letters_says_that_older_ones_are_gone(
    servers: Any, namespace: str, make: Any
) -> None:
    settings = memory.Settings(dead_letter_limit=2)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem:
        await mem.episodic.add_many([make(minute, regime="CALM") for minute in range(5)])
        assert "older ones are gone" in (await checked(mem))["dead letters"].seen
