"""When knowledge counts as known, and what the ledger keeps of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from memory.ledger import FencingToken, ManifestEntry
from memory.window import Window
from tasks.publishing import known_times
from tasks.workspace import Workspace, open_workspace

FIRST = Window.of_date(dt.date(2021, 6, 17))
SECOND = Window.of_date(dt.date(2021, 6, 18))
THIRD = Window.of_date(dt.date(2021, 6, 19))


@pytest.fixture
def workspace(configured: str) -> Iterator[Workspace]:
    with open_workspace(configured) as opened:
        yield opened


@pytest.fixture
def token(workspace: Workspace) -> FencingToken:
    run_id = workspace.ledger.runs.start("consolidate_memories", workspace.namespace, {}, lease_s=60)
    return workspace.ledger.fence.acquire(workspace.namespace, run_id, flow="consolidate_memories", lease_s=60)


def commit(workspace: Workspace, token: FencingToken, window: Window, **counts: Any) -> str:
    line = workspace.ledger.lines.ensure(token, "encoder-1", "1")
    workspace.ledger.windows.commit_generation(
        token,
        line,
        window,
        settings_hash="s",
        entries=[ManifestEntry(kind="patterns", partition_key="p", digest=None)],
        counts=counts,
    )
    return line


def test_knowledge_is_known_at_the_end_of_its_window_and_not_before_its_inputs(
    workspace: Workspace, token: FencingToken
) -> None:
    commit(workspace, token, FIRST, known_at=(FIRST.end - dt.timedelta(minutes=1)).isoformat())
    line = commit(workspace, token, SECOND, known_at=(SECOND.end + dt.timedelta(minutes=2)).isoformat())
    assert known_times(workspace, line) == {FIRST: FIRST.end, SECOND: SECOND.end + dt.timedelta(minutes=2)}


def test_an_input_that_came_late_holds_back_the_windows_that_follow(workspace: Workspace, token: FencingToken) -> None:
    late = THIRD.end + dt.timedelta(hours=5)
    commit(workspace, token, FIRST, known_at=late.isoformat())
    commit(workspace, token, SECOND, known_at=SECOND.end.isoformat())
    line = commit(workspace, token, THIRD, known_at=THIRD.end.isoformat())
    assert list(known_times(workspace, line).values()) == [late, late, late]


def test_the_publication_lag_is_added(
    workspace: Workspace, token: FencingToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = commit(workspace, token, FIRST)
    monkeypatch.setenv("COINSWARM_PUBLICATION_LAG_S", "90")
    with open_workspace(f"{workspace.namespace}-other"), open_workspace(workspace.namespace) as lagging:
        assert known_times(lagging, line) == {FIRST: FIRST.end + dt.timedelta(seconds=90)}
