"""The archive cannot be written to: the run fails, nothing refers to what is not there, and the next one succeeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_moments import Moment
from fault_rig import Calm, Rig, proof

from memory.ledger import Archive
from memory.window import Window

pytestmark = pytest.mark.faults


def unreadable(rig: Rig, namespace: str) -> list[str]:
    """Archives that the ledger names and that are not whole."""
    archive, window, found = Archive(rig.archive_of(namespace).as_uri()), Window.of_date(rig.night.days[0]), []
    with rig.ledger() as ledger:
        for record in ledger.lines.list(namespace):
            for reference in ledger.windows.archives(namespace, window, record.encoder_id):
                found += [
                    file.path
                    for file in (reference.states, reference.experiences)
                    if not (Path(rig.archive_of(namespace)) / file.path).exists()
                ]
    assert archive
    return found


@pytest.mark.parametrize("removed", [("whole files",), ()], ids=["removed", "kept"])
def test_an_archive_that_cannot_be_written_to_fails_the_run_before_anything_refers_to_it(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    # A file in the way stops everybody, root too, whom rights do not stop.
    in_the_way = rig.archive_of(namespace)
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("not a folder", encoding="utf-8")
    outcome = rig.run("consolidate", namespace, 0, removed=removed)
    assert outcome.how == "failed"
    with proof(removed):
        assert outcome.error == "ArchiveUnavailableError"
        assert unreadable(rig, namespace) == []
    in_the_way.unlink()
    if removed:
        return
    assert rig.run("consolidate", namespace, 0).how == "done"
    assert rig.digests(namespace) == calm.first


@pytest.mark.parametrize("removed", [("whole files",), ()], ids=["removed", "kept"])
def test_a_disk_that_fills_while_the_archive_is_written_leaves_no_file_that_counts(
    removed: tuple[str, ...], rig: Rig, calm: Calm, namespace: str
) -> None:
    rig.fill(namespace)
    outcome = rig.run(
        "consolidate", namespace, 0, moment=Moment("archive", "begin archive"), action="starve", removed=removed
    )
    assert outcome.how == "failed"
    with proof(removed):
        assert outcome.error == "ArchiveUnavailableError"
        assert unreadable(rig, namespace) == []
        assert [path for path in rig.archive_of(namespace).rglob("*") if path.is_file()] == []
    assert rig.run("consolidate", namespace, 0).how == "done"
    assert rig.digests(namespace) == calm.first
