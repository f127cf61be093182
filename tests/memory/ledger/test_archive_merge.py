"""Merging reads of one window: the same whatever came first."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.errors import ArchiveError
from memory.ledger import Archive, WindowJoin, content_digest, merge
from memory.tables import ORIGIN_DTYPE, ExperienceTable, StateTable, WindowData
from memory.window import Window
from tests.thoroughness import examples

MakeWindowData = Callable[..., WindowData]
START = 1_623_888_000_000


@dataclass(frozen=True)
class Record:
    """One agent's record of a state, as it stands in Redis; `value` sets all that records may disagree in."""

    agent: str
    product: str
    minute: int
    known: int
    recorded: int
    value: float
    features: tuple[str, ...]

    @property
    def memory_id(self) -> str:
        key = f"{self.agent}/{self.product}/{self.minute}"
        return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def read(records: Sequence[Record]) -> WindowData:
    """Tables of records as a read of them all makes them: the smallest memory id speaks for a state."""
    by_state: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        by_state.setdefault((record.product, record.minute), []).append(record)
    states = sorted(by_state)
    spoken = [min(by_state[state], key=lambda record: record.memory_id) for state in states]
    names = tuple(sorted({name for record in spoken for name in record.features}))
    lived = sorted(records, key=lambda record: (record.agent, record.product, record.minute))
    products, agents = (tuple(sorted({value(row) for row in records})) for value in (_product, _agent))

    def ints(values: Sequence[int]) -> np.ndarray:
        return np.array(values, dtype=np.int64)

    def floats(values: Sequence[object]) -> np.ndarray:
        return np.array(values, dtype=np.float64)

    state_table = StateTable(
        encoder_id="encoder-1",
        source="replay",
        feature_names=names,
        products=products,
        product=ints([products.index(product) for product, _ in states]),
        timestamp_ms=ints([START + 60_000 * minute for _, minute in states]),
        known_at_ms=ints([min(row.known for row in by_state[state]) for state in states]),
        recorded_at_ms=ints([min(row.recorded for row in by_state[state]) for state in states]),
        vectors=floats([[row.value] * 3 for row in spoken]).astype(np.float32).reshape(-1, 3),
        features=floats([[row.value if name in row.features else np.nan for name in names] for row in spoken]).reshape(
            len(spoken), len(names)
        ),
        price=floats([row.value for row in spoken]),
        spread=floats([np.nan if row.value > 2 else row.value for row in spoken]),
        regime=ints([int(row.value) % 3 for row in spoken]),
        origin=np.array([row.memory_id.encode() for row in spoken], dtype=ORIGIN_DTYPE),
    )
    value = floats([row.value for row in lived])
    experiences = ExperienceTable(
        encoder_id="encoder-1",
        source="replay",
        agents=agents,
        products=products,
        runs=("run",) if records else (),
        agent=ints([agents.index(row.agent) for row in lived]),
        product=ints([products.index(row.product) for row in lived]),
        run=ints([0] * len(lived)),
        timestamp_ms=ints([START + 60_000 * row.minute for row in lived]),
        known_at_ms=ints([row.known for row in lived]),
        recorded_at_ms=ints([row.recorded for row in lived]),
        step=ints([row.minute for row in lived]),
        regime=ints([int(row.value) % 3 for row in lived]),
        side=ints([1] * len(lived)),
        size=value,
        reward=value,
        gross_return=value,
        cost=value,
        position_before=value,
        position_after=value,
        confidence=value,
        quality=np.full(len(lived), np.nan),
        terminal=np.zeros(len(lived), dtype=np.bool_),
    )
    return WindowData(state_table, experiences)


def _product(record: Record) -> str:
    return record.product


def _agent(record: Record) -> str:
    return record.agent


def whole(data: WindowData) -> tuple[str, bytes, bytes, bytes, tuple[str, ...]]:
    """All of it, what the content digest leaves out included."""
    return (
        content_digest(data),
        data.states.recorded_at_ms.tobytes(),
        data.states.origin.tobytes(),
        data.experiences.recorded_at_ms.tobytes(),
        data.states.feature_names,
    )


record = st.builds(
    Record,
    agent=st.sampled_from(("hold", "mean", "momentum")),
    product=st.sampled_from(("BTC-USD", "ETH-USD")),
    minute=st.integers(0, 3),
    known=st.integers(1, 4),
    recorded=st.integers(5, 9),
    value=st.sampled_from((0.5, 1.5, 2.5)),
    features=st.sampled_from(((), ("a",), ("a", "b"), ("c",))),
)
records = st.lists(record, min_size=1, max_size=16, unique_by=lambda row: row.memory_id)


@settings(max_examples=examples(60, 360), deadline=None)
@given(records=records, shares=st.lists(st.integers(1, 7), min_size=16, max_size=16))
def test_any_split_into_reads_in_any_order_gives_what_one_read_of_all_gives(
    records: list[Record], shares: list[int]
) -> None:
    """Each share says, by its bits, which of three reads see a record: some see it twice, as late reads do."""
    reads = [[record for record, share in zip(records, shares, strict=False) if share & bit] for bit in (1, 2, 4)]
    parts = [read(rows) for rows in reads if rows]
    at_once = whole(read(records))
    for order in itertools.permutations(parts):
        assert whole(functools.reduce(merge, order)) == at_once


@settings(max_examples=examples(20, 120), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(archived=records, late=records, cut=st.integers(0, 4))
def test_joining_part_by_part_gives_the_files_of_merging_at_once(
    tmp_path: Path, window: Window, archived: list[Record], late: list[Record], cut: int
) -> None:
    """Late parts by product and, within each, cut at some minute; some products are on one side only."""
    archive = Archive(f"file://{tmp_path}")
    before = archive.write("default", window, read(archived))
    pieces = [
        [row for row in late if row.product == product and (row.minute < cut) == early]
        for product in ("BTC-USD", "ETH-USD")
        for early in (True, False)
    ]
    with archive.writer("default", window, "encoder-1", "replay") as writer:
        join = WindowJoin(writer, archive.parts(before))
        for piece in filter(None, pieces):
            join.append(read(piece))
        joined = join.close()
    assert joined == archive.write("default", window, merge(read(archived), read(late)))


def test_parts_of_several_products_are_joined_too(
    tmp_path: Path, window: Window, make_window_data: MakeWindowData
) -> None:
    archive = Archive(f"file://{tmp_path}")
    data = make_window_data(3, 20)
    even = WindowData(data.states.take(np.arange(0, 20, 2)), data.experiences.take(np.arange(0, 40, 2)))
    with archive.writer("default", window, "encoder-1", "replay") as writer:
        join = WindowJoin(writer, archive.parts(archive.write("default", window, even)))
        join.append(data)
        assert join.close() == archive.write("default", window, merge(even, data))


def test_the_cost_of_joining_grows_with_the_window_and_not_with_the_number_of_its_parts(
    tmp_path: Path, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[int] = []

    def counted(first: WindowData, second: WindowData) -> WindowData:
        merged.append(len(first.states) + len(second.states))
        return merge(first, second)

    monkeypatch.setattr("memory.ledger.archive_join.merge", counted)
    archive = Archive(f"file://{tmp_path}")
    rows = [Record("hold", "BTC-USD", minute, 1, 1, 0.5, ()) for minute in range(32)]
    with archive.writer("default", window, "encoder-1", "replay") as writer:
        join = WindowJoin(writer, archive.parts(archive.write("default", window, read(rows))))
        for row in rows:
            join.append(read([row]))
        join.close()
    # 32 parts in five rounds, and once with what was archived; one after the other they would be 591.
    assert sum(merged) == 5 * 32 + 64


def test_parts_that_are_joined_out_of_order_are_refused(tmp_path: Path, window: Window) -> None:
    archive = Archive(f"file://{tmp_path}")
    rows = [Record("hold", product, 0, 1, 1, 0.5, ()) for product in ("BTC-USD", "ETH-USD")]
    with archive.writer("default", window, "encoder-1", "replay") as writer:
        join = WindowJoin(writer, archive.parts(archive.write("default", window, read(rows))))
        join.append(read(rows[1:]))
        with pytest.raises(ArchiveError, match="BTC-USD comes after one of ETH-USD"):
            join.append(read(rows[:1]))


@settings(max_examples=examples(30, 180), deadline=None)
@given(first=records, second=records, third=records)
def test_records_that_came_back_with_other_content_are_settled_in_any_order(
    first: list[Record], second: list[Record], third: list[Record]
) -> None:
    """The same ids with other content, as after a record was removed and recorded again: one wins, always the same."""
    one, two, three = read(first), read(second), read(third)
    expected = whole(merge(merge(one, two), three))
    assert whole(merge(three, merge(one, two))) == expected
    assert whole(merge(one, merge(three, two))) == expected
    assert whole(merge(merge(one, two), merge(one, three))) == expected


def test_an_experience_that_was_recorded_twice_is_kept_as_recorded_first(make_window_data: MakeWindowData) -> None:
    data = make_window_data(1, 20)
    again = dataclasses.replace(
        data.experiences,
        recorded_at_ms=data.experiences.recorded_at_ms + 5,
        known_at_ms=data.experiences.known_at_ms + 5,
        reward=data.experiences.reward + 1,
    )
    for merged in (
        merge(data, WindowData(data.states, again)).experiences,
        merge(WindowData(data.states, again), data).experiences,
    ):
        np.testing.assert_array_equal(merged.reward, data.experiences.reward)
        np.testing.assert_array_equal(merged.recorded_at_ms, data.experiences.recorded_at_ms)
        np.testing.assert_array_equal(merged.known_at_ms, data.experiences.known_at_ms)


def test_a_state_whose_record_is_not_known_stays_before_any_other(make_window_data: MakeWindowData) -> None:
    """States from archives of the first format, which did not name the record that speaks for them."""
    unknown, named = make_window_data(1, 20), make_window_data(2, 20)
    origin = np.array([f"{row:032x}" for row in range(20)], dtype=ORIGIN_DTYPE)
    named = WindowData(dataclasses.replace(named.states, origin=origin), named.experiences)
    for merged in (merge(unknown, named), merge(named, unknown)):
        np.testing.assert_array_equal(merged.states.vectors, unknown.states.vectors)


def test_a_feature_that_only_one_side_has_is_unknown_on_the_other(make_window_data: MakeWindowData) -> None:
    early, late = make_window_data(0, 20, features=("a", "b")), make_window_data(0, 20, features=("b", "c"))
    even, odd = np.arange(0, 20, 2), np.arange(1, 20, 2)
    merged = merge(
        WindowData(early.states.take(even), early.experiences), WindowData(late.states.take(odd), late.experiences)
    ).states
    assert merged.feature_names == ("a", "b", "c")
    assert np.isnan(merged.feature("a")).sum() == np.isnan(merged.feature("c")).sum() == 10
    assert not np.isnan(merged.feature("b")).any()


def test_windows_of_different_sources_are_not_merged(make_window_data: MakeWindowData) -> None:
    with pytest.raises(ArchiveError, match="encoder-1/replay and encoder-1/live cannot be merged"):
        merge(make_window_data(), make_window_data(source="live"))
