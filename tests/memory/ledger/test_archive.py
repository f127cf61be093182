"""The archive: bit for bit, named by content, checked when read."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from memory.errors import ArchiveError, ArchiveUnavailableError, InvalidRecordError
from memory.ledger import Archive, content_digest
from memory.tables import ExperienceTable, StateTable, WindowData
from memory.window import Window
from tests.thoroughness import examples

MakeWindowData = Callable[..., WindowData]


def assert_identical(left: WindowData, right: WindowData) -> None:
    """Same names, types, shapes and bits; NaN of one payload is not NaN of another."""
    pairs: list[tuple[StateTable | ExperienceTable, StateTable | ExperienceTable]] = [
        (left.states, right.states),
        (left.experiences, right.experiences),
    ]
    for one, other in pairs:
        for field in dataclasses.fields(one):
            ours, theirs = getattr(one, field.name), getattr(other, field.name)
            if isinstance(ours, np.ndarray):
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), field.name
                assert ours.tobytes() == theirs.tobytes(), field.name
            else:
                assert ours == theirs, field.name


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(f"file://{tmp_path}")


def test_a_window_comes_back_bit_for_bit(archive: Archive, window: Window, make_window_data: MakeWindowData) -> None:
    data = make_window_data()
    reference = archive.write("default", window, data)
    read = archive.read(reference)
    assert_identical(read, data)
    assert content_digest(read) == reference.content_digest
    assert archive.exists(reference)
    assert (reference.states.rows, reference.experiences.rows) == (60, 120)


def test_arrays_that_were_read_can_be_written_to(
    archive: Archive, window: Window, make_window_data: MakeWindowData
) -> None:
    read = archive.read(archive.write("default", window, make_window_data()))
    for table in (read.states, read.experiences):
        for field in dataclasses.fields(table):
            value = getattr(table, field.name)
            assert not isinstance(value, np.ndarray) or (value.flags.writeable and value.flags.c_contiguous)


def test_more_rows_than_one_row_group_come_back(
    archive: Archive, window: Window, make_window_data: MakeWindowData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory.ledger.archive_writer.ROW_GROUP_ROWS", 7)
    data = make_window_data(3, 50)
    assert_identical(archive.read(archive.write("default", window, data)), data)


def test_an_empty_window_comes_back(archive: Archive, window: Window, make_window_data: MakeWindowData) -> None:
    data = make_window_data()
    none = np.empty(0, dtype=np.intp)
    empty = WindowData(data.states.take(none), data.experiences.take(none))
    assert_identical(archive.read(archive.write("default", window, empty)), empty)


@settings(max_examples=examples(15, 90), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bits=npst.arrays(np.uint64, 40, elements=st.integers(0, 2**64 - 1)), ints=npst.arrays(np.int64, 10))
def test_any_bits_of_a_float_survive(
    archive: Archive, window: Window, make_window_data: MakeWindowData, bits: np.ndarray, ints: np.ndarray
) -> None:
    data = make_window_data(0, 10)
    floats = bits.view(np.float64)
    states = dataclasses.replace(
        data.states,
        features=floats[:20].reshape(10, 2),
        price=floats[20:30],
        spread=floats[30:],
        known_at_ms=ints,
        vectors=np.tile(bits.view(np.float32), 1).reshape(10, 8),
    )
    changed = WindowData(states, data.experiences)
    assert_identical(archive.read(archive.write("default", window, changed)), changed)


def test_nan_of_different_payloads_and_both_zeros_stay_apart(
    archive: Archive, window: Window, make_window_data: MakeWindowData
) -> None:
    odd = np.array([0x7FF8_0000_0000_0000, 0x7FF8_0000_0000_0001, 0xFFF8_0000_0000_0000, 1 << 63, 0], dtype=np.uint64)
    data = make_window_data(0, 10)
    states = dataclasses.replace(data.states, spread=np.tile(odd, 2).view(np.float64))
    changed = WindowData(states, data.experiences)
    assert_identical(archive.read(archive.write("default", window, changed)), changed)


def test_the_same_content_is_the_same_file(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path
) -> None:
    first = archive.write("default", window, make_window_data())
    written = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    again = archive.write("default", window, archive.read(first))
    assert again == first
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == written
    assert written == [f"experiences-{first.experiences.sha256}.parquet", f"states-{first.states.sha256}.parquet"]


def test_another_state_is_another_file(archive: Archive, window: Window, make_window_data: MakeWindowData) -> None:
    data = make_window_data()
    vectors = data.states.vectors.copy()
    vectors[0, 0] = np.nextafter(vectors[0, 0], np.float32(2))
    other = WindowData(dataclasses.replace(data.states, vectors=vectors), data.experiences)
    first, second = archive.write("default", window, data), archive.write("default", window, other)
    assert first.states.path != second.states.path
    assert first.content_digest != second.content_digest
    assert first.experiences == second.experiences


def test_the_content_digest_does_not_depend_on_the_quality_given_to_it(make_window_data: MakeWindowData) -> None:
    data = make_window_data()
    scored = dataclasses.replace(data.experiences, quality=np.full(len(data.experiences), 0.5))
    assert content_digest(WindowData(data.states, scored)) == content_digest(data)


def test_a_password_in_the_place_of_an_archive_is_not_shown(tmp_path: Path) -> None:
    assert Archive(f"file://{tmp_path}").display_url == f"file://{tmp_path}"
    with pytest.raises(ArchiveError) as raised:
        Archive("nowhere://user:secret@host/archive")
    assert "secret" not in str(raised.value)
    assert "nowhere://***@host/archive" in str(raised.value)


def test_the_content_digest_does_not_depend_on_when_it_was_recorded(make_window_data: MakeWindowData) -> None:
    data = make_window_data()
    later = WindowData(
        dataclasses.replace(data.states, recorded_at_ms=data.states.recorded_at_ms + 1),
        dataclasses.replace(data.experiences, recorded_at_ms=data.experiences.recorded_at_ms + 1),
    )
    assert content_digest(later) == content_digest(data)


@pytest.mark.parametrize("position", [0, 100, -200, -1])
def test_a_changed_byte_is_refused(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path, position: int
) -> None:
    reference = archive.write("default", window, make_window_data())
    path = tmp_path / reference.states.path
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="does not match its hash"):
        archive.read(reference)


def test_a_damaged_file_is_healed_by_writing_again(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path
) -> None:
    data = make_window_data()
    reference = archive.write("default", window, data)
    (tmp_path / reference.states.path).write_bytes(b"cut short")
    assert not archive.exists(reference)
    assert archive.write("default", window, data) == reference
    assert_identical(archive.read(reference), data)


def test_a_missing_file_is_named_with_the_remedy(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path
) -> None:
    reference = archive.write("default", window, make_window_data())
    (tmp_path / reference.experiences.path).unlink()
    assert not archive.exists(reference)
    with pytest.raises(ArchiveError, match=r"experiences-.* is not under .*COINSWARM_ARCHIVE_URL"):
        archive.read(reference)


def test_an_archive_that_was_moved_as_a_whole_is_read(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path
) -> None:
    data = make_window_data()
    reference = archive.write("default", window, data)
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    assert_identical(Archive(f"file://{moved}").read(reference), data)


def test_other_filesystems_than_the_local_one_work(window: Window, make_window_data: MakeWindowData) -> None:
    archive = Archive(f"memory://{uuid.uuid4().hex}")
    data = make_window_data()
    reference = archive.write("default", window, data)
    assert archive.exists(reference)
    assert_identical(archive.read(reference), data)


@pytest.mark.parametrize("written", [0, 1])
def test_a_failed_write_leaves_nothing_that_looks_whole(
    written: int,
    archive: Archive,
    window: Window,
    make_window_data: MakeWindowData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fsync, room = os.fsync, [None] * written

    def full_disk(descriptor: int) -> None:
        if not room:
            raise OSError(28, "No space left on device")
        room.pop()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ArchiveError, match=r"No space left on device.*free space"):
        archive.write("default", window, make_window_data())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_reader_does_wrong_is_not_blamed_on_the_archive(
    archive: Archive, window: Window, make_window_data: MakeWindowData
) -> None:
    reference = archive.write("default", window, make_window_data())
    with pytest.raises(ValueError, match="row 3") as raised, archive.opened_states(reference):
        raise ValueError("row 3 is wrong")
    assert not isinstance(raised.value, ArchiveError)
    with pytest.raises(ArchiveUnavailableError, match="Stale"), archive.opened_states(reference):
        raise OSError(116, "Stale file handle")


def test_a_place_that_cannot_be_written_to_is_named(
    window: Window, make_window_data: MakeWindowData, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    archive = Archive(f"file://{tmp_path}/file")
    with pytest.raises(ArchiveError, match=r"cannot be written.*COINSWARM_ARCHIVE_URL"):
        archive.write("default", window, make_window_data())


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ArchiveError, match="nonsense"):
        Archive("nonsense://bucket/folder")


def test_names_that_leave_the_folder_are_refused(
    archive: Archive, window: Window, make_window_data: MakeWindowData
) -> None:
    data = make_window_data()
    with pytest.raises(ArchiveError, match="no namespace"):
        archive.write("../elsewhere", window, data)
    states = dataclasses.replace(data.states, encoder_id="../elsewhere")
    with pytest.raises(InvalidRecordError, match="encoder_id"):
        archive.write("default", window, WindowData(states, data.experiences))


def test_codes_beyond_the_names_are_refused(archive: Archive, window: Window, make_window_data: MakeWindowData) -> None:
    data = make_window_data()
    states = dataclasses.replace(data.states, regime=data.states.regime + 99)
    with pytest.raises(ArchiveError, match="'regime'"):
        archive.write("default", window, WindowData(states, data.experiences))
