"""Postgres is killed, its disk is full, a connection is cut within a transaction: the ledger is never half-written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_moments import Moment
from fault_proxy import AFTER, BEFORE, cuttable
from fault_rig import Calm, Rig, proof

from memory.window import Window

pytestmark = pytest.mark.faults

SUMMARIES = "sql INSERT INTO .*[^_]summaries"
PATTERNS = r"sql INSERT INTO \S*\bpatterns\b"
MARKS = "sql INSERT INTO .*fold_checkpoints"


@pytest.mark.parametrize(
    ("moment", "removed"),
    [
        (Moment("cluster", SUMMARIES, 2), ("task retries",)),
        (Moment("cluster", SUMMARIES, 2), ()),
        (Moment("fold", PATTERNS), ("transactions",)),
        (Moment("fold", PATTERNS), ()),
        (Moment("publish", MARKS), ("task retries",)),
        (Moment("publish", MARKS), ()),
    ],
    ids=lambda value: str(value) if isinstance(value, Moment) else "removed" if value else "kept",
)
def test_postgres_killed_under_a_consolidation_changes_nothing_of_what_it_ends_in(
    moment: Moment, removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    run = rig.start("consolidate", namespace, 0, moment=moment, action="meet", removed=removed)
    run.until_met()
    rig.strike("postgres")
    run.go()
    outcome = run.end()
    rig.until_up()
    with proof(removed):
        assert (outcome.how, outcome.error) == ("done", "")
        assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize(
    ("moment", "where", "removed"),
    [
        (Moment("fold", PATTERNS), BEFORE, ("transactions",)),
        (Moment("fold", PATTERNS), BEFORE, ()),
        (Moment("commit", "commit"), BEFORE, ("task retries",)),
        (Moment("commit", "commit"), BEFORE, ()),
        (Moment("commit", "commit"), AFTER, ("one generation",)),
        (Moment("commit", "commit"), AFTER, ()),
        (Moment("fold", "commit"), AFTER, ("task retries",)),
        (Moment("fold", "commit"), AFTER, ()),
    ],
    ids=lambda value: str(value) if isinstance(value, Moment | str) else "removed" if value else "kept",
)
def test_a_connection_cut_within_a_transaction_leaves_all_of_it_or_nothing(
    moment: Moment, where: str, removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str, tmp_path: Path
) -> None:
    rig.fill(namespace)
    with cuttable(tmp_path / "w", rig.database_url) as wire:
        run = rig.start(
            "consolidate",
            namespace,
            0,
            moment=moment,
            action="meet",
            removed=removed,
            # No heartbeat comes in between: what is said next is what the moment is about.
            environment={"COINSWARM_DATABASE_URL": wire.database_url, "COINSWARM_LEASE_S": "300"},
        )
        run.until_met()
        wire.arm(where)
        run.go()
        outcome = run.end()
        assert wire.cuts == 1
    with proof(removed):
        assert (outcome.how, outcome.error) == ("done", "")
        assert rig.digests(namespace) == calm.first
        with rig.ledger() as ledger:
            (record,) = ledger.lines.list(namespace)
            assert len(ledger.windows.generations(record.line, Window.of_date(rig.night.days[0]))) == 1


@contextmanager
def full_disk(rig: Rig) -> Iterator[None]:
    """No file of Postgres can grow: the kernel refuses it to all of its processes, as a full disk would.

    A limit of a process needs no mount and no rights; Postgres meets EFBIG where a full disk says ENOSPC, in the same
    calls.
    """
    for pid in [rig.pid_of("postgres"), *children_of(rig.pid_of("postgres"))]:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for pid in [rig.pid_of("postgres"), *children_of(rig.pid_of("postgres"))]:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def children_of(pid: int) -> list[int]:
    """Processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


@pytest.mark.parametrize("removed", [("transactions",), ()], ids=["removed", "kept"])
def test_a_disk_that_is_full_under_the_ledger_fails_the_run_and_leaves_the_ledger_whole(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    # Postgres may end for a full disk, and find room when its supervisor starts it again: one attempt, in both cases.
    once = (*removed, "task retries")
    run = rig.start("consolidate", namespace, 0, moment=Moment("fold", PATTERNS), action="meet", removed=once)
    run.until_met()
    with full_disk(rig):
        run.go()
        outcome = run.end()
        assert (outcome.how, outcome.error) == ("failed", "StoreUnavailableError")
    rig.until_up()
    assert rig.run("consolidate", namespace, 0).how == "done"
    with proof(removed):
        assert rig.digests(namespace) == calm.first
