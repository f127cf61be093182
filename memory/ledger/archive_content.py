"""The digest of what a window holds, taken in one pass over parts of any size.

Each column has a hash of its own, so that where one part ends and the next begins leaves no trace. Names enter by
their digests, row by row, so that a name's code, which depends on what else there is, does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import ArchiveError
from memory.ledger.hashing import digest_of
from memory.records import REGIMES
from memory.tables import ExperienceTable, WindowData

STATE_INTEGERS = ("timestamp_ms", "known_at_ms", "recorded_at_ms")
STATE_FLOATS = ("price", "spread")
EXPERIENCE_INTEGERS = ("timestamp_ms", "known_at_ms", "recorded_at_ms", "step", "side")
EXPERIENCE_FLOATS = (
    "size",
    "reward",
    "gross_return",
    "cost",
    "position_before",
    "position_after",
    "confidence",
    "quality",
)
FEATURE_PREFIX = "feature:"
CIRCUMSTANCES = frozenset({"recorded_at_ms", "quality"})
"""What depends on when it was recorded, and on what had been consolidated by then, not on what was lived through.

So does which of a state's records speaks for it (`origin`).
"""
_PAD_ROWS = 65_536
_NAME_BYTES = 16

Rows = npt.NDArray[np.intp]


class ContentHash:
    """SHA-256 of everything in a window's tables but its circumstances, fed part by part.

    Parts must come in the order of products and times, and each in the order of its tables; however the rows are cut
    into parts, the digest is the same. Equal experience has an equal digest, whenever it was recorded and wherever it
    is archived. Features that no state has do not count.
    """

    def __init__(self, encoder_id: str, source: str) -> None:
        self._head = {"encoder_id": encoder_id, "source": source}
        self._states = _ColumnHashes()
        self._experiences = _ColumnHashes()
        self._dimension = 0

    def update(self, part: WindowData) -> None:
        """Takes in a part of the window."""
        states, experiences = part.states, part.experiences
        columns: dict[str, npt.NDArray[Any]] = {
            "product": _name_digests(states.product, states.products, "product"),
            "regime": _name_digests(states.regime, REGIMES, "regime"),
            **{name: getattr(states, name) for name in STATE_INTEGERS + STATE_FLOATS},
            "vectors": np.asarray(states.vectors, dtype=np.float32),
        }
        features = {
            FEATURE_PREFIX + name: np.asarray(states.features[:, index], dtype=np.float64)
            for index, name in enumerate(states.feature_names)
        }
        self._dimension = states.vectors.shape[1]
        self._states.update(len(states), columns, features)
        order = stream_order(experiences)
        lived: dict[str, npt.NDArray[Any]] = {
            "agent": _name_digests(experiences.agent, experiences.agents, "agent")[order],
            "product": _name_digests(experiences.product, experiences.products, "product")[order],
            "run": _name_digests(experiences.run, experiences.runs, "run")[order],
            "regime": _name_digests(experiences.regime, REGIMES, "regime")[order],
            **{name: getattr(experiences, name)[order] for name in EXPERIENCE_INTEGERS + EXPERIENCE_FLOATS},
            "terminal": np.asarray(experiences.terminal, dtype=np.bool_)[order],
        }
        self._experiences.update(len(experiences), lived, {})

    def hexdigest(self) -> str:
        """The digest of all parts so far, 64 hex digits."""
        return digest_of(
            {
                **self._head,
                "dimension": self._dimension,
                "states": self._states.digests(),
                "experiences": self._experiences.digests(),
            }
        )


def content_digest(data: WindowData) -> str:
    """SHA-256 of everything in a window's tables but its circumstances (see `ContentHash`). Cost: one pass."""
    total = ContentHash(data.states.encoder_id, data.states.source)
    total.update(data)
    return total.hexdigest()


def stream_order(table: ExperienceTable) -> Rows:
    """Rows by product, time, agent, step and run: the order in which a window can be read and written bit by bit."""
    return np.lexsort((table.run, table.step, table.agent, table.timestamp_ms, table.product))


def table_order(table: ExperienceTable) -> Rows:
    """Rows by agent, product, time, step and run: the order of an `ExperienceTable`."""
    return np.lexsort((table.run, table.step, table.timestamp_ms, table.product, table.agent))


def check_codes(codes: npt.NDArray[np.int64], names: Sequence[str], column: str) -> None:
    """Raises ArchiveError where a code is no index into its names."""
    if len(codes) and not (codes.min() >= 0 and codes.max() < len(names)):
        raise ArchiveError(
            f"column {column!r} has codes from {codes.min()} to {codes.max()}, for {len(names)} names.",
            remedy="Build the table with codes that are indices into its names.",
        )


class _ColumnHashes:
    """One hash a column. A column that starts late was unknown (NaN) in all rows before."""

    def __init__(self) -> None:
        self._rows = 0
        self._hashes: dict[str, Any] = {}
        self._with_values: set[str] = set()

    def update(
        self, rows: int, columns: dict[str, npt.NDArray[Any]], optional: dict[str, npt.NDArray[np.float64]]
    ) -> None:
        for name, values in columns.items():
            if name not in CIRCUMSTANCES:
                self._with_values.add(name)
                self._hashes.setdefault(name, hashlib.sha256()).update(np.ascontiguousarray(values).data)
        for name in optional.keys() - self._hashes.keys():
            self._hashes[name] = hashlib.sha256()
            self._pad(name, self._rows)
        for name, values in optional.items():
            self._hashes[name].update(np.ascontiguousarray(values).data)
            if name not in self._with_values and not np.isnan(values).all():
                self._with_values.add(name)
        for name in self._hashes.keys() - columns.keys() - optional.keys():
            self._pad(name, rows)
        self._rows += rows

    def digests(self) -> dict[str, Any]:
        columns = {name: self._hashes[name].hexdigest() for name in self._hashes if name in self._with_values}
        return {"rows": self._rows, "columns": columns}

    def _pad(self, name: str, rows: int) -> None:
        for start in range(0, rows, _PAD_ROWS):
            self._hashes[name].update(np.full(min(_PAD_ROWS, rows - start), np.nan).data)


def _name_digests(codes: npt.NDArray[np.int64], names: Sequence[str], column: str) -> npt.NDArray[np.uint8]:
    """16 bytes a row, shape (n, 16)."""
    check_codes(codes, names, column)
    packed = b"".join(hashlib.blake2b(name.encode(), digest_size=_NAME_BYTES).digest() for name in names)
    table = np.frombuffer(packed, dtype=np.uint8).reshape(-1, _NAME_BYTES)
    found: npt.NDArray[np.uint8] = table[codes]
    return found
