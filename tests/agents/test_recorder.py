"""Recording keeps nobody waiting, loses nothing that it does not say, and outlives the server's death."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory
from agents.recorder import ExperienceRecorder
from agents.recorder_report import (
    CLOSED,
    FULL,
    MAX_REASONS,
    NOT_ALLOWED,
    NOT_WRITTEN,
    OTHER_REASONS,
    TOO_OLD,
    RecorderCounts,
)
from memory import Action, DecisionTrace, EpisodicMemory, MemoryConnection, Settings, Side
from memory.errors import AccessDeniedError, InvalidQueryError, StoreUnavailableError
from memory.store.decisions import TraceReport
from tests.memory.conftest import OwnRedis

NOON = datetime(2021, 6, 17, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DEADLINE_S = 30.0
SLOWLY = 60.0
"""An interval that no test waits for."""


def lived(step: int, **changes: Any) -> EpisodicMemory:
    """What an agent lived through in a minute."""
    vector = np.zeros(256, np.float32)
    vector[step % 256] = 1.0
    values: dict[str, Any] = {
        "agent_id": "momentum",
        "timestamp": NOON + step * MINUTE,
        "state_vector": vector,
        "action": Action(Side.BUY, 1.0),
        "reward": 0.001,
        "product_id": "BTC-USDT",
        "regime": "QUIET",
        "source": "replay",
        "run_id": "night-1",
        "step": step,
        "known_at": NOON + (step + 1) * MINUTE,
    }
    return EpisodicMemory(**{**values, **changes})


def trace_of(experience: EpisodicMemory, **changes: Any) -> DecisionTrace:
    """What the decision rested on."""
    values: dict[str, Any] = {
        "agent_id": experience.agent_id,
        "product_id": experience.product_id,
        "timestamp": experience.timestamp,
        "as_of": experience.timestamp,
        "encoder_id": "rff-1",
        "features": {"trend": 1.0},
        "state_vector": experience.state_vector,
        "regime": "QUIET",
        "regime_confidence": 0.5,
        "position_before": 0.0,
        "policy": "momentum",
        "action": experience.action,
        "confidence": 0.5,
        "source": experience.source,
        "run_id": experience.run_id,
        "step": experience.step,
    }
    return DecisionTrace(**{**values, **changes})


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    """A running redis-server of the test's own."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = OwnRedis(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
async def struck(own_redis: OwnRedis, namespace: str) -> AsyncIterator[MemoryConnection]:
    """A memory on a Redis that may be killed."""
    settings = Settings(redis_timeout_s=0.5)
    async with memory.connect(redis_url=own_redis.url, namespace=namespace, settings=settings) as connection:
        yield connection


async def until(condition: Any) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


# --- writing ---------------------------------------------------------------------------------------------------


async def test_what_is_recorded_is_in_the_inbox_when_the_block_ends(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem, interval_s=SLOWLY) as recorder:
        assert all(recorder.record(lived(step)) for step in range(5))
    assert await mem.inbox.length() == {"momentum": 5}
    report = recorder.report()
    assert (report.written, report.waiting, report.recorded, report.dropped) == (5, 0, 5, {})


async def test_what_is_recorded_into_episodic_memory_is_found(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem, destination="episodic") as recorder:
        recorder.record(lived(1))
        recorder.record(lived(1))
        await recorder.flush()
        assert await mem.episodic.count() == 1
    assert (recorder.report().written, recorder.report().duplicates) == (1, 1)


async def test_a_full_batch_is_written_at_once(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem, interval_s=SLOWLY, batch_size=10) as recorder:
        for step in range(9):
            recorder.record(lived(step))
        await asyncio.sleep(0.05)
        assert recorder.report().written == 0
        recorder.record(lived(9))
        await until(lambda: recorder.report().written == 10)


async def test_a_part_of_a_batch_is_written_after_a_while(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem, interval_s=0.05) as recorder:
        recorder.record(lived(1))
        await until(lambda: recorder.report().written == 1)


async def test_more_than_a_batch_is_written_in_order(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem, batch_size=7) as recorder:
        for step in range(50):
            recorder.record(lived(step))
        report = await recorder.flush()
        assert (report.written, report.waiting) == (50, 0)
    entries = await mem.inbox.read("drain")
    assert [entry.fields["step"] for entry in entries] == list(range(50))


async def test_fields_by_name_are_enough(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem) as recorder:
        recorder.record({"agent_id": "momentum", "reward": 0.1, "features": {"trend": 1.0}})
    (entry,) = await mem.inbox.read("drain")
    assert entry.features == {"trend": 1.0}


async def test_traces_are_stored_with_their_experiences(mem: MemoryConnection) -> None:
    experience = lived(1)
    async with ExperienceRecorder(mem, destination="episodic") as recorder:
        recorder.record(experience, trace_of(experience))
        recorder.record(lived(2), trace_of(lived(2), confidence=7.0))
    trace = await mem.decisions.get(experience.memory_id)
    assert trace is not None
    assert trace.action == experience.action
    report = recorder.report()
    assert (report.written, report.traces_written, sum(report.traces_refused.values())) == (2, 1, 1)
    assert "confidence" in next(iter(report.traces_refused))


async def test_experiences_do_not_wait_for_traces_that_the_user_may_not_write(
    own_redis: OwnRedis, namespace: str
) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace=namespace) as admin:

        async def allow(*rights: str) -> None:
            await admin.link.execute("ACL", "SETUSER", "writes", "on", ">pw", *rights)

        await allow("+@all", f"~{namespace}:inbox:*")
        url = own_redis.url.replace("unix://", "unix://writes:pw@")
        async with (
            memory.connect(redis_url=url, namespace=namespace) as mem,
            ExperienceRecorder(mem, interval_s=SLOWLY) as recorder,
        ):
            for step in range(3):
                recorder.record(lived(step), trace_of(lived(step)))
            report = await recorder.flush(DEADLINE_S)
            assert (report.written, report.waiting, report.away_s, report.traces_written) == (3, 0, 0.0, 0)
            ((reason, number),) = report.traces_refused.items()
            assert number == 3
            assert "may not use a key" in reason
            await allow("~*")
            recorder.record(lived(3), trace_of(lived(3)))
            report = await recorder.flush(DEADLINE_S)
            assert (report.written, report.traces_written) == (4, 1)
        assert await admin.inbox.length() == {"momentum": 4}


async def test_experiences_are_written_once_while_their_traces_wait_for_redis(mem: MemoryConnection) -> None:
    taken: list[int] = []
    add_many = mem.decisions.add_many

    async def away_at_first(traces: Sequence[DecisionTrace]) -> TraceReport:
        taken.append(len(traces))
        if len(taken) < 3:
            raise StoreUnavailableError("Redis cannot be reached.", remedy="Wait.")
        return await add_many(traces)

    mem.decisions.add_many = away_at_first  # type: ignore[method-assign]
    async with ExperienceRecorder(mem, interval_s=SLOWLY) as recorder:
        for step in range(3):
            recorder.record(lived(step), trace_of(lived(step)))
        report = await recorder.flush(DEADLINE_S)
        assert (report.written, report.traces_written, taken) == (3, 3, [3, 3, 3])
    assert await mem.inbox.length() == {"momentum": 3}


def test_reasons_that_never_repeat_are_counted_together_in_the_end() -> None:
    counts = RecorderCounts()
    for number in range(MAX_REASONS + 5):
        counts.refuse_traces({f"confidence is {number}": 2})
    counts.refuse_traces({"confidence is 0": 1})
    assert len(counts.traces_refused) == MAX_REASONS + 1
    assert (counts.traces_refused[OTHER_REASONS], counts.traces_refused["confidence is 0"]) == (10, 3)


async def test_another_thread_may_record(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem, interval_s=SLOWLY, batch_size=50) as recorder:

        def run(first: int) -> None:
            for step in range(first, first + 100):
                recorder.record(lived(step))

        threads = [threading.Thread(target=run, args=(100 * number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        await until(lambda: recorder.report().written == 300)
        for thread in threads:
            thread.join()
    assert await mem.inbox.length() == {"momentum": 300}


# --- what cannot be kept ---------------------------------------------------------------------------------------


async def test_a_malformed_record_is_a_dead_letter_and_the_others_are_written(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem) as recorder:
        for experience in (lived(1), lived(2, agent_id="no agent"), lived(3, features={"x": object()}), lived(4)):
            recorder.record(experience)
        recorder.record({"reward": 1.0})
        recorder.record("gossip")  # type: ignore[arg-type]
    report = recorder.report()
    assert (report.written, report.refused, report.recorded) == (2, 4, 6)
    letters = await mem.dead_letters.read()
    assert {letter.origin for letter in letters} == {"recorder"}
    assert len(letters) == 4


def endless() -> dict[str, Any]:
    """A mapping that holds itself."""
    mapping: dict[str, Any] = {}
    mapping["itself"] = mapping
    return mapping


@pytest.mark.parametrize("destination", ["inbox", "episodic"])
@pytest.mark.parametrize("malformed", [{"features": endless()}, {"\ud800": 1}], ids=["endless", "no UTF-8"])
async def test_what_cannot_be_written_down_stops_nobody(
    mem: MemoryConnection, destination: Any, malformed: dict[str, Any]
) -> None:
    async with ExperienceRecorder(mem, destination=destination) as recorder:
        recorder.record(lived(1))
        recorder.record({"agent_id": "momentum", **malformed})
        recorder.record(lived(2))
        report = await recorder.flush()
    assert (report.written, report.refused) == (2, 1)
    (letter,) = await mem.dead_letters.read()
    assert letter.agent_id == "momentum"
    assert letter.content()["agent_id"] == "momentum"


class Unforeseen(dict[str, float]):
    """Features that fail when they are read."""

    def items(self) -> Any:
        raise ZeroDivisionError("unforeseen")


@pytest.mark.parametrize("features", [None, Unforeseen(trend=1.0)], ids=["none", "unforeseen"])
async def test_a_trace_that_cannot_be_stored_leaves_the_experience_written(
    mem: MemoryConnection, features: Any
) -> None:
    async with ExperienceRecorder(mem) as recorder:
        recorder.record(lived(1), trace_of(lived(1), features=features))
        report = await recorder.flush()
    assert (report.written, report.refused, report.traces_written) == (1, 0, 0)
    assert sum(report.traces_refused.values()) == 1
    assert await mem.dead_letters.count() == 0


async def test_episodic_memory_refuses_into_the_dead_letters(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem, destination="episodic") as recorder:
        recorder.record(lived(1, reward=float("nan")))
        recorder.record({"agent_id": "momentum"})
        recorder.record(lived(2))
    assert (recorder.report().written, recorder.report().refused) == (1, 2)
    assert await mem.dead_letters.count() == 2


async def test_a_full_buffer_refuses_what_comes_and_counts_it(struck: MemoryConnection, own_redis: OwnRedis) -> None:
    async with ExperienceRecorder(struck, capacity=5, batch_size=2) as recorder:
        own_redis.kill()
        kept = [recorder.record(lived(step)) for step in range(8)]
        assert kept == [True] * 5 + [False] * 3
        await until(lambda: recorder.report().away_s > 0)
        report = recorder.report()
        assert (report.waiting, report.dropped) == (5, {FULL: 3})
        assert "cannot be reached" in report.last_error or "did not answer" in report.last_error
        await asyncio.to_thread(own_redis.start)
        report = await recorder.flush(DEADLINE_S)
        assert (report.written, report.away_s) == (5, 0.0)
    assert [entry.fields["step"] for entry in await struck.inbox.read("drain")] == [0, 1, 2, 3, 4]


async def test_what_waits_for_too_long_is_dropped_and_counted(struck: MemoryConnection, own_redis: OwnRedis) -> None:
    async with ExperienceRecorder(struck, keep_for=timedelta(seconds=0.3)) as recorder:
        own_redis.kill()
        recorder.record(lived(1))
        await until(lambda: recorder.report().dropped == {TOO_OLD: 1})
        await asyncio.to_thread(own_redis.start)
        recorder.record(lived(2))
        report = await recorder.flush(DEADLINE_S)
        assert (report.written, report.recorded) == (1, 2)


async def test_closing_says_what_it_could_not_write(struck: MemoryConnection, own_redis: OwnRedis) -> None:
    recorder = ExperienceRecorder(struck, close_wait_s=0.3)
    await recorder.open()
    recorder.record(lived(1))
    own_redis.kill()
    with pytest.raises(StoreUnavailableError, match="1 experience could not be written"):
        await recorder.close()
    assert recorder.report().dropped == {NOT_WRITTEN: 1}
    assert not recorder.record(lived(2))
    assert recorder.report().dropped == {NOT_WRITTEN: 1, CLOSED: 1}
    await asyncio.to_thread(own_redis.start)


async def test_a_right_that_the_user_lacks_is_told_at_the_first_refusal(
    own_redis: OwnRedis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace=namespace) as admin:
        await admin.link.execute("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "-xadd")
    started = time.monotonic()
    url = own_redis.url.replace("unix://", "unix://mute:pw@")
    async with memory.connect(redis_url=url, namespace=namespace) as mem:
        recorder = ExperienceRecorder(mem, close_wait_s=DEADLINE_S, interval_s=0.01)
        await recorder.open()
        recorder.record(lived(1))
        await until(lambda: "the user mute of" in caplog.text)
        for end in (recorder.flush, recorder.close):
            with pytest.raises(
                AccessDeniedError, match=r"1 experience could not .*: the user mute .* XADD\."
            ) as refused:
                await end()
            assert refused.value.remedy.startswith("Allow it there: ACL SETUSER mute +xadd;")
    assert recorder.report().dropped == {NOT_ALLOWED: 1}
    assert time.monotonic() - started < DEADLINE_S


async def test_what_could_not_be_written_in_time_names_the_cause(own_redis: OwnRedis, namespace: str) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace=namespace) as mem:
        await mem.link.execute("CONFIG", "SET", "maxmemory", 1)
        recorder = ExperienceRecorder(mem, close_wait_s=0.3)
        await recorder.open()
        recorder.record(lived(1))
        with pytest.raises(StoreUnavailableError, match=r"written within 0\.3 s: Redis at .* is full") as refused:
            await recorder.close()
        assert "maxmemory" in refused.value.remedy


async def test_an_error_of_the_block_is_not_hidden_by_what_could_not_be_written(
    struck: MemoryConnection, own_redis: OwnRedis
) -> None:
    recorder = ExperienceRecorder(struck, close_wait_s=0.3)
    await recorder.open()
    recorder.record(lived(1))
    own_redis.kill()
    error = ZeroDivisionError()
    await recorder.__aexit__(ZeroDivisionError, error, None)  # Raises nothing of its own.
    assert recorder.report().dropped == {NOT_WRITTEN: 1}
    await asyncio.to_thread(own_redis.start)


async def test_recording_does_not_wait_for_a_server_that_hangs(struck: MemoryConnection, own_redis: OwnRedis) -> None:
    async with ExperienceRecorder(struck, interval_s=0.01) as recorder:
        own_redis.signal(signal.SIGSTOP)
        try:
            took = []
            for step in range(1000):
                before = time.perf_counter()
                recorder.record(lived(step))
                took.append(time.perf_counter() - before)
                if step % 100 == 0:
                    await asyncio.sleep(0.01)
        finally:
            own_redis.signal(signal.SIGCONT)
        # Far below the half second that the link waits for the server; what a busy machine adds is not ours.
        assert max(took) < 0.25
        assert (await recorder.flush(DEADLINE_S)).written == 1000


async def test_who_closes_it_again_waits_until_it_is_closed(struck: MemoryConnection, own_redis: OwnRedis) -> None:
    recorder = ExperienceRecorder(struck)
    await recorder.open()
    recorder.record(lived(1))
    own_redis.signal(signal.SIGSTOP)
    closing = [asyncio.create_task(recorder.close()) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in closing)
    own_redis.signal(signal.SIGCONT)
    await asyncio.gather(*closing)
    assert recorder.report().written == 1


# --- the end ---------------------------------------------------------------------------------------------------

CHILD = """
    import asyncio, sys
    from datetime import UTC, datetime
    import memory
    from agents.recorder import ExperienceRecorder

    async def main(url, namespace, how):
        async with memory.connect(redis_url=url, namespace=namespace) as mem:
            async with ExperienceRecorder(mem, interval_s=60.0) as recorder:
                for step in range(20):
                    recorder.record({"agent_id": "momentum", "step": step, "timestamp": datetime.now(UTC)})
                print("recorded", flush=True)
                await asyncio.sleep(0.0 if how == "leave" else 60.0)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(("how", "code"), [("leave", 0), ("terminate", -signal.SIGTERM)])
async def test_what_waits_is_written_before_the_process_ends(
    mem: MemoryConnection, servers: Any, how: str, code: int
) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(CHILD), servers.redis_url, mem.namespace, how),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        assert await child.stdout.readline() == b"recorded\n"
        if how == "terminate":
            child.terminate()
        assert await child.wait() == code
    assert await mem.inbox.length() == {"momentum": 20}


async def test_somebody_elses_handling_of_termination_stands(mem: MemoryConnection) -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        async with ExperienceRecorder(mem):
            signal.raise_signal(signal.SIGTERM)
        assert called == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_nothing_is_left_of_the_handling_of_termination(mem: MemoryConnection) -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with ExperienceRecorder(mem), ExperienceRecorder(mem):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("destination", "disk"),
        ("batch_size", 0),
        ("capacity", True),
        ("interval_s", 0.0),
        ("keep_for", timedelta(0)),
    ],
)
async def test_an_argument_that_cannot_be_used_is_named(mem: MemoryConnection, argument: str, value: Any) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        ExperienceRecorder(mem, **{argument: value})
    assert caught.value.argument == argument


async def test_a_recorder_is_opened_once(mem: MemoryConnection) -> None:
    async with ExperienceRecorder(mem) as recorder:
        with pytest.raises(InvalidQueryError, match="open already"):
            await recorder.open()
