"""A run is killed while a new line takes over: the next night completes it, whoever began it and is gone."""

from __future__ import annotations

import pytest
from fault_moments import Moment
from fault_rig import Calm, Rig, proof

import memory
from agents.fitting import default_encoder
from memory.learning import ALGORITHM_VERSION

pytestmark = pytest.mark.faults

BEFORE = "1"
"""An earlier version of the algorithm, of which the first line is."""


@pytest.mark.parametrize(
    ("moment", "removed"),
    [
        # The ledger was told, and Redis not yet.
        (Moment("take over", "redis step"), ("finished take-overs",)),
        (Moment("take over", "redis step"), ()),
        # Redis too; the line before is still fed.
        (Moment("take over", "redis executed"), ("finished take-overs",)),
        (Moment("take over", "redis executed"), ()),
    ],
    ids=lambda value: str(value) if isinstance(value, Moment) else "removed" if value else "kept",
)
def test_a_take_over_that_was_killed_is_completed_by_the_next_night(
    moment: Moment, removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    encoder_id = default_encoder().id_
    old, new = (f"{namespace}/{encoder_id}/{version}" for version in (BEFORE, ALGORITHM_VERSION))

    async def read(mem: memory.MemoryConnection) -> tuple[str | None, list[str]]:
        return await mem.semantic.current_line(), [line for _, line in await mem.semantic.succession(encoder_id)]

    rig.fill(namespace)
    assert rig.run("consolidate", namespace, 0, algorithm=BEFORE).how == "done"
    assert rig.run("line", namespace, 0, moment=moment).how == "killed"
    assert rig.run("consolidate", namespace, 1, removed=removed).how == "done"
    with proof(removed):
        assert rig.ask(namespace, read) == (new, [old, new])
        with rig.ledger() as ledger:
            states = {record.line: record.state for record in ledger.lines.list(namespace)}
        assert states == {old: "RETIRED", new: "LIVE"}
        assert rig.run("transitions", namespace, 1).how == "done"
        assert rig.digests(namespace, new) == rig.digests(calm.namespace, new.replace(namespace, calm.namespace))
