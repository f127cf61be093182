"""A disk is full, for real: under the tables of the ledger, under the log that it writes ahead, under the archive."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from fault_disk import BALLAST, refusal, small_disk
from fault_moments import Moment
from fault_rig import Calm, Rig, proof

from memory.ledger import Archive

pytestmark = pytest.mark.faults

PATTERNS = r"sql INSERT INTO \S*\bpatterns\b"
DATABASE_KB = 192 * 1024
"""Room for an empty database of 40 MB, and for a night."""
ARCHIVE_KB = 4096
LEFT = 50_000
"""Bytes that are left to the archive of a night, which takes more."""
LOG_LEFT = 24_576
"""Bytes that are left in the log that Postgres writes ahead: a fold takes more."""
MESSAGE = 8192
SEGMENT = 4 * 1024 * 1024
"""Bytes of a file of that log, as `memory.embedded.postgres_server` has it."""


@pytest.fixture(scope="module", autouse=True)
def may_mount() -> None:
    """Mounting a disk takes namespaces; where there are none, the limits of processes stand for a full disk."""
    reason = refusal()
    if reason is not None:
        pytest.skip(f"no disk can be mounted here: {reason}")


def use_up_log(database_url: str) -> None:
    """Write to the log until the files that there are have little room left: the next one finds none."""
    engine = sa.create_engine(database_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        while True:
            at, last = connection.execute(
                sa.text("SELECT pg_current_wal_insert_lsn() - '0/0', (SELECT max(name) FROM pg_ls_waldir())")
            ).one()
            end = (int(last[8:16], 16) * (2**32 // SEGMENT) + int(last[16:], 16) + 1) * SEGMENT
            if end - int(at) < LOG_LEFT + 2 * MESSAGE:
                break
            connection.execute(
                sa.text("SELECT pg_logical_emit_message(false, 'room', repeat('x', :n))"), {"n": MESSAGE}
            )
    engine.dispose()


@pytest.mark.parametrize("removed", [("transactions",), ()], ids=["removed", "kept"])
@pytest.mark.parametrize("what", ["tables", "log"])
def test_a_night_whose_ledger_has_no_room_left_fails_whole_and_ends_the_same_once_there_is_room(
    what: str, removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with small_disk(home / "postgres", DATABASE_KB, database_home=home) as disk:
        own = rig.with_ledger(disk.said)
        own.fill(namespace)
        once = (*removed, "task retries")
        run = own.start("consolidate", namespace, 0, moment=Moment("fold", PATTERNS), action="meet", removed=once)
        run.until_met()
        disk.fill()
        if what == "log":
            use_up_log(disk.said)
        run.go()
        outcome = run.end()
        assert (outcome.how, outcome.error) == ("failed", "StoreUnavailableError")
        assert "No space left" in (home / "logs" / "postgres.log").read_text(encoding="utf-8")
        disk.make_room()
        disk.start_database()
        assert own.run("consolidate", namespace, 0).how == "done"
        with proof(removed):
            assert own.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("whole files",), ()], ids=["removed", "kept"])
def test_an_archive_that_has_no_room_left_fails_the_night_which_ends_the_same_once_there_is_room(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    with small_disk(rig.archive_of(namespace), ARCHIVE_KB) as disk:
        run = rig.start(
            "consolidate",
            namespace,
            0,
            moment=Moment("archive", "begin archive"),
            action="meet",
            removed=removed,
            disk=disk.pid,
        )
        run.until_met()
        disk.fill(leave=LEFT)
        run.go()
        outcome = run.end()
        assert outcome.how == "failed"
        with proof(removed):
            assert (outcome.error, "No space left" in outcome.message) == ("ArchiveUnavailableError", True)
            assert [path.name for path in disk.path.rglob("*") if path.is_file()] == [BALLAST]
        disk.make_room()
        assert rig.run("consolidate", namespace, 0, disk=disk.pid).how == "done"
        assert rig.digests(namespace) == calm.first
        with rig.ledger() as ledger:
            (record,) = ledger.lines.list(namespace)
            (window, _) = ledger.windows.with_current(record.line)[0]
            archived = ledger.windows.archives_of(record.line, window)
        assert archived
        for reference in archived:
            assert len(Archive(disk.path.as_uri()).read(reference).states) == reference.states.rows
