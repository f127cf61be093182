"""Replicas that are late, or hold less than all, are not read from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from memory import MemoryConnection
from memory.errors import StoreUnavailableError
from memory.retrieval.replicas import ReplicaPolicy, WriteToken
from tests.memory.retrieval.latency_proxy import LatencyProxy
from tests.memory.retrieval.redis_processes import Cluster, RedisProcess
from tests.memory.retrieval.replicas.balanced_reads import (
    Callers,
    balanced_over,
    recorded,
    serving,
    state_of,
    steps,
    until,
)


@asynccontextmanager
async def late_replica(cluster: Cluster, delay_s: float) -> AsyncIterator[tuple[RedisProcess, LatencyProxy]]:
    """The first replica, following the primary through a link with latency."""
    replica = cluster.replicas[0]
    async with LatencyProxy(cluster.primary.port, delay_s) as link:
        await asyncio.to_thread(replica.ask, "REPLICAOF", "127.0.0.1", str(link.port))
        await asyncio.to_thread(replica.wait_for, "INFO replication", "master_link_status:up")
        yield replica, link


async def test_own_writes_are_seen_although_the_replica_is_late(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    async with (
        late_replica(cluster, 0.15) as (replica, _),
        balanced_over(primary, [replica.url]) as balanced,
    ):
        await until(lambda: serving(balanced) == 1)
        own = balanced.reading(read_your_writes=True)
        missed = 0
        for minute in range(100, 105):
            await balanced.episodic.add(make(minute))
            missed += minute not in steps(await balanced.retrieve_similar_experiences(vector(minute), top_k=1))
            assert steps(await own.retrieve_similar_experiences(vector(minute), top_k=1)) == [minute]
        assert missed > 0, "the replica was not late: the test shows nothing"
        by_primary = balanced.describe()[0].reads
        await until(lambda: (state_of(balanced, replica).lag_bytes or 0) == 0)
        await asyncio.sleep(0.3)
        await own.retrieve_similar_experiences(vector(100))
        assert balanced.describe()[0].reads == by_primary, "a replica that has caught up may answer"


async def test_a_token_of_another_process_is_waited_for_by_asking_who_has_come_so_far(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    async with (
        late_replica(cluster, 0.15) as (replica, _),
        balanced_over(primary, [replica.url]) as balanced,
    ):
        await until(lambda: serving(balanced) == 1)
        await primary.episodic.add(make(100))
        written = await balanced.write_token()
        token = WriteToken(written.history, written.offset)
        assert steps(await balanced.reading(after=token).retrieve_similar_experiences(vector(100), top_k=1)) == [100]
        assert balanced.describe()[0].reads == 1


async def test_a_replica_that_falls_behind_is_left_out_until_it_has_caught_up(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    policy = ReplicaPolicy(check_interval_s=0.05, max_lag_s=0.3, hang_s=0.3)
    async with (
        late_replica(cluster, 0.0) as (replica, link),
        balanced_over(primary, [replica.url], policy) as balanced,
    ):
        await until(lambda: serving(balanced) == 1)
        link.stall()
        await primary.episodic.add(make(100))
        await until(lambda: serving(balanced) == 0)
        state = state_of(balanced, replica)
        assert state.lag_bytes is not None
        assert state.lag_bytes > 1000
        assert "behind" in state.trouble
        assert steps(await balanced.retrieve_similar_experiences(vector(100), top_k=1)) == [100]
        link.mend()
        await until(lambda: serving(balanced) == 1)


async def test_a_replica_whose_link_to_the_primary_is_cut_is_left_out(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    async with (
        late_replica(cluster, 0.0) as (replica, link),
        balanced_over(primary, [replica.url]) as balanced,
    ):
        await until(lambda: serving(balanced) == 1)
        link.cut(refuse=True)
        await until(lambda: "lost its primary" in state_of(balanced, replica).trouble)
        assert steps(await balanced.retrieve_similar_experiences(vector(4), top_k=1)) == [4]
        assert balanced.describe()[0].reads == 1
        link.mend()
        await until(lambda: serving(balanced) == 1)


async def test_a_replica_never_answers_from_less_than_all_while_it_loads_again_and_again(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    await primary.episodic.add_many([make(minute, agent_id="hold") for minute in range(20, 1_500)])
    replica = cluster.replicas[0]
    async with balanced_over(primary, [replica.url]) as balanced:
        await until(lambda: serving(balanced) == 1)
        callers = Callers(balanced, vector)
        for _ in range(3):
            await callers.more()
            # Its history goes its own way for a write, so it has to be given all data anew.
            replica.ask("REPLICAOF", "NO", "ONE")
            replica.ask("SET", "stray", "1")
            replica.ask("REPLICAOF", "127.0.0.1", str(cluster.primary.port))
            await until(lambda: not state_of(balanced, replica).serving)
            await until(lambda: state_of(balanced, replica).serving)
        await callers.stop()
    assert callers.errors == []
    assert callers.wrong == 0


async def test_an_answer_that_the_loss_of_all_data_has_overtaken_is_dropped(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    replica = cluster.replicas[0]
    async with balanced_over(primary, [replica.url]) as balanced:
        await until(lambda: serving(balanced) == 1)
        (watched,) = balanced._servers._replicas
        assert watched.link is not None
        generation = watched.link.generation
        replica.ask("REPLICAOF", "NO", "ONE")
        replica.ask("FLUSHALL")
        # Before anyone has looked again: the message that the data has gone comes before any answer from what is left.
        assert steps(await balanced.retrieve_similar_experiences(vector(4), top_k=1)) == [4]
        assert watched.link is None or watched.link.generation > generation or not watched.link.whole


async def test_an_index_that_a_replica_still_builds_is_not_searched_there_and_the_others_are(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make, 1_500)
    schema = await primary.indexes.episodic("rff-1")
    assert schema is not None
    replica = cluster.replicas[0]
    async with balanced_over(primary, [replica.url]) as balanced:
        await until(lambda: serving(balanced) == 1)
        (watched,) = balanced._servers._replicas
        assert watched.link is not None
        # Built by inserting each record into a graph, which takes a good part of a second.
        name = f"{primary.namespace}:episodic:new"
        await primary.link.execute(
            *("FT.CREATE", name, "ON", "HASH", "PREFIX", 1, primary.keys.episodic_prefix, "SCHEMA"),
            *(schema.vector_field, "AS", "new", "VECTOR", "HNSW", 10, "TYPE", "FLOAT32", "DIM", 256),
            *("DISTANCE_METRIC", "COSINE", "M", 16, "EF_CONSTRUCTION", 200),
        )
        await until(lambda: state_of(balanced, replica).incomplete == (name,))
        with pytest.raises(StoreUnavailableError, match="not been seen to hold all"):
            await watched.link.execute("FT.SEARCH", name, "*", "LIMIT", 0, 0)
        assert steps(await balanced.retrieve_similar_experiences(vector(4), top_k=1)) == [4]
        assert state_of(balanced, replica).reads == 1
        await until(lambda: state_of(balanced, replica).incomplete == ())
        assert (await watched.link.execute("FT.SEARCH", name, "*", "LIMIT", 0, 0))[b"total_results"] == 1_500
