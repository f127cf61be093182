"""A janitor is killed at each step in turn: no knowledge goes with what it removes, and the next removes the rest."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from fault_moments import Moment
from fault_rig import Rig

from memory.ledger.models import ArchivedWindow, Generation, StagedSummary

pytestmark = pytest.mark.faults

AGE = timedelta(days=100)
BOUNDARIES = (
    Moment("drop generations", "sql DELETE"),
    Moment("drop generations", "commit"),
    Moment("drop generations", "committed"),
    Moment("drop summaries", "commit"),
    Moment("drop archives", "committed"),
    Moment(None, "begin drop archived files"),
    Moment(None, "end drop archived files"),
)
"""In this order each run comes further than the one before."""


def grown_old(rig: Rig, namespace: str) -> None:
    """A day that was learned with what one agent saw, and again with that of all, long ago."""
    first = [item for item in rig.night.lived if item.timestamp.date() == rig.night.days[0]]
    agent, hour = first[0].agent_id, sorted(item.timestamp for item in first)[len(first) // 2]
    rig.fill(namespace, [item for item in first if item.agent_id == agent and item.timestamp < hour])
    consolidated(rig, namespace)
    rig.fill(namespace, [item for item in first if item.agent_id != agent or item.timestamp >= hour])
    consolidated(rig, namespace)
    with rig.ledger() as ledger, ledger.transaction() as session:
        for model in (Generation, StagedSummary, ArchivedWindow):
            session.execute(sa.update(model).values(created_at=model.created_at - sa.literal(AGE, sa.Interval())))
    for path in rig.archive_of(namespace).rglob("*.parquet"):
        written = path.stat().st_mtime - AGE.total_seconds()
        os.utime(path, (written, written))


def consolidated(rig: Rig, namespace: str, **parameters: bool) -> None:
    outcome = rig.run("consolidate", namespace, 0, **parameters)
    assert outcome.how == "done", outcome


def files_of(rig: Rig, namespace: str) -> int:
    return len(list(rig.archive_of(namespace).rglob("*.parquet")))


def test_killed_at_each_boundary_in_turn_it_ends_as_a_clean_one(rig: Rig, namespace: str) -> None:
    grown_old(rig, namespace)
    knowledge, files = rig.digests(namespace), files_of(rig, namespace)
    expected = rig.run("janitor", namespace, 0, dry_run=True)
    assert expected.how == "done", expected
    what = {row["what"]: row["number"] for row in expected.result["expired"]}
    assert {"generations", "summaries", "archives", "archived files"} <= set(what)
    for moment in BOUNDARIES:
        assert rig.run("janitor", namespace, 0, moment=moment).how == "killed", moment
        assert rig.digests(namespace) == knowledge
    done: Any = rig.run("janitor", namespace, 0)
    assert done.how == "done", done
    assert rig.run("janitor", namespace, 0, dry_run=True).result["expired"] == []
    assert files_of(rig, namespace) == files - what["archived files"]
    # What is left is enough to learn it all again.
    consolidated(rig, namespace, refold=True)
    assert rig.digests(namespace) == knowledge
