"""How an experience is packed: the fields that the index reads, the vector, and one body for all the rest.

The hash of an experience holds ``body``, ``state_vector:<encoder>``, and what is searched by (scope tags, timestamp,
known_at, recorded_at, reward). The body is a content digest of 16 bytes, then a msgpack array. The agent, product,
time and memory id are in the key, and are not repeated. Feature names are stored once a schema; their values are
packed float64. The next state's vector is a reference to the next record of the same agent, product and run where
that record holds the same vector.

Times are kept in whole milliseconds: decisions are rounded down, `known_at` and `return_known_at` up, so that nothing
is ever seen before it was known.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.feature_values import FeatureValues, unpack_float64s
from memory.records import (
    PHASES,
    REGIMES,
    SOURCES,
    Action,
    EpisodicMemory,
    Side,
    Vector,
    experience_id,
    from_ms,
    to_ms,
)
from memory.store.keys import EpisodicKey

BODY_VERSION = 1
DIGEST_BYTES = 16
_LARGEST_COMPACT = 2**31
"""Integers beyond this take as much room as floats."""

_SIDES: tuple[Side, ...] = (Side.HOLD, Side.BUY, Side.SELL)
_SIDE_CODES = {side: code for code, side in enumerate(_SIDES)}
SIDE_SIGNS = (0, 1, -1)
"""Sign of the side with each code: HOLD, BUY, SELL."""
_REGIME_CODES = {regime: code for code, regime in enumerate(REGIMES)}
_SOURCE_CODES = {source: code for code, source in enumerate(SOURCES)}

_VECTOR_DTYPES: dict[str, np.dtype[Any]] = {"FLOAT32": np.dtype("<f4"), "FLOAT16": np.dtype("<f2")}
_FLOAT32 = np.dtype(np.float32)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_RECENT = 4096
"""Values kept of those that many records share: times, actions, layouts of features. Each is small."""


class Body(msgspec.Struct, array_like=True, gc=False):
    """What the packed body of an experience holds, in this order.

    `following` is the next state: None, the (timestamp_ms, step) of the record that holds its vector, or the vector.
    `others` are the codes of sides, and sizes, by agent; left packed, since few of them differ (`unpack_others`).
    """

    version: int
    source: int
    run_id: str
    step: int
    regime: int
    side: int
    size: float
    reward: float
    confidence: float
    terminal: bool
    encoder_id: str
    cumulative_return: float | None
    return_known_ms: int | None
    price: float | None
    spread: float | None
    gross_return: float | None
    cost: float | None
    position_before: float | None
    position_after: float | None
    others: msgspec.Raw
    feature_schema: str
    features: bytes
    quality: float | None
    pattern_ids: tuple[str, ...]
    following: tuple[int, int] | bytes | None


class Reference(NamedTuple):
    """The record that holds the vector of a next state: same agent, product, source and run."""

    timestamp_ms: int
    step: int


class FeatureSchema(NamedTuple):
    """The names of a set of features, sorted, and their id: 16 hex digits of their BLAKE2b hash."""

    schema_id: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> FeatureSchema:
        """The schema of some names."""
        ordered = tuple(sorted(names))
        return cls(hashlib.blake2b("\n".join(ordered).encode(), digest_size=8).hexdigest(), ordered)


EMPTY_SCHEMA = FeatureSchema("", ())

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Body)
_others_decoder = msgspec.msgpack.Decoder(dict[str, tuple[int, float]])


class SchemaCache:
    """Feature schemas by the keys of the dictionaries that used them, so that names are hashed once a schema."""

    def __init__(self) -> None:
        self._by_names: dict[tuple[str, ...], FeatureSchema] = {}

    def of(self, features: Mapping[str, float]) -> FeatureSchema:
        """The schema of a dictionary of features."""
        if not features:
            return EMPTY_SCHEMA
        names = tuple(features)
        schema = self._by_names.get(names)
        if schema is None:
            schema = self._by_names[names] = FeatureSchema.of(names)
        return schema


# --- times ---------------------------------------------------------------------------------------------------


def ms_rounded_up(timestamp: datetime) -> int:
    """Whole milliseconds since 1970, rounded up: for times before which nothing must be seen."""
    return to_ms(timestamp) + (1 if timestamp.microsecond % 1000 else 0)


# --- vectors -------------------------------------------------------------------------------------------------


def pack_vector(vector: Vector, vector_type: str) -> bytes:
    """A vector as the index of that type (FLOAT32 or FLOAT16) reads it."""
    packed: bytes = vector.astype(_VECTOR_DTYPES[vector_type], copy=False).tobytes()
    return packed


def unpack_vector(packed: bytes, vector_type: str) -> Vector:
    """The float32 vector of `pack_vector`; read-only where nothing had to be converted."""
    vector: Vector = np.frombuffer(packed, _VECTOR_DTYPES[vector_type])
    # On the way of every hit: astype costs twice what frombuffer does, even where it changes nothing.
    return vector if vector.dtype is _FLOAT32 else vector.astype(np.float32, copy=False)


def unpack_vectors(packed: Sequence[bytes], vector_type: str, dimension: int) -> Vector:
    """Vectors of shape (n, dimension), float32."""
    flat = np.frombuffer(b"".join(packed), dtype=_VECTOR_DTYPES[vector_type])
    vectors: Vector = flat.reshape(len(packed), dimension).astype(np.float32)
    return vectors


# --- experiences ---------------------------------------------------------------------------------------------


class Packed(NamedTuple):
    """An experience as it is stored. `body` begins with the content digest."""

    body: bytes
    vector: bytes
    known_ms: int | None
    schema: FeatureSchema


def pack_experience(
    memory: EpisodicMemory, vector_type: str, schemas: SchemaCache, reference: Reference | None = None
) -> Packed:
    """Pack a validated experience; about 20 microseconds.

    Parameters
    ----------
    memory
        The experience, as `validate_experience` leaves it.
    vector_type
        FLOAT32 or FLOAT16, as the index has it.
    schemas
        Cache of feature schemas.
    reference
        Record whose vector equals `memory.next_state_vector`, if there is one.
    """
    schema = schemas.of(memory.features)
    following = None if memory.next_state_vector is None else pack_vector(memory.next_state_vector, vector_type)
    vector = pack_vector(memory.state_vector, vector_type)
    body = Body(
        BODY_VERSION,
        _SOURCE_CODES[memory.source],
        memory.run_id,
        memory.step,
        _REGIME_CODES[memory.regime],
        _SIDE_CODES[memory.action.side],
        _compact(memory.action.size),
        _compact(memory.reward),
        _compact(memory.confidence),
        memory.terminal,
        memory.encoder_id,
        _compact(memory.cumulative_return),
        None if memory.return_known_at is None else ms_rounded_up(memory.return_known_at),
        _compact(memory.price),
        _compact(memory.spread),
        _compact(memory.gross_return),
        _compact(memory.cost),
        _compact(memory.position_before),
        _compact(memory.position_after),
        _pack_others(memory.other_agent_actions),
        schema.schema_id,
        _pack_features(memory.features, schema),
        None,
        (),
        following,
    )
    # What may change later (quality, patterns), when it was recorded, and how it is packed (reference or vector)
    # are no part of the content. The vectors of the digest are as stored, so that FLOAT16 stays comparable.
    digest = hashlib.blake2b(_encoder.encode(body), digest_size=DIGEST_BYTES)
    digest.update(vector)
    body.quality = memory.quality
    body.pattern_ids = memory.pattern_ids
    if reference is not None:
        body.following = (reference.timestamp_ms, reference.step)
    known_ms = None if memory.known_at is None else ms_rounded_up(memory.known_at)
    return Packed(digest.digest() + _encoder.encode(body), vector, known_ms, schema)


def _compact(value: float | None) -> Any:
    """The number as it takes least room: positions, sizes and rewards are often 0 or 1, one byte each as integers.

    Reading gives the same float again. A negative zero has no integer.
    """
    if value is None:
        return None
    number = float(value)
    whole = int(number) if -_LARGEST_COMPACT <= number <= _LARGEST_COMPACT else None
    return whole if whole == number and (whole or math.copysign(1.0, number) > 0) else number


def _pack_others(actions: Mapping[str, Action]) -> msgspec.Raw:
    return msgspec.Raw(
        _encoder.encode({agent: (_SIDE_CODES[action.side], _compact(action.size)) for agent, action in actions.items()})
    )


def _pack_features(features: Mapping[str, float], schema: FeatureSchema) -> bytes:
    return np.array([features[name] for name in schema.names], dtype="<f8").tobytes()


def unpack_body(packed: bytes) -> Body:
    """The body of an experience."""
    body = _decoder.decode(memoryview(packed)[DIGEST_BYTES:])
    if body.version != BODY_VERSION:
        raise InvalidRecordError(
            f"a stored experience has layout {body.version}; this version reads {BODY_VERSION}.",
            remedy="Update the software that reads this memory.",
            field="body",
        )
    return body


def following_reference(body: Body) -> Reference | None:
    """The record that holds the next state's vector, if it is kept by reference."""
    following = body.following
    return Reference(*following) if isinstance(following, tuple) else None


def reference_id(key: EpisodicKey, body: Body, reference: Reference) -> str:
    """Memory id of the record that a reference leads to."""
    return experience_id(
        SOURCES[body.source],
        body.run_id,
        key.agent_id,
        key.product_id,
        from_ms(reference.timestamp_ms),
        reference.step,
    )


def unpack_experience(
    key: EpisodicKey,
    body: Body,
    vector: Vector,
    known_ms: int,
    recorded_ms: int,
    feature_names: tuple[str, ...],
    next_vector: Vector | None = None,
    as_of_ms: int | None = None,
) -> EpisodicMemory:
    """The experience that was stored, as it was known at `as_of_ms` (None: all that is known); about 4 microseconds.

    `next_vector` is the vector that the body's reference leads to, or that it holds, where the caller wants it.
    """
    timestamp = _time(key.timestamp_ms)
    terminal, cumulative_return, return_known_ms = body.terminal, body.cumulative_return, body.return_known_ms
    if return_known_ms is not None and as_of_ms is not None and return_known_ms > as_of_ms:
        terminal, cumulative_return, return_known_ms = False, None, None
    return EpisodicMemory(
        agent_id=sys.intern(key.agent_id),
        timestamp=timestamp,
        state_vector=vector,
        action=_action((body.side, body.size)),
        reward=body.reward,
        product_id=sys.intern(key.product_id),
        regime=REGIMES[body.regime],
        memory_id=key.memory_id,
        next_state_vector=next_vector,
        market_phase=PHASES[timestamp.hour // 8],
        pattern_ids=body.pattern_ids,
        confidence=body.confidence,
        other_agent_actions=unpack_others(body).copy(),
        terminal=terminal,
        cumulative_return=cumulative_return,
        return_known_at=None if return_known_ms is None else _time(return_known_ms),
        encoder_id=body.encoder_id,
        source=SOURCES[body.source],
        run_id=sys.intern(body.run_id),
        step=body.step,
        known_at=_time(known_ms),
        recorded_at=_time(recorded_ms),
        price=body.price,
        spread=body.spread,
        gross_return=body.gross_return,
        cost=body.cost,
        position_before=body.position_before,
        position_after=body.position_after,
        features=FeatureValues(feature_names, body.features),
        quality=body.quality,
    )


@lru_cache(_RECENT)
def _time(timestamp_ms: int) -> datetime:
    """As `from_ms`: records of a minute, an episode or a batch share their times."""
    return _EPOCH + timedelta(0, 0, 0, timestamp_ms)  # Positional: half the time of naming the milliseconds.


def unpack_others(body: Body) -> dict[str, Action]:
    """What other agents did; not to be changed, since all that did the same share it."""
    return _others(bytes(body.others))


@lru_cache(_RECENT)
def _others(packed: bytes) -> dict[str, Action]:
    return {agent: _action(action) for agent, action in _others_decoder.decode(packed).items()}


@lru_cache(_RECENT)
def _action(packed: tuple[int, float]) -> Action:
    """An action by the code of its side and its size; actions are immutable, so equal ones may be the same."""
    return Action(_SIDES[packed[0]], packed[1])


def unpack_features(body: Body) -> tuple[float, ...]:
    """Values of the features, in the order of the schema's names."""
    return unpack_float64s(body.features)


def encode_names(schema: FeatureSchema) -> bytes:
    """The names of a schema as they are stored."""
    return _encoder.encode(schema.names)


def decode_names(packed: bytes) -> tuple[str, ...]:
    """The names of a stored schema."""
    return msgspec.msgpack.decode(packed, type=tuple[str, ...])
