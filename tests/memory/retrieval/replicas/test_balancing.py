"""Replicas that are well share the reads, and answer as the primary does."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memory import MemoryConnection, MemoryRetrievalService
from memory.errors import InvalidQueryError, StoreUnavailableError
from memory.retrieval.replicas import LoadBalancedMemoryRetrieval
from tests.memory.retrieval.redis_processes import Cluster
from tests.memory.retrieval.replicas.balanced_reads import QUICK, balanced_over, recorded, serving, steps, until

DAY = datetime(2021, 6, 17, tzinfo=UTC)


async def test_replicas_give_the_same_answers_as_the_primary_and_share_the_reads(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        questions = [vector(1000 + number) for number in range(60)]
        expected = [await primary.retrieval.retrieve_similar_experiences(question) for question in questions]
        answers = await asyncio.gather(*(balanced.retrieve_similar_experiences(question) for question in questions))
        assert [steps(hits) for hits in answers] == [steps(hits) for hits in expected]
        shares = [state.share for state in balanced.describe()]
    assert shares[0] == 0.0
    assert min(shares[1:]) > 0.1
    assert sum(shares) == pytest.approx(1.0)


async def test_every_question_of_the_service_is_balanced(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    questions = {
        name: method
        for name, method in inspect.getmembers(MemoryRetrievalService, inspect.isfunction)
        if not name.startswith("_") and name != "at"
    }
    for name, method in questions.items():
        routed = getattr(LoadBalancedMemoryRetrieval, name)
        assert routed is not method, f"{name} goes past the replicas"
        assert inspect.signature(routed) == inspect.signature(method)
    await recorded(primary, make)
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        assert await balanced.retrieve_patterns(vector(0)) == []
        assert sum(state.reads for state in balanced.describe() if state.role == "replica") == 1


async def test_writes_go_to_the_primary_and_are_read_back_on_request(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    async with balanced_over(primary, cluster.urls) as balanced:
        own = balanced.reading(read_your_writes=True)
        for minute in range(30):
            await balanced.episodic.add(make(minute))
            assert minute in steps(await own.retrieve_similar_experiences(vector(minute), top_k=1))


async def test_a_lock_to_a_time_holds_on_every_server(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        past = balanced.at(DAY + timedelta(minutes=5))
        for _ in range(10):
            assert sorted(steps(await past.retrieve_similar_experiences(vector(1), top_k=20))) == [0, 1, 2, 3, 4]
        with pytest.raises(InvalidQueryError, match="locked"):
            await past.retrieve_similar_experiences(vector(1), as_of=DAY + timedelta(hours=1))


async def test_all_servers_are_asked_in_one_encoder(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    async with balanced_over(primary, cluster.urls) as balanced:
        await recorded(primary, make)
        assert steps(await balanced.reading(read_your_writes=True).retrieve_similar_experiences(vector(3), top_k=1))
        await primary.episodic.add(make(50, encoder_id="rff-2"))
        await primary.encoders.set_current("rff-2")
        await until(lambda: serving(balanced) == 2)
        answers = [steps(await balanced.retrieve_similar_experiences(vector(3), top_k=1)) for _ in range(20)]
        assert answers == [[3]] * 20


async def test_a_question_that_cannot_be_answered_is_refused_without_blaming_a_server(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    async with balanced_over(primary, cluster.urls) as balanced:
        await until(lambda: serving(balanced) == 2)
        with pytest.raises(InvalidQueryError):
            await balanced.retrieve_similar_experiences(vector(0), top_k=0)
        assert serving(balanced) == 2
        assert sum(state.failures for state in balanced.describe()) == 0


async def test_closing_leaves_nothing_behind_and_refuses_further_questions(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    before = asyncio.all_tasks()
    async with balanced_over(primary, cluster.urls) as balanced:
        await balanced.retrieve_similar_experiences(vector(0))
    assert asyncio.all_tasks() <= before
    for replica in cluster.replicas:
        replica.wait_for("INFO clients", "tracking_clients:0\r")
    with pytest.raises(StoreUnavailableError, match="closed"):
        await balanced.retrieve_similar_experiences(vector(0))


async def test_what_is_not_open_says_so(primary: MemoryConnection, vector: Any) -> None:
    balanced = LoadBalancedMemoryRetrieval(primary, [])
    with pytest.raises(StoreUnavailableError, match="not open"):
        await balanced.retrieve_similar_experiences(vector(0))
    await balanced.close()


async def test_what_is_open_is_not_opened_again_and_stays_open(
    cluster: Cluster, primary: MemoryConnection, make: Any, vector: Any
) -> None:
    await recorded(primary, make)
    before = asyncio.all_tasks()
    async with balanced_over(primary, cluster.urls) as balanced:
        with pytest.raises(StoreUnavailableError, match="open already"):
            await balanced.open()
        assert steps(await balanced.retrieve_similar_experiences(vector(4), top_k=1)) == [4]
    assert asyncio.all_tasks() <= before


async def test_the_primary_may_be_given_by_its_url(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, namespace: str, make: Any, vector: Any
) -> None:
    monkeypatch.setenv("COINSWARM_NAMESPACE", namespace)
    async with LoadBalancedMemoryRetrieval(cluster.primary.url, cluster.urls, policy=QUICK) as balanced:
        await balanced.episodic.add(make(3))
        own = balanced.reading(read_your_writes=True)
        assert steps(await own.retrieve_similar_experiences(vector(3))) == [3]
    with pytest.raises(StoreUnavailableError):
        await balanced.mem.episodic.count()
