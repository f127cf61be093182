"""Two markets in one namespace, each with an encoder of its own: two lines that do not mix, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from agents.fitting import default_encoder
from memory import MemoryConnection
from memory.errors import LineError
from memory.learning import ALGORITHM_VERSION
from memory.ledger import line_id
from memory.records import PatternMemory, SemanticType
from tasks.groups import KNOWLEDGE
from tasks.lines import plan_line
from tasks.projected import project
from tasks.projections import memories_as_of, to_payload
from tasks.publishing import publish
from tasks.window_steps import at_once, fold_lines

FIRST, SECOND = "enc", "enc-b"


@pytest.fixture
def both(days: Any) -> Any:
    """A day of the first market, which is folded, and the same day of the second, which is recorded after it."""
    days.record(0)
    days.consolidate(0)
    days.fold()
    days.record(0, product="Q", encoder=SECOND)
    return days


def patterns(days: Any, encoder: str) -> list[PatternMemory]:
    line = line_id(days.workspace.namespace, encoder, ALGORITHM_VERSION)
    found = memories_as_of(days.ledger, line, days.window(0), [SemanticType.PATTERN])
    return [memory for memory in found if isinstance(memory, PatternMemory)]


def test_each_encoder_has_a_line_of_its_own_that_the_other_does_not_change(both: Any) -> None:
    before = [to_payload(memory) for memory in patterns(both, FIRST)]
    second = line_id(both.workspace.namespace, SECOND, ALGORITHM_VERSION)
    both.consolidate(0)
    fold_lines(both.context, [both.line, second], False, at_once)
    for line in (both.line, second):
        publish.fn(both.context, line, KNOWLEDGE)
    assert before
    assert [to_payload(memory) for memory in patterns(both, FIRST)] == before
    assert {memory.product_ids for memory in patterns(both, SECOND)} == {("Q",)}

    async def read(mem: MemoryConnection) -> list[str | None]:
        return [await mem.semantic.current_line(FIRST), await mem.semantic.current_line(SECOND)]

    assert both.with_memory(read) == [both.line, second]
    projected = project(both.workspace)
    assert {line.encoder_id for line in projected.lines} == {FIRST, SECOND}
    assert projected.current_encoder == FIRST


def test_a_line_for_a_market_beside_the_leading_one_is_refused_with_what_to_do(both: Any) -> None:
    both.consolidate(0)
    for encoder in (None, default_encoder().id_):
        with pytest.raises(LineError, match="beside those of 'enc'") as caught:
            plan_line(both.workspace.namespace, encoder, SECOND)
        assert "a namespace of its own" in caught.value.remedy
