"""Semantic memory rebuilt from the ledger: as it was published, for now and as of a time, in any namespace."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

import memory
from flows.rebuild_memory import Parameters, rebuild_memory
from flows.verify_memory import Parameters as VerifyParameters
from flows.verify_memory import verify_memory
from memory.errors import LineError
from memory.ledger import Ledger

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]


def rebuild(namespace: str, **parameters: Any) -> dict[str, Any]:
    return rebuild_memory(Parameters(namespace=namespace, **parameters))


async def empty(namespace: str, servers: Any, keep: str) -> None:
    """All keys of a namespace go, but for those that hold a word; the indexes too."""
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        keys = await mem.link.execute("KEYS", f"{namespace}:*")
        gone = [key for key in keys if f":{keep}:".encode() not in key]
        await mem.link.execute("UNLINK", *gone)
        for name in await mem.link.execute("FT._LIST"):
            if name.decode().startswith(f"{namespace}:"):
                await mem.link.execute("FT.DROPINDEX", name)


def test_a_redis_that_was_emptied_is_rebuilt_as_it_was_and_a_second_time_nothing_changes(
    small_world: Any, servers: Any, record: Callable[..., None]
) -> None:
    namespace, before = small_world.namespace, small_world.digests()

    async def accesses() -> dict[str, int]:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            await mem.semantic.count_access(["p-read"], small_world.end)
            return dict(await mem.access.all_counts(small_world.end + dt.timedelta(days=1), 30))

    counted = asyncio.run(accesses())
    asyncio.run(empty(namespace, servers, keep="access"))
    assert verify_memory(VerifyParameters(namespace=namespace))["status"] == "different"
    result = rebuild(namespace)
    assert (result["status"], result["into"]) == ("same", namespace)
    assert result["added"] > 0
    assert small_world.digests() == before
    again = rebuild(namespace)
    assert (again["added"], again["closed"], again["removed"]) == (0, 0, 0)
    assert small_world.digests() == before
    assert verify_memory(VerifyParameters(namespace=namespace))["status"] == "same"

    async def still_there() -> tuple[dict[str, int], str | None]:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            encoder = await mem.encoders.current()
            record = None if encoder is None else await mem.encoders.get(encoder)
            assert record is not None
            assert record.fitted_until < small_world.end
            return dict(await mem.access.all_counts(small_world.end + dt.timedelta(days=1), 30)), encoder

    kept, encoder = asyncio.run(still_there())
    assert kept == counted
    assert encoder is not None
    # Experiences are not knowledge, which is all that was rebuilt; other tests ask this world about its days.
    record(namespace, small_world.days)


def test_what_was_known_after_each_night_is_rebuilt_elsewhere_as_a_clean_run_left_it(
    small_world: Any, servers: Any
) -> None:
    before = small_world.digests()
    for night, day in enumerate(small_world.days):
        into = f"{small_world.namespace}-{night}"
        known = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC) + dt.timedelta(days=1)
        assert rebuild(small_world.namespace, as_of=known, into=into)["status"] == "same"
        assert asyncio.run(small_world.redis_digest(into)) == small_world.redis_digests[night]
        compared = verify_memory(VerifyParameters(namespace=small_world.namespace, as_of=known, into=into, digest=True))
        assert compared["status"] == "same"
    assert rebuild(small_world.namespace, into=f"{small_world.namespace}-0")["status"] == "same"
    assert asyncio.run(small_world.redis_digest(f"{small_world.namespace}-0")) == before[1]
    assert small_world.digests() == before


def test_a_namespace_that_learns_by_itself_is_not_rebuilt_into(small_world: Any, servers: Any) -> None:
    other = f"{small_world.namespace}-own"
    with Ledger.open(servers.database_url) as ledger:
        run_id = ledger.runs.start("consolidate_memories", other, {}, lease_s=60)
        token = ledger.fence.acquire(other, run_id, flow="consolidate_memories", lease_s=60)
        ledger.lines.ensure(token, "encoder-1", "1")
        ledger.fence.release(token)
    with pytest.raises(LineError, match="lines of its own"):
        rebuild(small_world.namespace, into=other)
    with pytest.raises(LineError, match="holds no knowledge"):
        rebuild(f"{small_world.namespace}-nothing")


def test_tokens_go_on_above_what_redis_has_seen(small_world: Any, servers: Any) -> None:
    async def announce() -> int:
        async with memory.connect(redis_url=servers.redis_url, namespace=small_world.namespace) as mem:
            ahead = await mem.fence.highest() + 1_000
            await mem.fence.raise_to(ahead)
            return ahead

    ahead = asyncio.run(announce())
    assert rebuild(small_world.namespace)["status"] == "same"
    with Ledger.open(servers.database_url) as ledger:
        holder = ledger.fence.holder(small_world.namespace)
    assert holder is not None
    assert holder.token > ahead
