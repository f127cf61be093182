"""Similar experiences: one KNN search whose filters are exact."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from redis.exceptions import ResponseError

from memory.records import Vector
from memory.retrieval.context import QuestionContext
from memory.retrieval.hits import Hit
from memory.retrieval.query import Bounds, check_vector
from memory.store.codec import Body, pack_vector, unpack_body, unpack_experience, unpack_vector
from memory.store.indexes import IndexSchema
from memory.store.keys import EpisodicKey
from memory.store.scan import missing_index

_RETURNED = ("body", "known_at", "recorded_at", "distance")
_DISTANCE = b"distance"


class ExperienceSearch:
    """Finds the experiences nearest to a state."""

    def __init__(self, context: QuestionContext) -> None:
        self._context = context

    async def nearest(
        self, state_vector: Vector, bounds: Bounds, as_of: datetime | None, top_k: int, *, with_next_state: bool = False
    ) -> list[Hit]:
        """The nearest experiences within checked bounds, nearest first, ties by memory id."""
        context = self._context
        encoder_id = context.encoder_id or await context.encoder()
        schema = None if encoder_id is None else await context.indexes.episodic(encoder_id)
        if encoder_id is None or schema is None:
            await context.check_state(state_vector)
            return []
        state_vector = check_vector(state_vector, "state_vector", schema.dimension)
        if as_of is not None:
            await context.encoders.check_as_of(encoder_id, as_of)
        query = pack_vector(state_vector, schema.vector_type)
        try:
            rows = await context.nearest(schema.name, bounds.filter(), schema.vector_attribute, query, top_k, _RETURNED)
        except ResponseError as error:
            if await context.indexes.current_schema(encoder_id) is None:
                return []  # The memory was emptied since this client last looked.
            raise missing_index(error, schema) from error
        return await self._hits(rows, schema, bounds.as_of_ms, with_next_state=with_next_state)

    async def _hits(
        self, rows: list[dict[bytes, Any]], schema: IndexSchema, as_of_ms: int | None, *, with_next_state: bool
    ) -> list[Hit]:
        vector_name = schema.vector_attribute.encode()
        found: list[tuple[float, EpisodicKey, Body, dict[bytes, Any]]] = []
        for row in rows:
            attributes = row[b"extra_attributes"]
            if b"body" not in attributes:
                continue  # Expired since the index was asked.
            key = self._context.keys.parse_episodic(row[b"id"])
            found.append((float(attributes[_DISTANCE]), key, unpack_body(attributes[b"body"]), attributes))
        found.sort(key=lambda item: (item[0], item[1].memory_id))
        following: list[Vector | None] = [None] * len(found)
        if with_next_state:
            following = await self._context.episodic.next_vectors(
                [item[1] for item in found], [item[2] for item in found], schema
            )
        hits = []
        for (distance, key, body, attributes), next_vector in zip(found, following, strict=True):
            memory = unpack_experience(
                key,
                body,
                unpack_vector(attributes[vector_name], schema.vector_type),
                int(attributes[b"known_at"]),
                int(attributes[b"recorded_at"]),
                await self._context.reader.feature_names(body.feature_schema),
                next_vector,
                as_of_ms,
            )
            similarity = 1.0 - distance
            hits.append(Hit(memory, distance, similarity, {"similarity": similarity}))
        return hits
