"""Concurrent callers share round trips, and nothing else: not each other's failures, deadlines or records."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import memory
from memory import MemoryConnection, MemoryRetrievalService
from memory.asof import ReplayClock, replaying
from memory.errors import InvalidQueryError, StoreUnavailableError
from memory.retrieval.batching import BatchedMemoryRetrieval
from memory.retrieval.pipelined import PipelinedLink
from memory.store.servers import with_credentials
from tests.memory.retrieval.latency_proxy import LatencyProxy
from tests.memory.retrieval.redis_processes import RedisProcess

DAY = datetime(2021, 6, 17, tzinfo=UTC)


@pytest.fixture
async def recorded(mem: MemoryConnection, make: Any) -> MemoryConnection:
    """A memory of 30 minutes."""
    await mem.episodic.add_many([make(minute, next_state_vector=None) for minute in range(30)])
    return mem


@pytest.fixture
async def batched(recorded: MemoryConnection) -> AsyncIterator[BatchedMemoryRetrieval]:
    """Over one connection; asked once, so that everything is known that is asked for once."""
    async with BatchedMemoryRetrieval(recorded, connections=1) as retrieval:
        await retrieval.retrieve_async(np.full(256, 1 / 16, dtype=np.float32))
        yield retrieval


@pytest.fixture
async def link(recorded: MemoryConnection, tmp_path: Path) -> AsyncIterator[LatencyProxy]:
    """A link with 20 ms each way to the Redis that holds the memory."""
    url = urlsplit(recorded.link._url)
    target: Path | int = Path(unquote(url.path)) if url.scheme == "unix" else url.port or 6379
    async with LatencyProxy(target, 0.02) as proxy:
        if url.password is not None:
            proxy.url = with_credentials(proxy.url, unquote(url.username or "default"), unquote(url.password))
        yield proxy


@pytest.fixture
async def distant(recorded: MemoryConnection, link: LatencyProxy) -> AsyncIterator[MemoryConnection]:
    """The same memory over that link."""
    async with memory.connect(redis_url=link.url, namespace=recorded.namespace) as mem:
        yield mem


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis of the test's own."""
    server = RedisProcess(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.go_on()
        server.kill()


def steps(hits: Any) -> list[int]:
    return [hit.memory.step for hit in hits]


def project_tasks() -> list[asyncio.Task[Any]]:
    """Tasks that the project itself has started."""
    folder = str(Path(memory.__file__).parent)
    return [
        task
        for task in asyncio.all_tasks()
        if task.get_coro().cr_code.co_filename.startswith(folder)  # type: ignore[union-attr]
    ]


async def turns(number: int = 5) -> None:
    """Let the event loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)


# --- answers -------------------------------------------------------------------------------------------------


async def test_answers_are_those_of_the_service(
    recorded: MemoryConnection, batched: BatchedMemoryRetrieval, vector: Any
) -> None:
    questions: list[dict[str, Any]] = [
        {"state_vector": vector(1000 + number), "top_k": number % 7 + 1, "as_of": DAY + timedelta(minutes=number)}
        for number in range(40)
    ]
    answers = await asyncio.gather(*(batched.retrieve_async(**question) for question in questions))
    for question, hits in zip(questions, answers, strict=True):
        expected = await recorded.retrieval.retrieve_similar_experiences(**question)
        assert [(hit.memory.memory_id, hit.distance) for hit in hits] == [
            (hit.memory.memory_id, hit.distance) for hit in expected
        ]


async def test_it_takes_the_arguments_of_the_service_and_a_deadline() -> None:
    served = inspect.signature(MemoryRetrievalService.retrieve_similar_experiences).parameters
    taken = dict(inspect.signature(BatchedMemoryRetrieval.retrieve_async).parameters)
    assert taken.pop("timeout_s").default is None
    assert taken == dict(served)


async def test_callers_of_one_moment_share_a_round_trip(
    recorded: MemoryConnection, link: LatencyProxy, distant: MemoryConnection, vector: Any
) -> None:
    loop = asyncio.get_running_loop()
    async with BatchedMemoryRetrieval(distant, connections=1) as retrieval:
        await retrieval.retrieve_async(vector(0))
        before = link.connections
        started = loop.time()
        await asyncio.gather(*(retrieval.retrieve_async(vector(number)) for number in range(50)))
        # One after the other they would take 50 times 40 ms.
        assert loop.time() - started < 25 * 2 * link.delay_s
        assert link.connections == before


async def test_equal_questions_of_one_moment_are_searched_once_and_each_caller_has_its_own_records(
    batched: BatchedMemoryRetrieval, vector: Any
) -> None:
    before = batched.figures
    answers = await asyncio.gather(*(batched.retrieve_async(vector(3), top_k=2) for _ in range(10)))
    after = batched.figures
    assert (after.sent - before.sent, after.shared - before.shared) == (1, 9)
    assert all(steps(hits) == steps(answers[0]) for hits in answers)
    answers[0][0].memory.reward = -1.0
    assert len({id(hits[0].memory) for hits in answers}) == 10
    assert all(hits[0].memory.reward != -1.0 for hits in answers[1:])


@pytest.mark.parametrize(
    "other", [{"top_k": 3}, {"agent_id": "momentum"}, {"as_of": DAY + timedelta(minutes=9)}, {"min_reward": -1.0}]
)
async def test_questions_that_differ_are_not_shared(
    batched: BatchedMemoryRetrieval, vector: Any, other: dict[str, Any]
) -> None:
    before = batched.figures.shared
    await asyncio.gather(batched.retrieve_async(vector(3)), batched.retrieve_async(vector(3), **other))
    assert batched.figures.shared == before


async def test_a_question_that_has_left_is_not_joined_so_ones_own_write_is_seen(
    distant: MemoryConnection, make: Any, vector: Any
) -> None:
    async with BatchedMemoryRetrieval(distant) as retrieval:
        await retrieval.retrieve_async(vector(0))
        for minute in range(100, 105):
            early = asyncio.create_task(retrieval.retrieve_async(vector(minute), top_k=1))
            await turns()
            # Reaches the server before the answer to the question comes back over the link.
            await distant.episodic.add(make(minute))
            assert steps(await retrieval.retrieve_async(vector(minute), top_k=1)) == [minute]
            await early


async def test_a_lock_to_a_time_holds(batched: BatchedMemoryRetrieval, vector: Any) -> None:
    past = batched.at(DAY + timedelta(minutes=5))
    assert sorted(steps(await past.retrieve_async(vector(0), top_k=30))) == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidQueryError, match="locked"):
        await past.retrieve_async(vector(0), as_of=DAY + timedelta(hours=1))


async def test_each_caller_is_held_to_its_own_replay(batched: BatchedMemoryRetrieval, vector: Any) -> None:
    async def ask(minute: int) -> list[int]:
        with replaying(ReplayClock(DAY + timedelta(minutes=minute))):
            as_of = DAY + timedelta(minutes=3)
            return steps(await batched.retrieve_async(vector(0), as_of=as_of, top_k=30))

    allowed, refused = await asyncio.gather(ask(3), ask(2), return_exceptions=True)
    assert isinstance(allowed, list)
    assert sorted(allowed) == [0, 1, 2]
    assert isinstance(refused, InvalidQueryError)


async def test_other_questions_are_answered_too(batched: BatchedMemoryRetrieval, vector: Any) -> None:
    assert await batched.retrieve_patterns(vector(0)) == []


# --- cancelling ----------------------------------------------------------------------------------------------


async def test_a_cancelled_caller_affects_only_itself(distant: MemoryConnection, vector: Any) -> None:
    async with BatchedMemoryRetrieval(distant, connections=1) as retrieval:
        await retrieval.retrieve_async(vector(0))
        callers = [asyncio.create_task(retrieval.retrieve_async(vector(n), top_k=1)) for n in range(20)]
        await turns()
        for caller in callers[::2]:
            caller.cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert [steps(answer) for answer in answers[1::2]] == [[n] for n in range(1, 20, 2)]
        assert steps(await retrieval.retrieve_async(vector(7), top_k=1)) == [7]


async def test_a_shared_question_goes_on_without_the_caller_that_sent_it(
    distant: MemoryConnection, vector: Any
) -> None:
    async with BatchedMemoryRetrieval(distant, connections=1) as retrieval:
        await retrieval.retrieve_async(vector(0))
        callers = [asyncio.create_task(retrieval.retrieve_async(vector(5), top_k=1)) for _ in range(4)]
        await turns()
        assert retrieval.figures.shared == 3
        callers[0].cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert [steps(answer) for answer in answers[1:]] == [[5]] * 3


async def test_a_question_that_is_cancelled_in_line_is_never_sent(distant: MemoryConnection, vector: Any) -> None:
    async with BatchedMemoryRetrieval(distant, connections=1, max_in_flight=2) as retrieval:
        await retrieval.retrieve_async(vector(0))
        before = retrieval.figures.sent
        callers = [asyncio.create_task(retrieval.retrieve_async(vector(n), top_k=1)) for n in range(6)]
        await turns()
        assert retrieval.figures.waiting == 4
        for caller in callers[3:]:
            caller.cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert [steps(answer) for answer in answers[:3]] == [[0], [1], [2]]
        assert retrieval.figures.sent - before == 3


async def test_those_in_line_move_on_although_all_in_flight_were_cancelled(
    distant: MemoryConnection, vector: Any
) -> None:
    async with BatchedMemoryRetrieval(distant, connections=1, max_in_flight=2) as retrieval:
        await retrieval.retrieve_async(vector(0))
        doomed = [asyncio.create_task(retrieval.retrieve_async(vector(n))) for n in range(2)]
        await turns()
        for caller in doomed:
            caller.cancel()
        await asyncio.wait(doomed)
        async with asyncio.timeout(5):
            assert steps(await retrieval.retrieve_async(vector(9), top_k=1)) == [9]


# --- failing -------------------------------------------------------------------------------------------------


async def test_a_refused_question_fails_its_caller_only(batched: BatchedMemoryRetrieval, vector: Any) -> None:
    answers = await asyncio.gather(
        batched.retrieve_async(vector(1), top_k=1),
        batched.retrieve_async(vector(2), top_k=0),
        batched.retrieve_async(np.zeros(256, dtype=np.float32)),
        batched.retrieve_async(vector(4), top_k=1),
        return_exceptions=True,
    )
    assert [steps(answers[0]), steps(answers[3])] == [[1], [4]]
    assert isinstance(answers[1], InvalidQueryError)
    assert isinstance(answers[2], InvalidQueryError)


async def test_a_command_that_the_server_refuses_fails_those_who_sent_it_each_with_an_error_of_its_own(
    recorded: MemoryConnection,
) -> None:
    link = PipelinedLink(recorded.link._url)
    await link.open()
    try:
        wrong = ("FT.SEARCH", "no-such-index", "*")
        answers = await asyncio.gather(
            *(link.execute(*wrong) for _ in range(3)), link.execute("PING"), return_exceptions=True
        )
        assert answers[3] == b"PONG"
        assert all("no such index" in str(answer).lower() for answer in answers[:3])
        assert len({id(answer) for answer in answers[:3]}) == 3
    finally:
        await link.close()


async def test_a_broken_connection_is_replaced_and_its_questions_are_asked_again(
    link: LatencyProxy, distant: MemoryConnection, vector: Any
) -> None:
    async with BatchedMemoryRetrieval(distant, connections=2) as retrieval:
        await retrieval.retrieve_async(vector(0))
        for _ in range(3):
            callers = [asyncio.create_task(retrieval.retrieve_async(vector(n), top_k=1)) for n in range(20)]
            await asyncio.sleep(link.delay_s / 2)
            link.cut()
            assert [steps(answer) for answer in await asyncio.gather(*callers)] == [[n] for n in range(20)]
        async with asyncio.timeout(5):
            while retrieval._link.connected < 2:
                await retrieval.retrieve_async(vector(0))


async def test_a_server_that_is_killed_fails_callers_by_their_deadlines_and_serves_again_once_it_is_back(
    own_server: RedisProcess, namespace: str, make: Any, vector: Any
) -> None:
    async with memory.connect(redis_url=own_server.url, namespace=namespace) as mem:
        await mem.episodic.add(make(1))
        async with BatchedMemoryRetrieval(mem) as retrieval:
            await retrieval.retrieve_async(vector(1))
            own_server.kill()
            answers = await asyncio.gather(
                *(retrieval.retrieve_async(vector(n), timeout_s=0.2) for n in range(10)), return_exceptions=True
            )
            assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
            own_server.start()
            await mem.episodic.add(make(2))
            assert steps(await retrieval.retrieve_async(vector(2))) == [2]


async def test_each_caller_has_a_deadline_of_its_own(
    own_server: RedisProcess, namespace: str, make: Any, vector: Any
) -> None:
    async with memory.connect(redis_url=own_server.url, namespace=namespace) as mem:
        await mem.episodic.add(make(1))
        async with BatchedMemoryRetrieval(mem, connections=1) as retrieval:
            await retrieval.retrieve_async(vector(1))
            own_server.halt()
            patient = asyncio.create_task(retrieval.retrieve_async(vector(1)))
            with pytest.raises(StoreUnavailableError, match=r"within 0\.1 s"):
                await retrieval.retrieve_async(vector(1), timeout_s=0.1)
            own_server.go_on()
            assert steps(await patient) == [1]


async def test_the_deadline_of_who_sent_an_equal_command_is_not_that_of_who_shares_it(own_server: RedisProcess) -> None:
    link = PipelinedLink(own_server.url)
    await link.open()
    try:
        own_server.halt()
        asked = [asyncio.create_task(link.execute("GET", "key", timeout_s=seconds)) for seconds in (0.1, 10.0)]
        await asyncio.wait(asked[:1])
        own_server.go_on()
        with pytest.raises(StoreUnavailableError, match=r"within 0\.1 s"):
            await asked[0]
        assert await asked[1] is None
        assert link.shared == 1
    finally:
        await link.close()


async def test_a_connection_that_is_dead_without_saying_so_is_given_up(
    recorded: MemoryConnection, link: LatencyProxy, vector: Any
) -> None:
    piped = PipelinedLink(link.url, timeout_s=0.3)
    await piped.open()
    try:
        link.stall()
        patient = asyncio.create_task(piped.execute("PING", timeout_s=10.0))
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            await piped.execute("PING")
        link.mend()
        before = link.connections
        assert await piped.execute("PING") == b"PONG"
        assert link.connections == before + 1
        assert await patient == b"PONG"
    finally:
        await piped.close()


# --- bounds --------------------------------------------------------------------------------------------------


async def test_no_more_than_the_bound_are_in_flight_and_who_came_first_is_answered_first(
    distant: MemoryConnection, vector: Any
) -> None:
    async with BatchedMemoryRetrieval(distant, connections=1, max_in_flight=4) as retrieval:
        await retrieval.retrieve_async(vector(0))
        order: list[int] = []
        most = 0

        async def ask(number: int) -> None:
            await retrieval.retrieve_async(vector(number), top_k=1)
            order.append(number)

        asked = asyncio.gather(*(ask(number) for number in range(20)))
        while not asked.done():
            await asyncio.sleep(0)
            most = max(most, retrieval.figures.in_flight)
        await asked
        assert order == list(range(20))
        assert 4 <= most <= 5  # Beside them, one PING that sees to it that those in line move on.


@pytest.mark.parametrize("name", ["connections", "max_in_flight"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, None])
async def test_bounds_that_let_nothing_through_are_refused(mem: MemoryConnection, name: str, value: Any) -> None:
    bad = {name: value}
    with pytest.raises(InvalidQueryError, match="at least 1"):
        BatchedMemoryRetrieval(mem, **bad)


# --- closing -------------------------------------------------------------------------------------------------


async def test_closing_waits_for_what_is_in_flight_refuses_new_questions_and_leaves_no_task(
    distant: MemoryConnection, vector: Any
) -> None:
    before = project_tasks()
    retrieval = BatchedMemoryRetrieval(distant)
    await retrieval.open()
    await retrieval.retrieve_async(vector(0))
    callers = [asyncio.create_task(retrieval.retrieve_async(vector(n), top_k=1)) for n in range(5)]
    await turns()
    closing = asyncio.create_task(retrieval.close())
    await turns()
    with pytest.raises(StoreUnavailableError, match="BatchedMemoryRetrieval is closed"):
        await retrieval.retrieve_async(vector(0))
    await closing
    assert [steps(caller.result()) for caller in callers] == [[n] for n in range(5)]
    assert [task for task in project_tasks() if task not in before and task is not closing] == []


async def test_closing_fails_what_is_not_answered_in_time(
    own_server: RedisProcess, namespace: str, make: Any, vector: Any
) -> None:
    async with memory.connect(redis_url=own_server.url, namespace=namespace) as mem:
        await mem.episodic.add(make(1))
        retrieval = BatchedMemoryRetrieval(mem, max_in_flight=2)
        await retrieval.open()
        await retrieval.retrieve_async(vector(1))
        own_server.halt()
        callers = [asyncio.create_task(retrieval.retrieve_async(vector(n))) for n in range(4)]
        await turns()
        await retrieval.close(timeout_s=0.1)
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
        own_server.go_on()


async def test_closing_twice_and_closing_what_never_opened_do_nothing(mem: MemoryConnection) -> None:
    retrieval = BatchedMemoryRetrieval(mem)
    await retrieval.close()
    await retrieval.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await retrieval.open()


async def test_nothing_is_left_over_from_a_link_that_could_not_open(tmp_path: Path) -> None:
    link = PipelinedLink(f"unix://{tmp_path / 'nobody.sock'}", timeout_s=0.2)
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        await link.open()
    assert project_tasks() == []
