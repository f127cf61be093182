"""What killed runs leave in ledger and archive is counted, and told apart from what is still to come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memory.ledger import ArchiveReference
from tasks.leftovers import find_leftovers


def counted(days: Any) -> dict[str, int]:
    return {leftover.what: leftover.number for leftover in find_leftovers(days.workspace)}


def archived(days: Any) -> ArchiveReference:
    """The newest archive of the first day."""
    (reference,) = days.ledger.windows.archives(days.workspace.namespace, days.window(0), "enc")
    return reference


def renamed(reference: ArchiveReference, digit: str) -> ArchiveReference:
    """Another archive of the same window."""
    states = replace(reference.states, sha256=digit * 64, path=reference.states.path.replace("states-", f"x{digit}-"))
    return replace(reference, states=states, content_digest=digit * 64)


def test_a_run_that_ended_leaves_nothing(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    assert counted(days) == {}


def test_a_summary_that_no_generation_uses_is_left_behind(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    days.ledger.staging.stage(
        days.context.fencing_token,
        days.line,
        days.window(0),
        kind="clusters",
        partition_key="replay/QUIET",
        input_digest="0" * 64,
        settings_hash="other",
        payload=b"12345",
    )
    (found,) = find_leftovers(days.workspace)
    assert (found.what, found.where, found.number, found.size_bytes) == ("staged summaries", days.line, 1, 5)


def test_the_newest_archive_waits_and_one_before_it_was_replaced(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    for digit in "12":
        days.ledger.windows.save_archive(days.context.fencing_token, renamed(archived(days), digit))
    assert counted(days) == {"replaced archives": 1, "waiting archives": 1}
    waiting = next(left for left in find_leftovers(days.workspace) if left.what == "waiting archives").as_dict()
    assert waiting["means"] == "archives that no generation names yet, the newest of their windows"
    assert "the next consolidation of their windows takes them up" in waiting["remedy"]


def test_a_file_that_the_ledger_does_not_know_is_left_behind_and_those_of_others_are_not(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    root = days.workspace.settings.home / "archive"
    for namespace in (days.workspace.namespace, f"{days.workspace.namespace}-other"):
        folder = root / namespace / "2021-06-17"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".states-1.tmp").write_bytes(b"half")
    assert counted(days) == {"unknown files": 1}
