"""The rows of one agent in memory: kept up to date one by one, and searched exactly.

Nothing here waits or talks to a server: every method finishes within the turn of the event loop that calls it, so a
question never sees half of a change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from memory.records import PHASES, REGIMES
from memory.retrieval.near.anchors import (
    ANCHORED_FROM,
    UNEXPLAINED,
    choose_anchors,
    sample_step,
    split_by_anchors,
)
from memory.retrieval.near.arena import Arena, Columns, Positions, Scope
from memory.retrieval.near.basis import FIT_ROWS, RANK, Floats, fit_basis, split
from memory.retrieval.near.merit import Merit
from memory.retrieval.near.search import Nearest, Pruning, Question, nearest_rows
from memory.retrieval.ranking import Relevance, squashed

OBJECT_BYTES = 170
"""What Python keeps for a row beside the contents of key and body: two byte strings, entries of a dict and lists."""
SPLIT_ROWS = 8192
RESERVED_SHARE = 4
SMALLEST_RESERVE = 32
OUTGROWN_FROM = 1024
"""Below this many rows a better basis would save nothing worth a reload."""

VECTOR_TYPES: dict[str, np.dtype[Any]] = {"FLOAT32": np.dtype("<f4"), "FLOAT16": np.dtype("<f2")}
REGIME_CODES = {regime: code for code, regime in enumerate(REGIMES)}
PHASE_CODES = {phase: code for code, phase in enumerate(PHASES)}
_PHASE_MS = 24 // len(PHASES) * 3_600_000


class StoredRow(NamedTuple):
    """A record as it is stored.

    `vector` is packed as the index has it; `regime` and `feature_schema` are what the body holds; `volatility` is its
    trailing volatility, 0 where it does not say.
    """

    key: bytes
    body: bytes
    vector: bytes
    product_id: str
    timestamp_ms: int
    regime: int
    feature_schema: str
    known_ms: int
    recorded_ms: int
    expires_ms: int
    reward: float
    volatility: float = 0.0

    def columns(self) -> Columns:
        """What filters look at."""
        phase = self.timestamp_ms // _PHASE_MS % len(PHASES)
        luck = squashed(self.reward, self.volatility) if self.volatility > 0 else math.nan
        return Columns(self.known_ms, self.timestamp_ms, self.expires_ms, self.reward, phase, luck)


class AgentRows:
    """The experiences of one agent in one encoder: filled page by page, put in order (`settle`), then searched.

    Parameters
    ----------
    vector_type, dimension
        How vectors are packed (FLOAT32 or FLOAT16), and their length.
    expected
        About how many rows there will be.
    """

    def __init__(self, vector_type: str, dimension: int, expected: int = 0) -> None:
        self.vector_type = vector_type
        self._keys: list[bytes] = []
        self._bodies: list[bytes] = []
        self._scopes: list[Scope] = []
        self._known_scopes: dict[Scope, Scope] = {}
        self._slot_of: dict[bytes, int] = {}
        self._free: list[int] = []
        self._content_bytes = 0
        # Room that was never written to costs no memory: the system gives pages when they are touched.
        size = expected + max(SMALLEST_RESERVE, expected // RESERVED_SHARE)
        self._vectors = np.empty((size, dimension), dtype=VECTOR_TYPES[vector_type])
        self._scales = np.empty(size, dtype=np.float32)
        self._recorded_ms = np.empty(size, dtype=np.int64)
        self._staged: list[Columns] = []
        self._basis: Floats = np.eye(min(RANK, dimension), dimension, dtype=np.float32)
        self._anchors: Floats | None = None
        self._arena = Arena(self._basis.shape[0])
        self._fitted_on = 0
        self._pruning = [Pruning() for _ in range(4)]

    # --- filling ---------------------------------------------------------------------------------------------

    def fill(self, rows: Sequence[StoredRow]) -> None:
        """Add rows before `settle`; of several under one key the last stays. About 4 microseconds a row."""
        for row in rows:
            slot = self._slot_of.get(row.key)
            if slot is None:
                slot = self._occupy(row)
                self._staged.append(row.columns())
            else:
                self._content_bytes += len(row.body) - len(self._bodies[slot])
                self._bodies[slot], self._scopes[slot] = row.body, self._scope(row)
                self._staged[slot] = row.columns()
            self._vectors[slot] = np.frombuffer(row.vector, dtype=self._vectors.dtype)
            self._recorded_ms[slot] = row.recorded_ms

    def settle(self) -> None:
        """Fit the basis and lay out the bounds; from here on rows are searched, and change by `put` and `remove`.

        Where the basis explains little, anchors are tried, and take its place where they rule out much more.

        Cost: about 60 ms for 20,000 rows, nearly all of it in NumPy, which lets other threads run meanwhile. Where
        anchors are tried, up to 0.7 s more, and where they are kept, 5 to 20 microseconds a row (`split_by_anchors`).
        """
        count = self._fitted_on = len(self._keys)
        if not count:
            return
        self._sort()
        self._basis = fit_basis(self._unit(slice(0, count, max(1, count // FIT_ROWS))))
        heads = np.empty((count, len(self._basis)), dtype=np.float32)
        rests = np.empty(count, dtype=np.float32)
        for start in range(0, count, SPLIT_ROWS):
            here = slice(start, min(start + SPLIT_ROWS, count))
            heads[here], rests[here] = split(self._unit(here), self._basis)
        self._anchors = self._chosen_anchors(heads, rests)
        nearest: Positions | None = None
        if self._anchors is not None:
            heads, nearest = np.empty((count, 1), dtype=np.float32), np.empty(count, dtype=np.int64)
            for start in range(0, count, SPLIT_ROWS):
                here = slice(start, min(start + SPLIT_ROWS, count))
                nearest[here], heads[here, 0], rests[here] = split_by_anchors(self._unit(here), self._anchors)
        self._arena = Arena(heads.shape[1], anchored=nearest is not None)
        self._arena.fill(heads, rests, Columns.of(self._staged), self._scopes, nearest)
        self._staged = []

    def _chosen_anchors(self, heads: Floats, rests: Floats) -> Floats | None:
        """Anchors, where the basis explains so little, and the rows lie so, that they are worth having."""
        count = len(rests)
        if count < ANCHORED_FROM or float(rests.mean()) < UNEXPLAINED:
            return None
        step = sample_step(count)
        sample = slice(0, count, step)
        return choose_anchors(self._unit(sample), heads[sample], rests[sample], self._basis, step)

    def _sort(self) -> None:
        """Lay the rows of a scope side by side, in the order of their times: what is read together lies together."""
        order = sorted(range(len(self._keys)), key=lambda row: (self._scopes[row], self._staged[row].timestamp_ms))
        vectors = np.empty_like(self._vectors)
        for start in range(0, len(order), SPLIT_ROWS):
            moved = order[start : start + SPLIT_ROWS]
            vectors[start : start + len(moved)] = self._vectors.take(moved, axis=0)
        self._vectors = vectors
        self._recorded_ms[: len(order)] = self._recorded_ms.take(order)
        self._keys = [self._keys[row] for row in order]
        self._bodies = [self._bodies[row] for row in order]
        self._scopes = [self._scopes[row] for row in order]
        self._staged = [self._staged[row] for row in order]
        self._slot_of = {key: slot for slot, key in enumerate(self._keys)}

    def _occupy(self, row: StoredRow) -> int:
        """A slot for a row whose key has none."""
        scope = self._scope(row)
        if self._free:
            slot = self._free.pop()
            self._keys[slot], self._bodies[slot], self._scopes[slot] = row.key, row.body, scope
        else:
            slot = len(self._keys)
            if slot == len(self._vectors):
                self._grow()
            self._keys.append(row.key)
            self._bodies.append(row.body)
            self._scopes.append(scope)
        self._slot_of[row.key] = slot
        self._content_bytes += len(row.key) + len(row.body)
        return slot

    def _scope(self, row: StoredRow) -> Scope:
        """The scope of a row; one object for all rows of it."""
        scope = (row.product_id, row.regime)
        return self._known_scopes.setdefault(scope, scope)

    def _unit(self, here: slice) -> Floats:
        """Vectors at unit length, as the server compares them; remembers by what they were scaled."""
        vectors = self._vectors[here].astype(np.float32)
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        scales = (1.0 / np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))).astype(np.float32)
        self._scales[here] = scales
        unit: Floats = vectors * scales[:, None]
        return unit

    # --- what there is ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._slot_of)

    def __contains__(self, key: bytes) -> bool:
        return key in self._slot_of

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes; what is reserved and never was used is left out."""
        row_bytes = self._vectors.strides[0] + self._scales.itemsize + self._recorded_ms.itemsize + OBJECT_BYTES
        directions = self._basis.nbytes + (0 if self._anchors is None else self._anchors.nbytes)
        return len(self._keys) * row_bytes + self._content_bytes + self._arena.nbytes + directions

    @property
    def outgrown(self) -> bool:
        """Whether so much has come since the basis was fitted that a new one may prune better."""
        return len(self) > 2 * max(self._fitted_on, OUTGROWN_FROM)

    def slot(self, key: bytes, now_ms: int) -> int | None:
        """Slot of a key's row; None where there is none, or it has expired."""
        slot = self._slot_of.get(key)
        if slot is not None and now_ms >= self._arena.earliest_expiry_ms:
            return None if self._arena.expires_ms(slot) <= now_ms else slot
        return slot

    def key(self, slot: int) -> bytes:
        """Redis key of a row."""
        return self._keys[slot]

    def place(self, slot: int) -> tuple[bytes, bytes]:
        """`key` and `body` of a row."""
        return self._keys[slot], self._bodies[slot]

    def body(self, slot: int) -> bytes:
        """Packed body of a row; the same object for as long as the row does not change."""
        return self._bodies[slot]

    def times(self, slot: int) -> tuple[int, int]:
        """When a row was known, and recorded; milliseconds."""
        return self._arena.known_ms(slot), int(self._recorded_ms[slot])

    def vectors(self, slots: Sequence[int]) -> Floats:
        """Copies of the vectors of some rows as they were stored, float32, read-only; shape (slots, dimension)."""
        taken = self._vectors.take(slots, axis=0).astype(np.float32, copy=False)
        taken.flags.writeable = False
        return taken

    def as_stored(self, vector: Floats) -> Floats:
        """A vector as the server would read it: rounded as the index has it, at unit length."""
        read = vector.astype(self._vectors.dtype, copy=False).astype(np.float64)
        unit: Floats = (read / np.sqrt(read @ read)).astype(np.float32)
        return unit

    # --- changing --------------------------------------------------------------------------------------------

    def put(self, row: StoredRow) -> None:
        """Add a row, or replace the one under its key; about 30 microseconds, rarely a move of all bounds."""
        self.remove(row.key)
        slot = self._occupy(row)
        self._vectors[slot] = np.frombuffer(row.vector, dtype=self._vectors.dtype)
        self._recorded_ms[slot] = row.recorded_ms
        unit = self._unit(slice(slot, slot + 1))
        if self._anchors is None:
            heads, rests = split(unit, self._basis)
            self._arena.put(slot, self._scopes[slot], heads[0], float(rests[0]), row.columns())
        else:
            placed = split_by_anchors(unit, self._anchors)
            anchor, rest = int(placed.anchors[0]), float(placed.rests[0])
            self._arena.put(slot, self._scopes[slot], placed.cosines, rest, row.columns(), anchor)

    def remove(self, key: bytes) -> None:
        """Take out the row of a key; nothing happens where there is none."""
        slot = self._slot_of.pop(key, None)
        if slot is None:
            return
        self._arena.remove(slot, self._scopes[slot])
        self._content_bytes -= len(key) + len(self._bodies[slot])
        self._keys[slot] = self._bodies[slot] = b""
        self._free.append(slot)

    def _grow(self) -> None:
        """Twice the room; amortised, and the system gives pages only when they are touched."""
        used = len(self._keys)
        for name in ("_vectors", "_scales", "_recorded_ms"):
            old = getattr(self, name)
            new = np.empty((2 * len(old), *old.shape[1:]), dtype=old.dtype)
            new[:used] = old[:used]
            setattr(self, name, new)

    # --- asking ----------------------------------------------------------------------------------------------

    def nearest(self, question: Question, now_ms: int) -> Nearest:
        """The rows nearest to a question, nearest first, ties by memory id; exact.

        Parameters
        ----------
        question
            What is asked; its vector as `as_stored` leaves it.
        now_ms
            The server's time: what expired by then is not seen.

        Returns
        -------
        Slots, distances, and copies of the vectors: float32, read-only.
        """
        found = self._search(question, now_ms, pruning=self._pruning_of(question))
        slots, distances, vectors = found
        if len(set(distances)) == len(distances):
            order = sorted(range(len(slots)), key=distances.__getitem__)
        else:
            # The memory id is the key's last part.
            names = [self._keys[slot].rpartition(b":")[2] for slot in slots]
            order = sorted(range(len(slots)), key=lambda number: (distances[number], names[number]))
        del order[question.top_k :]
        ordered = vectors.take(order, axis=0).astype(np.float32, copy=False)
        ordered.flags.writeable = False
        return Nearest([slots[number] for number in order], [distances[number] for number in order], ordered)

    def most_relevant(self, question: Question, relevance: Relevance, now_ms: int) -> Nearest:
        """Rows among which the `top_k` most relevant are, in no order; few more, but all that may be as relevant.

        Parameters and results as of `nearest`.
        """
        found = self._search(question, now_ms, merit=Merit(relevance))
        vectors = found.vectors.astype(np.float32, copy=False)
        vectors.flags.writeable = False
        return found._replace(vectors=vectors)

    def _pruning_of(self, question: Question) -> Pruning:
        """Of questions with and without product and regime: groups that help in one may be too small in another."""
        return self._pruning[2 * (question.product_id is None) + (question.regime is None)]

    def _search(
        self, question: Question, now_ms: int, *, merit: Merit | None = None, pruning: Pruning | None = None
    ) -> Nearest:
        return nearest_rows(
            question, self._arena, self._vectors, self._scales, self._basis, self._anchors, now_ms, merit, pruning
        )
