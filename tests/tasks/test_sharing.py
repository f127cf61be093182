"""The shared pool in the nightly job: what recordings share, and what pruning lets go."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from memory import Action, EpisodicMemory, MemoryConnection, Side
from memory.window import Window
from tasks.pruning import forget_shared
from tasks.recording import replay_market
from tasks.runs import LedgerRun, TaskContext
from tasks.workspace import Workspace, open_workspace

WINDOW = Window.of_date(dt.date(2021, 6, 17))
DAY = dt.timedelta(days=1)


@pytest.fixture
def workspace(configured: str) -> Iterator[Workspace]:
    with open_workspace(configured) as opened:
        yield opened


def held_by_a_run(workspace: Workspace) -> TaskContext:
    """The context of a run that holds the namespace."""
    ledger = workspace.ledger
    run_id = ledger.runs.start("prune_memories", workspace.namespace, {}, lease_s=60)
    token = ledger.fence.acquire(workspace.namespace, run_id, flow="prune_memories", lease_s=60)
    workspace.raise_fence(token)
    return TaskContext.of(LedgerRun(workspace, run_id, WINDOW, token))


def experience(days_before: int) -> EpisodicMemory:
    """One decided so many days before the window's end."""
    vector = np.zeros(256, np.float32)
    vector[days_before % 256] = 1.0
    return EpisodicMemory(
        agent_id="momentum",
        timestamp=WINDOW.end - days_before * DAY,
        state_vector=vector,
        action=Action(Side.BUY),
        reward=0.1,
        product_id="BTC-USDT",
        regime="QUIET",
        source="replay",
        known_at=WINDOW.end - days_before * DAY + dt.timedelta(minutes=1),
        quality=0.9,
    )


def test_shared_experiences_go_thirty_days_after_their_decision_and_the_ledger_says_by_which_rule(
    workspace: Workspace,
) -> None:
    async def share(mem: MemoryConnection) -> None:
        await mem.shared.add_shared_experiences([experience(days) for days in (1, 29, 30, 31, 45)])

    async def left(mem: MemoryConnection) -> int:
        return await mem.shared.count()

    workspace.with_memory(share)
    context = held_by_a_run(workspace)
    removals = workspace.ledger.removals
    assert forget_shared.fn(context, dry_run=True) == {"forgotten_shared": 2}
    assert (workspace.with_memory(left), removals.list(workspace.namespace)) == (5, [])
    assert forget_shared.fn(context, dry_run=False) == {"forgotten_shared": 2}
    assert workspace.with_memory(left) == 3
    (removal,) = removals.list(workspace.namespace, context.run_id)
    assert (removal.memory_type, removal.window, removal.rule) == ("SHARED", WINDOW, "older than 30 days")
    assert (removal.before, removal.count) == (WINDOW.end - 30 * DAY, 2)
    assert removal.removed_at is not None


def test_a_removal_that_died_half_way_is_completed_by_the_next_run_with_its_whole_count(workspace: Workspace) -> None:
    context = held_by_a_run(workspace)
    before = WINDOW.end - 30 * DAY

    async def share(mem: MemoryConnection) -> None:
        await mem.shared.add_shared_experiences([experience(days) for days in (29, 31, 33)])

    async def left(mem: MemoryConnection) -> int:
        return await mem.shared.count()

    workspace.with_memory(share)
    # Another run planned three, and died when it had removed one of them.
    planned = workspace.ledger.removals.plan(
        context.fencing_token, memory_type="SHARED", window=WINDOW, before=before, rule="older than 30 days", count=3
    )
    assert forget_shared.fn(context, dry_run=True) == {"forgotten_shared": 2}
    assert workspace.ledger.removals.open(workspace.namespace) == [planned]
    assert forget_shared.fn(context, dry_run=False) == {"forgotten_shared": 2}
    assert workspace.ledger.removals.open(workspace.namespace) == []
    (removal,) = workspace.ledger.removals.list(workspace.namespace)
    assert (removal.count, workspace.with_memory(left)) == (3, 1)


@pytest.mark.slow
def test_a_recording_shares_what_is_worth_it_where_the_settings_say_so(
    configured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replay() -> dict[str, Any]:
        return replay_market.fn(configured, WINDOW, "binance", ["BTC-USDT"], None, 0.0)

    assert replay()["shared"] == 0
    monkeypatch.setenv("COINSWARM_SHARE_ON_RECORD", "true")
    again = replay()
    assert again["stored"] == 0
    assert 0.1 * again["duplicates"] < again["shared"] < 0.5 * again["duplicates"]
    with open_workspace(configured) as workspace:

        async def qualities(mem: MemoryConnection) -> tuple[int, list[float]]:
            vector = np.zeros(256, np.float32)
            vector[0] = 1.0
            hits = await mem.shared.retrieve_shared_experiences(vector, as_of=WINDOW.end, top_k=1000)
            return await mem.shared.count(), [hit.memory.quality or 0.0 for hit in hits]

        count, found = workspace.with_memory(qualities)
    assert count == again["shared"]
    assert len(found) == 1000
    assert min(found) >= 0.7
    assert replay()["shared"] == 0
