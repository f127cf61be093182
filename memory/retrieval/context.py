"""What all questions share: the way to Redis, the encoder that is asked in, and the time that is asked as of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from memory.asof import bounded
from memory.records import VECTOR_DIMENSION, Vector
from memory.retrieval.query import Filter, check_vector
from memory.store.access import AccessCounters
from memory.store.encoders import EncoderRegistry
from memory.store.episodic import EpisodicStore
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink, check_complete
from memory.store.scan import Reader
from memory.store.semantic import SemanticStore


@dataclass(slots=True)
class QuestionContext:
    """What the kinds of question are answered with.

    Attributes
    ----------
    max_top_k
        Largest number of results of one question.
    encoder_id
        Encoder that questions are asked in; None until it is known, then fixed, since a client's vectors belong to it.
    locked_to
        Time that all questions are locked to.
    """

    link: RedisLink
    keys: Keys
    indexes: Indexes
    encoders: EncoderRegistry
    reader: Reader
    episodic: EpisodicStore
    semantic: SemanticStore
    access: AccessCounters
    max_top_k: int
    encoder_id: str | None = None
    locked_to: datetime | None = None

    def at(self, as_of: datetime) -> QuestionContext:
        """The same, locked to what was known at a time."""
        return replace(self, semantic=self.semantic.at(as_of), locked_to=as_of)

    def bounded(self, as_of: datetime | None) -> datetime | None:
        """The time that a question is answered as of; see `memory.asof.bounded`."""
        return bounded(as_of, self.locked_to)

    async def encoder(self) -> str | None:
        """The encoder that this client asks in; None where nothing is recorded yet."""
        if self.encoder_id is None:
            self.encoder_id = await self.indexes.current_encoder()
        return self.encoder_id

    async def check_state(self, state_vector: Any, name: str = "state_vector") -> Vector:
        """A vector in the encoder that is asked in, or InvalidQueryError."""
        encoder_id = self.encoder_id or await self.encoder()
        dimension = VECTOR_DIMENSION if encoder_id is None else await self.encoders.dimension(encoder_id)
        return check_vector(state_vector, name, dimension)

    async def nearest(
        self, index: str, condition: Filter, attribute: str, vector: bytes, top_k: int, returned: tuple[str, ...]
    ) -> list[dict[bytes, Any]]:
        """Rows of a KNN search, nearest first, with `returned` and the vector in their attributes; one round trip."""
        parameters = condition.parameters
        answer = await self.link.execute(
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
            int(self.link.timeout_s * 1000),
            "DIALECT",
            2,
        )
        rows: list[dict[bytes, Any]] = check_complete(answer)[b"results"]
        return rows
