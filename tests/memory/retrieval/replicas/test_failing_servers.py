"""Servers that are killed, hang, restart or change their part: callers do not notice, and no stranger answers."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from memory import MemoryConnection
from memory.errors import StoreUnavailableError
from memory.retrieval.replicas import ReplicaPolicy
from tests.memory.retrieval.redis_processes import Cluster
from tests.memory.retrieval.replicas.balanced_reads import (
    QUICK,
    Callers,
    balanced_over,
    recorded,
    serving,
    state_of,
    steps,
    until,
)


async def test_no_caller_notices_that_a_replica_is_killed_and_it_is_taken_back(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    victim = cluster.replicas[0]
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        callers = Callers(balanced, vector)
        await callers.more()
        victim.kill()
        await callers.more(200)
        assert not state_of(balanced, victim).serving
        victim.start()
        await until(lambda: state_of(balanced, victim).serving)
        before = state_of(balanced, victim).reads
        await until(lambda: state_of(balanced, victim).reads > before)
        await callers.stop()
    assert callers.errors == []
    assert callers.wrong == 0


async def test_a_replica_that_hangs_is_left_out_and_its_callers_are_answered_elsewhere(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    victim = cluster.replicas[1]
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        callers = Callers(balanced, vector)
        await callers.more()
        victim.halt()
        await until(lambda: not state_of(balanced, victim).serving)
        await callers.more(200)
        victim.go_on()
        await until(lambda: state_of(balanced, victim).serving)
        await callers.stop()
    assert callers.errors == []
    assert callers.wrong == 0


async def test_without_replicas_the_primary_answers(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    for replica in cluster.replicas:
        replica.kill()
    async with balanced_over(primary, cluster.urls) as balanced:
        assert steps(await balanced.retrieve_similar_experiences(vector(4), top_k=1)) == [4]
        assert [state.reads for state in balanced.describe()] == [1, 0, 0]
        assert "cannot be reached" in state_of(balanced, cluster.replicas[0]).trouble


async def test_without_replicas_and_without_leave_to_ask_the_primary_the_error_says_who_is_missing(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    for replica in cluster.replicas:
        replica.kill()
    policy = ReplicaPolicy(check_interval_s=0.05, hang_s=0.3, fall_back_to_primary=False)
    async with balanced_over(primary, cluster.urls, policy, timeout_s=0.4) as balanced:
        with pytest.raises(StoreUnavailableError, match=rf"{cluster.replicas[0].url}.*cannot be reached"):
            await balanced.retrieve_similar_experiences(vector(4))


async def test_reads_go_on_without_the_primary_and_writes_fail(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        callers = Callers(balanced, vector)
        await callers.more()
        cluster.primary.kill()
        await until(lambda: not balanced.describe()[0].serving)
        await callers.more(200)
        await asyncio.sleep(QUICK.max_lag_s)
        await callers.more(200)
        await callers.stop()
        primary.link.timeout_s = 0.3
        with pytest.raises(StoreUnavailableError):
            await balanced.episodic.add(make(100))
    assert callers.errors == []
    assert callers.wrong == 0


async def test_reads_stop_without_the_primary_where_the_policy_says_so(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    policy = ReplicaPolicy(check_interval_s=0.05, hang_s=0.3, reads_without_primary=False)
    async with balanced_over(primary, cluster.urls, policy, timeout_s=0.5) as balanced:
        await until(lambda: serving(balanced) == 2)
        cluster.primary.kill()
        await until(lambda: not balanced.describe()[0].serving)
        with pytest.raises(StoreUnavailableError, match="no server answered"):
            await balanced.retrieve_similar_experiences(vector(4))


async def test_a_primary_that_restarts_is_followed_again_and_own_writes_are_read_from_replicas_again(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    async with balanced_over(primary, cluster.urls) as balanced:
        own = balanced.reading(read_your_writes=True)
        await balanced.episodic.add(make(1))
        await until(lambda: serving(balanced) == 2)
        before_it = balanced._servers.primary.history
        cluster.primary.kill()
        cluster.primary.start()  # Empty: it keeps nothing on disk.
        await until(lambda: balanced._servers.primary.history != before_it)
        await until(lambda: serving(balanced) == 2)
        before = balanced.describe()[0].reads
        assert await own.retrieve_similar_experiences(vector(1)) == []
        assert balanced.describe()[0].reads == before


async def test_a_primary_that_was_too_busy_to_be_looked_at_is_looked_at_again(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        cluster.primary.ask("CONFIG", "SET", "busy-reply-threshold", "10")
        with socket.create_connection(("127.0.0.1", cluster.primary.port)) as client:
            client.sendall(b"EVAL 'while true do end' 0\r\n")
            await until(lambda: "script" in balanced.describe()[0].trouble)
            assert steps(await balanced.retrieve_similar_experiences(vector(4), top_k=1)) == [4]
            cluster.primary.ask("SCRIPT", "KILL")
        await until(lambda: balanced.describe()[0].serving and serving(balanced) == 2)


async def test_a_promoted_replica_goes_on_answering_and_a_refused_write_names_it(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    successor = cluster.replicas[0]
    async with balanced_over(primary, [successor.url]) as balanced:
        await until(lambda: serving(balanced) == 1)
        cluster.primary.kill()
        await until(lambda: not balanced.describe()[0].serving)
        successor.ask("REPLICAOF", "NO", "ONE")
        assert steps(await balanced.retrieve_similar_experiences(vector(4), top_k=1)) == [4]
        await until(lambda: balanced._servers.successor() is not None)
        primary.link.timeout_s = 0.3
        with pytest.raises(StoreUnavailableError, match=f"COINSWARM_REDIS_URL={successor.url}"):
            await balanced.episodic.add(make(100))


async def test_a_replica_that_became_a_primary_beside_the_primary_is_left_out(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    stray = cluster.replicas[0]
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        stray.ask("REPLICAOF", "NO", "ONE")
        await until(lambda: not state_of(balanced, stray).serving)
        assert "a primary of its own" in state_of(balanced, stray).trouble
        stray.ask("REPLICAOF", "127.0.0.1", str(cluster.primary.port))
        await until(lambda: state_of(balanced, stray).serving)


async def test_the_replica_of_another_primary_never_answers(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any, tmp_path: Path
) -> None:
    await recorded(primary, make)
    stranger = Cluster(tmp_path, replicas=1)
    try:
        stranger.heal()
        async with balanced_over(primary, stranger.urls) as balanced:
            assert steps(await balanced.retrieve_similar_experiences(vector(4), top_k=1)) == [4]
            (state,) = balanced.describe()[1:]
            assert (state.reads, state.serving) == (0, False)
            assert "follows another primary" in state.trouble
    finally:
        stranger.stop()
