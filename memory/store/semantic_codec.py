"""How a semantic memory is packed: a msgpack body that says what it is, and its vector beside it.

Validity and access are no part of the body: the same content keeps its version, however often it is published.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.records import (
    SEMANTIC_CLASSES,
    PatternMemory,
    RegimeMemory,
    SemanticMemory,
    SemanticType,
    from_ms,
    semantic_type,
)
from memory.store.codec import pack_vector, unpack_vector
from memory.typed import convert_to

DIGEST_BYTES = 16
_OUTSIDE = ("valid_from", "valid_to", "last_accessed", "access_count", "concept_vector")
"""Fields that lie beside the body: validity, access, and the vector."""
_NO_CONTENT = ("created_at", "line")
"""Fields in the body that make no new version when nothing else differs; a line's name holds its namespace."""


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} is no kind of value that is known here")


_encoder = msgspec.msgpack.Encoder(order="deterministic", enc_hook=_plain)
_BODY_FIELDS = {
    kind: tuple(item.name for item in fields(cls) if item.name not in _OUTSIDE)
    for kind, cls in SEMANTIC_CLASSES.items()
}


class PackedSemantic(NamedTuple):
    """A semantic memory as it is stored, and the digest of its content."""

    kind: SemanticType
    memory_id: str
    digest: bytes
    body: bytes
    vector: bytes | None
    product_ids: tuple[str, ...]
    regime: str | None


def pack_semantic(memory: SemanticMemory) -> PackedSemantic:
    """Pack a validated semantic memory.

    Raises
    ------
    InvalidRecordError
        A field holds something that cannot be written down.
    """
    kind = semantic_type(memory)
    content = {name: getattr(memory, name) for name in _BODY_FIELDS[kind]}
    vector = pack_vector(memory.concept_vector, "FLOAT32") if isinstance(memory, PatternMemory | RegimeMemory) else None
    try:
        body = _encoder.encode(content)
        essence = _encoder.encode({name: value for name, value in content.items() if name not in _NO_CONTENT})
        # What was written must be readable: a number in the wrong place is refused here, not by a reader.
        unpack_semantic(kind, body, vector, 0, None)
    except (TypeError, ValueError, OverflowError, NotImplementedError, msgspec.MsgspecError) as error:
        raise InvalidRecordError(
            f"{kind} {memory.memory_id} cannot be written down: {error}.",
            remedy="Fields hold what memory.records declares: plain numbers, strings, times, tuples and dicts.",
            field="memory",
        ) from error
    digest = hashlib.blake2b(essence, digest_size=DIGEST_BYTES)
    digest.update(vector or b"")
    return PackedSemantic(kind, memory.memory_id, digest.digest(), body, vector, _products(memory), _regime(memory))


def unpack_semantic(
    kind: SemanticType, body: bytes, vector: bytes | None, valid_from_ms: int, valid_to_ms: int | None
) -> SemanticMemory:
    """The version that was stored."""
    content: dict[str, Any] = msgspec.msgpack.decode(body)
    content["valid_from"] = from_ms(valid_from_ms)
    content["valid_to"] = None if valid_to_ms is None else from_ms(valid_to_ms)
    if vector is not None:
        content["concept_vector"] = unpack_vector(vector, "FLOAT32")
    memory = convert_to(SEMANTIC_CLASSES[kind], content, strict=False, hook=_as_it_is)
    return cast(SemanticMemory, memory)


def _as_it_is(wanted: type, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    raise TypeError(f"{wanted} cannot be made from {type(value).__name__}")


def _products(memory: SemanticMemory) -> tuple[str, ...]:
    if isinstance(memory, PatternMemory):
        return memory.product_ids
    if isinstance(memory, RegimeMemory):
        return (memory.product_id,) if memory.product_id else ()
    return ()


def _regime(memory: SemanticMemory) -> str | None:
    if isinstance(memory, PatternMemory):
        return memory.regime
    if isinstance(memory, RegimeMemory):
        return memory.regime_name
    return None
