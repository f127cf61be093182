"""Whether a memory is that of a new home: what counts as recorded, wherever it is left."""

from __future__ import annotations

from typing import Any

from memory import MemoryConnection
from memory.store.dead_letters import Refusal
from tasks.recording import was_ever_recorded


def test_an_empty_memory_is_that_of_a_new_home(days: Any) -> None:
    assert not was_ever_recorded.fn(days.workspace.namespace)


def test_one_experience_is_enough(days: Any, lived_on: Any) -> None:
    days.store(lived_on(0, count=1))
    assert was_ever_recorded.fn(days.workspace.namespace)


def test_what_redis_has_lost_the_ledger_knows(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    days.forget(0)

    async def count(mem: MemoryConnection) -> int:
        return await mem.episodic.count()

    assert days.with_memory(count) == 0
    assert was_ever_recorded.fn(days.workspace.namespace)


def test_what_was_refused_was_recorded_by_somebody(days: Any) -> None:
    async def refuse(mem: MemoryConnection) -> None:
        await mem.dead_letters.add([Refusal(b"any bytes", "it is no experience", "experience", "scout")])

    days.with_memory(refuse)
    assert was_ever_recorded.fn(days.workspace.namespace)
