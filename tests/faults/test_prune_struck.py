"""A prune is killed between its plan, its deletions and its note: what the ledger says of it is true in the end."""

from __future__ import annotations

from typing import Any

import pytest
from fault_moments import Moment
from fault_rig import Rig, proof

pytestmark = pytest.mark.faults

KEEP_ONE_DAY = {"environment": {"COINSWARM_EPISODIC_RETENTION_DAYS": "1"}}
NOTED = r"sql UPDATE \S*\bremovals\b"
BOUNDARIES = (
    Moment("prune", r"sql INSERT INTO \S*\bremovals\b"),
    Moment("prune", "committed"),
    Moment("prune", "redis write UNLINK"),
    Moment("prune", "redis write UNLINK", 2),
    Moment("prune", NOTED),
    Moment("prune", "commit"),
)
"""In this order each run comes further than the one before: from no plan over half of the deletions to the note."""


def consolidated(rig: Rig, namespace: str) -> None:
    """Both days, consolidated."""
    rig.fill(namespace)
    for day in (0, 1):
        assert rig.run("consolidate", namespace, day).how == "done"


def left(rig: Rig, namespace: str) -> dict[str, Any]:
    """What a prune leaves: its row in the ledger, all knowledge, and the experiences that stay."""
    with rig.ledger() as ledger:
        removals = [
            (item.memory_type, item.window, item.before, item.rule, item.planned, item.count, item.removed_at is None)
            for item in ledger.removals.list(namespace)
        ]
    stay = rig.ask(namespace, lambda mem: mem.episodic.count())
    return {"removals": removals, "knowledge": rig.digests(namespace), "experiences": stay}


@pytest.fixture(scope="module")
def pruned(shared_rig: Rig) -> dict[str, Any]:
    """What a prune leaves that nothing disturbs."""
    namespace = "t-pruned"
    shared_rig.until_up()
    consolidated(shared_rig, namespace)
    outcome = shared_rig.run("prune", namespace, 1, **KEEP_ONE_DAY)
    assert outcome.how == "done", outcome
    found = left(shared_rig, namespace)
    first = [item for item in shared_rig.night.lived if item.timestamp.date() == shared_rig.night.days[0]]
    assert [removal[4:] for removal in found["removals"]] == [(len(first), len(first), False)]
    assert found["experiences"] == len(shared_rig.night.lived) - len(first)
    return found


def test_a_prune_killed_at_each_boundary_in_turn_ends_in_the_ledger_of_a_clean_one(
    rig: Rig, pruned: dict[str, Any], namespace: str
) -> None:
    consolidated(rig, namespace)
    for moment in BOUNDARIES:
        assert rig.run("prune", namespace, 1, moment=moment, **KEEP_ONE_DAY).how == "killed", moment
    assert rig.run("prune", namespace, 1, **KEEP_ONE_DAY).how == "done"
    assert left(rig, namespace) == pruned


@pytest.mark.parametrize("removed", [("open plans",), ()], ids=["removed", "kept"])
def test_what_was_deleted_and_not_noted_is_noted_by_the_next_prune(
    removed: tuple[str, ...], rig: Rig, pruned: dict[str, Any], namespace: str
) -> None:
    consolidated(rig, namespace)
    assert rig.run("prune", namespace, 1, moment=Moment("prune", NOTED), **KEEP_ONE_DAY).how == "killed"
    before = left(rig, namespace)
    assert before["experiences"] == pruned["experiences"]
    assert before["removals"] != pruned["removals"]
    assert rig.run("prune", namespace, 1, removed=removed, **KEEP_ONE_DAY).how == "done"
    with proof(removed):
        assert left(rig, namespace) == pruned
