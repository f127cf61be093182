"""A memory with something of every kind in it, and snapshots of what lies in Redis."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memory import MemoryConnection
from memory.backup.capture import cut_now
from memory.backup.keyspace import AFTER, AT, BEFORE, Section
from memory.backup.manifest import FORMAT, Manifest, sealed
from memory.backup.snapshots import Partial, Progress
from memory.backup.writing import write_section, write_streams
from memory.decisions import DecisionTrace
from memory.messages import AgentMemoryMessage
from memory.records import Action, EpisodicMemory, SemanticType, Side
from memory.store.dead_letters import Refusal
from memory.store.keys import SCHEMA_VERSION

LINE = "rff-1/1"
AGENTS = ("momentum", "hold")
MINUTES = 12
INBOX_ENTRIES = 5

_records: Any = importlib.util.spec_from_file_location(
    "backup_records", Path(__file__).parents[1] / "store" / "conftest.py"
)
records: Any = importlib.util.module_from_spec(_records)
"""The builders of records that the tests of the store use."""
_records.loader.exec_module(records)

Fill = Callable[[MemoryConnection], Awaitable[None]]


def live(minute: int, **changes: Any) -> EpisodicMemory:
    """A live experience of some minutes ago: it expires."""
    made: EpisodicMemory = records.experience(
        minute, source="live", timestamp=datetime.now(UTC) - timedelta(minutes=60 - minute), known_at=None, **changes
    )
    return made


def trace(memory: EpisodicMemory, namespace: str) -> DecisionTrace:
    """What a decision rested on."""
    return DecisionTrace(
        decision_id=memory.memory_id,
        agent_id=memory.agent_id,
        product_id=memory.product_id,
        timestamp=memory.timestamp,
        as_of=memory.timestamp,
        encoder_id="rff-1",
        features={"trend": 1.0},
        state_vector=memory.state_vector,
        regime="QUIET",
        regime_confidence=0.5,
        position_before=0.0,
        policy="momentum",
        action=Action(Side.BUY, 1),
        confidence=0.5,
        source=memory.source,
        run_id=memory.run_id,
        step=memory.step,
        line=f"{namespace}/{LINE}",
    )


async def fill_with_everything(mem: MemoryConnection) -> None:
    """Something of every kind of key that there is, some of it half done."""
    await mem.encoders.register("rff-1", fitted_until=records.DAY - records.MINUTE, definition={"seed": 1})
    replayed = [records.experience(minute, agent_id=agent) for agent in AGENTS for minute in range(MINUTES)]
    lived = [live(minute) for minute in range(3)]
    report = await mem.episodic.add_many([*replayed, *lived])
    assert len(report.stored) == len(replayed) + len(lived)
    await mem.shared.add_shared_experiences([records.experience(minute, quality=0.9) for minute in range(4)])
    traces = await mem.decisions.add_many([trace(item, mem.namespace) for item in (*replayed[:3], lived[0])])
    assert len(traces.stored) == 4

    line = f"{mem.namespace}/{LINE}"
    await mem.fence.raise_to(7)
    kinds = (SemanticType.PATTERN, SemanticType.REGIME)
    for day, memories in enumerate(
        (
            [records.pattern("p-1", 1, line), records.pattern("p-2", 2, line), records.regime(line=line)],
            [records.pattern("p-1", 3, line), records.regime(line=line)],
        )
    ):
        valid_from = records.DAY + timedelta(days=day)
        await mem.semantic.publish(memories, line=line, kinds=kinds, token=7, valid_from=valid_from)
    await mem.semantic.set_current_line(line, "rff-1", token=7)
    await mem.semantic.count_access(["p-1", "p-1", "regime-QUIET"], records.DAY)

    for minute in range(INBOX_ENTRIES):
        await mem.inbox.append(live(30 + minute))
    taken = await mem.inbox.read("drain-1", count=4)
    await mem.inbox.acknowledge(taken[:1])
    await mem.inbox.reject([(taken[1], await refused(taken[1]))])
    for number in range(4):
        await mem.messages.send(
            AgentMemoryMessage(sender_agent_id="momentum", message_type="WARNING", insight=f"warning {number}")
        )
    async with mem.messages.read("hold", wait=False) as reader:
        assert [(await anext(reader)).insight for _ in range(2)] == ["warning 0", "warning 1"]


async def replay_again(mem: MemoryConnection) -> None:
    """Record what was recorded before."""
    replayed = [records.experience(minute, agent_id=agent) for agent in AGENTS for minute in range(MINUTES)]
    report = await mem.episodic.add_many(replayed)
    assert len(report.duplicates) == len(replayed)


async def later_on(mem: MemoryConnection) -> None:
    """More of what comes in by itself while a snapshot is taken."""
    made = [records.experience(minute, agent_id="later") for minute in range(3)]
    await mem.episodic.add_many(made)
    await mem.shared.add_shared_experiences([replace(item, quality=0.9) for item in made])
    await mem.decisions.add_many([trace(made[0], mem.namespace)])
    await mem.inbox.append(live(45))
    await mem.messages.send(AgentMemoryMessage(sender_agent_id="momentum", message_type="WARNING", insight="later"))
    await mem.dead_letters.add([Refusal(live(46), "later", "reward", "momentum")])


async def refused(entry: Any) -> Any:
    """Why an entry of the inbox is refused."""
    from memory.errors import InvalidRecordError

    return InvalidRecordError("it is not wanted.", remedy="Leave it out.", field="reward")


async def snapshot_of(mem: MemoryConnection, folder: Path, *, cut_ms: int | None = None) -> tuple[Path, Manifest]:
    """A snapshot of what lies in Redis, and where it lies."""
    progress = Progress(namespace=mem.namespace, life="", token=7, knowledge="")
    partial = Partial.begin(folder, progress)
    for section in BEFORE:
        await write_section(mem.link, mem.keys, partial, section)
    progress.cut_ms = await cut_now(mem.link) if cut_ms is None else cut_ms
    for section in AT:
        await write_streams(mem.link, mem.keys, partial, section)
    for section in AFTER:
        write = write_streams if section is Section.OTHER else write_section
        await write(mem.link, mem.keys, partial, section)
    manifest = sealed(
        Manifest(
            format=FORMAT,
            software="1",
            ledger_schema="0001",
            record_schema=SCHEMA_VERSION,
            namespace=mem.namespace,
            cut_ms=progress.cut_ms,
            highest_token=7,
            files=dict(progress.files),
            ledger_digest="",
            semantic_digest=await mem.semantic.digest(),
        )
    )
    return partial.commit(manifest), manifest


@pytest.fixture(scope="session")
def everything() -> Fill:
    """Puts something of every kind into a memory."""
    return fill_with_everything


@pytest.fixture(scope="session")
def take() -> Callable[..., Awaitable[tuple[Path, Manifest]]]:
    """Takes snapshots."""
    return snapshot_of
