"""A new knowledge line: learned from the archive beside the old one, and read from one moment on."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

import memory
from agents.fitting import default_encoder
from flows.consolidate_memories import Parameters as ConsolidateParameters
from flows.consolidate_memories import consolidate_memories
from flows.rebuild_memory import Parameters as RebuildParameters
from flows.rebuild_memory import rebuild_memory
from flows.start_line import Parameters, start_line
from flows.verify_memory import Parameters as VerifyParameters
from flows.verify_memory import verify_memory
from memory.errors import LineError
from memory.learning import ALGORITHM_VERSION
from memory.ledger import Ledger
from memory.records import SemanticType

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

DAYS = (dt.date(2021, 6, 17), dt.date(2021, 6, 18))
END = dt.datetime(2021, 6, 19, tzinfo=dt.UTC)
ENCODER = default_encoder().id_
BEFORE = "1"
"""An earlier version of the algorithm."""


@pytest.fixture
def consolidated_before(configured: str, servers: Any, record: Callable[[str, Sequence[dt.date]], None]) -> str:
    """A namespace whose nights were consolidated by software with an earlier version of the algorithm."""
    record(configured, DAYS)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("tasks.") and hasattr(module, "ALGORITHM_VERSION"):
                patch.setattr(module, "ALGORITHM_VERSION", BEFORE)
        for day in DAYS:
            consolidate_memories(ConsolidateParameters(namespace=configured, date=day))
    return configured


@contextmanager
def agents_asking(namespace: str, servers: Any) -> Iterator[list[set[str]]]:
    """Agents in a thread that ask for patterns all the time; gives the lines that each answer came from."""
    answers: list[set[str]] = []
    ended, failures = threading.Event(), []

    async def ask() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            (vector, *_) = [item.concept_vector for item in await mem.semantic.current(SemanticType.PATTERN)]
            while not ended.is_set():
                hits = await mem.retrieval.retrieve_patterns(vector)
                answers.append({hit.memory.line for hit in hits})
                known = await mem.semantic.current()
                answers.append({item.line for item in known})

    def run() -> None:
        try:
            asyncio.run(ask())
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]


def activate(line: str, current_from: dt.datetime, servers: Any) -> None:
    """Make a line the current one in the ledger alone."""
    namespace = line.partition("/")[0]
    with Ledger.open(servers.database_url) as ledger:
        run_id = ledger.runs.start("start_line", namespace, {}, lease_s=60)
        token = ledger.fence.acquire(namespace, run_id, flow="start_line", lease_s=60)
        ledger.lines.activate(token, line, current_from=current_from)
        ledger.fence.release(token)


def digest_of_line(line: str, servers: Any) -> tuple[str, str]:
    """Digests of one line in the ledger and in Redis."""
    namespace = line.partition("/")[0]

    async def in_redis() -> str:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return await mem.semantic.digest(line=line)

    with Ledger.open(servers.database_url) as ledger:
        return ledger.digest(namespace, [line]).digest, asyncio.run(in_redis())


def test_a_new_version_learns_everything_again_and_takes_over_while_agents_ask(
    consolidated_before: str, small_world_digests: Callable[[], tuple[str, str]], servers: Any
) -> None:
    namespace = consolidated_before
    old, new = f"{namespace}/{ENCODER}/{BEFORE}", f"{namespace}/{ENCODER}/{ALGORITHM_VERSION}"
    with agents_asking(namespace, servers) as answers:
        built = start_line(Parameters(namespace=namespace, take_over=False))
        assert (built["line"], built["before"], built["windows_learned"], built["took_over"]) == (new, old, 2, False)
        assert {line for lines in answers for line in lines} == {old}
        # A run that was killed when it had told the ledger, and Redis not yet.
        activate(new, END, servers)
        result = start_line(Parameters(namespace=namespace))
        assert (result["windows_learned"], result["took_over"]) == (0, True)
    assert len(answers) > 10
    # Every answer is wholly of one line, none is empty, and there is no way back.
    assert all(len(lines) == 1 for lines in answers)
    order = [next(iter(lines)) for lines in answers]
    assert order == sorted(order)
    assert order[0] == old

    async def lines(mem: memory.MemoryConnection) -> list[str | None]:
        before = END - dt.timedelta(milliseconds=1)
        return [await mem.semantic.line_at(before), await mem.semantic.line_at(END), await mem.semantic.current_line()]

    async def ask() -> list[str | None]:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return await lines(mem)

    assert asyncio.run(ask()) == [old, new, new]
    # It is what a namespace knows that was consolidated by the new version alone.
    assert digest_of_line(new, servers) == small_world_digests()
    with Ledger.open(servers.database_url) as ledger:
        assert {record.line: record.state for record in ledger.lines.list(namespace)} == {old: "RETIRED", new: "LIVE"}
    assert verify_memory(VerifyParameters(namespace=namespace, digest=True))["status"] == "same"
    assert rebuild_memory(RebuildParameters(namespace=namespace, into=f"{namespace}-b"))["status"] == "same"
    with pytest.raises(LineError, match="read already"):
        start_line(Parameters(namespace=namespace))


def test_a_new_encoder_learns_from_the_archive_and_catches_up_when_it_is_started_again(
    configured: str, servers: Any, record: Callable[[str, Sequence[dt.date]], None]
) -> None:
    encoder = default_encoder("coinbase")
    record(configured, DAYS)
    consolidate_memories(ConsolidateParameters(namespace=configured, date=DAYS[0]))
    first = start_line(Parameters(namespace=configured, encoder=encoder.id_))
    new = f"{configured}/{encoder.id_}/{ALGORITHM_VERSION}"
    assert (first["line"], first["windows_learned"], first["took_over"]) == (new, 1, True)
    # Nothing was recorded with it yet, so that it is not what agents ask in.
    assert not first["encoder_is_current"]
    consolidate_memories(ConsolidateParameters(namespace=configured, date=DAYS[1]))
    assert start_line(Parameters(namespace=configured, encoder=encoder.id_))["windows_learned"] == 1
    assert start_line(Parameters(namespace=configured, encoder=encoder.id_))["windows_learned"] == 0

    async def ask(encoder_id: str) -> set[str]:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured, encoder_id=encoder_id) as mem:
            line = await mem.semantic.current_line(encoder_id)
            (vector, *_) = [item.concept_vector for item in await mem.semantic.current(SemanticType.PATTERN, line=line)]
            return {hit.memory.line for hit in await mem.retrieval.retrieve_patterns(vector)}

    assert asyncio.run(ask(ENCODER)) == {f"{configured}/{ENCODER}/{ALGORITHM_VERSION}"}
    assert asyncio.run(ask(encoder.id_)) == {new}
    with Ledger.open(servers.database_url) as ledger:
        (window, *_) = [window for window, _ in ledger.windows.with_current(new)]
        assert [found.derived_from for found in ledger.windows.archives_of(new, window)] == [ENCODER]
        assert {found.encoder_id for found in ledger.lines.encoders(configured)} == {ENCODER, encoder.id_}
    assert verify_memory(VerifyParameters(namespace=configured, digest=True))["status"] == "same"
