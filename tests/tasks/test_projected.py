"""What Redis is to hold, by the ledger: which line is read for which encoder, as of when."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from memory.errors import LineError
from memory.ledger import FencingToken
from tasks.projected import project
from tasks.workspace import Workspace, open_workspace

TAKEN_OVER = dt.datetime(2021, 6, 20, tzinfo=dt.UTC)


@pytest.fixture
def workspace(configured: str) -> Iterator[Workspace]:
    with open_workspace(configured) as opened:
        yield opened


@pytest.fixture
def token(workspace: Workspace) -> FencingToken:
    run_id = workspace.ledger.runs.start("start_line", workspace.namespace, {}, lease_s=60)
    return workspace.ledger.fence.acquire(workspace.namespace, run_id, flow="start_line", lease_s=60)


def test_each_encoder_has_the_succession_of_its_lines_and_those_that_are_built_are_none(
    workspace: Workspace, token: FencingToken
) -> None:
    lines, name = workspace.ledger.lines, workspace.namespace
    first = lines.ensure(token, "market-a", "1")
    second = lines.ensure(token, "market-b", "1")
    assert project(workspace).successions == {"market-a": ((None, first),), "market-b": ((None, second),)}
    follower = lines.ensure(token, "market-b", "2")
    assert project(workspace).successions["market-b"] == ((None, second),)
    lines.activate(token, follower, current_from=TAKEN_OVER)
    lines.set_state(token, second, "RETIRED")
    assert project(workspace).successions["market-b"] == ((None, second), (TAKEN_OVER, follower))
    before = project(workspace, as_of=TAKEN_OVER - dt.timedelta(milliseconds=1))
    assert before.successions["market-b"] == ((None, second),)
    elsewhere = project(workspace, into="elsewhere")
    assert elsewhere.successions["market-a"] == ((None, first.replace(name, "elsewhere", 1)),)
    with pytest.raises(LineError, match="no knowledge line 'x/y/1'"):
        project(workspace, names=["x/y/1"])
