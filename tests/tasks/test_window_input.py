"""A window that is archived in parts: the same files, digests and counts as if it were read as a whole."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from memory.errors import SealedWindowError, StoreUnavailableError
from memory.ledger import Archive, ArchiveReference, merge
from memory.store.windows import read_window_data, window_parts
from memory.tables import WindowData
from tasks import window_input
from tasks.window_input import ArchivedInput, archive_inputs

PART_ROWS = 50


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of some hundred experiences have many parts and row groups."""
    monkeypatch.setattr(window_input, "window_parts", functools.partial(window_parts, part_rows=PART_ROWS))
    monkeypatch.setattr("memory.ledger.archive_writer.ROW_GROUP_ROWS", 64)


def archived(days: Any) -> ArchivedInput:
    """What the first day comes to."""
    (found,) = archive_inputs(days.workspace, days.context.fencing_token, days.window(0))
    return found


def held_in_redis(days: Any) -> WindowData:
    """The first day read as a whole."""
    (data,) = days.with_memory(lambda mem: read_window_data(mem, days.window(0))).values()
    return data


def written_at_once(days: Any, data: WindowData, folder: Path) -> ArchiveReference:
    """The same window written as a whole, into an archive of its own."""
    return Archive(folder.as_uri()).write(days.workspace.namespace, days.window(0), data)


def test_a_window_in_parts_gives_the_files_of_the_whole_window(days: Any, tmp_path: Path) -> None:
    days.record(0)
    days.record(0, agent="other", product="Q", count=70)
    found = archived(days)
    whole = held_in_redis(days)
    assert found.reference == written_at_once(days, whole, tmp_path / "once")
    assert found.recorded_cut_ms == whole.experiences.recorded_at_ms.max()
    assert found.known_at_ms == whole.experiences.known_at_ms.max()
    assert found.states_by_regime == {"QUIET": 375}


def test_late_records_join_what_was_archived_as_if_both_were_read_at_once(days: Any, tmp_path: Path) -> None:
    days.record(0)
    archived(days)
    before = held_in_redis(days)
    days.forget(0)
    days.record(0, agent="latecomer", count=90)
    days.record(0, agent="latecomer", product="A", count=20)
    found = archived(days)
    late = held_in_redis(days)
    assert found.reference == written_at_once(days, merge(before, late), tmp_path / "once")
    assert found.recorded_cut_ms == late.experiences.recorded_at_ms.max()
    assert found.states_by_regime == {"QUIET": 325}


def test_a_window_that_only_the_archive_holds_keeps_its_files(days: Any) -> None:
    days.record(0)
    before = archived(days)
    days.forget(0)
    assert archived(days) == before
    assert len(days.archived_files(0)) == 2


def test_a_lost_archive_is_written_again_from_parts_that_are_all_it_held(days: Any) -> None:
    days.record(0)
    days.record(0, product="Q", count=70)
    before, files = archived(days), days.archived_files(0)
    days.lose_archive(0)
    assert archived(days) == before
    assert days.archived_files(0) == files


def test_parts_that_are_less_than_a_lost_archive_held_are_refused_and_leave_no_file(days: Any) -> None:
    days.record(0)
    archived(days)
    days.lose_archive(0)
    days.forget(0)
    days.record(0, count=300)
    with pytest.raises(SealedWindowError, match="no longer holds all of it"):
        archived(days)
    assert days.archived_files(0) == []


def test_a_reader_that_fails_half_way_leaves_no_file_and_can_be_repeated(
    days: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.record(0)

    async def interrupted(*arguments: Any) -> Any:
        number = 0
        async for part in window_parts(*arguments, part_rows=PART_ROWS):
            yield part
            number += 1
            if number == 2:
                raise StoreUnavailableError("Redis went away.", remedy="Try again.")

    with monkeypatch.context() as patch:
        patch.setattr(window_input, "window_parts", interrupted)
        with pytest.raises(StoreUnavailableError):
            archived(days)
    folder = days.workspace.settings.home / "archive"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert archived(days).reference.states.rows == 305
