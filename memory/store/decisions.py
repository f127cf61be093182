"""Decision traces: what each decision rested on, kept beside the experience that it became.

A trace is one string key, ``NS:decision:{decision_id}``; the id is the experience's memory id. Nothing searches in
traces, so no index knows of them. A live trace expires as its experience does; the others go when their experiences are
pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from memory.decisions import DecisionTrace, KnowledgeRead, MemoryRead, validate_trace
from memory.errors import ConflictingRecordError, InvalidRecordError, StoreUnavailableError
from memory.feature_values import FeatureValues
from memory.records import REGIMES, SOURCES, VECTOR_DIMENSION, Action, Side, from_ms, to_ms
from memory.store.arguments import check_memory_id
from memory.store.codec import ms_rounded_up
from memory.store.collection import TTL_RETENTIONS
from memory.store.encoders import EncoderRegistry
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.recording import Rejection

TRACE_VERSION = 1
WRITE_SIZE = 200
"""Traces of one round trip: half a megabyte, a few milliseconds of the server's time."""
_MS_PER_DAY = 86_400_000
_SIDES: tuple[Side, ...] = tuple(Side)

# KEYS: the trace; ARGV: its content, time to live in milliseconds or 0
_ADD = """
local stored = redis.call('GET', KEYS[1])
if stored then
  if stored == ARGV[1] then return 0 end
  return -1
end
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""
_STORED, _DUPLICATE = 1, 0


class _Packed(msgspec.Struct, array_like=True, gc=False):
    """A trace as it is kept. Times are whole milliseconds, `valid_from` and `known_at` rounded up, all others down."""

    version: int
    decision_id: str
    agent_id: str
    product_id: str
    timestamp_ms: int
    as_of_ms: int
    encoder_id: str
    feature_names: tuple[str, ...]
    feature_values: bytes
    vector: bytes
    regime: int
    regime_confidence: float
    position_before: float
    policy: str
    side: int
    size: float
    confidence: float
    source: int
    run_id: str
    step: int
    line: str | None
    own: tuple[tuple[str, float, int], ...]
    shared: tuple[tuple[str, float, int], ...]
    patterns: tuple[tuple[str, str, int, float | None], ...]
    knowledge: tuple[tuple[str, str, int, float | None], ...]
    messages: tuple[str, ...]
    policy_parameters: dict[str, Any]
    checkpoint: str | None
    seed: int | None
    draw: float | None
    probabilities: tuple[float, ...]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(_Packed)
_LINE = _Packed.__struct_fields__.index("line")


@dataclass(frozen=True, slots=True)
class TraceReport:
    """What became of a batch of traces: ids of the new ones, of those that were stored before, and those refused."""

    stored: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()


class DecisionStore:
    """The decision traces of one namespace.

    Parameters
    ----------
    retention_days
        How long experiences are kept: live traces expire after as many retention times as live experiences do.
    """

    def __init__(self, link: RedisLink, keys: Keys, encoders: EncoderRegistry, retention_days: int) -> None:
        self._link = link
        self._keys = keys
        self._encoders = encoders
        self._ttl_ms = TTL_RETENTIONS * retention_days * _MS_PER_DAY
        self._add = link.register(_ADD)

    async def add(self, trace: DecisionTrace) -> str:
        """Store a trace and return its id; the same again is a no-op. About 0.2 ms.

        Raises
        ------
        InvalidRecordError
            It is malformed, or lists what was not known as of its time.
        ConflictingRecordError
            Another trace is stored under its id.
        StoreUnavailableError
            Redis cannot be reached. Adding it again stores nothing twice.
        """
        report = await self.add_many([trace])
        if report.rejections:
            raise report.rejections[0].error
        return trace.decision_id

    async def add_many(self, traces: Sequence[DecisionTrace]) -> TraceReport:
        """Store the good ones of a batch and report the others by position; one round trip for 200 traces.

        A trace takes 1.9 KB, and 50 bytes for each memory that was read. What is refused is in the report alone: a
        trace explains a decision, and the decision itself is recorded without it.

        Raises
        ------
        StoreUnavailableError
            Redis cannot be reached. A part may be stored: adding the batch again stores the rest, and nothing twice.
        """
        valid: list[tuple[int, DecisionTrace]] = []
        rejections: list[Rejection] = []
        for position, trace in enumerate(traces):
            try:
                validate_trace(trace, await self._dimension(trace))
            except InvalidRecordError as error:
                rejections.append(Rejection(position, error))
            else:
                valid.append((position, trace))
        stored: list[str] = []
        duplicates: list[str] = []
        for start in range(0, len(valid), WRITE_SIZE):
            chunk = valid[start : start + WRITE_SIZE]
            answers = await self._link.pipeline(
                [
                    self._add.call(
                        [self._keys.decision(trace.decision_id)],
                        [pack_trace(trace), self._ttl_ms if trace.source == "live" else 0],
                    )
                    for _, trace in chunk
                ]
            )
            for (position, trace), answer in zip(chunk, answers, strict=True):
                if answer == _STORED:
                    stored.append(trace.decision_id)
                elif answer == _DUPLICATE:
                    duplicates.append(trace.decision_id)
                else:
                    rejections.append(Rejection(position, _conflict(trace)))
        rejections.sort(key=lambda item: item.position)
        return TraceReport(tuple(stored), tuple(duplicates), tuple(rejections))

    async def get(self, decision_id: str) -> DecisionTrace | None:
        """The trace of a decision; None where it has none, or it has expired. About 0.1 ms.

        Raises
        ------
        InvalidQueryError
            The id is none of an experience; nothing was sent.
        StoreUnavailableError
            Redis cannot be reached, or what it holds cannot be read.
        """
        return (await self.get_many([decision_id]))[0]

    async def get_many(self, decision_ids: Sequence[str]) -> list[DecisionTrace | None]:
        """The traces of some decisions, in order, as `get`; one round trip."""
        keys = [self._keys.decision(check_memory_id(decision_id)) for decision_id in decision_ids]
        if not keys:
            return []
        found = await self._link.execute("MGET", *keys)
        return [None if packed is None else unpack_trace(packed) for packed in found]

    async def _dimension(self, trace: DecisionTrace) -> int:
        encoder_id = getattr(trace, "encoder_id", None)
        return await self._encoders.dimension(encoder_id) if isinstance(encoder_id, str) else VECTOR_DIMENSION


def pack_trace(trace: DecisionTrace) -> bytes:
    """A validated trace as it is kept: the same trace gives the same bytes."""
    names = tuple(sorted(trace.features))
    return _encoder.encode(
        _Packed(
            version=TRACE_VERSION,
            decision_id=trace.decision_id,
            agent_id=trace.agent_id,
            product_id=trace.product_id,
            timestamp_ms=to_ms(trace.timestamp),
            as_of_ms=to_ms(trace.as_of),
            encoder_id=trace.encoder_id,
            feature_names=names,
            feature_values=np.array([trace.features[name] for name in names], dtype="<f8").tobytes(),
            vector=trace.state_vector.astype("<f4").tobytes(),
            regime=REGIMES.index(trace.regime),
            regime_confidence=trace.regime_confidence,
            position_before=trace.position_before,
            policy=trace.policy,
            side=_SIDES.index(trace.action.side),
            size=trace.action.size,
            confidence=trace.confidence,
            source=SOURCES.index(trace.source),
            run_id=trace.run_id,
            step=trace.step,
            line=trace.line,
            own=_packed_memories(trace.own),
            shared=_packed_memories(trace.shared),
            patterns=_packed_knowledge(trace.patterns),
            knowledge=_packed_knowledge(trace.knowledge),
            messages=trace.messages,
            policy_parameters=dict(trace.policy_parameters),
            checkpoint=trace.checkpoint,
            seed=trace.seed,
            draw=trace.draw,
            probabilities=trace.probabilities,
        )
    )


def unpack_trace(packed: bytes) -> DecisionTrace:
    """The trace that `pack_trace` wrote; StoreUnavailableError where the bytes are none, or of a newer version."""
    try:
        content = _decoder.decode(packed)
    except msgspec.DecodeError as error:
        raise StoreUnavailableError(
            f"a stored decision trace cannot be read ({error}).",
            remedy="It was written by another version of the software: read it with that version.",
        ) from error
    if content.version != TRACE_VERSION:
        raise StoreUnavailableError(
            f"a stored decision trace is of version {content.version}, not {TRACE_VERSION}.",
            remedy="Read it with the version of the software that wrote it.",
        )
    return DecisionTrace(
        decision_id=content.decision_id,
        agent_id=content.agent_id,
        product_id=content.product_id,
        timestamp=from_ms(content.timestamp_ms),
        as_of=from_ms(content.as_of_ms),
        encoder_id=content.encoder_id,
        features=FeatureValues(content.feature_names, content.feature_values),
        state_vector=np.frombuffer(content.vector, dtype="<f4").astype(np.float32),
        regime=REGIMES[content.regime],
        regime_confidence=content.regime_confidence,
        position_before=content.position_before,
        policy=content.policy,
        action=Action(_SIDES[content.side], content.size),
        confidence=content.confidence,
        source=SOURCES[content.source],
        run_id=content.run_id,
        step=content.step,
        line=content.line,
        own=_memories(content.own),
        shared=_memories(content.shared),
        patterns=_knowledge(content.patterns),
        knowledge=_knowledge(content.knowledge),
        messages=content.messages,
        policy_parameters=content.policy_parameters,
        checkpoint=content.checkpoint,
        seed=content.seed,
        draw=content.draw,
        probabilities=content.probabilities,
    )


def trace_of_line(packed: bytes, renamed: Callable[[str], str]) -> bytes:
    """A stored trace whose line has another name, all else byte by byte as it was; one that cannot be read stays."""
    try:
        content = msgspec.msgpack.decode(packed)
    except msgspec.DecodeError:
        return packed
    if not isinstance(content, list) or len(content) <= _LINE or not isinstance(content[_LINE], str):
        return packed
    content[_LINE] = renamed(content[_LINE])
    return _encoder.encode(content)


def trace_key_parts(packed: bytes) -> tuple[str, str, int, str] | None:
    """What the key of the experience says that a stored trace is of (`Keys.episodic`); None where it cannot be read."""
    try:
        content = _decoder.decode(packed)
    except msgspec.DecodeError:
        return None
    return content.agent_id, content.product_id, content.timestamp_ms, content.decision_id


def _packed_memories(reads: Sequence[MemoryRead]) -> tuple[tuple[str, float, int], ...]:
    return tuple((read.memory_id, read.distance, ms_rounded_up(read.known_at)) for read in reads)


def _memories(packed: Sequence[tuple[str, float, int]]) -> tuple[MemoryRead, ...]:
    return tuple(
        MemoryRead(memory_id=memory_id, distance=distance, known_at=from_ms(known_ms))
        for memory_id, distance, known_ms in packed
    )


def _packed_knowledge(reads: Sequence[KnowledgeRead]) -> tuple[tuple[str, str, int, float | None], ...]:
    return tuple((read.memory_id, read.kind, ms_rounded_up(read.valid_from), read.distance) for read in reads)


def _knowledge(packed: Sequence[tuple[str, str, int, float | None]]) -> tuple[KnowledgeRead, ...]:
    return tuple(
        KnowledgeRead(memory_id=memory_id, kind=kind, valid_from=from_ms(valid_ms), distance=distance)
        for memory_id, kind, valid_ms, distance in packed
    )


def _conflict(trace: DecisionTrace) -> ConflictingRecordError:
    return ConflictingRecordError(
        f"another trace is stored under decision_id {trace.decision_id} ({trace.agent_id}, {trace.product_id}, "
        f"{trace.timestamp.isoformat()}, run {trace.run_id}, step {trace.step}).",
        remedy="Give the decision its own run_id: the memory that it read has changed since, or its policy has.",
    )
