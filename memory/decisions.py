"""What a decision rested on: the state, the memories and knowledge read, the policy and its draw, and the action.

A trace holds all that is needed to take the decision again: what was asked is asked again as of the same time, and the
policy is run again with the same parameters, checkpoint and random number. Its id is the memory id of the experience
that the decision became.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memory.errors import InvalidRecordError
from memory.plain import plain_mapping
from memory.records import (
    REGIMES,
    SOURCES,
    VECTOR_DIMENSION,
    Action,
    EpisodicMemory,
    SemanticBase,
    SemanticType,
    Vector,
    experience_id,
    semantic_type,
)
from memory.validation import (
    validate_action,
    validate_choice,
    validate_identifier,
    validate_number,
    validate_timestamp,
    validate_vector,
)

MAX_READS = 1000
"""Reads of one kind that a trace may list: as many results as a question has at most by default."""
PROBABILITY_TOLERANCE = 1e-6
"""Largest deviation of the sum of the probabilities from 1; float32 rounding of a policy stays below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRead:
    """An experience that was read for a decision.

    Attributes
    ----------
    memory_id
        Its id.
    distance
        Cosine distance of its state to the one that was decided on.
    known_at
        From when on it was known; never later than the decision's `as_of`.
    """

    memory_id: str
    distance: float
    known_at: datetime

    @classmethod
    def of(cls, memory: EpisodicMemory, distance: float) -> MemoryRead:
        """The read of an experience that was found at a distance."""
        if memory.known_at is None:
            raise InvalidRecordError(
                f"experience {memory.memory_id} has no known_at.",
                remedy="Pass experiences that were found in the memory.",
                field="known_at",
            )
        return cls(memory_id=memory.memory_id, distance=float(distance), known_at=memory.known_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeRead:
    """A version of a semantic memory that was read for a decision.

    Attributes
    ----------
    memory_id, kind
        Its id and kind (`memory.SemanticType`).
    valid_from
        From when on this version was valid: with the id it names the version.
    distance
        Cosine distance of its place to the state; None where it was not found by distance.
    """

    memory_id: str
    kind: str
    valid_from: datetime
    distance: float | None = None

    @classmethod
    def of(cls, memory: SemanticBase, distance: float | None = None) -> KnowledgeRead:
        """The read of one version of a semantic memory."""
        return cls(
            memory_id=memory.memory_id,
            kind=semantic_type(memory).value,
            valid_from=memory.valid_from,
            distance=None if distance is None else float(distance),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class DecisionTrace:
    """One decision of one agent, and all that it rested on.

    Attributes
    ----------
    agent_id, product_id, timestamp, source, run_id, step
        Whose decision it was, on what and when; as of the experience that it became.
    decision_id
        Memory id of that experience; derived from these six where it is empty.
    as_of
        The time that the memory was asked as of; in a replay or backtest not later than `timestamp`.
    encoder_id, line
        Encoder of the state, and the knowledge line that was read; None where none was.
    features, state_vector
        The state: raw features by name, and its unit vector.
    regime, regime_confidence
        What the agent took the regime for, and how sure it was, 0 to 1.
    position_before
        Exposure before the decision, -1 to 1.
    own, shared
        Experiences read, in the order in which they were found: the agent's own, and those of the shared pool.
    patterns, knowledge
        Versions of semantic memories read: the patterns that the state was matched to, and all others.
    messages
        Ids of the messages that were heard since the decision before.
    policy, policy_parameters, checkpoint
        The strategy or policy, its parameters (JSON values), and the content hash of its checkpoint; None without one.
    seed, draw
        Seed of the policy's random numbers, and the uniform number that this action was drawn with; None where nothing
        was drawn.
    probabilities
        Probability of each action by `Action.index`; empty where the policy has none.
    action, confidence
        What was decided, and how sure the policy was, 0 to 1.
    """

    agent_id: str
    product_id: str
    timestamp: datetime
    as_of: datetime
    encoder_id: str
    features: Mapping[str, float]
    state_vector: Vector
    regime: str
    regime_confidence: float
    position_before: float
    policy: str
    action: Action
    confidence: float

    decision_id: str = ""
    source: str = "live"
    run_id: str = "live"
    step: int = 0
    line: str | None = None
    own: tuple[MemoryRead, ...] = ()
    shared: tuple[MemoryRead, ...] = ()
    patterns: tuple[KnowledgeRead, ...] = ()
    knowledge: tuple[KnowledgeRead, ...] = ()
    messages: tuple[str, ...] = ()
    policy_parameters: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    seed: int | None = None
    draw: float | None = None
    probabilities: tuple[float, ...] = ()


def validate_trace(trace: DecisionTrace, dimension: int = VECTOR_DIMENSION) -> DecisionTrace:
    """Check a trace before it is stored, and fill in its id, in place; about 20 microseconds and 2 a read.

    Raises
    ------
    InvalidRecordError
        Names the field, the value and the remedy. A trace that lists what was not known as of its time is refused: the
        decision could not have read it.
    """
    if not isinstance(trace, DecisionTrace):
        raise InvalidRecordError(
            f"{type(trace).__name__} is no decision trace.", remedy="Pass DecisionTrace records.", field="trace"
        )
    for name in ("agent_id", "product_id", "run_id", "encoder_id", "policy"):
        setattr(trace, name, validate_identifier(getattr(trace, name), name))
    if trace.checkpoint is not None:
        trace.checkpoint = validate_identifier(trace.checkpoint, "checkpoint")
    if trace.line is not None:
        # Lines are called namespace/encoder/version.
        parts = trace.line.split("/") if isinstance(trace.line, str) else [trace.line]
        trace.line = "/".join(validate_identifier(part, "line") for part in parts)
    trace.timestamp = validate_timestamp(trace.timestamp, "timestamp")
    trace.as_of = validate_timestamp(trace.as_of, "as_of")
    trace.source = validate_choice(trace.source, "source", SOURCES)
    if trace.source != "live" and trace.as_of > trace.timestamp:
        raise InvalidRecordError(
            f"as_of {trace.as_of.isoformat()} lies after timestamp {trace.timestamp.isoformat()}, the decision's.",
            remedy="A replay asks the memory as of the decision's time, or of an earlier one.",
            field="as_of",
        )
    trace.regime = validate_choice(trace.regime, "regime", REGIMES)
    trace.state_vector = validate_vector(trace.state_vector, "state_vector", dimension)
    if not isinstance(trace.features, Mapping):
        raise InvalidRecordError(
            f"features is {type(trace.features).__name__}.", remedy="Pass raw values by name.", field="features"
        )
    trace.features = {
        validate_identifier(name, "features"): validate_number(value, f"features[{name}]")
        for name, value in trace.features.items()
    }
    validate_action(trace.action, "action")
    for name, low in (("confidence", 0.0), ("regime_confidence", 0.0), ("position_before", -1.0)):
        setattr(trace, name, validate_number(getattr(trace, name), name, low, 1.0))
    _check_count(trace.step, "step")
    if trace.seed is not None:
        _check_count(trace.seed, "seed")
    if trace.draw is not None:
        trace.draw = validate_number(trace.draw, "draw", 0.0, 1.0)
    trace.probabilities = _checked_probabilities(trace.probabilities)
    for name in ("own", "shared"):
        setattr(trace, name, _checked_memories(getattr(trace, name), name, trace.as_of))
    for name in ("patterns", "knowledge"):
        setattr(trace, name, _checked_knowledge(getattr(trace, name), name, trace.as_of))
    trace.messages = tuple(validate_identifier(item, "messages") for item in _bounded(trace.messages, "messages"))
    trace.policy_parameters = plain_mapping(trace.policy_parameters, "policy_parameters")
    derived = experience_id(trace.source, trace.run_id, trace.agent_id, trace.product_id, trace.timestamp, trace.step)
    if trace.decision_id and trace.decision_id != derived:
        raise InvalidRecordError(
            f"decision_id {trace.decision_id!r} does not belong to this decision.",
            remedy=f"Leave it empty; it derives from source, run, agent, product, time and step ({derived}).",
            field="decision_id",
        )
    trace.decision_id = derived
    return trace


def _check_count(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InvalidRecordError(f"{name} {value!r} is not a count.", remedy="Use 0, 1, 2, ...", field=name)


def _checked_probabilities(values: Any) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise InvalidRecordError(
            f"probabilities is {type(values).__name__}.", remedy="Give a tuple of numbers.", field="probabilities"
        )
    checked = tuple(validate_number(value, "probabilities", 0.0, 1.0) for value in values)
    if checked and abs(math.fsum(checked) - 1.0) > PROBABILITY_TOLERANCE * len(checked):
        raise InvalidRecordError(
            f"probabilities add up to {math.fsum(checked):.6g}.",
            remedy="Give one for each action, summing to 1, or none.",
            field="probabilities",
        )
    return checked


def _bounded(values: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_READS:
        got = f"{len(values)} items" if isinstance(values, tuple | list) else type(values).__name__
        raise InvalidRecordError(
            f"{name} holds {got}.", remedy=f"Pass a tuple of at most {MAX_READS} reads.", field=name
        )
    return tuple(values)


def _checked_memories(values: Any, name: str, as_of: datetime) -> tuple[MemoryRead, ...]:
    reads = _bounded(values, name)
    for read in reads:
        if not isinstance(read, MemoryRead):
            raise _wrong_read(name, read, "MemoryRead.of(hit.memory, hit.distance)")
        validate_identifier(read.memory_id, name)
        validate_number(read.distance, f"{name}.distance")
        _check_known(validate_timestamp(read.known_at, f"{name}.known_at"), name, read.memory_id, as_of)
    return reads


def _checked_knowledge(values: Any, name: str, as_of: datetime) -> tuple[KnowledgeRead, ...]:
    reads = _bounded(values, name)
    for read in reads:
        if not isinstance(read, KnowledgeRead):
            raise _wrong_read(name, read, "KnowledgeRead.of(hit.memory, hit.distance)")
        validate_identifier(read.memory_id, name)
        validate_choice(read.kind, f"{name}.kind", tuple(kind.value for kind in SemanticType))
        if read.distance is not None:
            validate_number(read.distance, f"{name}.distance")
        _check_known(validate_timestamp(read.valid_from, f"{name}.valid_from"), name, read.memory_id, as_of)
    return reads


def _wrong_read(name: str, read: Any, wanted: str) -> InvalidRecordError:
    return InvalidRecordError(
        f"{name} holds {type(read).__name__}.", remedy=f"List what was read by {wanted}.", field=name
    )


def _check_known(known: datetime, name: str, memory_id: str, as_of: datetime) -> None:
    if known > as_of:
        raise InvalidRecordError(
            f"{name} lists {memory_id}, which was known from {known.isoformat()} on, after as_of {as_of.isoformat()}.",
            remedy="Ask the memory as of the decision's time (as_of=, or mem.at(t)).",
            field=name,
        )
