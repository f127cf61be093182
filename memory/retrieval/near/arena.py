"""What every row is judged by before any vector is touched: bounds and filter columns, ordered by scope.

Rows lie sorted by product, then regime, with slack after each scope. An agent's rows of one product and regime, of one
product, or all of them are then one contiguous range: one product of a small matrix, however many scopes it spans. The
matrix lies column by column (all rows' first number, then all rows' second), which is twice as fast here.

A row has a head and the length of a rest, by a basis (`basis`) or by its anchor (`anchors`). By an anchor the head
is one number, the cosine with the anchor, and the arena also keeps which anchor that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memory.retrieval.near.basis import NO_ROW, Floats

Positions = npt.NDArray[np.int64]
Scope = tuple[str, int]
"""Product and code of the regime."""
Range = tuple[int, int]

NEVER_MS = 2**62
"""Expiry of what does not expire."""
SMALLEST_SLACK = 64
SLACK_SHARE = 4
"""A scope gets room for a quarter more rows than it has, so that moving all of them is paid for by many that came."""


class Columns(NamedTuple):
    """What the filters of a question look at; arrays of equal length, or the numbers of one row.

    `known_ms`, `timestamp_ms` and `expires_ms` are milliseconds since 1970; `phase` is the index of the market phase;
    `luck` is what relevance makes of the reward, from 0 to 1, or NaN where the row does not know its scale.
    """

    known_ms: Any
    timestamp_ms: Any
    expires_ms: Any
    reward: Any
    phase: Any
    luck: Any

    @classmethod
    def empty(cls, length: int) -> Columns:
        """Columns of that length; numbers that can be computed with where there is no row."""
        return cls(*(np.zeros(length, dtype=kind) for kind in _COLUMN_TYPES))

    @classmethod
    def of(cls, rows: Sequence[Columns]) -> Columns:
        """Columns of some rows."""
        return cls(
            *(np.fromiter((row[number] for row in rows), kind, len(rows)) for number, kind in enumerate(_COLUMN_TYPES))
        )


_COLUMN_TYPES = (np.int64, np.int64, np.int64, np.float64, np.int8, np.float32)


@dataclass(slots=True)
class _Segment:
    """Where the rows of one scope lie: [start, used) were given out, [used, stop) never."""

    start: int
    used: int
    stop: int
    free: list[int] = field(default_factory=list)


class Arena:
    """Bounds and filter columns of rows that are known by a number, their slot.

    Parameters
    ----------
    rank
        Numbers in the head of a row.
    anchored
        Whether rows have anchors.

    Attributes
    ----------
    bounds
        Head and length of the rest of each row, by column; shape (rank + 1, capacity).
    anchors
        Number of the anchor of each row; None where rows have none.
    columns
        What filters look at.
    slots
        Slot of the row at each position.
    latest_known_ms, earliest_expiry_ms
        No row was known later; none expires earlier.
    """

    def __init__(self, rank: int, *, anchored: bool = False) -> None:
        self._rank = rank
        self._anchored = anchored
        self.latest_known_ms = 0
        self.earliest_expiry_ms = NEVER_MS
        self._place = np.empty(0, dtype=np.int64)
        self._allocate({})

    def fill(
        self,
        heads: Floats,
        rests: Floats,
        columns: Columns,
        scopes: Sequence[Scope],
        anchors: Positions | None = None,
    ) -> None:
        """Lay out the rows with slots 0, 1, 2... in the order given, in an arena that is empty."""
        codes: dict[Scope, int] = {}
        coded = np.fromiter((codes.setdefault(scope, len(codes)) for scope in scopes), np.int64, len(scopes))
        order = np.argsort(coded, kind="stable")
        counts = np.bincount(coded, minlength=len(codes))
        ends = np.cumsum(counts)
        self.latest_known_ms = int(columns.known_ms.max())
        self.earliest_expiry_ms = int(columns.expires_ms.min())
        self._place = np.empty(len(scopes), dtype=np.int64)
        self._allocate({scope: int(counts[code]) for scope, code in codes.items()})
        for scope, segment in self._segments.items():
            code = codes[scope]
            slots = order[ends[code] - counts[code] : ends[code]]
            here = slice(segment.start, segment.start + len(slots))
            segment.used = here.stop
            self.bounds[:-1, here] = heads[slots].T
            self.bounds[-1, here] = rests[slots]
            if self.anchors is not None and anchors is not None:
                self.anchors[here] = anchors[slots]
            for column, values in zip(self.columns, columns, strict=True):
                column[here] = values[slots]
            self.slots[here] = slots
            self._place[slots] = np.arange(here.start, here.stop)

    def _allocate(self, counts: dict[Scope, int]) -> None:
        self._segments: dict[Scope, _Segment] = {}
        end = 0
        for scope in sorted(counts):
            room = counts[scope] + max(SMALLEST_SLACK, counts[scope] // SLACK_SHARE)
            self._segments[scope] = _Segment(end, end, end + room)
            end += room
        self.bounds: Floats = np.zeros((self._rank + 1, end), dtype=np.float32)
        self.bounds[-1] = NO_ROW
        self.anchors: Positions | None = np.zeros(end, dtype=np.int64) if self._anchored else None
        self.columns = Columns.empty(end)
        self.slots = np.full(end, -1, dtype=np.int64)
        self._groups: dict[tuple[str | None, int | None], list[tuple[int, _Segment]]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        anchors = 0 if self.anchors is None else self.anchors.nbytes
        return anchors + sum(array.nbytes for array in (self.bounds, self.slots, self._place, *self.columns))

    # --- changing --------------------------------------------------------------------------------------------

    def put(self, slot: int, scope: Scope, head: Floats, rest: float, values: Columns, anchor: int = 0) -> None:
        """Add the row of a slot that has none. Amortised a few microseconds; now and then all rows are moved."""
        segment = self._segments.get(scope)
        if segment is None or (not segment.free and segment.used == segment.stop):
            self._move(scope)
            segment = self._segments[scope]
        if segment.free:
            position = segment.free.pop()
        else:
            position = segment.used
            segment.used += 1
        if slot >= len(self._place):
            grown = np.full(max(2 * len(self._place), slot + 1), -1, dtype=np.int64)
            grown[: len(self._place)] = self._place
            self._place = grown
        self._place[slot] = position
        self.slots[position] = slot
        self.bounds[:-1, position] = head
        self.bounds[-1, position] = rest
        if self.anchors is not None:
            self.anchors[position] = anchor
        for column, value in zip(self.columns, values, strict=True):
            column[position] = value
        self.latest_known_ms = max(self.latest_known_ms, values.known_ms)
        self.earliest_expiry_ms = min(self.earliest_expiry_ms, values.expires_ms)

    def remove(self, slot: int, scope: Scope) -> None:
        """Take out the row of a slot."""
        position = int(self._place[slot])
        self._place[slot] = -1
        self.slots[position] = -1
        self.bounds[:-1, position] = 0.0
        self.bounds[-1, position] = NO_ROW
        self._segments[scope].free.append(position)

    def known_ms(self, slot: int) -> int:
        """When the row of a slot was known."""
        return int(self.columns.known_ms[self._place[slot]])

    def expires_ms(self, slot: int) -> int:
        """When the row of a slot expires."""
        return int(self.columns.expires_ms[self._place[slot]])

    def _move(self, needed: Scope) -> None:
        """Lay all rows out anew, with room for one more of a scope."""
        before, bounds, columns, slots, anchors = self._segments, self.bounds, self.columns, self.slots, self.anchors
        held = {
            scope: segment.start + np.flatnonzero(slots[segment.start : segment.used] >= 0)
            for scope, segment in before.items()
        }
        counts = {scope: len(positions) for scope, positions in held.items() if len(positions)}
        counts.setdefault(needed, 0)
        self._allocate(counts)
        for scope, segment in self._segments.items():
            if not counts[scope]:
                continue
            here = slice(segment.start, segment.start + counts[scope])
            segment.used = here.stop
            self.bounds[:, here] = bounds[:, held[scope]]
            if self.anchors is not None and anchors is not None:
                self.anchors[here] = anchors[held[scope]]
            for column, old in zip(self.columns, columns, strict=True):
                column[here] = old[held[scope]]
            self.slots[here] = slots[held[scope]]
            self._place[self.slots[here]] = np.arange(here.start, here.stop)

    # --- asking ----------------------------------------------------------------------------------------------

    def ranges(self, product_id: str | None, regime: int | None) -> list[Range]:
        """Where the rows of a product, a regime, both, or all lie; slack inside has bounds below every cosine."""
        group = self._groups.get((product_id, regime))
        if group is None:
            group = self._groups[(product_id, regime)] = self._group(product_id, regime)
        return [(start, last.used) for start, last in group if last.used > start]

    def _group(self, product_id: str | None, regime: int | None) -> list[tuple[int, _Segment]]:
        """Runs of neighbouring scopes: the start of the first, and the last."""
        found: list[tuple[int, _Segment]] = []
        for (product, code), segment in self._segments.items():
            if product_id not in (None, product) or regime not in (None, code):
                continue
            if found and found[-1][1].stop == segment.start:
                found[-1] = (found[-1][0], segment)
            else:
                found.append((segment.start, segment))
        return found
