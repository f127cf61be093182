"""Answers from rows: the question as the server would read it, and what was found as hits."""

from __future__ import annotations

from memory.records import Vector
from memory.retrieval.hits import Hit
from memory.retrieval.near.decode import Decoder, time_of
from memory.retrieval.near.rows import PHASE_CODES, REGIME_CODES, AgentRows
from memory.retrieval.near.search import Question
from memory.retrieval.query import Bounds
from memory.store.codec import following_reference, reference_id, unpack_body, unpack_vector
from memory.store.keys import Keys


class Answerer:
    """Answers questions from the rows of an agent; nothing in it waits."""

    def __init__(self, keys: Keys, decoder: Decoder) -> None:
        self._keys = keys
        self._decoder = decoder

    def answer(
        self, rows: AgentRows, state_vector: Vector, bounds: Bounds, top_k: int, now_ms: int, *, with_next_state: bool
    ) -> list[Hit]:
        """The hits, nearest first; see `NearCache.nearest`."""
        if bounds.exclude_agent_id is not None and bounds.exclude_agent_id == bounds.agent_id:
            return []
        question = Question(
            rows.as_stored(state_vector),
            top_k,
            bounds.product_id,
            None if bounds.regime is None else REGIME_CODES[bounds.regime],
            None if bounds.market_phase is None else PHASE_CODES[bounds.market_phase],
            bounds.since_ms,
            bounds.until_ms,
            bounds.as_of_ms,
            bounds.min_reward,
        )
        slots, distances, vectors = rows.nearest(question, now_ms)
        memories = self._decoder.experiences(rows, slots, vectors, time_of(bounds.as_of_ms))
        if with_next_state:
            for memory, slot in zip(memories, slots, strict=True):
                memory.next_state_vector = self._following(rows, slot, now_ms)
        hits = []
        for memory, distance in zip(memories, distances, strict=True):
            similarity = 1.0 - distance
            hits.append(Hit(memory, distance, similarity, {"similarity": similarity}))
        return hits

    def _following(self, rows: AgentRows, slot: int, now_ms: int) -> Vector | None:
        """Vector of the next state of a row: a row holds it, or it refers to another row of the same agent."""
        body = unpack_body(rows.body(slot))
        reference = following_reference(body)
        if reference is None:
            if not isinstance(body.following, bytes):
                return None
            return unpack_vector(body.following, rows.vector_type)
        parsed = self._keys.parse_episodic(rows.key(slot))
        memory_id = reference_id(parsed, body, reference)
        key = self._keys.episodic(parsed.agent_id, parsed.product_id, reference.timestamp_ms, memory_id)
        target = rows.slot(key.encode(), now_ms)
        if target is None:
            return None
        vector: Vector = rows.vectors([target])[0]
        return vector
