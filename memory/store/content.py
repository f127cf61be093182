"""Whether an experience says the same as the one stored under its id, whatever that one was packed for.

The digest in a stored body is that of the day it was recorded: of vectors in the type, and of the encoder, that the
index had then. `reindex_memory` changes both and leaves the digest alone. So where digests differ, what is stored is
unpacked and packed again for the index in use, and compared then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memory.records import EpisodicMemory, Vector, to_ms
from memory.store.codec import (
    DIGEST_BYTES,
    Body,
    FeatureSchema,
    SchemaCache,
    following_reference,
    pack_experience,
    reference_id,
    unpack_body,
    unpack_experience,
    unpack_vector,
)
from memory.store.keys import EpisodicKey, Keys
from memory.store.layout import IndexSchema, stored_vector_type
from memory.store.link import RedisLink


@dataclass(frozen=True, slots=True)
class Claim:
    """An experience whose id is taken.

    Attributes
    ----------
    known_ms
        When it says that it became known; None where that is no part of what it says.
    """

    memory: EpisodicMemory
    key: str
    schema: IndexSchema
    features: FeatureSchema
    known_ms: int | None


class StoredContents:
    """Compares experiences with what is stored."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def are_same(self, claims: Sequence[Claim]) -> list[bool]:
        """For each claim, whether the record under its key says the same. At most two round trips."""
        rows = await self._link.pipeline(
            [("HMGET", claim.key, "body", "known_at", claim.schema.vector_field) for claim in claims]
        )
        bodies = [None if row[0] is None else unpack_body(row[0]) for row in rows]
        following = await self._following(claims, bodies)
        return [
            body is not None and _same(claim, row, body, next_vector)
            for claim, row, body, next_vector in zip(claims, rows, bodies, following, strict=True)
        ]

    async def _following(self, claims: Sequence[Claim], bodies: Sequence[Body | None]) -> list[Vector | None]:
        """Next states of the stored records in the encoding of the index in use; None where that has none."""
        found: list[Vector | None] = [None] * len(claims)
        referring: list[int] = []
        commands = []
        for position, (claim, body) in enumerate(zip(claims, bodies, strict=True)):
            if body is None:
                continue
            reference = following_reference(body)
            if reference is not None:
                own = _place(claim.memory)
                memory_id = reference_id(own, body, reference)
                target = self._keys.episodic(own.agent_id, own.product_id, reference.timestamp_ms, memory_id)
                referring.append(position)
                commands.append(("HGET", target, claim.schema.vector_field))
            else:
                found[position] = following_vector(body, claim.schema)
        for position, packed in zip(referring, await self._link.pipeline(commands), strict=True):
            if packed is not None:
                found[position] = unpack_vector(packed, claims[position].schema.vector_type)
        return found


def following_vector(body: Body, schema: IndexSchema) -> Vector | None:
    """Vector of the next state that a body holds itself; None where it holds none, or one of another encoder.

    It stays in the type and encoding in which it was recorded, whatever the index has become since.
    """
    packed = body.following
    if not isinstance(packed, bytes) or body.encoder_id != (schema.encoder_id or body.encoder_id):
        return None
    return unpack_vector(packed, stored_vector_type(packed, schema.dimension))


def _same(claim: Claim, row: Sequence[bytes | None], body: Body, next_vector: Vector | None) -> bool:
    _, known, packed = row
    memory, schema = claim.memory, claim.schema
    if packed is None or known is None or body.feature_schema != claim.features.schema_id:
        return False
    if claim.known_ms is not None and claim.known_ms != int(known):
        return False
    stored = unpack_experience(
        _place(memory),
        body,
        unpack_vector(packed, schema.vector_type),
        int(known),
        int(known),
        claim.features.names,
        next_vector,
    )
    stored.encoder_id = memory.encoder_id
    if next_vector is None and body.following is not None:
        # It has a next state that cannot be had in this encoding: the rest decides.
        memory = replace(memory, next_state_vector=None)
    schemas = SchemaCache()
    # What was read back from an index of half precision is rounded, and may be shared in one of full precision again.
    vector_type = "FLOAT16" if _is_rounded(memory) else schema.vector_type
    return _digest(stored, vector_type, schemas) == _digest(memory, vector_type, schemas)


def _is_rounded(memory: EpisodicMemory) -> bool:
    """Whether half precision loses nothing of its vectors."""
    vectors = [vector for vector in (memory.state_vector, memory.next_state_vector) if vector is not None]
    with np.errstate(over="ignore"):
        return all(np.array_equal(vector.astype(np.float16).astype(np.float32), vector) for vector in vectors)


def _digest(memory: EpisodicMemory, vector_type: str, schemas: SchemaCache) -> bytes:
    return pack_experience(memory, vector_type, schemas).body[:DIGEST_BYTES]


def _place(memory: EpisodicMemory) -> EpisodicKey:
    return EpisodicKey(memory.agent_id, memory.product_id, to_ms(memory.timestamp), memory.memory_id)
