"""From rows to experiences: each answer gets objects of its own, made from copies kept of rows that were found lately.

Decoding a body takes about 10 microseconds, copying a decoded experience one or two; agents meet the same neighbours
again and again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from memory.records import EpisodicMemory, Vector, from_ms
from memory.retrieval.near.basis import Floats
from memory.retrieval.near.rows import AgentRows
from memory.store.codec import unpack_body, unpack_experience, unpack_others
from memory.store.keys import Keys

DECODED_BYTES = 1_200
"""Memory of one decoded experience without its vector, measured; its features stay packed."""

_UNSET: Vector = np.empty(0, dtype=np.float32)


@dataclass(slots=True, eq=False)
class _Kept:
    """A decoded experience, the very body that it was decoded from, and whether it was found again since."""

    body: bytes
    original: EpisodicMemory
    found_again: bool = False


class Decoder:
    """Decodes rows that were found.

    Parameters
    ----------
    keys
        Of the namespace.
    capacity
        Decoded experiences that are kept. The oldest goes first, but stays for another round where it was found again
        (the CLOCK algorithm): what is found again then costs one look, and no move.
    names
        Names of the features by the id of their schema; filled by whoever reads rows.
    """

    def __init__(self, keys: Keys, capacity: int, names: Mapping[str, tuple[str, ...]]) -> None:
        self._keys = keys
        self._capacity = capacity
        self._names = names
        self._kept: dict[bytes, _Kept] = {}

    @property
    def nbytes(self) -> int:
        """Memory taken, estimated."""
        return len(self._kept) * DECODED_BYTES

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()

    def experiences(
        self, rows: AgentRows, slots: Sequence[int], vectors: Floats, as_of: datetime | None
    ) -> list[EpisodicMemory]:
        """The experiences of rows, as they were known at a time (whole milliseconds; None: all that is known).

        Nothing in them that can be changed is shared with another answer. `vectors` are those of the slots.
        """
        found = []
        kept = self._kept
        for slot, vector in zip(slots, vectors, strict=True):
            key, body = rows.place(slot)
            entry = kept.get(key)
            # A row that was read again has another body, equal or not.
            if entry is None or entry.body is not body:
                entry = self._decoded(rows, slot, key, body)
            else:
                entry.found_again = True
            memory = copy_experience(entry.original)
            memory.state_vector = vector
            if as_of is not None and memory.return_known_at is not None and memory.return_known_at > as_of:
                memory.terminal, memory.cumulative_return, memory.return_known_at = False, None, None
            found.append(memory)
        return found

    def _decoded(self, rows: AgentRows, slot: int, key: bytes, packed: bytes) -> _Kept:
        body = unpack_body(packed)
        known_ms, recorded_ms = rows.times(slot)
        original = unpack_experience(
            self._keys.parse_episodic(key), body, _UNSET, known_ms, recorded_ms, self._names[body.feature_schema]
        )
        original.other_agent_actions = unpack_others(body)  # One for all that are equal; `copy_experience` copies it.
        entry = _Kept(packed, original)
        kept = self._kept
        kept.pop(key, None)
        if len(kept) >= self._capacity:
            self._drop_one()
        if self._capacity:
            kept[key] = entry
        return entry

    def _drop_one(self) -> None:
        """Let the oldest go that was not found again since it was last looked at."""
        kept = self._kept
        while kept:
            key = next(iter(kept))
            entry = kept.pop(key)
            if not entry.found_again:
                return
            entry.found_again = False
            kept[key] = entry


def copy_experience(original: EpisodicMemory) -> EpisodicMemory:
    """An experience like one that was decoded, sharing only what cannot be changed (the features among it), and arrays.

    Field by field, because it is called for every hit of every question: `dataclasses.replace` takes eight times as
    long.
    """
    copy = object.__new__(EpisodicMemory)
    copy.agent_id = original.agent_id
    copy.timestamp = original.timestamp
    copy.state_vector = original.state_vector
    copy.action = original.action
    copy.reward = original.reward
    copy.product_id = original.product_id
    copy.regime = original.regime
    copy.memory_id = original.memory_id
    copy.next_state_vector = original.next_state_vector
    copy.market_phase = original.market_phase
    copy.pattern_ids = original.pattern_ids
    copy.confidence = original.confidence
    copy.other_agent_actions = original.other_agent_actions.copy()
    copy.terminal = original.terminal
    copy.cumulative_return = original.cumulative_return
    copy.return_known_at = original.return_known_at
    copy.encoder_id = original.encoder_id
    copy.source = original.source
    copy.run_id = original.run_id
    copy.step = original.step
    copy.known_at = original.known_at
    copy.recorded_at = original.recorded_at
    copy.price = original.price
    copy.spread = original.spread
    copy.gross_return = original.gross_return
    copy.cost = original.cost
    copy.position_before = original.position_before
    copy.position_after = original.position_after
    copy.features = original.features
    copy.quality = original.quality
    return copy


def time_of(as_of_ms: int | None) -> datetime | None:
    """The time of some milliseconds, for comparison with what was stored in whole milliseconds."""
    return None if as_of_ms is None else from_ms(as_of_ms)
