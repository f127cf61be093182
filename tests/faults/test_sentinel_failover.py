"""Redis behind Sentinel: found by the service's name, and found again after its primary was killed."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from fault_sentinel import SERVICE, WatchedRedis

import memory
from memory import Settings
from memory.embedded import check_redis
from memory.errors import ServerUnsuitableError, StoreUnavailableError
from memory.records import Action, EpisodicMemory, Side

pytestmark = pytest.mark.faults

MINUTE = dt.timedelta(minutes=1)
DEADLINE_S = 30.0


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedRedis]:
    servers = WatchedRedis(tmp_path)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def lived(minute: int) -> EpisodicMemory:
    """What an agent lived through in a minute."""
    start = dt.datetime(2021, 6, 17, tzinfo=dt.UTC) + minute * MINUTE
    vectors = np.random.default_rng(minute).standard_normal((2, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return EpisodicMemory(
        agent_id="momentum",
        timestamp=start,
        state_vector=vectors[0],
        next_state_vector=vectors[1],
        action=Action(Side.BUY, 0.5),
        reward=minute / 1000,
        product_id="BTC-USDT",
        regime="QUIET",
        encoder_id="rff-1",
        source="replay",
        run_id="r-1",
        step=minute,
        known_at=start + MINUTE,
    )


async def test_recording_and_asking_go_on_at_the_server_that_took_over(watched: WatchedRedis, namespace: str) -> None:
    old, new = watched.servers
    async with memory.connect(redis_url=watched.url, namespace=namespace) as mem:
        assert mem.link.address == watched.url.replace(f":{watched.password}@", "")
        await mem.episodic.add_many([lived(minute) for minute in range(50)])
        with watched.server(old) as primary:
            assert primary.execute_command("WAIT", 1, 5000) == 1  # What the replica has, a failover keeps.
        watched.kill(old)
        with pytest.raises(StoreUnavailableError):
            await mem.link.execute("SET", mem.keys.fence, 1, timeout_s=0.2)
        await watched.until_primary_is(new)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    report = await mem.episodic.add_many([lived(minute) for minute in range(40, 60)])
                    break
                except StoreUnavailableError:
                    continue
        assert (len(report.stored), len(report.duplicates)) == (10, 10)
        assert await mem.episodic.count() == 60
        found = await mem.retrieval.retrieve_similar_experiences(lived(3).state_vector, agent_id="momentum", top_k=1)
        assert found[0].memory.step == 3
        with watched.server(new) as primary:
            assert primary.exists(mem.keys.episodic_index("rff-1")) == 0
            assert mem.keys.episodic_index("rff-1") in primary.execute_command("FT._LIST")


async def test_a_primary_that_was_made_a_replica_is_left_for_the_new_one(watched: WatchedRedis, namespace: str) -> None:
    old, new = watched.servers
    async with memory.connect(redis_url=watched.url, namespace=namespace) as mem:
        await mem.episodic.add_many([lived(1)])
        with redis.Redis(port=watched.sentinels[0]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
        await watched.until_primary_is(new)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    report = await mem.episodic.add_many([lived(1), lived(2)])
                    break
                except StoreUnavailableError:
                    continue
        assert (len(report.stored), len(report.duplicates)) == (1, 1)
        async with asyncio.timeout(DEADLINE_S):
            while (await mem.link.execute("INFO", "replication")).find(b"role:master") < 0:
                await asyncio.sleep(0.1)
        assert old != new


async def test_all_replicas_of_the_service_answer_questions(watched: WatchedRedis, namespace: str) -> None:
    async with memory.connect(redis_url=watched.url, namespace=namespace, replica_urls=[watched.url]) as mem:
        await mem.episodic.add_many([lived(minute) for minute in range(20)])
        assert mem.replicas is not None
        assert [server.address for server in mem.replicas.describe()][1:] == [f"redis://127.0.0.1:{watched.servers[1]}"]
        async with asyncio.timeout(DEADLINE_S):
            while not mem.replicas.describe()[1].reads:
                found = await mem.retrieval.retrieve_similar_experiences(lived(3).state_vector, top_k=1)
                assert found[0].memory.step == 3
                await asyncio.sleep(0.05)


async def test_a_service_that_no_sentinel_knows_and_a_wrong_password_are_named(
    watched: WatchedRedis, namespace: str
) -> None:
    brief = Settings(redis_timeout_s=5.0)
    assert (await asyncio.to_thread(check_redis, watched.url)).append_only
    wrong = watched.url.replace(watched.password, "a-canary")
    cases: list[tuple[str, type[Exception], str]] = [
        (watched.url.replace("/memory", "/nothing"), StoreUnavailableError, "knows a primary of that service"),
        (wrong, ServerUnsuitableError, "refused the user or password"),
        (watched.url.replace("sentinel://", "sentinel://x"), ServerUnsuitableError, "refused the user or password"),
    ]
    for url, kind, said in cases:
        with pytest.raises(kind, match=said) as caught:
            async with memory.connect(redis_url=url, namespace=namespace, settings=brief):
                pass
        assert "a-canary" not in str(caught.value)
        assert watched.password not in str(caught.value)
