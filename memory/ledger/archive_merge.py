"""The union of reads of one window: by key, in canonical order, whichever read came first.

Several records may speak for one state (every agent that saw it, every run that replays it), and not all of them need
agree: one agent may lack features, or have arrived later. The record with the smallest memory id speaks for the state,
and the state is known, and was recorded, as early as any of its records. Smallest and earliest are the same in
whatever order reads are joined, so that any split of the records into reads gives what one read of all would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from memory.errors import ArchiveError
from memory.tables import ExperienceTable, StateTable, WindowData

_Table = TypeVar("_Table", StateTable, ExperienceTable)
_Rows = npt.NDArray[np.intp]

_BLOCK_ROWS = 16_384
"""Rows whose content is compared at a time: 16 MiB of 256-d vectors a side."""
_STATE_CONTENT = ("price", "spread", "regime", "features", "vectors")
_EXPERIENCE_CONTENT = (
    "side",
    "size",
    "reward",
    "gross_return",
    "cost",
    "position_before",
    "position_after",
    "confidence",
    "regime",
    "terminal",
    "quality",
)


def merge(first: WindowData, second: WindowData) -> WindowData:
    """Everything that is in either, once; the same in any order, and however often.

    A state is the same by product and time, an experience by agent, product, time, step and run. Of a state, the
    record with the smaller `origin` is kept, of an experience the one recorded first; each is known as early as either
    side knows it. Should records that agree in that differ otherwise, their bytes decide. States come out sorted by
    product and time, experiences by agent, product, time, step and run. Features that no state has are left out.

    Raises
    ------
    ArchiveError
        The two sides are of different encoders or sources.

    Cost: O(n log n), and the memory of both sides twice.
    """
    for ours, theirs in ((first.states, second.states), (first.experiences, second.experiences)):
        if (ours.encoder_id, ours.source) != (theirs.encoder_id, theirs.source):
            raise ArchiveError(
                f"states of {ours.encoder_id}/{ours.source} and {theirs.encoder_id}/{theirs.source} cannot be merged.",
                remedy="Merge the windows of each encoder and source with their own.",
            )
    return WindowData(
        _merged_states(first.states, second.states), _merged_experiences(first.experiences, second.experiences)
    )


def without_unknown_features(table: StateTable) -> StateTable:
    """The table without the features that no state has."""
    kept = [
        name for name, column in zip(table.feature_names, table.features.T, strict=True) if not np.isnan(column).all()
    ]
    return _with_features(table, tuple(kept))


def _merged_states(first: StateTable, second: StateTable) -> StateTable:
    names = tuple(sorted({*first.feature_names, *second.feature_names}))
    first, second = _with_features(first, names), _with_features(second, names)
    both = _concatenated(*_recoded(first, second, "product", "products"))
    # Some features only records had which do not speak for their states any more.
    return without_unknown_features(
        _first_of_each(both, (both.product, both.timestamp_ms), both.origin, _STATE_CONTENT)
    )


def _merged_experiences(first: ExperienceTable, second: ExperienceTable) -> ExperienceTable:
    for codes, names in (("agent", "agents"), ("product", "products"), ("run", "runs")):
        first, second = _recoded(first, second, codes, names)
    both = _concatenated(first, second)
    key = (both.agent, both.product, both.timestamp_ms, both.step, both.run)
    return _first_of_each(both, key, both.recorded_at_ms, _EXPERIENCE_CONTENT)


def _with_features(table: StateTable, names: tuple[str, ...]) -> StateTable:
    if table.feature_names == names:
        return table
    columns = [table.feature(name) for name in names]
    return replace(
        table,
        feature_names=names,
        features=np.column_stack(columns) if columns else np.empty((len(table), 0)),
    )


def _recoded(first: _Table, second: _Table, codes: str, names: str) -> tuple[_Table, _Table]:
    """Both tables with codes into the sorted union of their names."""
    union = sorted({*getattr(first, names), *getattr(second, names)})
    index = {name: code for code, name in enumerate(union)}

    def recode(table: _Table) -> _Table:
        lookup = np.array([index[name] for name in getattr(table, names)], dtype=np.int64)
        return replace(table, **{names: tuple(union), codes: lookup[getattr(table, codes)]})

    return recode(first), recode(second)


def _concatenated(first: _Table, second: _Table) -> _Table:
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in fields(first)
        if isinstance(getattr(first, field.name), np.ndarray)
    }
    return replace(first, **columns)


def _first_of_each(
    table: _Table, key: Sequence[npt.NDArray[np.int64]], rank: npt.NDArray[Any], content: Sequence[str]
) -> _Table:
    """One row of each key, in the order of keys: that of the lowest rank, known and recorded as early as any."""
    order = np.lexsort((rank, *reversed(key)))
    if not len(order):
        return table
    starts = _changes(order, key)
    chosen = order[starts]
    at = np.flatnonzero(starts)
    group = np.cumsum(starts) - 1
    tied = np.flatnonzero(~starts & (rank[order] == rank[chosen][group]))
    _settle_ties(table, chosen, group[tied], order[tied], content)
    return replace(
        table.take(chosen),
        known_at_ms=np.minimum.reduceat(table.known_at_ms[order], at),
        recorded_at_ms=np.minimum.reduceat(table.recorded_at_ms[order], at),
    )


def _changes(order: _Rows, keys: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Where, in an order, a row differs from the one before in any of the keys; the first row does."""
    changed = np.zeros(len(order), dtype=np.bool_)
    changed[0] = True
    for values in keys:
        ordered = values[order]
        changed[1:] |= ordered[1:] != ordered[:-1]
    return changed


def _settle_ties(table: _Table, chosen: _Rows, groups: _Rows, rivals: _Rows, content: Sequence[str]) -> None:
    """Puts a rival into `chosen`, in place of the row chosen for its group, where its content has smaller bytes.

    Usually the same record was read twice, and nothing has to be settled.
    """
    for start in range(0, len(rivals), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        differ = np.zeros(len(rivals[block]), dtype=np.bool_)
        for name in content:
            values = getattr(table, name)
            differ |= (_bits(values[rivals[block]]) != _bits(values[chosen[groups[block]]])).any(axis=1)
        for group, rival in zip(groups[block][differ], rivals[block][differ], strict=True):
            rows = table.take(np.array([chosen[group], rival]))
            held, other = (b"".join(_bits(getattr(rows, name))[row].tobytes() for name in content) for row in (0, 1))
            if other < held:
                chosen[group] = rival


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of each row, shape (n, bytes a row): NaN equals itself, and the two zeros differ."""
    rows = np.ascontiguousarray(values).reshape(len(values), -1)
    return rows.view(np.uint8) if rows.size else np.empty((len(values), 0), dtype=np.uint8)
