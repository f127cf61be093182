"""What tasks read of a window's archive in pieces amounts to what the whole window gives, bit for bit."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.learning import serial
from memory.learning.outcomes import compute_outcomes
from memory.learning.partitions import assign_partitions
from memory.learning.regime_memory import summarise_regimes
from memory.learning.scorecard import remembered_states
from memory.learning.settings import DEFAULT_SETTINGS
from memory.learning.summaries import summarise_partition
from memory.ledger import Archive, ArchiveReference
from memory.records import MIXED, REGIMES, to_ms
from memory.tables import TRAILING_VOLATILITY, ExperienceTable, StateTable, WindowData
from memory.window import Window
from tasks import part_reading
from tasks.part_reading import PartReader, joined_states, partitions_of, read_partition, summarise_regimes_of

WINDOW = Window.of_date(date(2021, 6, 17))
"""The day that is made up."""
PRODUCTS = ("BTC-USD", "ETH-USD", "LTC-USD")
MINUTES = 500


def day() -> WindowData:
    """Three products whose regimes turn every half hour, QUIET most of the time; two agents see two states in three."""
    random = np.random.default_rng(3)
    n = len(PRODUCTS) * MINUTES
    product = np.repeat(np.arange(len(PRODUCTS)), MINUTES)
    times = to_ms(WINDOW.start) + 60_000 * np.tile(np.arange(MINUTES, dtype=np.int64), len(PRODUCTS))
    vectors = random.standard_normal((n, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    spells = random.permutation(np.repeat([0, 1, 2, 3, 3, 3], 9))[: n // 30 + 1]
    regime = np.repeat(spells, 30)[:n].astype(np.int64)
    features = np.column_stack([random.standard_normal(n), np.full(n, 5e-4)])
    features[::7, 0] = np.nan
    states = StateTable(
        encoder_id="enc",
        source="replay",
        feature_names=("return", TRAILING_VOLATILITY),
        products=PRODUCTS,
        product=product,
        timestamp_ms=times,
        known_at_ms=times + 60_000,
        recorded_at_ms=times + 61_000,
        vectors=vectors,
        features=features,
        price=100.0 * np.exp(np.cumsum(random.standard_normal(n) * 5e-4)),
        spread=np.full(n, np.nan),
        regime=regime,
    )
    seen = np.flatnonzero(np.arange(n) % 3 > 0)
    rows = np.tile(seen, 2)
    count = len(rows)
    numbers = {name: random.random(count) for name in ("size", "gross_return", "cost", "position_after", "confidence")}
    experiences = ExperienceTable(
        encoder_id="enc",
        source="replay",
        agents=("hold", "scout"),
        products=PRODUCTS,
        runs=("r",),
        agent=np.repeat(np.arange(2), len(seen)),
        product=product[rows],
        run=np.zeros(count, dtype=np.int64),
        timestamp_ms=times[rows],
        known_at_ms=times[rows] + 60_000,
        recorded_at_ms=times[rows] + 61_000,
        step=np.tile(np.arange(len(seen)), 2),
        regime=regime[rows],
        side=random.integers(-1, 2, count),
        reward=random.standard_normal(count) * 1e-3,
        position_before=np.full(count, np.nan),
        quality=np.full(count, np.nan),
        terminal=np.zeros(count, dtype=np.bool_),
        **numbers,
    )
    return WindowData(states, experiences)


DAY = day()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive of small row groups."""
    monkeypatch.setattr("memory.ledger.archive_writer.ROW_GROUP_ROWS", 64)
    return Archive(tmp_path.as_uri())


@pytest.fixture
def reference(archive: Archive) -> ArchiveReference:
    """The day, archived."""
    return archive.write("default", WINDOW, DAY)


@given(counts=st.lists(st.integers(0, 700), min_size=5, max_size=5))
def test_partitions_by_code_are_partitions_by_name(counts: list[int]) -> None:
    regime = np.random.default_rng(0).permutation(np.repeat(np.arange(5), counts))
    n = len(regime)
    none = np.zeros(n, dtype=np.int64)
    table = StateTable(
        *("enc", "replay", (), ("P",)),
        *(none, none, none, none),
        *(np.zeros((n, 0), dtype=np.float32), np.zeros((n, 0)), np.zeros(n), np.zeros(n), regime),
    )
    assert partitions_of(table).tolist() == assign_partitions([REGIMES[code] for code in regime]).tolist()


@pytest.mark.parametrize("regime", ["QUIET", MIXED])
def test_a_partition_read_alone_is_summarised_like_one_of_the_whole_window(
    archive: Archive, reference: ArchiveReference, regime: str
) -> None:
    rows = np.flatnonzero(partitions_of(DAY.states) == regime)
    assert 300 < len(rows) < len(DAY.states)
    labels = np.random.default_rng(1).integers(-1, 3, len(rows))
    how = {"window": WINDOW, "regime": regime, "settings": DEFAULT_SETTINGS}
    states, outcomes = read_partition(archive, reference, regime, DEFAULT_SETTINGS)
    lived = archive.experiences(reference, of=states)
    alone = summarise_partition(
        states, np.arange(len(states)), labels, [False] * 3, outcomes=outcomes, experiences=lived, **how
    )
    whole = summarise_partition(DAY.states, rows, labels, [False] * 3, experiences=DAY.experiences, **how)
    assert len(lived) < len(DAY.experiences)
    assert any(cluster.realised for cluster in whole.clusters)
    assert serial.encode(alone) == serial.encode(whole)


def test_outcomes_of_a_partition_look_into_the_regimes_beside_it(archive: Archive, reference: ArchiveReference) -> None:
    rows = np.flatnonzero(partitions_of(DAY.states) == "QUIET")
    _, outcomes = read_partition(archive, reference, "QUIET", DEFAULT_SETTINGS)
    alone = compute_outcomes(DAY.states.take(rows), DEFAULT_SETTINGS)
    np.testing.assert_array_equal(outcomes.measures, compute_outcomes(DAY.states, DEFAULT_SETTINGS).measures[rows])
    assert not np.array_equal(outcomes.measures, alone.measures, equal_nan=True)


@pytest.mark.parametrize("rows_at_once", [1, 100, 10_000])
def test_regimes_are_summarised_in_pieces_of_any_size(
    archive: Archive, reference: ArchiveReference, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_reading, "ROWS_AT_ONCE", rows_at_once)
    in_pieces = summarise_regimes_of(PartReader(archive, reference), WINDOW, DEFAULT_SETTINGS)
    assert serial.encode(in_pieces) == serial.encode(summarise_regimes(DAY.states, WINDOW, DEFAULT_SETTINGS))


def test_experiences_are_read_by_the_states_that_they_were_lived_through_in(
    archive: Archive, reference: ArchiveReference
) -> None:
    states = DAY.states.take(np.array([1, 2, 64, 499, 501, 1_400]))
    lived = archive.experiences(reference, of=states)
    keys = {(DAY.states.products[code], time) for code, time in zip(states.product, states.timestamp_ms, strict=True)}
    wanted = [
        row
        for row in range(len(DAY.experiences))
        if (PRODUCTS[DAY.experiences.product[row]], DAY.experiences.timestamp_ms[row]) in keys
    ]
    np.testing.assert_array_equal(lived.reward, DAY.experiences.reward[wanted])
    assert (lived.agents, lived.products) == (DAY.experiences.agents, PRODUCTS)


def test_windows_that_are_joined_one_at_a_time_are_those_that_are_joined_whole(
    archive: Archive, reference: ArchiveReference
) -> None:
    following = Window.containing(WINDOW.end)
    later = dataclasses.replace(
        DAY.states,
        feature_names=("other", TRAILING_VOLATILITY),
        products=("ADA-USD", "ETH-USD", "XRP-USD"),
        timestamp_ms=DAY.states.timestamp_ms + to_ms(following.start) - to_ms(WINDOW.start),
        vectors=DAY.states.vectors[::-1].copy(),
    )
    second = archive.write("default", following, WindowData(later, DAY.experiences))
    joined = joined_states([reference, second], archive.opened_states)
    whole = remembered_states([DAY.states, later])
    assert joined is not None
    assert whole is not None
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(joined, field.name), getattr(whole, field.name), err_msg=field.name)
    assert joined.vectors.dtype == np.float32
    assert joined_states([], archive.opened_states) is None
