"""The union of an archived window and what was recorded late: by key, in canonical order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from memory.errors import ArchiveError
from memory.tables import ExperienceTable, StateTable, WindowData

_Table = TypeVar("_Table", StateTable, ExperienceTable)


def merge(archived: WindowData, late: WindowData) -> WindowData:
    """Everything that is in either, once.

    A state is the same by product and time, an experience by agent, product, time, step and run; where both sides
    hold it, the archived one stays. States come out sorted by product and time, experiences by agent, product, time,
    step and run, whichever side they came from, so that merging in any order gives the same tables.

    Raises
    ------
    ArchiveError
        The two sides are of different encoders or sources.
    """
    for ours, theirs in ((archived.states, late.states), (archived.experiences, late.experiences)):
        if (ours.encoder_id, ours.source) != (theirs.encoder_id, theirs.source):
            raise ArchiveError(
                f"states of {ours.encoder_id}/{ours.source} and {theirs.encoder_id}/{theirs.source} cannot be merged.",
                remedy="Merge the windows of each encoder and source with their own.",
            )
    return WindowData(
        _merged_states(archived.states, late.states), _merged_experiences(archived.experiences, late.experiences)
    )


def _merged_states(archived: StateTable, late: StateTable) -> StateTable:
    names = archived.feature_names
    if names != late.feature_names:
        names = tuple(sorted({*names, *late.feature_names}))
        archived, late = _with_features(archived, names), _with_features(late, names)
    archived, late = _recoded(archived, late, "product", "products")
    both = _concatenated(archived, late)
    return both.take(_canonical_rows((both.product, both.timestamp_ms)))


def _merged_experiences(archived: ExperienceTable, late: ExperienceTable) -> ExperienceTable:
    for codes, names in (("agent", "agents"), ("product", "products"), ("run", "runs")):
        archived, late = _recoded(archived, late, codes, names)
    both = _concatenated(archived, late)
    return both.take(_canonical_rows((both.agent, both.product, both.timestamp_ms, both.step, both.run)))


def _with_features(table: StateTable, names: tuple[str, ...]) -> StateTable:
    columns = [table.feature(name) for name in names]
    return replace(
        table,
        feature_names=names,
        features=np.column_stack(columns) if columns else np.empty((len(table), 0)),
    )


def _recoded(archived: _Table, late: _Table, codes: str, names: str) -> tuple[_Table, _Table]:
    """Both tables with codes into the sorted union of their names."""
    union = sorted({*getattr(archived, names), *getattr(late, names)})
    index = {name: code for code, name in enumerate(union)}

    def recode(table: _Table) -> _Table:
        lookup = np.array([index[name] for name in getattr(table, names)], dtype=np.int64)
        return replace(table, **{names: tuple(union), codes: lookup[getattr(table, codes)]})

    return recode(archived), recode(late)


def _concatenated(first: _Table, second: _Table) -> _Table:
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in fields(first)
        if isinstance(getattr(first, field.name), np.ndarray)
    }
    return replace(first, **columns)


def _canonical_rows(keys: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.intp]:
    """Rows in the order of their keys, the first of each key only; `lexsort` is stable, and the archived come first."""
    order = np.lexsort(tuple(reversed(keys)))
    if not len(order):
        return order
    changed = np.zeros(len(order) - 1, dtype=np.bool_)
    for key in keys:
        changed |= np.diff(key[order]) != 0
    first: npt.NDArray[np.intp] = order[np.concatenate([[True], changed])]
    return first
