"""Keys of Redis as rows of Parquet: every kind of key, byte by byte as the server holds it.

A stream is several rows: one of kind ``stream`` that says how it stands (`memory.backup.streams`), then one of kind
``entry`` for each entry. Names of keys are without the namespace and its colon, so that a row has a place in any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

COMPRESSION_LEVEL = 1
"""Vectors hardly shrink, texts do at any level; 1 writes twice as fast as 3 and takes 2 % more."""
ROW_GROUP_ROWS = 1000
ROW_GROUP_BYTES = 8 << 20
"""Rows, and about how many bytes, are in memory at a time, on the way out and back."""

STRING, HASH, SET, ZSET, LIST, STREAM, ENTRY = "string", "hash", "set", "zset", "list", "stream", "entry"

SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("expires_ms", pa.int64()),
        pa.field("value", pa.binary()),
        pa.field("fields", pa.map_(pa.binary(), pa.binary()), nullable=False),
    ]
)


class KeyRow(NamedTuple):
    """A key of Redis, or an entry of a stream.

    Attributes
    ----------
    key
        Its name without the namespace and its colon.
    kind
        ``string``, ``hash``, ``set``, ``zset``, ``list``, ``stream`` or ``entry``.
    expires_ms
        When it goes by itself, milliseconds since 1970; None for never.
    value
        Content of a string; how a stream stands; id of an entry.
    fields
        Names and values of a hash or entry; members of a set with nothing beside them, those of a sorted set with
        their scores as text; nothing beside the items of a list, in order.
    """

    key: bytes
    kind: str
    expires_ms: int | None = None
    value: bytes | None = None
    fields: Sequence[tuple[bytes, bytes]] = ()

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        return len(self.key) + len(self.value or b"") + sum(len(name) + len(value) for name, value in self.fields)

    @property
    def digest(self) -> int:
        """A number of 256 bits that stands for all of it, in whatever order the server lists fields.

        Of a stream, its fields count for nothing: they say when entries were handed out (`memory.backup.streams`).
        """
        ordered = list(self.fields) if self.kind in (LIST, ENTRY) else sorted(self.fields)
        ordered = [] if self.kind == STREAM else ordered
        packed = msgspec.msgpack.encode((self.key, self.kind, self.expires_ms, self.value, ordered))
        return int.from_bytes(hashlib.sha256(packed).digest(), "big")


_SPACE = 1 << 256


def summed(digests: Iterable[int], start: int = 0) -> int:
    """The digest of many rows: the same in whatever order they come, another where one is missing or there twice."""
    total = start
    for digest in digests:
        total = (total + digest) % _SPACE
    return total


class RowWriter:
    """Writes rows as one Parquet file, some at a time.

    Parameters
    ----------
    sink
        A path, or a file that is open for writing.
    """

    def __init__(self, sink: Any, *, row_group_rows: int = ROW_GROUP_ROWS, row_group_bytes: int = ROW_GROUP_BYTES):
        self._parquet = pq.ParquetWriter(
            sink,
            SCHEMA,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=["kind"],
            write_statistics=False,
        )
        self._group_rows = row_group_rows
        self._group_bytes = row_group_bytes
        self._waiting: list[KeyRow] = []
        self._waiting_bytes = 0
        self.rows = 0
        self.digest = 0

    def write(self, rows: Iterable[KeyRow]) -> None:
        """Write rows, soon."""
        for row in rows:
            self._waiting.append(row)
            self._waiting_bytes += row.bytes
            self.digest = summed((row.digest,), self.digest)
            if len(self._waiting) >= self._group_rows or self._waiting_bytes >= self._group_bytes:
                self._flush()

    def close(self) -> None:
        """Write what waits, and end the file."""
        self._flush()
        self._parquet.close()

    def _flush(self) -> None:
        if self._waiting:
            self._parquet.write_batch(_batch(self._waiting))
            self.rows += len(self._waiting)
            self._waiting, self._waiting_bytes = [], 0


def read_rows(source: Any) -> Iterator[list[KeyRow]]:
    """The rows of a file (a path, or an open one), in order, one row group in memory at a time.

    Raises
    ------
    pyarrow.ArrowException
        The file is no Parquet, or damaged.
    """
    with pq.ParquetFile(source) as file:
        for group in range(file.num_row_groups):
            yield _rows(file.read_row_group(group, use_threads=False))


def _batch(rows: Sequence[KeyRow]) -> pa.RecordBatch:
    offsets, names, values = [0], [], []
    for row in rows:
        for name, value in row.fields:
            names.append(name)
            values.append(value)
        offsets.append(len(names))
    fields = pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(names, pa.binary()), pa.array(values, pa.binary())
    )
    return pa.record_batch(
        [
            pa.array([row.key for row in rows], pa.binary()),
            pa.array([row.kind for row in rows], pa.string()),
            pa.array([row.expires_ms for row in rows], pa.int64()),
            pa.array([row.value for row in rows], pa.binary()),
            fields,
        ],
        schema=SCHEMA,
    )


def _rows(table: pa.Table) -> list[KeyRow]:
    found: list[KeyRow] = []
    for batch in table.to_batches():
        fields = batch.column("fields")
        offsets = fields.offsets.to_pylist()
        # Of a batch that is a part of another, keys and items are those of the whole: the offsets say which.
        names, values = fields.keys.to_pylist(), fields.items.to_pylist()
        plain = [batch.column(name).to_pylist() for name in ("key", "kind", "expires_ms", "value")]
        for number, (key, kind, expires_ms, value) in enumerate(zip(*plain, strict=True)):
            start, end = offsets[number], offsets[number + 1]
            pairs = list(zip(names[start:end], values[start:end], strict=True))
            found.append(KeyRow(key, kind, expires_ms, value, pairs))
    return found
