"""What the checks of a memory see in records and encoders that cannot be right."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from memory import MemoryConnection
from memory.store.health import CheckStatus
from memory.store.health_records import take_census
from tests.memory.store.checking import checked, fill, register


def key_of(mem: MemoryConnection, record: Any) -> str:
    return mem.episodic.collection.key(record)


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
