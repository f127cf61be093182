"""What a drain compares rewards with: the past of their own window, encoder and source, read once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import tasks.scoring
from memory import EpisodicMemory, MemoryConnection
from memory.errors import EncoderError
from memory.records import VECTOR_DIMENSION
from memory.validation import validate_experience
from tasks.recording import drain_inbox
from tasks.scoring import DrainScorer
from tasks.workspace import Workspace, open_workspace

from .conftest import lived

MINUTES = 60


@pytest.fixture
def workspace(configured: str) -> Iterator[Workspace]:
    with open_workspace(configured) as opened:
        yield opened


def day(**options: Any) -> list[EpisodicMemory]:
    return lived(0, count=MINUTES, **options)


def drained(workspace: Workspace, batches: Sequence[list[EpisodicMemory]]) -> list[float | None]:
    """Qualities of what one drain takes in batches, in order."""
    items = [copy.copy(item) for batch in batches for item in batch]
    for item in items:
        validate_experience(item, VECTOR_DIMENSION)
    sizes = [len(batch) for batch in batches]

    async def drain(mem: MemoryConnection) -> None:
        scorer, start = DrainScorer(mem, workspace.ledger), 0
        for size in sizes:
            batch = items[start : start + size]
            start += size
            await scorer.score(batch)
            report = await mem.episodic.add_many(batch)
            await scorer.note_stored(batch, {*report.stored, *report.duplicates})

    workspace.with_memory(drain)
    return [item.quality for item in items]


def unscored(items: list[EpisodicMemory]) -> list[EpisodicMemory]:
    for item in items:
        item.quality = None
    return items


def test_batches_of_one_drain_are_scored_as_if_they_were_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Any] = []
    read = tasks.scoring.read_rewards

    async def counted(*arguments: Any) -> Any:
        reads.append(arguments)
        return await read(*arguments)

    monkeypatch.setattr(tasks.scoring, "read_rewards", counted)
    items = unscored(day())
    in_batches = drained(workspace, [items[:20], items[20:40], items[40:]])
    assert len(reads) == 1
    forget(workspace)
    assert drained(workspace, [items]) == in_batches
    assert len(set(in_batches)) > 10


def test_a_later_drain_knows_what_an_earlier_one_stored(workspace: Workspace) -> None:
    items = unscored(day())
    split = drained(workspace, [items[:30]]) + drained(workspace, [items[30:]])
    forget(workspace)
    assert drained(workspace, [items]) == split


def test_rewards_in_another_encoder_are_no_past(workspace: Workspace) -> None:
    items = unscored(day())
    alone = drained(workspace, [items])
    forget(workspace)
    others = unscored(day(agent="stranger", product="Q", encoder="other"))
    for item in others:
        item.reward *= 1000
    drained(workspace, [others])
    assert drained(workspace, [items]) == alone


def test_an_experience_that_comes_again_is_not_compared_with_itself(workspace: Workspace) -> None:
    items = unscored(day())
    first = drained(workspace, [items])
    assert drained(workspace, [items[:30], items[:30], items[30:]])[-30:] == first[-30:]


def test_inboxes_keep_no_name_of_the_processes_that_drained_them(workspace: Workspace) -> None:
    async def append(mem: MemoryConnection) -> None:
        await mem.inbox.append({"agent_id": "scout"})

    async def names(mem: MemoryConnection) -> set[str]:
        found = await mem.link.execute("XINFO", "CONSUMERS", mem.keys.inbox("scout"), "drain")
        return {consumer[b"name"].decode() for consumer in found}

    workspace.with_memory(append)
    with pytest.raises(EncoderError, match="nobody-fitted-this"):
        drain_inbox.fn(workspace.namespace, "nobody-fitted-this", 0.0)
    drain_inbox.fn(workspace.namespace, None, 0.0)
    assert workspace.with_memory(names) == {"drain", "handed-back"}


def forget(workspace: Workspace) -> None:
    workspace.with_memory(lambda mem: mem.episodic.forget(source="replay"))
