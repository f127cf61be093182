"""States and experiences of a window as Arrow tables and back, bit for bit, and the digest of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memory.errors import ArchiveError
from memory.records import REGIMES
from memory.tables import ExperienceTable, StateTable, WindowData

FORMAT_VERSION = 1
"""Layout of the files; raised when a reader of today could not read what is written tomorrow."""

_META_KEY = b"coinswarm"
_FEATURE_PREFIX = "feature:"
_STATE_INTEGERS = ("timestamp_ms", "known_at_ms", "recorded_at_ms")
_STATE_FLOATS = ("price", "spread")
_EXPERIENCE_INTEGERS = ("timestamp_ms", "known_at_ms", "recorded_at_ms", "step", "side")
_EXPERIENCE_FLOATS = (
    "size",
    "reward",
    "gross_return",
    "cost",
    "position_before",
    "position_after",
    "confidence",
    "quality",
)
_CIRCUMSTANCES = ("recorded_at_ms", "quality")
"""What depends on when it was recorded, and on what had been consolidated by then, not on what was lived through."""


def content_digest(data: WindowData) -> str:
    """SHA-256 of everything in a window's tables but when it was recorded, and the quality given to it then.

    Equal experience has an equal digest, whenever it was recorded and wherever it is archived. Cost: one pass.
    """
    total = hashlib.sha256()
    for table in (data.states, data.experiences):
        for field in fields(table):
            if field.name in _CIRCUMSTANCES:
                continue
            value = getattr(table, field.name)
            total.update(field.name.encode() + b"\x1f")
            if isinstance(value, np.ndarray):
                total.update(f"{value.dtype.str}{value.shape}".encode())
                total.update(np.ascontiguousarray(value).data)
            else:
                total.update(json.dumps(value).encode())
            total.update(b"\x1e")
    return total.hexdigest()


def state_table_to_arrow(table: StateTable) -> pa.Table:
    """One row a state: texts for product and regime, one column a feature, vectors as fixed-size lists of float32."""
    columns: dict[str, pa.Array] = {
        "product": _texts(table.product, table.products, "product"),
        **{name: pa.array(getattr(table, name)) for name in _STATE_INTEGERS + _STATE_FLOATS},
        "regime": _texts(table.regime, REGIMES, "regime"),
        **{
            _FEATURE_PREFIX + name: pa.array(np.ascontiguousarray(table.features[:, index]))
            for index, name in enumerate(table.feature_names)
        },
        "vectors": _vectors_to_arrow(table.vectors),
    }
    meta = {
        "kind": "states",
        "encoder_id": table.encoder_id,
        "source": table.source,
        "feature_names": table.feature_names,
        "products": table.products,
        "dimension": table.vectors.shape[1],
    }
    return _table(columns, meta)


def state_table_from_arrow(arrow: pa.Table) -> StateTable:
    """The inverse of `state_table_to_arrow`; arrays are copies that may be written to."""
    meta = _meta(arrow, "states")
    names = tuple(meta["feature_names"])
    features = np.empty((arrow.num_rows, len(names)), dtype=np.float64)
    for index, name in enumerate(names):
        features[:, index] = _floats(arrow, _FEATURE_PREFIX + name)
    products = tuple(meta["products"])
    figures: dict[str, Any] = {name: _integers(arrow, name) for name in _STATE_INTEGERS}
    figures |= {name: _floats(arrow, name) for name in _STATE_FLOATS}
    return StateTable(
        encoder_id=meta["encoder_id"],
        source=meta["source"],
        feature_names=names,
        products=products,
        product=_codes(arrow, "product", products),
        vectors=_vectors_from_arrow(arrow, meta["dimension"]),
        features=features,
        regime=_codes(arrow, "regime", REGIMES),
        **figures,
    )


def experience_table_to_arrow(table: ExperienceTable) -> pa.Table:
    """One row an experience: texts for agent, product, run and regime."""
    columns: dict[str, pa.Array] = {
        "agent": _texts(table.agent, table.agents, "agent"),
        "product": _texts(table.product, table.products, "product"),
        "run": _texts(table.run, table.runs, "run"),
        **{name: pa.array(getattr(table, name)) for name in _EXPERIENCE_INTEGERS},
        "regime": _texts(table.regime, REGIMES, "regime"),
        **{name: pa.array(getattr(table, name)) for name in _EXPERIENCE_FLOATS},
        "terminal": pa.array(table.terminal),
    }
    meta = {
        "kind": "experiences",
        "encoder_id": table.encoder_id,
        "source": table.source,
        "agents": table.agents,
        "products": table.products,
        "runs": table.runs,
    }
    return _table(columns, meta)


def experience_table_from_arrow(arrow: pa.Table) -> ExperienceTable:
    """The inverse of `experience_table_to_arrow`; arrays are copies that may be written to."""
    meta = _meta(arrow, "experiences")
    agents, products, runs = (tuple(meta[name]) for name in ("agents", "products", "runs"))
    figures: dict[str, Any] = {name: _integers(arrow, name) for name in _EXPERIENCE_INTEGERS}
    figures |= {name: _floats(arrow, name) for name in _EXPERIENCE_FLOATS}
    return ExperienceTable(
        encoder_id=meta["encoder_id"],
        source=meta["source"],
        agents=agents,
        products=products,
        runs=runs,
        agent=_codes(arrow, "agent", agents),
        product=_codes(arrow, "product", products),
        run=_codes(arrow, "run", runs),
        regime=_codes(arrow, "regime", REGIMES),
        terminal=arrow.column("terminal").to_numpy().astype(np.bool_),
        **figures,
    )


def _table(columns: dict[str, pa.Array], meta: dict[str, Any]) -> pa.Table:
    text = json.dumps({"format": FORMAT_VERSION, **meta}, sort_keys=True)
    return pa.table(columns).replace_schema_metadata({_META_KEY: text.encode()})


def _meta(arrow: pa.Table, kind: str) -> dict[str, Any]:
    text = (arrow.schema.metadata or {}).get(_META_KEY)
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


def _texts(codes: npt.NDArray[np.int64], names: Sequence[str], column: str) -> pa.Array:
    if len(codes) and not (codes.min() >= 0 and codes.max() < len(names)):
        raise ArchiveError(
            f"column {column!r} has codes from {codes.min()} to {codes.max()}, for {len(names)} names.",
            remedy="Build the table with codes that are indices into its names.",
        )
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(list(names), type=pa.string()))


def _codes(arrow: pa.Table, column: str, names: Sequence[str]) -> npt.NDArray[np.int64]:
    index = {name: code for code, name in enumerate(names)}
    parts = []
    for chunk in arrow.column(column).chunks:
        # Each chunk brings a dictionary of its own; texts, not codes, are what was archived.
        encoded = chunk if isinstance(chunk, pa.DictionaryArray) else chunk.dictionary_encode()
        lookup = np.array([index[name] for name in encoded.dictionary.to_pylist()], dtype=np.int64)
        parts.append(lookup[encoded.indices.to_numpy()])
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _integers(arrow: pa.Table, column: str) -> npt.NDArray[np.int64]:
    return np.array(arrow.column(column).to_numpy(), dtype=np.int64)


def _floats(arrow: pa.Table, column: str) -> npt.NDArray[np.float64]:
    return np.array(arrow.column(column).to_numpy(), dtype=np.float64)


def _vectors_to_arrow(vectors: npt.NDArray[np.float32]) -> pa.Array:
    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def _vectors_from_arrow(arrow: pa.Table, dimension: int) -> npt.NDArray[np.float32]:
    parts = [chunk.flatten().to_numpy() for chunk in arrow.column("vectors").chunks]
    flat = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
    return np.array(flat, dtype=np.float32).reshape(-1, dimension)
