"""Reads over real replicas: none that is dead, hung, late or half loaded answers, and callers do not notice."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memory
from memory import MemoryConnection, MemoryRetrievalService
from memory.errors import InvalidQueryError, StoreUnavailableError
from memory.retrieval.replicas import LoadBalancedMemoryRetrieval, ReplicaPolicy, ServerState, WriteToken
from tests.memory.retrieval.latency_proxy import LatencyProxy
from tests.memory.retrieval.redis_processes import Cluster, RedisProcess

DAY = datetime(2021, 6, 17, tzinfo=UTC)
QUICK = ReplicaPolicy(check_interval_s=0.05, max_lag_s=1.0, hang_s=0.3)


@pytest.fixture(scope="module")
def servers_of_this_file() -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="replicas-"))
    cluster = Cluster(directory, replicas=2)
    try:
        cluster.heal()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def cluster(servers_of_this_file: Cluster) -> Cluster:
    """A primary and two replicas that follow it."""
    servers_of_this_file.heal()
    return servers_of_this_file


@pytest.fixture
async def primary(cluster: Cluster, namespace: str) -> AsyncIterator[MemoryConnection]:
    """An open memory at the primary."""
    mem = memory.connect(redis_url=cluster.primary.url, namespace=namespace)
    await mem.open()
    yield mem
    mem.access._waiting.clear()  # What a dead primary could not count would fail the closing.
    await mem.close()


@asynccontextmanager
async def balanced_over(
    mem: MemoryConnection, urls: list[str], policy: ReplicaPolicy = QUICK, **options: Any
) -> AsyncIterator[LoadBalancedMemoryRetrieval]:
    async with LoadBalancedMemoryRetrieval(mem, urls, policy=policy, **options) as balanced:
        yield balanced


async def until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come so far"
        await asyncio.sleep(0.01)


def state_of(balanced: LoadBalancedMemoryRetrieval, server: RedisProcess) -> ServerState:
    return next(state for state in balanced.describe() if state.address == server.url)


def serving(balanced: LoadBalancedMemoryRetrieval) -> int:
    return sum(state.serving for state in balanced.describe() if state.role == "replica")


def steps(hits: Any) -> list[int]:
    return [hit.memory.step for hit in hits]


async def recorded(mem: MemoryConnection, make: Any, number: int = 20) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(number)])


class Callers:
    """Agents that ask on and on; what they were answered, and what they met."""

    def __init__(self, balanced: LoadBalancedMemoryRetrieval, vector: Any, number: int = 8) -> None:
        self.answers = 0
        self.errors: list[Exception] = []
        self.wrong = 0
        self._stopped = False
        self._tasks = [asyncio.create_task(self._live(balanced, vector, agent)) for agent in range(number)]

    async def _live(self, balanced: LoadBalancedMemoryRetrieval, vector: Any, agent: int) -> None:
        minute = agent
        while not self._stopped:
            minute = (minute + 1) % 20
            try:
                hits = await balanced.retrieve_similar_experiences(vector(minute), top_k=3)
            except Exception as error:  # noqa: BLE001 - whatever a caller meets is counted.
                self.errors.append(error)
                continue
            self.answers += 1
            self.wrong += len(hits) != 3 or hits[0].memory.step != minute

    async def more(self, number: int = 50) -> None:
        """Wait for further answers."""
        goal = self.answers + number
        await until(lambda: self.answers >= goal)

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)


# --- in peace ------------------------------------------------------------------------------------------------


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


# --- servers that fail ---------------------------------------------------------------------------------------


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


# --- servers that are late -----------------------------------------------------------------------------------


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


# --- answers that would not be whole -------------------------------------------------------------------------


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


def test_a_bound_on_the_lag_that_cannot_be_proven_is_refused() -> None:
    with pytest.raises(InvalidQueryError, match="max_lag_s"):
        ReplicaPolicy(max_lag_s=0.3, check_interval_s=0.2)


# --- what is chosen ------------------------------------------------------------------------------------------

SECONDS: list[Any] = [0, -1, "1", None, True, float("nan"), float("inf"), [1.0]]
COUNTS: list[Any] = [-1, 1.5, "1", True, float("nan"), [1]]
FLAGS: list[Any] = ["no", 0, 1, None]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("max_lag_s", "check_interval_s", "hang_s") for value in SECONDS),
        *(("connections", value) for value in (*COUNTS, 0, None)),
        *(("max_lag_bytes", value) for value in COUNTS),
        *((name, value) for name in ("fall_back_to_primary", "reads_without_primary") for value in FLAGS),
        *(("choice", value) for value in ("", "random", None, 1)),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        ReplicaPolicy(**{name: value})
    assert caught.value.argument == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("replica_urls", value) for value in (None, 7, "redis://127.0.0.1:1", b"redis://127.0.0.1:1", iter([]))),
        *(
            ("replica_urls", [value])
            for value in (
                *(None, 7, "", "nonsense", "http://127.0.0.1:1", "redis://[::1", "redis://127.0.0.1:99999"),
                *("redis://127.0.0.1:1/1", "unix:///tmp/redis.sock?db=2", b"redis://127.0.0.1:1"),
            )
        ),
        *(("timeout_s", value) for value in (-1, "1", True, float("nan"), float("inf"), [1.0])),
        *(("random_state", value) for value in (-1, 1.5, "1", None, [])),
    ],
)
def test_what_replicas_cannot_be_reached_with_is_refused_before_anything_is_sent(name: str, value: Any) -> None:
    mem = memory.connect(redis_url="redis://user:secret@127.0.0.1:1")
    with pytest.raises(InvalidQueryError) as caught:
        LoadBalancedMemoryRetrieval(mem, **{"replica_urls": [], name: value})
    assert caught.value.argument == name


def test_a_url_that_is_refused_keeps_its_password_to_itself() -> None:
    mem = memory.connect(redis_url="redis://127.0.0.1:1")
    with pytest.raises(InvalidQueryError, match="names database 3") as caught:
        LoadBalancedMemoryRetrieval(mem, ["redis://user:secret@127.0.0.1:1/3"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("read_your_writes", value) for value in FLAGS),
        *(("after", value) for value in ("own", 5, ("history", 5), True)),
    ],
)
def test_reading_after_what_is_no_write_is_refused(name: str, value: Any) -> None:
    balanced = LoadBalancedMemoryRetrieval(memory.connect(redis_url="redis://127.0.0.1:1"), [])
    with pytest.raises(InvalidQueryError) as caught:
        balanced.reading(**{name: value})
    assert caught.value.argument == name
