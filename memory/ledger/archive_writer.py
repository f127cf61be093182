"""Writing a window into the archive part by part, in the memory of one part and one row group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from memory.errors import ArchiveError
from memory.ledger.archive_content import ContentHash, stream_order
from memory.ledger.archive_files import ArchivedFile, NewFile, Place
from memory.ledger.archive_tables import (
    EXPERIENCES,
    FORMAT_VERSION,
    STATES,
    TEXTS,
    experience_schema,
    experience_table_to_arrow,
    pack_meta,
    state_schema,
    state_table_to_arrow,
)
from memory.records import REGIMES, from_ms
from memory.tables import WindowData
from memory.window import Window

ROW_GROUP_ROWS = 16_384
"""Rows written at a time: 16 MiB of 256-d vectors, and more than most nights hold."""
COMPRESSION_LEVEL = 3
"""Of zstd; higher levels hardly shrink float32 vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveReference:
    """Where the states and experiences of a window lie, for one encoder and source.

    Attributes
    ----------
    content_digest
        Covers what was lived through and not when it was recorded: equal experience, equal digest.
    format
        Layout of the files.
    known_at_max
        When the last of the experiences was known; None where there is none, or where that was not noted.
    derived_from
        Encoder whose archive this one was encoded again from; None where it was read from Redis.
    """

    namespace: str
    window: Window
    encoder_id: str
    source: str
    content_digest: str
    states: ArchivedFile
    experiences: ArchivedFile
    format: int = FORMAT_VERSION
    known_at_max: datetime | None = None
    derived_from: str | None = None


@dataclass(frozen=True, slots=True)
class ArchivedCounts:
    """What was put into an archive.

    Attributes
    ----------
    states_by_regime
        Distinct states of each regime that has any, by name.
    recorded_at_ms, known_at_ms
        Latest time of recording among the experiences, and latest time at which one became known; 0 without any.
    """

    states_by_regime: Mapping[str, int]
    recorded_at_ms: int
    known_at_ms: int


class ArchiveWriter:
    """A window on its way into the archive; made by `Archive.writer`.

    Parts come in the order of products and times, each with all states and experiences of its stretch. However a window
    is cut into parts, the files come out the same, byte for byte. Use it as a context manager: what was not closed is
    removed. Not safe for threads.
    """

    def __init__(
        self, place: Place, namespace: str, window: Window, encoder_id: str, source: str, derived_from: str | None
    ) -> None:
        self._place = place
        self._key: dict[str, Any] = {
            "namespace": namespace,
            "window": window,
            "encoder_id": encoder_id,
            "source": source,
        }
        self._derived_from = derived_from
        folder = f"{namespace}/{window.name}/{encoder_id}/{source}"
        self._states = _FileWriter(place, folder, STATES)
        self._experiences = _FileWriter(place, folder, EXPERIENCES)
        self._hash = ContentHash(encoder_id, source)
        self._names: dict[str, set[str]] = {name: set() for name in ("products", "agents", "runs", "features")}
        self._lived_products: set[str] = set()
        self._dimension: int | None = None
        self._known_at_ms: int | None = None
        self._recorded_at_ms = 0
        self._regimes = np.zeros(len(REGIMES), dtype=np.int64)
        self._last: dict[str, tuple[str, int]] = {}

    def append(self, part: WindowData) -> None:
        """Adds the next part.

        Raises
        ------
        ArchiveError
            The part is of another encoder, source or dimension, or does not come after the part before.
        ArchiveUnavailableError
            The place cannot be written to.
        """
        states, experiences = part.states, part.experiences
        self._check(part)
        self._hash.update(part)
        self._names["products"].update(states.products)
        self._names["agents"].update(experiences.agents)
        self._names["runs"].update(experiences.runs)
        self._lived_products.update(experiences.products)
        if len(experiences):
            latest = int(experiences.known_at_ms.max())
            self._known_at_ms = latest if self._known_at_ms is None else max(latest, self._known_at_ms)
            self._recorded_at_ms = max(int(experiences.recorded_at_ms.max()), self._recorded_at_ms)
        self._regimes += np.bincount(states.regime, minlength=len(REGIMES))
        with self._place.explained("written"):
            if not self._names["features"].issuperset(states.feature_names) or self._dimension is None:
                self._names["features"].update(states.feature_names)
                self._states.widen(state_schema(self._features, states.vectors.shape[1]))
            self._dimension = states.vectors.shape[1]
            self._states.append(state_table_to_arrow(states, self._features))
            self._experiences.append(experience_table_to_arrow(experiences))

    @property
    def counts(self) -> ArchivedCounts:
        """What was appended so far."""
        held = {REGIMES[code]: int(self._regimes[code]) for code in np.flatnonzero(self._regimes).tolist()}
        return ArchivedCounts(held, self._recorded_at_ms, self._known_at_ms or 0)

    def close(self) -> ArchiveReference:
        """Moves the files to their names, and says where they are.

        Raises
        ------
        ArchiveError
            Nothing was appended.
        ArchiveUnavailableError
            The place cannot be written to; nothing that looks whole is left behind.
        """
        if self._dimension is None:
            raise ArchiveError(
                "nothing was appended to the archive of a window.", remedy="Archive windows that hold something."
            )
        shared = {"encoder_id": self._key["encoder_id"], "source": self._key["source"]}
        state_meta = shared | {
            "feature_names": self._features,
            "products": sorted(self._names["products"]),
            "dimension": self._dimension,
        }
        experience_meta = shared | {
            "agents": sorted(self._names["agents"]),
            "products": sorted(self._lived_products),
            "runs": sorted(self._names["runs"]),
        }
        with self._place.explained("written"):
            try:
                # A disk that is full by now leaves neither file.
                self._states.finish(state_meta)
                self._experiences.finish(experience_meta)
                return ArchiveReference(
                    **self._key,
                    content_digest=self._hash.hexdigest(),
                    states=self._states.commit(),
                    experiences=self._experiences.commit(),
                    known_at_max=None if self._known_at_ms is None else from_ms(self._known_at_ms),
                    derived_from=self._derived_from,
                )
            finally:
                self.discard()

    def discard(self) -> None:
        """Removes what was written and not closed; does nothing after `close`."""
        self._states.discard()
        self._experiences.discard()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def _features(self) -> list[str]:
        return sorted(self._names["features"])

    def _check(self, part: WindowData) -> None:
        for table in (part.states, part.experiences):
            if (table.encoder_id, table.source) != (self._key["encoder_id"], self._key["source"]):
                raise ArchiveError(
                    f"a part of {table.encoder_id}/{table.source} does not belong to the archive of "
                    f"{self._key['encoder_id']}/{self._key['source']}.",
                    remedy="Give each encoder and source an archive of its own.",
                )
        if self._dimension not in (None, part.states.vectors.shape[1]):
            raise ArchiveError(
                f"a part has vectors of {part.states.vectors.shape[1]} numbers, the one before of {self._dimension}.",
                remedy="All states of one encoder have vectors of one length.",
            )
        states, lived = part.states, part.experiences
        rows = np.arange(len(states), dtype=np.intp)
        self._check_order(STATES, states.products, states.product, states.timestamp_ms, rows)
        self._check_order(EXPERIENCES, lived.products, lived.product, lived.timestamp_ms, stream_order(lived))

    def _check_order(
        self,
        kind: str,
        names: Sequence[str],
        product: npt.NDArray[np.int64],
        time: npt.NDArray[np.int64],
        rows: npt.NDArray[np.intp],
    ) -> None:
        if not len(rows):
            return
        codes, times = product[rows], time[rows]
        later = (np.diff(codes) > 0) | ((np.diff(codes) == 0) & (np.diff(times) >= 0))
        # Codes out of range are reported by name where they are turned into texts.
        bounds = [(names[codes[index]], int(times[index])) for index in (0, -1) if 0 <= codes[index] < len(names)]
        in_order = list(names) == sorted(names) and bool(later.all())
        if not in_order or (bounds and kind in self._last and bounds[0] < self._last[kind]):
            raise ArchiveError(
                f"the {kind} of a part do not come in the order of products and times.",
                remedy="Sort names and rows, and append the parts by product, and by time within a product.",
            )
        if bounds:
            self._last[kind] = bounds[-1]


class _FileWriter:
    """One Parquet file in the making: row groups of one size, whatever the tables' sizes."""

    def __init__(self, place: Place, folder: str, kind: str) -> None:
        self._place = place
        self._folder = folder
        self._kind = kind
        self._schema: pa.Schema | None = experience_schema() if kind == EXPERIENCES else None
        self._file: NewFile | None = None
        self._parquet: Any = None
        self._pending: list[pa.Table] = []
        self._rows = 0

    def append(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._rows += table.num_rows
        if sum(waiting.num_rows for waiting in self._pending) >= ROW_GROUP_ROWS:
            self._write(last=False)

    def widen(self, schema: pa.Schema) -> None:
        """Goes on with more columns: what was written is copied, with NaN where it lacks one."""
        written, parquet = self._file, self._parquet
        self._schema, self._file, self._parquet = schema, None, None
        self._pending = [_widened(table, schema) for table in self._pending]
        if written is None:
            return
        try:
            parquet.close()
            with written.read_back() as stream:
                source = pq.ParquetFile(stream)
                for group in range(source.num_row_groups):
                    self._open().write_table(
                        _widened(source.read_row_group(group), schema).combine_chunks(), row_group_size=ROW_GROUP_ROWS
                    )
        finally:
            written.discard()

    def finish(self, meta: dict[str, Any]) -> None:
        """Writes what is left, so that the file is whole."""
        self._write(last=True)
        parquet = self._open()
        parquet.add_key_value_metadata(pack_meta(self._kind, meta))
        parquet.close()
        assert self._file is not None  # opened with the writer
        self._file.finish()

    def commit(self) -> ArchivedFile:
        """Gives the finished file its name."""
        assert self._file is not None  # it was finished
        archived = self._file.commit(self._rows)
        self._file = None
        return archived

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()
            # Parquet writes its footer when it is let go of, at the latest: here it goes nowhere.
            self._parquet.close()
            self._file = None

    def _write(self, *, last: bool) -> None:
        if not self._pending:
            return
        # One piece a row group: where the tables were cut must not show in the pages of the file either.
        waiting = pa.concat_tables(self._pending).combine_chunks()
        start = 0
        while waiting.num_rows - start >= ROW_GROUP_ROWS or (last and start < waiting.num_rows):
            self._open().write_table(waiting.slice(start, ROW_GROUP_ROWS), row_group_size=ROW_GROUP_ROWS)
            start += ROW_GROUP_ROWS
        rest = waiting.slice(start)
        self._pending = [rest] if rest.num_rows else []

    def _open(self) -> Any:
        if self._parquet is None:
            self._file = NewFile(self._place, self._folder, self._kind)
            self._parquet = pq.ParquetWriter(
                pa.PythonFile(self._file.sink, mode="w"),
                self._schema,
                compression="zstd",
                compression_level=COMPRESSION_LEVEL,
                # Only names repeat; a dictionary of vectors would be as large as they are.
                use_dictionary=list(TEXTS[self._kind]),
                # Lets a reader skip the row groups of other products.
                write_statistics=["product"],
                store_schema=True,
            )
        return self._parquet


def _widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    unknown = pa.array(np.full(table.num_rows, np.nan))
    columns = [table.column(name) if name in table.column_names else unknown for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)
