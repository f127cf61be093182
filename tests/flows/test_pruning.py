"""Pruning as a dry run and as a deed: the same decisions, and what they rest on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flows.consolidate_memories import Parameters as ConsolidateParameters
from flows.consolidate_memories import consolidate_memories
from flows.prune_memories import Parameters, prune_memories
from memory.errors import WindowError

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

DAY, LATER = dt.date(2021, 6, 18), dt.date(2021, 6, 30)


def prune(namespace: str, day: dt.date, **parameters: Any) -> dict[str, Any]:
    return prune_memories(Parameters(namespace=namespace, date=day, **parameters))


def test_what_a_dry_run_says_would_go_is_what_goes(
    configured: str, record: Callable[[str, Sequence[dt.date]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So strict that nothing stays but what is young, or was seen of late.
    monkeypatch.setenv("COINSWARM_LEARNING", '{"prune_sharpe": 100.0, "grace_windows": 2, "unseen_days": 5}')
    with pytest.raises(WindowError, match="nothing was learned"):
        prune(configured, DAY, dry_run=True)
    record(configured, (DAY, LATER))
    consolidate_memories(ConsolidateParameters(namespace=configured, date=DAY))
    # Of a window that the fold has been through, its decisions stand.
    decided, done = prune(configured, DAY, dry_run=True), prune(configured, DAY)
    assert decided["decided_by_the_fold"]
    assert decided["decisions"] > 0
    for name in ("decisions", "pruned", "random_share", "forgotten_experiences", "forgotten_shared"):
        assert decided[name] == done[name]

    expected = prune(configured, LATER, dry_run=True)
    assert not expected["decided_by_the_fold"]
    with pytest.raises(WindowError, match="was not consolidated"):
        prune(configured, LATER)
    assert prune(configured, LATER, dry_run=True)["pruned"] == expected["pruned"]  # It has changed nothing.
    counts = consolidate_memories(ConsolidateParameters(namespace=configured, date=LATER))["lines"].values()
    gone = prune(configured, LATER)
    assert sum(line["pruned"] for line in counts) == len(gone["pruned"]) - len(gone["pruned_strategies"])
    # Clusters of the window itself may keep what would have gone otherwise, and nothing else goes.
    assert any(name.startswith("p-") for name in gone["pruned"])
    assert len(gone["pruned_strategies"]) == 2
    assert set(gone["pruned"]) <= set(expected["pruned"])
    assert all(share is None or 0 <= share <= 1 for share in gone["random_share"].values())
