"""A take-over that was killed between ledger and Redis: the next night finds it, and completes it once."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import memory
from memory.learning import ALGORITHM_VERSION
from tasks.groups import DYNAMICS, KNOWLEDGE
from tasks.publishing import publish
from tasks.taking_over import finish_take_over
from tasks.window_steps import at_once, fold_lines

BEFORE = "1"
"""An earlier version of the algorithm."""


def learn(days: Any, version: str) -> str:
    """Consolidate, fold and publish the first day as software of a version does; the name of its line."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("tasks.") and hasattr(module, "ALGORITHM_VERSION"):
                patch.setattr(module, "ALGORITHM_VERSION", version)
        line: str = days.line.rpartition("/")[0] + f"/{version}"
        days.consolidate(0)
        fold_lines(days.context, [line], False, at_once)
        for what in (KNOWLEDGE, DYNAMICS):
            publish.fn(days.context, line, what)
    return line


def test_redis_follows_the_ledger_in_what_line_is_read_and_the_line_before_is_retired(days: Any) -> None:
    days.record(0)
    old, new = learn(days, BEFORE), learn(days, ALGORITHM_VERSION)
    encoder_id = new.split("/")[1]
    # A line that is ready and was not told to take over goes on waiting.
    assert finish_take_over.fn(days.context) == []

    since = days.window(0).end
    days.ledger.lines.activate(days.context.fencing_token, new, current_from=since)
    assert finish_take_over.fn(days.context) == [new]
    assert finish_take_over.fn(days.context) == []

    async def read(mem: memory.MemoryConnection) -> Any:
        return await mem.semantic.current_line(encoder_id), await mem.semantic.succession(encoder_id)

    assert days.with_memory(read) == (new, [(None, old), (since, new)])
    states = {record.line: record.state for record in days.ledger.lines.list(days.context.namespace)}
    assert states == {old: "RETIRED", new: "LIVE"}


def test_a_line_of_which_redis_holds_nothing_does_not_take_over(days: Any) -> None:
    days.record(0)
    old, new = learn(days, BEFORE), days.line
    token = days.context.fencing_token
    encoder_id, version = new.split("/")[1:]
    days.ledger.lines.ensure(token, encoder_id, version)
    days.ledger.lines.activate(token, new, current_from=days.window(0).end)
    assert finish_take_over.fn(days.context) == []
    assert days.with_memory(lambda mem: mem.semantic.current_line(encoder_id)) == old
    states = {record.line: record.state for record in days.ledger.lines.list(days.context.namespace)}
    assert states == {old: "LIVE", new: "LIVE"}


def test_a_back_fill_completes_it_too(days: Any, prefect_server: str) -> None:
    from flows.backfill import Parameters, backfill

    days.record(0)
    _, new = learn(days, BEFORE), learn(days, ALGORITHM_VERSION)
    token = days.context.fencing_token
    days.ledger.lines.activate(token, new, current_from=days.window(0).end)
    days.ledger.fence.release(token)
    day = days.window(0).start.date()
    found = [
        backfill(Parameters(namespace=days.workspace.namespace, first=day, last=day))["lines_taken_over"]
        for _ in range(2)
    ]
    assert found == [[new], []]
