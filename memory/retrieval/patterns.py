"""Patterns: the recurring kinds of state that a state is most like."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from memory.records import PatternMemory, SemanticType, Vector, to_ms
from memory.retrieval.context import QuestionContext
from memory.retrieval.hits import PatternHit
from memory.retrieval.query import pattern_filter
from memory.store.codec import pack_vector
from memory.store.keys import CONCEPT_VECTOR, vector_attribute, vector_field
from memory.store.semantic import unpack_document
from memory.store.versions import VersionKey

_RETURNED = ("body", "valid_from", "valid_to", "distance")
_DISTANCE = b"distance"


class PatternSearch:
    """Finds the patterns nearest to a state."""

    def __init__(self, context: QuestionContext) -> None:
        self._context = context

    async def nearest(
        self, state_vector: Vector, product_id: str | None, regime: str | None, as_of: datetime | None, top_k: int
    ) -> list[PatternHit]:
        """The nearest patterns within checked bounds, nearest first, ties by memory id; each is counted as accessed."""
        context = self._context
        state_vector = await context.check_state(state_vector)
        encoder_id = context.encoder_id
        line = None if encoder_id is None else await context.semantic.current_line(encoder_id)
        if encoder_id is None or line is None:
            return []
        if as_of is not None:
            await context.encoders.check_as_of(encoder_id, as_of)
        as_of_ms = None if as_of is None else to_ms(as_of)
        rows = await context.nearest(
            context.keys.semantic_index(encoder_id),
            pattern_filter(SemanticType.PATTERN, line, product_id, regime, as_of_ms),
            vector_attribute(encoder_id),
            pack_vector(state_vector, "FLOAT32"),
            top_k,
            _RETURNED,
        )
        hits = [_pattern_hit(row, as_of_ms, encoder_id) for row in rows]
        hits.sort(key=lambda hit: (hit.distance, hit.memory.memory_id))
        context.access.note([hit.memory.memory_id for hit in hits], as_of or datetime.now(UTC))
        return hits


def _pattern_hit(row: dict[bytes, Any], as_of_ms: int | None, encoder_id: str) -> PatternHit:
    attributes = row[b"extra_attributes"]
    # NAMESPACE:semantic:KIND:MEMORY:VALID_FROM:LINE
    _, _, kind, memory_id, valid_from_ms, _ = row[b"id"].decode().split(":", 5)
    document = {name: value for name, value in attributes.items() if name in (b"body", b"valid_to")}
    document[vector_field(CONCEPT_VECTOR, encoder_id).encode()] = attributes[vector_attribute(encoder_id).encode()]
    memory = unpack_document(document, VersionKey(kind, memory_id, int(valid_from_ms)))
    if not isinstance(memory, PatternMemory):
        raise TypeError(f"{memory_id} is stored as a pattern, but is a {type(memory).__name__}")
    if as_of_ms is not None and memory.valid_to is not None:
        memory.valid_to = None  # The end of this version was not known at that time.
    distance = float(attributes[_DISTANCE])
    return PatternHit(memory, distance, 1.0 - distance, {"similarity": 1.0 - distance})
