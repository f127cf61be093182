"""What the checks of a memory see when something is really wrong, and what they tell the reader to do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection
from memory.store import health_indexes
from memory.store.health import Check, CheckStatus, judge_clock
from memory.store.health_records import take_census
from memory.store.reindexing import Reindexer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MISSING = "0" * 32


async def checked(mem: MemoryConnection) -> dict[str, Check]:
    """The checks by name, the worst of each."""
    found: dict[str, Check] = {}
    for check in await mem.health():
        assert bool(check.remedy) == (check.status is not CheckStatus.OK), check
        worse = found.get(check.name)
        if worse is None or list(CheckStatus).index(check.status) > list(CheckStatus).index(worse.status):
            found[check.name] = check
    return found


def turned(found: dict[str, Check]) -> set[str]:
    return {name for name, check in found.items() if check.status is not CheckStatus.OK}


@pytest.fixture
async def own(own_redis: Any) -> AsyncIterator[MemoryConnection]:
    """A memory on a server of the test's own, with a limit, as it should have."""
    async with memory.connect(redis_url=own_redis.url, namespace="own") as mem:
        await mem.link.execute("CONFIG", "SET", "maxmemory", "2gb")
        yield mem


async def register(mem: MemoryConnection, encoder_id: str = "rff-1") -> None:
    await mem.encoders.register(encoder_id, fitted_until=datetime(2021, 6, 1, tzinfo=UTC), definition={"kind": "test"})


async def fill(mem: MemoryConnection, make: Any, count: int = 40) -> None:
    await register(mem)
    await mem.episodic.add_many([make(minute) for minute in range(count)])


def key_of(mem: MemoryConnection, record: Any) -> str:
    return mem.episodic.collection.key(record)


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
    assert "prune_memories" in check.remedy


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


# --- indexes ---------------------------------------------------------------------------------------------------


async def test_a_vector_of_the_wrong_length_leaves_a_record_out_of_the_index_and_is_named(
    mem: MemoryConnection, make: Any
) -> None:
    await fill(mem, make)
    key = mem.keys.episodic("momentum", "BTC-USDT", 1, MISSING)
    await mem.link.execute("HSET", key, "state_vector:rff-1", b"\0" * 100, "scope", "a=momentum", "timestamp", 1)
    found = await checked(mem)
    assert found["episodic index"].status is CheckStatus.FAIL
    assert "1 of 41 experiences are in no index" in found["episodic index"].seen
    failures = found["index failures"]
    assert (failures.status, key in failures.seen, f"UNLINK {key}" in failures.remedy) == (CheckStatus.FAIL, True, True)
    assert "100 bytes, not 1,024" in found["episodic vectors"].seen

    await mem.link.execute("UNLINK", key)
    after = await checked(mem)
    assert after["episodic index"].status is CheckStatus.OK
    assert after["index failures"].status is CheckStatus.WARN


async def test_an_index_that_was_dropped_is_missed(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    await mem.shared.add_shared_experience(make(1), 0.9)
    for name, index in (("episodic", mem.keys.episodic_index("rff-1")), ("shared", mem.keys.shared_index("rff-1"))):
        await mem.link.execute("FT.DROPINDEX", index)
        check = (await checked(mem))[f"{name} index"]
        assert (check.status, index in check.seen) == (CheckStatus.FAIL, True)
        assert "reindex_memory" in check.remedy
        family = mem.indexes.experiences if name == "episodic" else mem.indexes.pool
        assert await mem.indexes.restore(family, "rff-1") == [index]
        assert (await checked(mem))[f"{name} index"].status is CheckStatus.OK
        assert await mem.indexes.restore(family, "rff-1") == []


async def test_records_of_an_encoder_without_an_index_are_counted_and_it_is_named(
    mem: MemoryConnection, make: Any
) -> None:
    await fill(mem, make)
    for number in range(3):
        key = mem.keys.episodic("momentum", "BTC-USDT", number, MISSING)
        vector = make(number).state_vector.tobytes()
        await mem.link.execute("HSET", key, "state_vector:foreign-7", vector, "scope", "a=momentum", "timestamp", 1)
    check = (await checked(mem))["episodic index"]
    assert check.status is CheckStatus.FAIL
    assert "3 of 43 experiences" in check.seen
    assert "foreign-7" in check.seen
    assert "mem.indexes.ensure_episodic('foreign-7')" in check.remedy
    await mem.indexes.ensure_episodic("foreign-7")
    assert (await checked(mem))["episodic index"].status is CheckStatus.OK


async def test_patterns_without_an_index_are_missed(mem: MemoryConnection) -> None:
    key = mem.keys.semantic("PATTERN", "p-1", 0, "line")
    await mem.link.execute("HSET", key, "body", b"x")
    check = (await checked(mem))["semantic index"]
    assert (check.status, "1 of 1" in check.seen) == (CheckStatus.FAIL, True)
    assert "consolidate_memories" in check.remedy


async def test_patterns_whose_index_is_being_built_are_not_missed(
    mem: MemoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_indexes, "BUILD_PATIENCE_S", 0.0)
    await register(mem)
    await mem.link.execute("HSET", mem.keys.semantic("PATTERN", "p-1", 0, "line"), "body", b"x")
    vectors = np.random.default_rng(0).standard_normal((1000, 256)).astype(np.float32)
    await mem.link.pipeline(
        [("HSET", f"{mem.namespace}:record:{row}", "vector", vector.tobytes()) for row, vector in enumerate(vectors)]
    )
    index = mem.keys.semantic_index("rff-1")
    await mem.link.execute(
        *("FT.CREATE", index, "ON", "HASH", "PREFIX", 1, f"{mem.namespace}:record:", "SCHEMA"),
        *("vector", "VECTOR", "HNSW", 8, "TYPE", "FLOAT32", "DIM", 256, "DISTANCE_METRIC", "L2"),
        *("EF_CONSTRUCTION", 1000),  # Looks at every record for each, so that building takes seconds.
    )
    check = (await checked(mem))["semantic index"]
    assert (check.status, "is being built" in check.seen) == (CheckStatus.WARN, True)
    await mem.link.execute("FT.DROPINDEX", index)


async def test_an_alias_that_leads_elsewhere_is_named_with_the_command(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    await mem.episodic.add(make(1, encoder_id="other-2", agent_id="hold"))
    alias, wrong = mem.keys.episodic_alias, mem.keys.episodic_index("other-2")
    await mem.link.execute("FT.ALIASUPDATE", alias, wrong)
    check = (await checked(mem))["aliases"]
    assert (check.status, wrong in check.seen) == (CheckStatus.WARN, True)
    assert check.remedy == f"FT.ALIASUPDATE {alias} {mem.keys.episodic_index('rff-1')}"
    await mem.link.execute("FT.ALIASDEL", alias)
    assert "leads to nothing" in (await checked(mem))["aliases"].seen


async def test_an_index_of_no_known_encoder_is_an_orphan(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    ghost = mem.keys.episodic_index("ghost")
    await mem.link.execute("FT.CREATE", ghost, "PREFIX", 1, "nobody:", "SCHEMA", "scope", "TAG")
    try:
        check = (await checked(mem))["orphan indexes"]
    finally:
        await mem.link.execute("FT.DROPINDEX", ghost)
    assert (check.status, ghost in check.seen, check.remedy.endswith(f"FT.DROPINDEX {ghost}")) == (
        CheckStatus.WARN,
        True,
        True,
    )


# --- encoders --------------------------------------------------------------------------------------------------


async def test_records_of_an_encoder_that_nobody_registered_are_pointed_out(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add(make(1))
    check = (await checked(mem))["encoders"]
    assert (check.status, "rff-1 is not registered" in check.seen) == (CheckStatus.WARN, True)
    await register(mem)
    assert (await checked(mem))["encoders"].status is CheckStatus.OK


async def test_a_current_encoder_without_records_hides_all_of_them(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make, 3)
    await register(mem, "new-2")
    await mem.encoders.set_current("new-2")
    check = (await checked(mem))["encoders"]
    assert (check.status, "set_current('rff-1')" in check.remedy) == (CheckStatus.WARN, True)
    await mem.link.execute("SET", mem.keys.current_encoder, "ghost-3")
    check = (await checked(mem))["encoders"]
    assert (check.status, "set_current('rff-1')" in check.remedy) == (CheckStatus.FAIL, True)


# --- records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        (np.zeros(256, np.float32), "has length 0"),
        (np.full(256, np.nan, np.float32), "holds NaN"),
        (np.full(256, 0.5, np.float32), "has length 8"),
    ],
)
@pytest.mark.parametrize("kind", ["episodic", "shared"])
async def test_a_vector_that_cannot_be_compared_is_found(
    mem: MemoryConnection, make: Any, vector: Any, problem: str, kind: str
) -> None:
    await fill(mem, make)
    await mem.shared.add_shared_experience(make(1), 0.9)
    key = key_of(mem, make_valid(make(1))) if kind == "episodic" else shared_key(mem, make_valid(make(1)))
    await mem.link.execute("HSET", key, "state_vector:rff-1", vector.tobytes())
    found = await checked(mem)
    check = found[f"{kind} vectors"]
    assert (check.status, problem in check.seen, key in check.seen) == (CheckStatus.FAIL, True, True)
    assert "UNLINK" in check.remedy


def make_valid(record: Any) -> Any:
    from memory.validation import validate_experience

    return validate_experience(record)


def shared_key(mem: MemoryConnection, record: Any) -> str:
    return mem.keys.shared(record.product_id, record.memory_id)


async def test_an_encoder_that_says_the_same_of_every_moment_is_found(mem: MemoryConnection, make: Any) -> None:
    await register(mem)
    same = make(0).state_vector
    await mem.episodic.add_many([make(minute, state_vector=same) for minute in range(150)])
    check = (await checked(mem))["episodic vectors"]
    assert (check.status, "149 of 150" in check.seen) == (CheckStatus.WARN, True)


async def test_agents_that_share_a_moment_are_no_sign_of_that(mem: MemoryConnection, make: Any) -> None:
    await register(mem)
    agents = ("a", "b", "c")
    await mem.episodic.add_many([make(minute, agent_id=agent) for minute in range(120) for agent in agents])
    assert (await checked(mem))["episodic vectors"].status is CheckStatus.OK


async def test_a_record_that_will_expire_before_its_time_is_found(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    live = make_valid(make(99, source="live", timestamp=datetime.now(UTC), known_at=None))
    await mem.episodic.add(live)
    assert (await checked(mem))["expiry"].status is CheckStatus.OK
    for key, ttl_s in ((key_of(mem, live), 86_400), (key_of(mem, make_valid(make(1))), 10**8)):
        before = await mem.link.execute("PTTL", key)
        await mem.link.execute("EXPIRE", key, ttl_s)
        check = (await checked(mem))["expiry"]
        assert (check.status, f"PERSIST {key}" in check.remedy) == (CheckStatus.FAIL, True)
        await mem.link.execute(*(("PERSIST", key) if before < 0 else ("PEXPIRE", key, before)))
    await mem.link.execute("PERSIST", key_of(mem, live))
    check = (await checked(mem))["expiry"]
    assert (check.status, "1 live experiences" in check.seen) == (CheckStatus.WARN, True)


async def test_knowledge_that_expires_is_found(mem: MemoryConnection) -> None:
    key = mem.keys.semantic("STRATEGY", "s-1", 0, "line")
    await mem.link.execute("HSET", key, "body", b"x")
    await mem.link.execute("EXPIRE", key, 1000)
    assert (await checked(mem))["expiry"].status is CheckStatus.FAIL


async def test_a_scan_that_is_cut_short_does_not_compare(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(3000)])
    whole = await take_census(mem)
    assert (whole.counts["episodic"], whole.complete) == (3000, True)
    part = await take_census(mem, limit=1)
    assert part.complete is False
    assert part.counts["episodic"] < 3000


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


# --- layouts ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def divided(servers: Any, namespace: str, make: Any) -> AsyncIterator[MemoryConnection]:
    """A memory with an index for each agent and product."""
    settings = memory.Settings(index_layout="partitioned")
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace, settings=settings) as mem:
        await register(mem)
        await mem.episodic.add_many([make(minute, agent_id=agent) for minute in range(20) for agent in ("a", "b")])
        yield mem


async def test_partitions_that_hold_everything_are_well(divided: MemoryConnection) -> None:
    found = await checked(divided)
    assert {name for name in turned(found) if "index" in name} == set()
    assert found["episodic index"].seen == "40 experiences in 3 indexes, 40 keys"


async def test_a_partition_that_was_dropped_is_missed(divided: MemoryConnection) -> None:
    part = f"{divided.keys.episodic_index('rff-1')}:b:BTC-USDT"
    await divided.link.execute("FT.DROPINDEX", part)
    check = (await checked(divided))["episodic index"]
    assert (check.status, part in check.seen, "reindex_memory" in check.remedy) == (CheckStatus.FAIL, True, True)
    assert await divided.indexes.restore(divided.indexes.experiences, "rff-1") == [part]
    assert (await checked(divided))["episodic index"].seen == "40 experiences in 3 indexes, 40 keys"


async def test_records_that_no_partition_holds_are_counted(divided: MemoryConnection, make: Any) -> None:
    part = f"{divided.keys.episodic_index('rff-1')}:b:BTC-USDT"
    schema = await divided.indexes.current_schema("rff-1")
    assert schema is not None
    await divided.link.execute("FT.DROPINDEX", part)
    await divided.indexes.partitions.create(schema, [("b", "BTC-USDT")], holds_all_from_now_on=True)
    check = (await checked(divided))["episodic index"]
    assert (check.status, "20 of 40" in check.seen) == (CheckStatus.FAIL, True)
    assert check.remedy.startswith(f"FT.DROPINDEX {part} ")
    await divided.link.execute("FT.DROPINDEX", part)
    await divided.indexes.restore(divided.indexes.experiences, "rff-1")
    assert (await checked(divided))["episodic index"].status is CheckStatus.OK


async def test_pairs_that_are_not_listed_are_missed(divided: MemoryConnection) -> None:
    schema = await divided.indexes.current_schema("rff-1")
    assert schema is not None
    await divided.link.execute("DEL", divided.indexes.experiences.pairs_key(schema))
    check = (await checked(divided))["episodic index"]
    assert (check.status, "40 of 40" in check.seen) == (CheckStatus.FAIL, True)
    assert "layout=single" in check.remedy


async def test_a_change_of_the_index_that_was_stopped_is_pointed_out(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    reindexer = Reindexer(mem.link, mem.indexes, mem.reader, mem.fence, mem.indexes.experiences)
    job = await reindexer.begin("rff-1", layout="single", algorithm="HNSW", vector_type="FLOAT16")
    assert job is not None
    check = (await checked(mem))["reindexing"]
    assert (check.status, job.target.name in check.seen) == (CheckStatus.WARN, True)
    choices = "--param layout=single --param algorithm=HNSW --param vector_type=FLOAT16"
    assert check.remedy.endswith(f"coinswarm run reindex_memory {choices}")
    async for reached in reindexer.fill(job):
        job = reached
    job = await reindexer.swap(job)
    await reindexer.retire(job)
    assert (await checked(mem))["reindexing"].remedy == check.remedy, "the old vectors are still there"


async def test_clients_of_an_old_encoder_are_what_a_new_one_waits_for(mem: MemoryConnection, make: Any) -> None:
    await fill(mem, make)
    reindexer = Reindexer(mem.link, mem.indexes, mem.reader, mem.fence, mem.indexes.experiences)
    kept: Any = {"layout": "single", "algorithm": "FLAT", "vector_type": "FLOAT32"}
    job = await reindexer.begin_encoder("rff-1", "rff-2", 256, **kept)
    assert job is not None
    check = (await checked(mem))["reindexing"]
    assert check.remedy.endswith("coinswarm run reindex_memory --param encoder=rff-2")

    def encode(names: tuple[str, ...], values: Any) -> Any:
        return np.stack([make(int(row)).state_vector for row in range(len(values))])

    async for reached in reindexer.fill(job, encode):
        job = reached
    await reindexer.swap(job, encode)
    check = (await checked(mem))["reindexing"]
    assert check.remedy.endswith("--param encoder=rff-2 --param remove_old=true")
    assert "restart clients of rff-1 with rff-2" in check.remedy
