"""Retrieval: when did we see this before, and what came of it?"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import ResponseError

from memory.errors import InvalidQueryError
from memory.records import VECTOR_DIMENSION, EpisodicMemory, PatternMemory, SemanticType, Vector, to_ms
from memory.retrieval.query import (
    Filter,
    check_bounds,
    check_pattern_scope,
    check_time,
    check_top_k,
    check_vector,
    pattern_filter,
)
from memory.store.access import AccessCounters
from memory.store.codec import Body, pack_vector, unpack_body, unpack_experience, unpack_vector
from memory.store.encoders import EncoderRegistry
from memory.store.episodic import EpisodicStore
from memory.store.indexes import Indexes, IndexSchema
from memory.store.keys import CONCEPT_VECTOR, EpisodicKey, Keys, vector_attribute, vector_field
from memory.store.link import RedisLink, check_complete
from memory.store.scan import Reader, missing_index
from memory.store.semantic import SemanticStore, unpack_document
from memory.store.versions import VersionKey

_RETURNED = ("body", "known_at", "recorded_at", "distance")
_PATTERN_RETURNED = ("body", "valid_from", "valid_to", "distance")
_DISTANCE = b"distance"


@dataclass(frozen=True, slots=True)
class Hit:
    """An experience that was found.

    Attributes
    ----------
    memory
        The experience; its `next_state_vector` is filled in where that was asked for.
    distance
        Cosine distance to the state that was asked about: 0 is the same direction, 2 the opposite.
    score
        What the hits are ordered by, best first.
    score_parts
        What the score is made of: ``similarity``, the cosine.
    """

    memory: EpisodicMemory
    distance: float
    score: float
    score_parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PatternHit:
    """A pattern that was found; as `Hit`."""

    memory: PatternMemory
    distance: float
    score: float
    score_parts: dict[str, float] = field(default_factory=dict)


class MemoryRetrievalService:
    """Answers agents' questions.

    Parameters
    ----------
    max_top_k
        Largest number of results of one question.
    encoder_id
        Encoder that questions are asked in; by default the namespace's current one, as it is when first asked.
    locked_to
        Time that all questions are locked to.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        indexes: Indexes,
        encoders: EncoderRegistry,
        reader: Reader,
        episodic: EpisodicStore,
        semantic: SemanticStore,
        access: AccessCounters,
        *,
        max_top_k: int,
        encoder_id: str | None = None,
        locked_to: datetime | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._encoders = encoders
        self._reader = reader
        self._episodic = episodic
        self._semantic = semantic
        self._access = access
        self._max_top_k = max_top_k
        self._encoder_id = encoder_id
        self._locked_to = locked_to

    def at(self, as_of: datetime) -> MemoryRetrievalService:
        """The same service, locked to what was known at a time."""
        return MemoryRetrievalService(
            self._link,
            self._keys,
            self._indexes,
            self._encoders,
            self._reader,
            self._episodic,
            self._semantic.at(as_of),
            self._access,
            max_top_k=self._max_top_k,
            encoder_id=self._encoder_id,
            locked_to=as_of,
        )

    async def retrieve_similar_experiences(
        self,
        state_vector: Vector,
        agent_id: str | None = None,
        product_id: str | None = None,
        regime: str | None = None,
        market_phase: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime | None = None,
        exclude_agent_id: str | None = None,
        min_reward: float | None = None,
        top_k: int = 10,
        with_next_state: bool = False,
    ) -> list[Hit]:
        """The experiences whose state was most like this one, best first.

        Filters are exact: fewer than `top_k` come back only where fewer exist.

        Parameters
        ----------
        state_vector
            float32, of length 1 and the encoder's dimension.
        agent_id, product_id, regime, market_phase
            Only those of this agent, product, regime, third of the day.
        since, until
            Only those decided in [since, until).
        as_of
            Only what was known then: `known_at` not later, and no `cumulative_return` that was known later.
        exclude_agent_id
            None of this agent.
        min_reward
            Only those with at least this reward, a fraction of notional.
        top_k
            Results wanted, at most COINSWARM_MAX_TOP_K.
        with_next_state
            Fill in `next_state_vector`; a second round trip.

        Raises
        ------
        InvalidQueryError
            An argument cannot be answered; it is named, and nothing was sent.
        EncoderError
            The encoder was fitted on data later than `as_of`.
        StoreUnavailableError
            No whole answer within the deadline.
        """
        as_of = self._bounded(as_of)
        bounds = check_bounds(
            agent_id=agent_id,
            product_id=product_id,
            regime=regime,
            market_phase=market_phase,
            exclude_agent_id=exclude_agent_id,
            since=since,
            until=until,
            as_of=as_of,
            min_reward=min_reward,
        )
        top_k = check_top_k(top_k, self._max_top_k)
        schema = await self._schema(state_vector)
        if schema is None:
            return []
        state_vector = check_vector(state_vector, "state_vector", schema.dimension)
        if as_of is not None and self._encoder_id is not None:
            await self._encoders.check_as_of(self._encoder_id, as_of)
        query = pack_vector(state_vector, schema.vector_type)
        try:
            rows = await self._search(schema.name, bounds.filter(), schema.vector_attribute, query, top_k, _RETURNED)
        except ResponseError as error:
            if await self._indexes.current_schema(self._encoder_id or "") is None:
                return []  # The memory was emptied since this client last looked.
            raise missing_index(error, schema) from error
        return await self._hits(rows, schema, bounds.as_of_ms, with_next_state=with_next_state)

    async def retrieve_patterns(
        self,
        state_vector: Vector,
        product_id: str | None = None,
        regime: str | None = None,
        as_of: datetime | None = None,
        top_k: int = 5,
    ) -> list[PatternHit]:
        """The patterns that this state is most like, best first, with what each action brought there.

        Each retrieval is counted, on the day of `as_of` (or today), without waiting for it.

        Parameters
        ----------
        state_vector
            float32, of length 1 and the encoder's dimension.
        product_id
            Only patterns seen in this product.
        regime
            Only patterns of this regime; MIXED names those that were found across the rarer regimes.
        as_of
            The versions that were valid then, instead of the current ones.
        top_k
            Results wanted.

        Raises
        ------
        InvalidQueryError, EncoderError, StoreUnavailableError
            As `retrieve_similar_experiences`.
        """
        as_of = self._bounded(as_of)
        product_id, regime = check_pattern_scope(product_id, regime)
        top_k = check_top_k(top_k, self._max_top_k)
        encoder_id = await self._encoder()
        dimension = VECTOR_DIMENSION if encoder_id is None else await self._encoders.dimension(encoder_id)
        state_vector = check_vector(state_vector, "state_vector", dimension)
        line = None if encoder_id is None else await self._semantic.current_line(encoder_id)
        if encoder_id is None or line is None:
            return []
        if as_of is not None:
            await self._encoders.check_as_of(encoder_id, as_of)
        condition = pattern_filter(
            SemanticType.PATTERN, line, product_id, regime, None if as_of is None else to_ms(as_of)
        )
        rows = await self._search(
            self._keys.semantic_index(encoder_id),
            condition,
            vector_attribute(encoder_id),
            pack_vector(state_vector, "FLOAT32"),
            top_k,
            _PATTERN_RETURNED,
        )
        hits = [_pattern_hit(row, None if as_of is None else to_ms(as_of), encoder_id) for row in rows]
        hits.sort(key=lambda hit: (hit.distance, hit.memory.memory_id))
        self._access.note([hit.memory.memory_id for hit in hits], as_of or datetime.now(UTC))
        return hits

    # --- internals -------------------------------------------------------------------------------------------

    def _bounded(self, as_of: datetime | None) -> datetime | None:
        if as_of is None:
            return self._locked_to
        as_of = check_time(as_of, "as_of")
        if self._locked_to is not None and as_of > self._locked_to:
            raise InvalidQueryError(
                f"as_of {as_of.isoformat()} lies after {self._locked_to.isoformat()}, to which this memory is locked.",
                remedy="Ask as of an earlier time, or through a memory that is not locked.",
                argument="as_of",
            )
        return as_of

    async def _encoder(self) -> str | None:
        """The encoder that this client asks in; fixed once it is known, since its vectors belong to it."""
        if self._encoder_id is None:
            self._encoder_id = await self._indexes.current_encoder()
        return self._encoder_id

    async def _schema(self, state_vector: Vector) -> IndexSchema | None:
        """Index that is asked; None where nothing is recorded, after a check of the vector all the same."""
        encoder_id = self._encoder_id or await self._encoder()
        schema = None if encoder_id is None else await self._indexes.episodic(encoder_id)
        if schema is None:
            dimension = VECTOR_DIMENSION if encoder_id is None else await self._encoders.dimension(encoder_id)
            check_vector(state_vector, "state_vector", dimension)
        return schema

    async def _search(
        self, index: str, condition: Filter, attribute: str, vector: bytes, top_k: int, returned: tuple[str, ...]
    ) -> list[dict[bytes, Any]]:
        parameters = condition.parameters
        answer = await self._link.execute(
            "FT.SEARCH",
            index,
            f"{condition.text}=>[KNN $k @{attribute} $vector AS distance]",
            "RETURN",
            len(returned) + 1,
            *returned,
            attribute,
            "SORTBY",
            "distance",
            "LIMIT",
            0,
            top_k,
            "PARAMS",
            len(parameters) + 4,
            "k",
            top_k,
            "vector",
            vector,
            *parameters,
            "TIMEOUT",
            int(self._link.timeout_s * 1000),
            "DIALECT",
            2,
        )
        rows: list[dict[bytes, Any]] = check_complete(answer)[b"results"]
        return rows

    async def _hits(
        self, rows: list[dict[bytes, Any]], schema: IndexSchema, as_of_ms: int | None, *, with_next_state: bool
    ) -> list[Hit]:
        vector_name = schema.vector_attribute.encode()
        found: list[tuple[float, EpisodicKey, Body, dict[bytes, Any]]] = []
        for row in rows:
            attributes = row[b"extra_attributes"]
            if b"body" not in attributes:
                continue  # Expired since the index was asked.
            key = self._keys.parse_episodic(row[b"id"])
            found.append((float(attributes[_DISTANCE]), key, unpack_body(attributes[b"body"]), attributes))
        found.sort(key=lambda item: (item[0], item[1].memory_id))
        following: list[Vector | None] = [None] * len(found)
        if with_next_state:
            following = await self._episodic.next_vectors(
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
                await self._reader.feature_names(body.feature_schema),
                next_vector,
                as_of_ms,
            )
            similarity = 1.0 - distance
            hits.append(Hit(memory, distance, similarity, {"similarity": similarity}))
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
