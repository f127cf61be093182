"""When knowledge counts as known, and what the ledger keeps of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

import memory
from memory.ledger import FencingToken, ManifestEntry
from memory.window import Window
from tasks import publishing
from tasks.folding import fold_dynamics
from tasks.groups import DYNAMICS, KNOWLEDGE, PUBLISHED
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


def published(days: Any) -> str:
    """Publish two days; the digest of what Redis holds then."""
    days.record(0, 1)
    days.consolidate(0, 1)
    days.fold()
    fold_dynamics.fn(days.context, days.line)
    assert days.publish(KNOWLEDGE)["added"] > 0
    assert days.publish(DYNAMICS)["added"] > 0
    return str(days.digests()[1])


def test_everything_is_published_again_where_redis_is_not_what_it_was_left_as_and_else_nothing(
    days: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = published(days)

    async def lose(mem: memory.MemoryConnection) -> None:
        """What a server that is killed within its last second comes back with: its list, without some documents."""
        link, line = mem.link, days.line
        listed = await link.execute("HKEYS", mem.keys.semantic_manifest(line))
        await link.execute("HDEL", mem.keys.semantic_manifest(line), *listed[::2])
        await link.execute("SET", mem.keys.semantic_stamp(line), "an older one")
        for kind, memory_id, valid_from in (name.decode().split(":") for name in listed[::2]):
            await link.execute("UNLINK", mem.keys.semantic(kind, memory_id, int(valid_from), line))

    days.with_memory(lose)
    assert days.digests()[1] != before
    # Whichever group is published first brings the other one back, too.
    days.publish(KNOWLEDGE)
    assert days.digests()[1] == before
    monkeypatch.setattr(publishing, "_send", None)
    assert days.publish() == {"added": 0, "closed": 0, "removed": 0}


def test_a_publication_that_was_killed_before_its_mark_is_noted_by_the_next(
    days: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(days)
    days.record(2)
    days.consolidate(2)
    days.fold()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_note", killed)
        with pytest.raises(KeyboardInterrupt):
            days.publish(KNOWLEDGE)
    there = days.digests()[1]
    assert days.publish(KNOWLEDGE)["added"] == 0
    assert days.digests()[1] == there
    marks = days.ledger.folds.checkpoints(days.line, PUBLISHED[KNOWLEDGE][0])
    assert [mark.window for mark in marks] == [days.window(number) for number in (0, 1, 2)]


def test_another_publication_lag_moves_what_is_published(days: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    published(days)
    monkeypatch.setenv("COINSWARM_PUBLICATION_LAG_S", "90")
    with open_workspace(f"{days.workspace.namespace}-other"):
        days.publish()

    async def times(mem: memory.MemoryConnection) -> set[dt.datetime]:
        return {known.valid_from for known in await mem.semantic.current(line=days.line)}

    ends = {days.window(number).end + dt.timedelta(seconds=90) for number in (0, 1)}
    assert days.with_memory(times) <= ends
