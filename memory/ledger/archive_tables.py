"""States and experiences of a window as Arrow tables and back, bit for bit.

Format 2: rows by product and time, names as plain texts, one column a feature (sorted by name), what all rows share in
the file's own metadata. Format 1, which is still read, had its experiences by agent, and no `origin`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memory.errors import ArchiveError
from memory.ledger.archive_content import (
    EXPERIENCE_FLOATS,
    EXPERIENCE_INTEGERS,
    FEATURE_PREFIX,
    STATE_FLOATS,
    STATE_INTEGERS,
    check_codes,
    stream_order,
)
from memory.records import REGIMES
from memory.tables import ORIGIN_DTYPE, ExperienceTable, StateTable

FORMAT_VERSION = 2
"""Layout of the files; raised when a reader of today could not read what is written tomorrow."""
META_KEY = b"coinswarm"
STATES, EXPERIENCES = "states", "experiences"
TEXTS = {STATES: ("product", "regime"), EXPERIENCES: ("agent", "product", "run", "regime")}
"""Columns of names, by kind of file: the ones that parquet keeps a dictionary of."""
VECTORS, ORIGIN = "vectors", "origin"


def state_schema(feature_names: Sequence[str], dimension: int) -> pa.Schema:
    """Schema of a file of states."""
    return pa.schema(
        [
            ("product", pa.string()),
            *((name, pa.int64()) for name in STATE_INTEGERS),
            *((name, pa.float64()) for name in STATE_FLOATS),
            ("regime", pa.string()),
            *((FEATURE_PREFIX + name, pa.float64()) for name in feature_names),
            (ORIGIN, pa.binary()),
            (VECTORS, pa.list_(pa.float32(), dimension)),
        ]
    )


def state_table_to_arrow(table: StateTable, feature_names: Sequence[str]) -> pa.Table:
    """One row a state, with a column for each of `feature_names`: NaN where the table lacks it."""
    columns = {
        "product": _texts(table.product, table.products, "product"),
        **{name: pa.array(getattr(table, name)) for name in STATE_INTEGERS + STATE_FLOATS},
        "regime": _texts(table.regime, REGIMES, "regime"),
        **{FEATURE_PREFIX + name: pa.array(np.ascontiguousarray(table.feature(name))) for name in feature_names},
        ORIGIN: pa.array(table.origin, type=pa.binary()),
        VECTORS: _vectors_to_arrow(table.vectors),
    }
    return _of_schema(columns, state_schema(feature_names, table.vectors.shape[1]))


def experience_schema() -> pa.Schema:
    """Schema of a file of experiences."""
    return pa.schema(
        [
            ("agent", pa.string()),
            ("product", pa.string()),
            ("run", pa.string()),
            *((name, pa.int64()) for name in EXPERIENCE_INTEGERS),
            ("regime", pa.string()),
            *((name, pa.float64()) for name in EXPERIENCE_FLOATS),
            ("terminal", pa.bool_()),
        ]
    )


def experience_table_to_arrow(table: ExperienceTable) -> pa.Table:
    """One row an experience, by product and time."""
    table = table.take(stream_order(table))
    columns = {
        "agent": _texts(table.agent, table.agents, "agent"),
        "product": _texts(table.product, table.products, "product"),
        "run": _texts(table.run, table.runs, "run"),
        **{name: pa.array(getattr(table, name)) for name in EXPERIENCE_INTEGERS},
        "regime": _texts(table.regime, REGIMES, "regime"),
        **{name: pa.array(getattr(table, name)) for name in EXPERIENCE_FLOATS},
        "terminal": pa.array(np.asarray(table.terminal, dtype=np.bool_)),
    }
    return _of_schema(columns, experience_schema())


def pack_meta(kind: str, meta: dict[str, Any]) -> dict[bytes, bytes]:
    """What all rows of a file share, for its metadata."""
    return {META_KEY: json.dumps({"format": FORMAT_VERSION, "kind": kind, **meta}, sort_keys=True).encode()}


def unpack_meta(metadata: dict[bytes, bytes] | None, kind: str) -> dict[str, Any]:
    """What all rows of a file share.

    Raises
    ------
    ArchiveError
        The file holds something else, or is of a later format.
    """
    text = (metadata or {}).get(META_KEY)
    meta: dict[str, Any] = json.loads(text) if text is not None else {}
    if meta.get("kind") != kind:
        raise ArchiveError(
            f"the file is no archive of {kind}.", remedy="Point the archive at the folder that the ledger wrote to."
        )
    if meta["format"] > FORMAT_VERSION:
        raise ArchiveError(
            f"the archive has format {meta['format']}, and this version reads up to {FORMAT_VERSION}.",
            remedy="Upgrade the software (pip install -U coinswarm-memory).",
        )
    return meta


def codes_from_arrow(columns: Iterable[pa.Array], names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Indices into names, of texts that may come with dictionaries of their own; -1 for what is not among them."""
    index = {name: code for code, name in enumerate(names)}
    parts = [np.empty(0, dtype=np.int64)]
    for chunk in columns:
        encoded = chunk if isinstance(chunk, pa.DictionaryArray) else chunk.dictionary_encode()
        lookup = np.array([index.get(name, -1) for name in encoded.dictionary.to_pylist()], dtype=np.int64)
        parts.append(lookup[encoded.indices.to_numpy(zero_copy_only=False)])
    return np.concatenate(parts)


def vectors_from_arrow(column: pa.Array, dimension: int) -> npt.NDArray[np.float32]:
    """Vectors, shape (n, dimension); a view of Arrow's memory."""
    flat: npt.NDArray[np.float32] = column.flatten().to_numpy()
    return flat.reshape(-1, dimension)


def origins_from_arrow(column: pa.Array) -> npt.NDArray[np.bytes_]:
    """Ids of the records that speak for states, shape (n,)."""
    return np.array(column.to_pylist(), dtype=ORIGIN_DTYPE)


def _of_schema(columns: dict[str, pa.Array], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _texts(codes: npt.NDArray[np.int64], names: Sequence[str], column: str) -> pa.Array:
    check_codes(codes, names, column)
    # Texts and not codes: the dictionary that parquet makes of them then depends on the rows alone.
    return pa.array(list(names), type=pa.string()).take(pa.array(codes))


def _vectors_to_arrow(vectors: npt.NDArray[np.float32]) -> pa.Array:
    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])
