"""Which windows are published is noted beside what is known, and compared with the ledger."""

from __future__ import annotations

import datetime as dt
from typing import Any

from memory import SemanticType
from tasks.differences import Findings
from tasks.groups import DYNAMICS, KNOWLEDGE
from tasks.projected import project
from tasks.rebuilding import Rebuilding, publish_lines
from tasks.verification import compare

PATTERN, REGIME = SemanticType.PATTERN, SemanticType.REGIME


def differences(days: Any) -> list[tuple[str, str]]:
    findings = Findings(10)
    compare(days.workspace, project(days.workspace), findings, every_field=False)
    return [(difference.what, difference.part) for difference in findings.listed]


def fresh(days: Any, as_of: dt.datetime | None = None) -> Any:
    async def ask(mem: Any) -> Any:
        return await (mem if as_of is None else mem.at(as_of)).freshness()

    return days.with_memory(ask)


def test_each_group_notes_its_windows_and_they_are_compared_and_rebuilt(days: Any) -> None:
    days.record(0, 1)
    days.consolidate(0, 1)
    days.fold()
    days.publish(KNOWLEDGE)
    found = fresh(days)
    assert (found.window, found.windows, found.line) == (days.window(1), 2, days.line)
    assert PATTERN in found.by_kind
    assert REGIME not in found.by_kind
    assert fresh(days, days.window(1).end - dt.timedelta(milliseconds=1)).window == days.window(0)

    async def lose(mem: Any) -> None:
        assert await mem.link.execute("UNLINK", mem.keys.semantic_windows(PATTERN.value, days.line))

    assert differences(days) == []
    days.with_memory(lose)
    assert differences(days) == [("other", "windows")]
    name = days.workspace.namespace
    publish_lines.fn(Rebuilding(source=name, target=name, token=days.context.token, as_of=None, lines=None))
    assert differences(days) == []
    assert fresh(days).by_kind == found.by_kind


def test_a_window_that_is_consolidated_later_joins_in_its_place(days: Any) -> None:
    days.record(0, 1)
    for number in (1, 0):
        days.consolidate(number)
        days.fold()
        days.publish(KNOWLEDGE, DYNAMICS)
    found = fresh(days)
    assert (found.window, found.windows) == (days.window(1), 2)
    assert fresh(days, days.window(0).end).windows == 1
    assert differences(days) == []
