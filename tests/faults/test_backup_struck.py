"""Backups and restores are killed at their boundaries: done again, they end as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fault_moments import Moment
from fault_rig import Calm, Outcome, Rig

from memory.backup.manifest import check_files, read_manifest
from memory.backup.snapshots import PARTIAL, list_snapshots
from memory.errors import RestoreUnfinishedError
from memory.store.keys import drill_namespace

pytestmark = pytest.mark.faults

BACKUP_BOUNDARIES = (
    Moment("read counters and mailboxes", "begin"),
    Moment("take the cut, read streams", "begin"),
    Moment("read the ledger", "begin"),
    Moment("ledger", "begin", 9),
    Moment("read memories", "begin"),
    Moment("episodic", "begin"),
    Moment("copy the archive", "begin"),
    Moment("seal", "begin"),
)
"""In this order each run comes further than the one before."""
RESTORE_BOUNDARIES = (
    Moment("mark the namespace", "begin"),
    Moment("restore the ledger", "begin"),
    Moment("patterns", "begin"),
    Moment("restore files", "begin"),
    Moment("archive", "filed"),
    Moment("restore memories", "begin"),
    Moment(r"redis/episodic-00000.parquet", "begin", 2),
    Moment("build indexes", "begin"),
    Moment("compare", "begin"),
    Moment("end", "begin"),
)
FIRST_MARKED = 1
"""From this boundary on there is something to be mistaken for a memory."""


def folder_of(rig: Rig, namespace: str) -> Path:
    """Where a namespace's snapshots lie."""
    return rig.folder / namespace / "backups" / namespace


def content(snapshot: Path) -> dict[str, Any]:
    """What a snapshot holds, but for when it was taken and by which run."""
    manifest = read_manifest(snapshot)
    check_files(snapshot, manifest)
    keys = {path: (file.rows, file.digest) for path, file in manifest.files.items() if path.startswith("redis/")}
    ledger = {table: rows for table, rows in manifest.rows("ledger").items() if table != "runs"}
    return {
        "keys": keys,
        "ledger": ledger,
        "archive": manifest.paths("archive"),
        "digests": (manifest.ledger_digest, manifest.semantic_digest),
    }


def restored(rig: Rig, snapshot: Path, target: str, **options: Any) -> Outcome:
    """A restore, by a process whose home is the target's."""
    roots = {"environment": {"COINSWARM_DATA_ROOTS": str(rig.folder)}}
    return rig.run("restore", target, 0, snapshot=str(snapshot), **roots, **options)


@pytest.fixture(scope="module")
def snapshot(shared_rig: Rig) -> Path:
    """Both days recorded, the first of them learned, and a snapshot that nothing disturbed."""
    namespace = "t-backed-up"
    shared_rig.until_up()
    shared_rig.fill(namespace)
    assert shared_rig.run("consolidate", namespace, 0).how == "done"
    outcome = shared_rig.run("backup", namespace, 0)
    assert outcome.how == "done", outcome
    return Path(outcome.result["snapshot"])


def test_a_backup_killed_at_each_boundary_in_turn_ends_in_the_snapshot_of_a_clean_one(rig: Rig, snapshot: Path) -> None:
    namespace = read_manifest(snapshot).namespace
    folder = folder_of(rig, namespace)
    for moment in BACKUP_BOUNDARIES:
        assert rig.run("backup", namespace, 0, moment=moment).how == "killed", moment
        assert [item.path for item in list_snapshots(folder)] == [snapshot]
        assert (folder / PARTIAL).is_dir()
    outcome = rig.run("backup", namespace, 0)
    assert outcome.how == "done", outcome
    assert outcome.result["resumed"]
    assert content(Path(outcome.result["snapshot"])) == content(snapshot)
    assert not (folder / PARTIAL).exists()


def test_a_backup_killed_before_it_was_verified_leaves_the_old_ones_and_the_next_drops_them(
    rig: Rig, snapshot: Path
) -> None:
    namespace = read_manifest(snapshot).namespace
    folder = folder_of(rig, namespace)
    before = [item.path for item in list_snapshots(folder)]
    keep = {"keep": 1}
    assert rig.run("backup", namespace, 0, moment=Moment("verify", "begin"), **keep).how == "killed"
    assert [item.path for item in list_snapshots(folder)][:-1] == before
    outcome = rig.run("backup", namespace, 0, keep=len(before) + 1)
    assert outcome.how == "done", outcome
    assert outcome.result["dropped"] == [before[0].name]
    # The snapshot that the other tests restore comes back.
    list_snapshots(folder)[-1].path.rename(snapshot)


def test_a_full_disk_is_named_and_the_backup_goes_on_once_there_is_room(rig: Rig, snapshot: Path) -> None:
    namespace = read_manifest(snapshot).namespace
    full = rig.run("backup", namespace, 0, moment=Moment("read memories", "begin"), action="starve")
    assert (full.how, full.error) == ("failed", "SnapshotError"), full
    assert f"cannot be written to {folder_of(rig, namespace)}" in full.message
    outcome = rig.run("backup", namespace, 0)
    assert outcome.how == "done", outcome
    assert outcome.result["resumed"]
    assert content(Path(outcome.result["snapshot"])) == content(snapshot)


def test_a_restore_killed_at_each_boundary_in_turn_ends_in_a_memory_that_goes_on_as_the_original(
    rig: Rig, calm: Calm, snapshot: Path, namespace: str
) -> None:
    for number, moment in enumerate(RESTORE_BOUNDARIES):
        assert restored(rig, snapshot, namespace, moment=moment).how == "killed", moment
        if number >= FIRST_MARKED:
            with pytest.raises(RestoreUnfinishedError, match="coinswarm restore"):
                rig.ask(namespace, lambda mem: mem.episodic.count())
    outcome = restored(rig, snapshot, namespace)
    assert outcome.how == "done", outcome
    assert outcome.result["resumed"]
    manifest = read_manifest(snapshot)
    assert rig.digests(namespace) == (manifest.ledger_digest, manifest.semantic_digest) == calm.first
    for flow, day in (("consolidate", 1), ("transitions", 1)):
        assert rig.run(flow, namespace, day).how == "done"
    assert rig.digests(namespace) == calm.whole


def test_a_restore_killed_after_its_end_is_whole_and_nothing_is_restored_over_it(
    rig: Rig, snapshot: Path, namespace: str
) -> None:
    assert restored(rig, snapshot, namespace, moment=Moment("end", "redis executed")).how == "killed"
    manifest = read_manifest(snapshot)
    assert rig.digests(namespace) == (manifest.ledger_digest, manifest.semantic_digest)
    outcome = restored(rig, snapshot, namespace)
    assert (outcome.how, outcome.error) == ("failed", "SnapshotError")
    assert "is not empty" in outcome.message


def test_what_a_killed_drill_left_is_dropped_by_the_next(rig: Rig, snapshot: Path) -> None:
    namespace = read_manifest(snapshot).namespace
    moments = (Moment("compare", "begin"), Moment("drop the namespace", "redis executed"))
    for moment in moments:
        assert rig.run("drill", namespace, 0, snapshot=str(snapshot), moment=moment).how == "killed", moment
    outcome = rig.run("drill", namespace, 0, snapshot=str(snapshot))
    assert outcome.how == "done", outcome
    scratch = drill_namespace(namespace)
    assert rig.ask(scratch, lambda mem: mem.link.execute("KEYS", f"{scratch}:*")) == []
    with rig.ledger() as ledger:
        assert ledger.lines.list(scratch) == []
        assert ledger.fence.holder(scratch) is None
    assert not any((rig.archive_of(namespace) / scratch).rglob("*.parquet"))


def test_redis_killed_in_the_middle_of_a_restore_costs_an_attempt_and_no_key(
    rig: Rig, snapshot: Path, namespace: str
) -> None:
    roots = {"environment": {"COINSWARM_DATA_ROOTS": str(rig.folder)}}
    moment = Moment(r"redis/episodic-00000.parquet", "begin")
    run = rig.start("restore", namespace, 0, snapshot=str(snapshot), moment=moment, action="meet", **roots)
    run.until_met()
    rig.kill("redis")
    run.go()
    outcome = run.end()
    assert outcome.how == "done", outcome
    manifest = read_manifest(snapshot)
    assert rig.digests(namespace) == (manifest.ledger_digest, manifest.semantic_digest)
