"""Two runs of one window at once end in the knowledge of one."""

from __future__ import annotations

import pytest
from fault_moments import Moment
from fault_rig import Calm, Rig, proof

from memory.window import Window

pytestmark = pytest.mark.faults

LONG_ENOUGH_S = 8.0
"""A run that need not wait has begun by then."""


@pytest.mark.parametrize("removed", [("lock",), ()], ids=["removed", "kept"])
def test_the_second_of_two_consolidations_waits_for_the_first(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    first = rig.start("consolidate", namespace, 0, moment=Moment("cluster", "end cluster"), action="meet")
    first.until_met()
    second = rig.start(
        "consolidate", namespace, 0, moment=Moment("archive", "begin archive"), action="meet", removed=removed
    )
    with proof(removed):
        assert not second.has_met(within_s=LONG_ENOUGH_S)
    first.go()
    if removed:
        second.go()
    with proof(removed):
        assert first.end().how == "done"
    if removed:
        return
    second.until_met()
    second.go()
    assert second.end().how == "done"
    assert rig.digests(namespace) == calm.first
    with rig.ledger() as ledger:
        runs = ledger.runs.list(namespace)
        (record,) = ledger.lines.list(namespace)
        generations = ledger.windows.generations(record.line, Window.of_date(rig.night.days[0]))
    assert [run.status for run in runs] == ["SUCCEEDED", "SUCCEEDED"]
    assert len(generations) == 1
