"""What all questions share: the way to Redis, the encoder that is asked in, and the time that is asked as of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from memory.asof import bounded, check_lock
from memory.records import VECTOR_DIMENSION, Vector
from memory.retrieval.depth import Depths
from memory.retrieval.query import check_vector
from memory.store.access import AccessCounters
from memory.store.encoders import EncoderRegistry
from memory.store.episodic import EpisodicStore
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.scan import Reader
from memory.store.semantic import SemanticStore

if TYPE_CHECKING:
    from memory.retrieval.near.cache import NearCache


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
    depths
        How deep questions have had to look.
    registered
        Encoders that are known to be registered. These two are shared with the contexts that are locked to a time.
    near
        Cache that is asked before the server; None where there is none.
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
    depths: Depths = field(default_factory=Depths)
    registered: set[str] = field(default_factory=set)
    near: NearCache | None = None

    def at(self, as_of: datetime) -> QuestionContext:
        """The same, locked to what was known at a time; a lock can be moved back only."""
        as_of = check_lock(as_of, self.locked_to)
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
