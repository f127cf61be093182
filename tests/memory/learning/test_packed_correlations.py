"""Sums of correlations as bytes: the same, byte for byte, as those that objects give, at every step."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime

import msgspec
import numpy as np
import pytest

from memory.errors import InvalidRecordError
from memory.learning import packed_correlations, serial
from memory.learning.context import ProjectionContext
from memory.learning.correlation_memory import project_correlations
from memory.learning.correlations import (
    CorrelationSettings,
    CorrelationSummary,
    fold_correlations,
    summarise_correlations,
)
from memory.learning.packed_correlations import PackedCorrelations, fold_packed, pack_window
from memory.records import to_ms
from memory.tables import StateTable
from memory.window import Window

WINDOWS = [Window.of_date(date(2021, 6, day)) for day in (17, 18, 19)]
PRODUCTS = [("A", "B", "C"), ("B", "C", "D"), ("A", "D")]
"""Of each window: pairs come, go and come back."""
CONTEXT = ProjectionContext("enc", "replay", "default/enc/1", datetime(2021, 6, 20, tzinfo=UTC))


def states(number: int, products: tuple[str, ...] | None = None, minutes: int = 400) -> StateTable:
    """Prices of some products with something in common, minute by minute, in two regimes."""
    window, products = WINDOWS[number], products if products is not None else PRODUCTS[number]
    rng = np.random.default_rng(number)
    returns = 5 * rng.standard_normal(minutes) + rng.standard_normal((len(products), minutes))
    count = len(products) * minutes
    times = np.tile(to_ms(window.start) + 60_000 * np.arange(minutes, dtype=np.int64), len(products))
    return StateTable(
        encoder_id="enc",
        source="replay",
        feature_names=(),
        products=products,
        product=np.repeat(np.arange(len(products), dtype=np.int64), minutes),
        timestamp_ms=times,
        known_at_ms=times,
        recorded_at_ms=times,
        vectors=np.zeros((count, 0), dtype=np.float32),
        features=np.zeros((count, 0)),
        price=(100 * np.exp(np.cumsum(returns * 1e-3, axis=1))).ravel(),
        spread=np.full(count, np.nan),
        regime=np.tile(np.arange(minutes) // 60 % 2, len(products)).astype(np.int64),
    )


def test_a_window_is_packed_as_objects_would_be() -> None:
    packed = pack_window(states(0), WINDOWS[0])
    assert packed.data == serial.encode(summarise_correlations(states(0), WINDOWS[0]))
    assert PackedCorrelations.of(serial.decode(packed.data, CorrelationSummary)).data == packed.data
    nothing = pack_window(states(0, ("A",)), WINDOWS[0])
    assert nothing.data == serial.encode(summarise_correlations(states(0, ("A",)), WINDOWS[0]))


def test_windows_are_folded_as_objects_would_be_and_mean_the_same() -> None:
    objects: CorrelationSummary | None = None
    packed: PackedCorrelations | None = None
    for number, window in enumerate(WINDOWS):
        objects = fold_correlations(objects, summarise_correlations(states(number), window))
        packed = fold_packed(packed, pack_window(states(number), window))
        assert packed.data == serial.encode(objects)
    assert objects is not None
    assert packed is not None
    assert len({(pair.first, pair.second) for pair in packed.pairs}) == 6
    found = project_correlations(packed, CONTEXT)
    expected = project_correlations(objects, CONTEXT)
    assert [asdict(memory) for memory in found] == [asdict(memory) for memory in expected]
    assert any(memory.claimed for memory in found)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_a_list_of_any_length_begins_as_messagepack_begins_it(count: int) -> None:
    expected = msgspec.msgpack.encode([None] * count)
    assert packed_correlations._array_of(count) == expected[: len(expected) - count]


def test_sums_of_other_settings_are_not_added() -> None:
    other = pack_window(states(1), WINDOWS[1], CorrelationSettings(max_lag=5))
    with pytest.raises(InvalidRecordError, match="never mixed"):
        fold_packed(pack_window(states(0), WINDOWS[0]), other)


def test_damaged_bytes_are_refused() -> None:
    data = pack_window(states(0), WINDOWS[0]).data
    for damaged in (data[:-1], b"\x93", b""):
        with pytest.raises(InvalidRecordError, match="no sums of correlations"):
            PackedCorrelations(damaged)
