"""Correlations of many products: their sums as bytes, read, merged and written pair by pair.

100 products are 4,950 pairs, and with bars and regimes some 60,000 sets of sums: 340 MB. As objects they take several
times as much, and a fold holds them more than once. The bytes are those that `serial` makes of a
`CorrelationSummary`, so whoever reads or writes one can do it either way.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import msgspec

from memory.errors import InvalidRecordError
from memory.learning import serial
from memory.learning.correlations import (
    DEFAULT_SETTINGS,
    CorrelationSettings,
    CorrelationSummary,
    PairSums,
    check_mergeable,
    market_reference,
    merge_pairs,
    window_pairs,
)
from memory.tables import StateTable
from memory.typed import msgpack_as
from memory.window import Window

_FEW, _MANY = 15, 65_535
"""Longest arrays whose length MessagePack writes in the marker itself, and in two bytes after it."""

_Key = tuple[str, str, int, str]


class _Layout(msgspec.Struct, frozen=True, kw_only=True):
    """A `CorrelationSummary` whose pairs stay packed."""

    max_lag: int
    shifts: int
    block_minutes: int
    references: tuple[str, ...]
    pairs: list[msgspec.Raw]


class _PairKey(msgspec.Struct, frozen=True, kw_only=True):
    """What packed sums are sorted by; the rest of them is not read."""

    first: str
    second: str
    bar_minutes: int
    regime: str


class PackedCorrelations:
    """The sums of one window, or of all windows so far, as bytes.

    Parameters
    ----------
    data
        What `serial.encode` makes of a `CorrelationSummary`.

    Attributes
    ----------
    max_lag, shifts, block_minutes, references
        As those of `CorrelationSummary`.

    Raises
    ------
    InvalidRecordError
        The bytes hold no such summary.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        try:
            self._layout = msgpack_as(_Layout, data)
        except msgspec.MsgspecError as error:
            raise InvalidRecordError(
                f"{len(data)} bytes hold no sums of correlations: {error}.",
                remedy="Compute the summary again from its window; if that happens again, the bytes are damaged.",
                field="data",
            ) from error

    @classmethod
    def of(cls, summary: CorrelationSummary) -> PackedCorrelations:
        """A summary, packed."""
        return cls(serial.encode(summary))

    @property
    def max_lag(self) -> int:
        """Farthest lag."""
        return self._layout.max_lag

    @property
    def shifts(self) -> int:
        """Shifts of the null."""
        return self._layout.shifts

    @property
    def block_minutes(self) -> int:
        """Minutes of a clock block."""
        return self._layout.block_minutes

    @property
    def references(self) -> tuple[str, ...]:
        """Products whose regimes keyed the sums."""
        return self._layout.references

    @property
    def pairs(self) -> Iterator[PairSums]:
        """The sums, one at a time; their arrays are views of `data`."""
        return (_unpacked(raw) for raw in self._layout.pairs)

    @property
    def packed_pairs(self) -> Sequence[msgspec.Raw]:
        """The sums as they are packed, in order."""
        return self._layout.pairs


def pack_window(
    states: StateTable, window: Window, settings: CorrelationSettings = DEFAULT_SETTINGS
) -> PackedCorrelations:
    """`summarise_correlations`, packed; holds the bytes twice for a moment, and the sums of one pair."""
    reference = market_reference(states, settings)
    body, count = io.BytesIO(), 0
    for pair in window_pairs(states, window, settings):
        body.write(serial.encode(pair))
        count += 1
    header = _header(
        settings.max_lag, settings.shifts, settings.block_minutes, () if reference is None else (reference,), count
    )
    return PackedCorrelations(b"".join((header, body.getbuffer())))


def fold_packed(state: PackedCorrelations | None, summary: PackedCorrelations) -> PackedCorrelations:
    """`fold_correlations` on bytes: the same bytes as it gives; pure.

    Memory: the two, the result, and the sums of one pair.
    """
    if state is None:
        return summary
    check_mergeable(state, summary)
    left = {_key(raw): raw for raw in state.packed_pairs}
    right = {_key(raw): raw for raw in summary.packed_pairs}
    keys = sorted({*left, *right})
    merged = io.BytesIO()
    references = tuple(sorted({*state.references, *summary.references}))
    merged.write(_header(state.max_lag, state.shifts, state.block_minutes, references, len(keys)))
    for key in keys:
        known, new = left.get(key), right.get(key)
        if known is not None and new is not None:
            merged.write(serial.encode(merge_pairs(_unpacked(known), _unpacked(new))))
        else:
            only = known if known is not None else new
            assert only is not None  # every key is of one side or the other
            merged.write(memoryview(only))
    # Not a copy: the buffer's own bytes.
    return PackedCorrelations(merged.getvalue())


def _header(max_lag: int, shifts: int, block_minutes: int, references: tuple[str, ...], count: int) -> bytes:
    """All of a packed summary before its first pair."""
    empty = CorrelationSummary(
        max_lag=max_lag, shifts=shifts, block_minutes=block_minutes, references=references, pairs=()
    )
    # The last byte says that an array of nothing follows.
    return serial.encode(empty)[:-1] + _array_of(count)


def _array_of(count: int) -> bytes:
    """The marker of an array, by MessagePack's specification ("array format family"): the shortest that holds it."""
    if count <= _FEW:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count <= _MANY else b"\xdd" + count.to_bytes(4, "big")


def _key(raw: msgspec.Raw) -> _Key:
    found = msgpack_as(_PairKey, memoryview(raw))
    return found.first, found.second, found.bar_minutes, found.regime


def _unpacked(raw: msgspec.Raw) -> PairSums:
    return serial.decode(memoryview(raw), PairSums)
