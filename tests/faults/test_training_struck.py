"""A training is killed while it learns and while it writes its policy: what it ends in is the policy of a calm one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fault_moments import Moment
from fault_rig import Rig

pytestmark = pytest.mark.faults

STEPS = 20
ASKED: dict[str, Any] = {
    "days": 1,
    "steps": STEPS,
    "batch": 32,
    "held_out_hours": 1,
    "publish": True,
    "device": "cpu",
    "environment": {"COINSWARM_SHARED_MIN_QUALITY": "0.5"},
}
LEARNING = r"sql INSERT INTO \S*training_steps\b"
NOTING = r"sql INSERT INTO \S*trained_policies\b"
BOUNDARIES = (Moment(None, LEARNING), Moment(None, LEARNING, 3), Moment(None, LEARNING, 7), Moment(None, NOTING))
"""In this order each run comes further than the one before: from no figure to a policy that lies in its file."""


def left(rig: Rig, namespace: str, agent: str) -> tuple[list[str], list[tuple[int, dict[str, float]]], int]:
    """Policies that the ledger knows, the figures of the training, and how many experiences are shared."""
    with rig.ledger() as ledger:
        policies = ledger.training.policies(namespace, agent_id=agent)
        (training,) = {policy.details["training"] for policy in policies}
        figures = [(row.step, dict(row.figures)) for row in ledger.training.figures(training)]
    shared = rig.ask(namespace, lambda mem: mem.shared.count())
    return [policy.checkpoint_id for policy in policies], figures, shared


def test_a_training_killed_at_each_boundary_in_turn_ends_in_the_policy_of_a_calm_one(rig: Rig, namespace: str) -> None:
    ends = []
    for agent, moments in (("calm", ()), ("struck", BOUNDARIES)):
        of = f"{namespace}-{agent}"
        assert rig.run("record", of, 1, source="market", products=[rig.night.product]).how == "done"
        for moment in moments:
            outcome = rig.run("train", of, 1, moment=moment, agent_id=agent, **ASKED)
            assert outcome.how == "killed", (moment, outcome)
        outcome = rig.run("train", of, 1, agent_id=agent, **ASKED)
        assert outcome.how == "done", outcome
        assert Path(outcome.result["path"]).is_file()
        assert not list(Path(outcome.result["path"]).parent.glob("*.pt"))
        ends.append(left(rig, of, agent))
    calm, struck = ends
    assert [step for step, _ in calm[1]] == list(range(1, STEPS + 1))
    assert struck == calm
