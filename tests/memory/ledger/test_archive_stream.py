"""The archive part by part: written in pieces of any size, read by columns, products and rows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.errors import ArchiveError, ArchiveUnavailableError
from memory.ledger import Archive, ArchivedFile, ArchiveReference, content_digest, merge
from memory.records import from_ms
from memory.tables import WindowData
from memory.window import Window

MakeWindowData = Callable[..., WindowData]
FORMAT_1 = Path(__file__).with_name("format_1")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive of small row groups, so that windows of some rows have several."""
    monkeypatch.setattr("memory.ledger.archive_writer.ROW_GROUP_ROWS", 7)
    return Archive(f"file://{tmp_path}")


def cut(data: WindowData, places: Sequence[int]) -> list[WindowData]:
    """The window cut before the states with these numbers, each part with the experiences of its states."""
    bounds = [0, *sorted(places), len(data.states)]
    position = {
        (int(product), int(time)): row
        for row, (product, time) in enumerate(zip(data.states.product, data.states.timestamp_ms, strict=True))
    }
    lived = np.array(
        [
            position[int(product), int(time)]
            for product, time in zip(data.experiences.product, data.experiences.timestamp_ms, strict=True)
        ]
    )
    return [
        WindowData(data.states.take(np.arange(first, last)), data.experiences.take((lived >= first) & (lived < last)))
        for first, last in itertools.pairwise(bounds)
    ]


def stream(archive: Archive, window: Window, parts: Sequence[WindowData]) -> ArchiveReference:
    with archive.writer("default", window, "encoder-1", "replay") as writer:
        for part in parts:
            writer.append(part)
        return writer.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, 40), max_size=6))
def test_a_window_cut_anywhere_gives_the_same_files_byte_for_byte(
    archive: Archive, window: Window, make_window_data: MakeWindowData, places: list[int]
) -> None:
    data = make_window_data(4, 40)
    assert stream(archive, window, cut(data, places)) == archive.write("default", window, data)


def test_the_reference_says_when_the_last_experience_was_known(
    archive: Archive, window: Window, make_window_data: MakeWindowData
) -> None:
    data = make_window_data(4, 40)
    reference = stream(archive, window, cut(data, [10, 30]))
    assert reference.known_at_max == from_ms(int(data.experiences.known_at_ms.max()))
    assert reference.format == 2
    assert reference.derived_from is None


@pytest.mark.parametrize("place", [3, 33])
def test_a_feature_that_comes_late_is_unknown_before(
    archive: Archive, window: Window, make_window_data: MakeWindowData, place: int
) -> None:
    """Before the first row group was written, and after several were."""
    data = make_window_data(4, 40)
    early, late = cut(data, [place])
    early = WindowData(dataclasses.replace(early.states, feature_names=("b", "c")), early.experiences)
    reference = stream(archive, window, [early, late])
    read = archive.read(reference)
    assert read.states.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(np.isnan(read.states.feature("a")), np.arange(40) < place)
    np.testing.assert_array_equal(read.states.feature("b")[place:], data.states.features[place:, 1])
    np.testing.assert_array_equal(read.states.feature("b")[:place], data.states.features[:place, 0])
    assert content_digest(read) == reference.content_digest
    assert archive.write("default", window, read) == reference


def test_a_feature_that_no_state_has_is_no_content(make_window_data: MakeWindowData) -> None:
    data = make_window_data(4, 40)
    wider = dataclasses.replace(
        data.states,
        feature_names=("a", "b", "nobody"),
        features=np.column_stack([data.states.features, np.full(40, np.nan)]),
    )
    assert content_digest(WindowData(wider, data.experiences)) == content_digest(data)


def test_names_enter_the_digest_and_codes_do_not(make_window_data: MakeWindowData) -> None:
    data = make_window_data(4, 40)
    lived = data.experiences
    shifted = dataclasses.replace(lived, agents=("absent", *lived.agents), agent=lived.agent + 1)
    renamed = dataclasses.replace(lived, agents=("hold", "renamed"))
    assert content_digest(WindowData(data.states, shifted)) == content_digest(data)
    assert content_digest(WindowData(data.states, renamed)) != content_digest(data)


def test_parts_out_of_order_are_refused_and_leave_nothing_behind(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path
) -> None:
    first, second = cut(make_window_data(4, 40), [20])
    with pytest.raises(ArchiveError, match="states of a part do not come in the order"):
        stream(archive, window, [second, first])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_part_of_another_source_is_refused(
    archive: Archive, window: Window, make_window_data: MakeWindowData
) -> None:
    with pytest.raises(ArchiveError, match="encoder-1/live does not belong"):
        stream(archive, window, [make_window_data(source="live")])


def test_a_writer_that_is_not_closed_leaves_nothing_behind(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path
) -> None:
    with archive.writer("default", window, "encoder-1", "replay") as writer:
        writer.append(make_window_data(4, 40))
        assert [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_place_that_fails_when_a_late_feature_widens_the_file_is_left_empty(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cut(make_window_data(20, 40), [15])
    names = ("a new feature", *second.states.feature_names)
    features = np.column_stack([np.ones(len(second.states)), second.states.features])
    late = WindowData(dataclasses.replace(second.states, feature_names=names, features=features), second.experiences)

    def full_disk(sink: object, data: object) -> int:
        raise OSError(28, "No space left on device")

    with archive.writer("default", window, "encoder-1", "replay") as writer:
        writer.append(first)
        assert [path for path in tmp_path.rglob("*") if path.is_file()]
        with monkeypatch.context() as patch:
            patch.setattr("memory.ledger.archive_files._HashingSink.write", full_disk)
            with pytest.raises(ArchiveUnavailableError, match="No space left"):
                writer.append(late)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_archive_of_nothing_is_refused(archive: Archive, window: Window) -> None:
    with pytest.raises(ArchiveError, match="nothing was appended"):
        stream(archive, window, [])


# --- reading less than all ------------------------------------------------------------------------------------


def test_wide_columns_are_read_by_name(archive: Archive, window: Window, make_window_data: MakeWindowData) -> None:
    data = make_window_data(4, 40)
    reference = archive.write("default", window, data)
    narrow = archive.states(reference, columns=("b", "unheard of"))
    assert (narrow.vectors.shape, narrow.feature_names) == ((40, 0), ("b",))
    np.testing.assert_array_equal(narrow.features[:, 0], data.states.features[:, 1])
    np.testing.assert_array_equal(narrow.regime, data.states.regime)
    full = archive.states(reference, columns=("vectors",))
    np.testing.assert_array_equal(full.vectors, data.states.vectors)
    assert full.features.shape == (40, 0)


def test_states_are_read_by_number(archive: Archive, window: Window, make_window_data: MakeWindowData) -> None:
    data = make_window_data(4, 40)
    rows = np.array([0, 6, 7, 8, 39])
    read = archive.states(archive.write("default", window, data), rows=rows)
    np.testing.assert_array_equal(read.vectors, data.states.vectors[rows])
    np.testing.assert_array_equal(read.timestamp_ms, data.states.timestamp_ms[rows])


def test_products_are_read_by_name(archive: Archive, window: Window, make_window_data: MakeWindowData) -> None:
    data = make_window_data(4, 40)
    reference = archive.write("default", window, data)
    read = archive.read(reference, products=["ETH-USD"])
    assert read.states.products == read.experiences.products == ("ETH-USD",)
    np.testing.assert_array_equal(read.states.vectors, data.states.vectors[data.states.product == 1])
    np.testing.assert_array_equal(read.experiences.reward, data.experiences.reward[data.experiences.product == 1])
    both = archive.states(reference, products=["ETH-USD"], rows=[0, 1, 38, 39])
    np.testing.assert_array_equal(both.vectors, data.states.vectors[[38, 39]])
    assert len(archive.read(reference, products=["nobody"]).states) == 0


def test_merging_product_by_product_gives_what_merging_at_once_gives(
    archive: Archive, window: Window, make_window_data: MakeWindowData
) -> None:
    data = make_window_data(4, 40)
    even = WindowData(data.states.take(np.arange(0, 40, 2)), data.experiences.take(np.arange(0, 80, 2)))
    late = {part.states.products[0]: part for part in archive.parts(archive.write("default", window, data))}
    parts = [
        merge(part, late[part.states.products[0]]) for part in archive.parts(archive.write("default", window, even))
    ]
    assert stream(archive, window, parts) == archive.write("default", window, merge(even, data))


# --- what older software left, and what is not there ----------------------------------------------------------


@pytest.fixture
def first_format(window: Window) -> ArchiveReference:
    """The window of seed 5 with 12 states, as software of the first format archived it."""
    files = {
        path.name.partition("-")[0]: ArchivedFile(
            path.name, path.stem.partition("-")[2], 12 if path.name.startswith("states") else 24, path.stat().st_size
        )
        for path in FORMAT_1.glob("*.parquet")
    }
    return ArchiveReference(
        namespace="default",
        window=window,
        encoder_id="encoder-1",
        source="replay",
        content_digest="",
        format=1,
        **files,
    )


def test_an_archive_of_the_first_format_is_read(
    first_format: ArchiveReference, make_window_data: MakeWindowData
) -> None:
    archive = Archive(f"file://{FORMAT_1}")
    data = make_window_data(5, 12)
    read = archive.read(first_format)
    assert content_digest(read) == content_digest(data)
    np.testing.assert_array_equal(read.experiences.quality, data.experiences.quality)
    assert set(read.states.origin) == {b""}
    one = archive.read(first_format, products=["ETH-USD"])
    np.testing.assert_array_equal(one.experiences.reward, data.experiences.reward[data.experiences.product == 1])


def test_an_archive_that_is_not_mounted_is_not_taken_for_lost(
    archive: Archive, window: Window, make_window_data: MakeWindowData, tmp_path: Path
) -> None:
    reference = archive.write("default", window, make_window_data())
    away = tmp_path.with_name(f"{tmp_path.name}-away")
    tmp_path.rename(away)
    with pytest.raises(ArchiveUnavailableError, match="is not under"):
        archive.verify(reference)
    away.rename(tmp_path)
    archive.verify(reference)
    (tmp_path / reference.states.path).unlink()
    with pytest.raises(ArchiveError, match="is not under") as lost:
        archive.verify(reference)
    assert not isinstance(lost.value, ArchiveUnavailableError)
