"""Answers from rows: the question as the server would read it, and what was found as hits."""

from __future__ import annotations

from memory.records import Vector
from memory.retrieval.hits import Hit
from memory.retrieval.near.decode import Decoder, time_of
from memory.retrieval.near.rows import PHASE_CODES, REGIME_CODES, AgentRows
from memory.retrieval.near.search import Nearest, Question
from memory.retrieval.query import Bounds
from memory.retrieval.ranking import Relevance
from memory.store.codec import following_reference, reference_id, unpack_body
from memory.store.content import following_vector
from memory.store.indexes import IndexSchema
from memory.store.keys import Keys

MOST_EQUALLY_RELEVANT = 1000
"""Rows beyond those asked for that are decoded to tell which of equally relevant ones come first; 10 milliseconds.
Where there are more, as where nothing but the reward counts and all rewards are equal, the question is left to others.
"""


class Answerer:
    """Answers questions from the rows of an agent; nothing in it waits."""

    def __init__(self, keys: Keys, decoder: Decoder) -> None:
        self._keys = keys
        self._decoder = decoder

    def answer(
        self,
        rows: AgentRows,
        schema: IndexSchema,
        state_vector: Vector,
        bounds: Bounds,
        top_k: int,
        now_ms: int,
        *,
        with_next_state: bool,
    ) -> list[Hit]:
        """The hits, nearest first; see `NearCache.nearest`."""
        if bounds.exclude_agent_id is not None and bounds.exclude_agent_id == bounds.agent_id:
            return []
        found = rows.nearest(_question(rows, state_vector, bounds, top_k), now_ms)
        hits = self._hits(rows, found, schema, bounds)
        if with_next_state:
            self._fill_in(rows, schema, hits, found.slots, now_ms)
        return hits

    def most_relevant(
        self,
        rows: AgentRows,
        schema: IndexSchema,
        state_vector: Vector,
        bounds: Bounds,
        top_k: int,
        relevance: Relevance,
        now_ms: int,
        *,
        with_next_state: bool,
    ) -> list[Hit] | None:
        """The hits, most relevant first; see `NearCache.most_relevant`."""
        if bounds.exclude_agent_id is not None and bounds.exclude_agent_id == bounds.agent_id:
            return []
        found = rows.most_relevant(_question(rows, state_vector, bounds, top_k), relevance, now_ms)
        if len(found.slots) - top_k > MOST_EQUALLY_RELEVANT:
            return None
        hits = self._hits(rows, found, schema, bounds)
        slots = {hit.memory.memory_id: slot for hit, slot in zip(hits, found.slots, strict=True)}
        best = relevance.order(hits)[:top_k]
        if with_next_state:
            self._fill_in(rows, schema, best, [slots[hit.memory.memory_id] for hit in best], now_ms)
        return best

    def _hits(self, rows: AgentRows, found: Nearest, schema: IndexSchema, bounds: Bounds) -> list[Hit]:
        slots, distances, vectors = found
        memories = self._decoder.experiences(rows, slots, vectors, time_of(bounds.as_of_ms))
        hits = []
        for memory, distance in zip(memories, distances, strict=True):
            memory.encoder_id = schema.encoder_id
            similarity = 1.0 - distance
            hits.append(Hit(memory, distance, similarity, {"similarity": similarity}))
        return hits

    def _fill_in(self, rows: AgentRows, schema: IndexSchema, hits: list[Hit], slots: list[int], now_ms: int) -> None:
        """The vectors of the next states."""
        for hit, slot in zip(hits, slots, strict=True):
            hit.memory.next_state_vector = self._following(rows, schema, slot, now_ms)

    def _following(self, rows: AgentRows, schema: IndexSchema, slot: int, now_ms: int) -> Vector | None:
        """Vector of the next state of a row: a row holds it, or it refers to another row of the same agent."""
        body = unpack_body(rows.body(slot))
        reference = following_reference(body)
        if reference is None:
            return following_vector(body, schema)
        parsed = self._keys.parse_episodic(rows.key(slot))
        memory_id = reference_id(parsed, body, reference)
        key = self._keys.episodic(parsed.agent_id, parsed.product_id, reference.timestamp_ms, memory_id)
        target = rows.slot(key.encode(), now_ms)
        if target is None:
            return None
        vector: Vector = rows.vectors([target])[0]
        return vector


def _question(rows: AgentRows, state_vector: Vector, bounds: Bounds, top_k: int) -> Question:
    """A question in the terms of the rows."""
    return Question(
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
