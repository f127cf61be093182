"""Reading a window from the archive: whole, or the columns, products and rows that are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from memory.ledger.archive_content import (
    EXPERIENCE_FLOATS,
    EXPERIENCE_INTEGERS,
    FEATURE_PREFIX,
    STATE_FLOATS,
    STATE_INTEGERS,
    Rows,
    table_order,
)
from memory.ledger.archive_tables import (
    EXPERIENCES,
    ORIGIN,
    STATES,
    TEXTS,
    VECTORS,
    codes_from_arrow,
    origins_from_arrow,
    unpack_meta,
    vectors_from_arrow,
)
from memory.records import REGIMES
from memory.tables import ORIGIN_DTYPE, ExperienceTable, StateTable


class ArchivedTable:
    """One open file of the archive; arrays that come out of it are copies that may be written to."""

    def __init__(self, stream: Any, kind: str) -> None:
        self._file = pq.ParquetFile(stream, read_dictionary=list(TEXTS[kind]))
        self.meta = unpack_meta(self._file.metadata.metadata, kind)
        self._kind = kind

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Features of the states, sorted."""
        return tuple(self.meta["feature_names"])

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return int(self._file.metadata.num_rows)

    def states(
        self,
        *,
        columns: Collection[str] | None = None,
        products: Collection[str] | None = None,
        rows: npt.ArrayLike | None = None,
    ) -> StateTable:
        """States; see `Archive.states`. Memory: that of the result, and of one row group."""
        selected = self._selected(products, rows)
        features = [name for name in self.meta["feature_names"] if columns is None or name in columns]
        dimension = self.meta["dimension"] if columns is None or VECTORS in columns else 0
        names = self._names("products", products)
        total = sum(len(chosen) for _, chosen in selected)
        integers = {name: np.empty(total, dtype=np.int64) for name in (*STATE_INTEGERS, "product", "regime")}
        floats = {name: np.empty(total, dtype=np.float64) for name in STATE_FLOATS}
        values = np.empty((total, len(features)), dtype=np.float64)
        vectors = np.empty((total, dimension), dtype=np.float32)
        origin = np.zeros(total, dtype=ORIGIN_DTYPE)
        wanted = ["product", "regime", *STATE_INTEGERS, *STATE_FLOATS, *(FEATURE_PREFIX + name for name in features)]
        wanted += [ORIGIN] if ORIGIN in self._file.schema_arrow.names else []
        wanted += [VECTORS] if dimension else []
        for at, chosen, group in self._groups(selected, wanted):
            integers["product"][at] = codes_from_arrow(group.column("product").chunks, names)[chosen]
            integers["regime"][at] = codes_from_arrow(group.column("regime").chunks, REGIMES)[chosen]
            for name in STATE_INTEGERS:
                integers[name][at] = group.column(name).to_numpy()[chosen]
            for name in STATE_FLOATS:
                floats[name][at] = group.column(name).to_numpy()[chosen]
            for index, name in enumerate(features):
                values[at, index] = group.column(FEATURE_PREFIX + name).to_numpy()[chosen]
            if ORIGIN in wanted:
                origin[at] = origins_from_arrow(group.column(ORIGIN))[chosen]
            if dimension:
                vectors[at] = vectors_from_arrow(group.column(VECTORS).combine_chunks(), dimension)[chosen]
        columns_read: dict[str, Any] = {**integers, **floats}
        return StateTable(
            encoder_id=self.meta["encoder_id"],
            source=self.meta["source"],
            feature_names=tuple(features),
            products=names,
            vectors=vectors,
            features=values,
            origin=origin,
            **columns_read,
        )

    def rows_of(self, states: StateTable) -> Rows:
        """Numbers of the rows that are about some states: of their products, at their times."""
        rows = [np.empty(0, dtype=np.intp)]
        first = 0
        code_of = {name: code for code, name in enumerate(states.products)}
        codes = np.array([code_of.get(name, -1) for name in self.meta["products"]], dtype=np.int64)
        # Products are few: a pair of product and time fits one integer without overflow.
        width = len(states.products) + 1
        wanted = np.unique(states.timestamp_ms * width + states.product)
        for group in range(self._file.num_row_groups):
            table = self._file.read_row_group(group, columns=["product", "timestamp_ms"])
            product = codes[codes_from_arrow(table.column("product").chunks, self.meta["products"])]
            key = table.column("timestamp_ms").to_numpy() * width + product
            rows.append(first + np.flatnonzero((product >= 0) & np.isin(key, wanted)))
            first += table.num_rows
        return np.concatenate(rows)

    def experiences(
        self, *, products: Collection[str] | None = None, rows: npt.ArrayLike | None = None
    ) -> ExperienceTable:
        """Experiences, of some products and with some numbers, or all."""
        selected = self._selected(products, rows)
        names = {"agent": tuple(self.meta["agents"]), "run": tuple(self.meta["runs"]), "regime": tuple(REGIMES)}
        names["product"] = self._names("products", products)
        total = sum(len(chosen) for _, chosen in selected)
        integers = {name: np.empty(total, dtype=np.int64) for name in (*EXPERIENCE_INTEGERS, *names)}
        floats = {name: np.empty(total, dtype=np.float64) for name in EXPERIENCE_FLOATS}
        terminal = np.empty(total, dtype=np.bool_)
        for at, chosen, group in self._groups(selected, [*integers, *floats, "terminal"]):
            for name, texts in names.items():
                integers[name][at] = codes_from_arrow(group.column(name).chunks, texts)[chosen]
            for name in EXPERIENCE_INTEGERS:
                integers[name][at] = group.column(name).to_numpy()[chosen]
            for name in EXPERIENCE_FLOATS:
                floats[name][at] = group.column(name).to_numpy()[chosen]
            terminal[at] = group.column("terminal").to_numpy()[chosen]
        columns_read: dict[str, Any] = {**integers, **floats}
        table = ExperienceTable(
            encoder_id=self.meta["encoder_id"],
            source=self.meta["source"],
            agents=names["agent"],
            products=names["product"],
            runs=names["run"],
            terminal=terminal,
            **columns_read,
        )
        return table.take(table_order(table))

    def _names(self, what: str, chosen: Collection[str] | None) -> tuple[str, ...]:
        return tuple(name for name in self.meta[what] if chosen is None or name in chosen)

    def _selected(self, products: Collection[str] | None, rows: npt.ArrayLike | None) -> list[tuple[int, Rows]]:
        """Row groups with their rows that are wanted; those without any are left out and not read."""
        wanted = None if rows is None else np.unique(np.asarray(rows, dtype=np.int64))
        selected, first = [], 0
        for group in range(self._file.num_row_groups):
            size = self._file.metadata.row_group(group).num_rows
            chosen: Rows = np.arange(size, dtype=np.intp)
            if wanted is not None:
                low, high = np.searchsorted(wanted, [first, first + size])
                chosen = (wanted[low:high] - first).astype(np.intp)
            if products is not None and len(chosen):
                chosen = chosen[self._of_products(group, products)[chosen]]
            if len(chosen):
                selected.append((group, chosen))
            first += size
        return selected

    def _of_products(self, group: int, products: Collection[str]) -> npt.NDArray[np.bool_]:
        facts = self._file.metadata.row_group(group)
        column = self._file.schema_arrow.names.index("product")
        bounds = facts.column(column).statistics
        if bounds is not None and bounds.has_min_max and not any(bounds.min <= name <= bounds.max for name in products):
            return np.zeros(facts.num_rows, dtype=np.bool_)
        names = self.meta["products"]
        codes = codes_from_arrow(self._file.read_row_group(group, columns=["product"]).column("product").chunks, names)
        return np.isin(codes, [code for code, name in enumerate(names) if name in products])

    def _groups(self, selected: list[tuple[int, Rows]], columns: list[str]) -> Iterator[tuple[slice, Rows, pa.Table]]:
        """Where each row group's rows go, which of its rows they are, and its columns."""
        start = 0
        for group, chosen in selected:
            yield slice(start, start + len(chosen)), chosen, self._file.read_row_group(group, columns=columns)
            start += len(chosen)


__all__ = ["EXPERIENCES", "STATES", "ArchivedTable"]
