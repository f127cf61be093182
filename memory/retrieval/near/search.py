"""Exact search: bounds first, then only the rows that may be among the nearest.

One pass gives every row of the scope an upper bound of its cosine. The rows with the highest bounds are scored in full,
which gives a floor: the k-th best cosine so far. Any other row whose bound reaches the floor is scored too; nothing
else can be among the k nearest. Where bounds have ruled out little of late (`Pruning`), all rows are scored at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memory.retrieval.near.anchors import anchored_bounds
from memory.retrieval.near.arena import Arena, Columns, Range
from memory.retrieval.near.basis import Floats, margin, query_weights
from memory.retrieval.near.merit import SLACK, Merit

FIRST_ROWS = 48
"""Rows of a small scope (one product and regime) that are scored in full first: about as many as it takes in the end,
so that one round is mostly enough. Each costs a read from memory that is in no cache."""
FIRST_ROWS_OF_MANY = 96
"""The same from `MANY_ROWS` rows on."""
MANY_ROWS = 8192
LARGEST_GROUP = 64
GROUPS_A_ROW = 4
"""The first ones are chosen by the maxima of groups of rows, four for each row wanted: half the time of choosing among
all, and few more rows than wanted."""
SCORED_AT_ONCE = 8192
WORTH_ALL = 4
"""Where a quarter of an agent's rows is left, scoring all of them where they lie is quicker than taking those."""
FUTILE_FROM = 0.3
"""Share of rows left from which bounds cost more than they save."""
FUTILE_FROM_BY_ANCHORS = 0.75
"""The same where rows have anchors: they rule out all but a few rows for one question and next to none for another, so
that a mean of a half still saves much."""
PRUNING_GAIN = 1 / 8
TRIED_AGAIN_AFTER = 64
NOTHING = -2.0
"""Below every cosine, above every bound of what is not there."""
MASKED = np.float32(-1e30)


@dataclass(slots=True)
class Question:
    """What is asked of the rows of one agent: unit vector, limits and number of results; as `query.Bounds`.

    `regime` and `phase` are codes; times are milliseconds, `until_ms` excluded.
    """

    vector: Floats
    top_k: int
    product_id: str | None = None
    regime: int | None = None
    phase: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    as_of_ms: int | None = None
    min_reward: float | None = None

    @property
    def limited(self) -> bool:
        """Whether anything but the scope and `as_of_ms` limits the rows."""
        return not (self.phase is self.since_ms is self.until_ms is self.min_reward is None)


@dataclass(slots=True)
class Pruning:
    """Whether bounds rule out enough of an agent's rows to be worth computing: not where states fill all dimensions.

    One for each kind of question.

    Attributes
    ----------
    left
        Share of the rows that bounds did not rule out, a moving mean over questions.
    """

    left: float = 0.0
    _asked: int = 0

    def is_futile(self, share: float = FUTILE_FROM) -> bool:
        """Whether to score all rows, as more than a share is left; now and then bounds are tried all the same."""
        self._asked += 1
        return self.left > share and self._asked % TRIED_AGAIN_AFTER != 0

    def note(self, left: int, rows: int) -> None:
        """So many of so many rows were left."""
        self.left += PRUNING_GAIN * (left / rows - self.left)


class Nearest(NamedTuple):
    """Rows that were found: slots, cosine distances, and their vectors as they are stored, shape (slots, dimension)."""

    slots: list[int]
    distances: list[float]
    vectors: npt.NDArray[Any]


def nearest_rows(
    question: Question,
    arena: Arena,
    vectors: npt.NDArray[Any],
    scales: Floats,
    basis: Floats,
    anchors: Floats | None,
    now_ms: int,
    merit: Merit | None = None,
    pruning: Pruning | None = None,
) -> Nearest:
    """The nearest rows, or those of most merit, in no order: at least `top_k` where there are so many.

    Rows are bounded by their anchors where they have some, otherwise by the basis.

    More come back where distances are too close to call by rounding: whoever orders them by distance and memory id,
    and cuts, gets the same rows whatever order they lie in.
    """
    ranges = arena.ranges(question.product_id, question.regime)
    if not ranges:
        return Nearest([], [], vectors[:0])
    query = question.vector
    if merit is None:
        if anchors is not None and sum(stop - start for start, stop in ranges) <= len(anchors):
            return _nearest_of_all(question, arena, ranges, vectors, scales, now_ms)
        if pruning is not None and vectors.dtype == np.float32:
            share = FUTILE_FROM if anchors is None else FUTILE_FROM_BY_ANCHORS
            if pruning.is_futile(share):
                return _nearest_of_all(question, arena, ranges, vectors, scales, now_ms)
    slots = _joined(arena.slots, ranges)
    bounds = _bounds(query, arena, ranges, basis, anchors)
    hidden = _hidden(question, arena, ranges, now_ms)
    if hidden is not None:
        bounds[hidden] = MASKED
    wide = margin(len(query))
    rest: Floats | None = None
    if merit is not None:
        wide += SLACK
        rest = merit.rest(_within(arena.columns, ranges))
        absent = bounds < NOTHING
        bounds = merit.scores(bounds, rest)
        bounds[absent] = MASKED
    top_k = question.top_k
    first = FIRST_ROWS if len(bounds) < MANY_ROWS else FIRST_ROWS_OF_MANY
    level = _first_level(bounds, max(first, 2 * top_k))
    where = (bounds >= level).nonzero()[0]
    chosen = slots[where]
    taken, scores = _scored(chosen, vectors, scales, query)
    if merit is not None and rest is not None:
        scores = merit.scores(scores, rest[where])
    floor = _floor(scores, top_k, wide)
    left = 0
    if floor < level:
        where = ((bounds >= floor) & (bounds < level)).nonzero()[0]
        left = len(where)
    if merit is None and pruning is not None:
        pruning.note(left, len(bounds))
    if left:
        others = slots[where]
        more, more_scores = _scored_in_place(others, vectors, scales, query)
        if merit is not None and rest is not None:
            more_scores = merit.scores(more_scores, rest[where])
        scores = np.concatenate((scores, more_scores))
        floor = _floor(scores, top_k, wide)
        near = (scores >= floor).nonzero()[0]
        # Of the first ones and the others, what reaches the floor; both were taken in the order of their slots.
        here = near.searchsorted(len(chosen))
        late = near[here:] - len(chosen)
        rows = vectors.take(others.take(late), axis=0) if more is None else more.take(late, axis=0)
        taken = np.concatenate((taken.take(near[:here], axis=0), rows))
        best = np.concatenate((chosen, others)).take(near)
        return _measured(best, taken, scales, query)
    near = (scores >= floor).nonzero()[0]
    return _measured(chosen.take(near), taken.take(near, axis=0), scales, query)


def _bounds(query: Floats, arena: Arena, ranges: list[Range], basis: Floats, anchors: Floats | None) -> Floats:
    """Upper bounds of the cosines of the rows in some ranges."""
    if anchors is not None and arena.anchors is not None:
        nearest = _joined(arena.anchors, ranges)
        cosines, rests = _joined(arena.bounds[0], ranges), _joined(arena.bounds[1], ranges)
        return anchored_bounds(query, anchors, nearest, cosines, rests)
    weights = query_weights(query, basis)
    if len(ranges) == 1:
        start, stop = ranges[0]
        bounds: Floats = np.matmul(weights, arena.bounds[:, start:stop])  # np.dot would copy the slice first.
        return bounds
    return np.concatenate([np.matmul(weights, arena.bounds[:, start:stop]) for start, stop in ranges])


def _nearest_of_all(
    question: Question,
    arena: Arena,
    ranges: list[Range],
    vectors: npt.NDArray[Any],
    scales: Floats,
    now_ms: int,
) -> Nearest:
    """As `nearest_rows`, every row of the scope scored: in one pass where the rows lie side by side."""
    slots = _joined(arena.slots, ranges)
    absent = slots < 0
    hidden = _hidden(question, arena, ranges, now_ms)
    if hidden is not None:
        absent |= hidden
    if absent.all():
        return Nearest([], [], vectors[:0])
    first, last = int(slots[0]), int(slots[-1])
    if vectors.dtype != np.float32:
        slots = slots[~absent]  # Converting a vector costs far more than reading it: none is converted in vain.
        scores = _scored(slots, vectors, scales, question.vector)[1]
    elif first >= 0 and last - first == len(slots) - 1 and bool((np.diff(slots) == 1).all()):
        scores = np.matmul(vectors[first : last + 1], question.vector) * scales[first : last + 1]
        scores[absent] = MASKED
    else:
        # Where there is no row, some vector that was written to is scored, and left out.
        scores = _scored_in_place(np.maximum(slots, 0), vectors, scales, question.vector)[1]
        scores[absent] = MASKED
    floor = max(_floor(scores, question.top_k, margin(len(question.vector))), NOTHING)
    chosen = slots.take((scores >= floor).nonzero()[0])
    return _measured(chosen, vectors.take(chosen, axis=0), scales, question.vector)


def _measured(slots: npt.NDArray[np.int64], taken: npt.NDArray[Any], scales: Floats, query: Floats) -> Nearest:
    """Distances of rows whose vectors were taken.

    Equal vectors must get equal distances wherever they lie, so that ties are ties: the sum over a row is always taken
    in the same order, and in double precision.
    """
    cosines = np.vecdot(taken.astype(np.float64), query.astype(np.float64))
    cosines *= scales.take(slots)
    return Nearest(slots.tolist(), (1.0 - cosines).tolist(), taken)


def _first_level(bounds: Floats, wanted: int) -> float:
    """A bound that at least `wanted` rows reach, few more; `NOTHING` where there are no more rows than that."""
    count = len(bounds)
    if count <= wanted:
        return NOTHING
    rows = min(LARGEST_GROUP, count // (GROUPS_A_ROW * wanted))
    if rows > 1:
        # Neighbours are alike: a group is made of rows that lie far from each other.
        groups = count // rows
        bounds = bounds[: groups * rows].reshape(rows, groups).max(axis=0)
    return max(_largest(bounds, wanted), NOTHING)


def _largest(values: Floats, number: int) -> float:
    """The value that so many reach at least."""
    ordered = values.copy()
    ordered.partition(len(values) - number)
    return float(ordered[len(values) - number])


def _floor(scores: Floats, top_k: int, wide: float) -> float:
    """What a row must reach to be among the `top_k` best; rounding allowed for, on both sides."""
    return NOTHING if len(scores) < top_k else _largest(scores, top_k) - 2 * wide


def _scored(
    slots: npt.NDArray[np.int64], vectors: npt.NDArray[Any], scales: Floats, query: Floats
) -> tuple[npt.NDArray[Any], Floats]:
    """Vectors as they are stored, and cosines, of the rows in some slots."""
    taken = vectors.take(slots, axis=0)
    if len(slots) <= SCORED_AT_ONCE:
        scores: Floats = (taken.astype(np.float32, copy=False) @ query) * scales.take(slots)
        return taken, scores
    parts = [taken[first : first + SCORED_AT_ONCE] for first in range(0, len(slots), SCORED_AT_ONCE)]
    scores = np.concatenate([part.astype(np.float32, copy=False) @ query for part in parts])
    return taken, scores * scales.take(slots)


def _scored_in_place(
    slots: npt.NDArray[np.int64], vectors: npt.NDArray[Any], scales: Floats, query: Floats
) -> tuple[npt.NDArray[Any] | None, Floats]:
    """As `_scored`; where the bounds have ruled little out, all rows are scored where they lie, and none is taken."""
    used = int(slots.max()) + 1
    if vectors.dtype != np.float32 or len(slots) < used // WORTH_ALL:
        return _scored(slots, vectors, scales, query)
    return None, np.matmul(vectors[:used], query).take(slots) * scales.take(slots)


def _joined(column: npt.NDArray[Any], ranges: list[Range]) -> npt.NDArray[Any]:
    """A column of the rows in some ranges; a view where it is one range."""
    if len(ranges) == 1:
        return column[ranges[0][0] : ranges[0][1]]
    return np.concatenate([column[start:stop] for start, stop in ranges])


def _within(columns: Columns, ranges: list[Range]) -> Columns:
    """Columns of the rows in some ranges."""
    return Columns(*(_joined(column, ranges) for column in columns))


def _hidden(question: Question, arena: Arena, ranges: list[Range], now_ms: int) -> npt.NDArray[np.bool_] | None:
    """Which rows of some ranges the limits of a question hide; None where they hide none."""
    known_then = question.as_of_ms is None or question.as_of_ms >= arena.latest_known_ms
    if known_then and not question.limited and now_ms < arena.earliest_expiry_ms:
        return None
    columns = arena.columns
    hidden: npt.NDArray[np.bool_] | None = None

    def hide(condition: npt.NDArray[np.bool_]) -> None:
        nonlocal hidden
        hidden = condition if hidden is None else np.logical_or(hidden, condition, out=hidden)

    if not known_then:
        hide(_joined(columns.known_ms, ranges) > question.as_of_ms)
    if now_ms >= arena.earliest_expiry_ms:
        hide(_joined(columns.expires_ms, ranges) <= now_ms)
    if question.since_ms is not None:
        hide(_joined(columns.timestamp_ms, ranges) < question.since_ms)
    if question.until_ms is not None:
        hide(_joined(columns.timestamp_ms, ranges) >= question.until_ms)
    if question.min_reward is not None:
        hide(_joined(columns.reward, ranges) < question.min_reward)
    if question.phase is not None:
        hide(_joined(columns.phase, ranges) != question.phase)
    return hidden
