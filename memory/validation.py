"""Validation of records where they enter the memory: each refusal names the field, the value and the remedy."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from memory.errors import InvalidRecordError
from memory.feature_values import FeatureValues
from memory.records import (
    IDENTIFIER_PATTERN,
    LARGEST_COSINE_DISTANCE,
    LAST_YEAR,
    REGIMES,
    SOURCES,
    UNIT_TOLERANCE,
    VECTOR_DIMENSION,
    Action,
    BaseRate,
    BlockFigure,
    CorrelationMemory,
    EpisodicMemory,
    PatternMemory,
    RegimeMemory,
    SemanticBase,
    Side,
    Vector,
    experience_id,
    market_phase,
    semantic_type,
)


def validate_vector(value: Any, name: str, dimension: int = VECTOR_DIMENSION) -> Vector:
    """The value as a contiguous unit-length float32 vector of shape (dimension,), or InvalidRecordError."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != (dimension,):
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InvalidRecordError(
            f"{name} is {got}, not a float32 array of shape ({dimension},).",
            remedy="Encode states with a StateEncoder, or convert with np.asarray(vector, dtype=np.float32).",
            field=name,
        )
    squared_length = float(np.vdot(value, value))  # Unlike np.dot, silent where it overflows.
    if not math.isfinite(squared_length) or abs(squared_length - 1.0) > 2 * UNIT_TOLERANCE:
        problem = "holds NaN or infinity" if not np.isfinite(value).all() else f"has length {squared_length**0.5:.4g}"
        raise InvalidRecordError(
            f"{name} {problem}; it must be finite and of length 1.",
            remedy="Divide the vector by its length; a zero vector cannot be stored.",
            field=name,
        )
    return np.ascontiguousarray(value)


def validate_identifier(value: Any, name: str) -> str:
    """The value where it is an id that keys, tags and file names can hold, or InvalidRecordError."""
    if not isinstance(value, str) or not IDENTIFIER_PATTERN.fullmatch(value):
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not a valid id.",
            remedy="Use 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit.",
            field=name,
        )
    # A plain string: what a member of an enumeration looks like inside a key depends on the version of Python.
    return value if type(value) is str else str.__str__(value)


def validate_timestamp(value: Any, name: str) -> datetime:
    """The value as an aware UTC timestamp, or InvalidRecordError."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not an aware datetime.",
            remedy="Use datetime objects with a time zone, such as datetime.now(UTC).",
            field=name,
        )
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidRecordError(
            f"{name} {_shown(value)} lies outside the years 1 to 9999 in UTC.", remedy="Correct it.", field=name
        ) from error


def validate_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The value as a finite float within [low, high], or InvalidRecordError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not a number.", remedy="Pass an int or a float.", field=name
        )
    try:
        number = float(value)
    except OverflowError:  # An int beyond what a float can hold.
        number = math.inf if value > 0 else -math.inf
    if not math.isfinite(number) or not low <= number <= high:
        span = "" if (low, high) == (-math.inf, math.inf) else f" from {low:g} to {high:g}"
        raise InvalidRecordError(
            f"{name} is {number}; it must be a finite number{span}.", remedy="Correct the value.", field=name
        )
    return number


def validate_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """The value as a plain string where it is among the choices, or InvalidRecordError."""
    if not isinstance(value, str) or str(value) not in choices:
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not known.", remedy=f"Use one of {', '.join(choices)}.", field=name
        )
    return str(value)


def validate_action(value: Any, name: str) -> Action:
    """The value where it is a well-formed action, or InvalidRecordError."""
    if not isinstance(value, Action) or not isinstance(value.side, Side):
        raise InvalidRecordError(
            f"{name} {_shown(value)} is not an Action.", remedy="Use Action(Side.BUY, 0.5) or the like.", field=name
        )
    validate_number(value.size, f"{name}.size", 0.0, 1.0)
    return value


def validate_experience(memory: EpisodicMemory, dimension: int = VECTOR_DIMENSION) -> EpisodicMemory:
    """Check an experience and fill what follows from the rest (memory_id, market_phase), in place.

    Raises
    ------
    InvalidRecordError
        Names the field, the value and the remedy. Cost: about 15 microseconds.
    """
    if not isinstance(memory, EpisodicMemory):
        raise InvalidRecordError(
            f"{type(memory).__name__} is no experience.", remedy="Store EpisodicMemory records.", field="memory"
        )
    memory.agent_id = validate_identifier(memory.agent_id, "agent_id")
    memory.product_id = validate_identifier(memory.product_id, "product_id")
    memory.run_id = validate_identifier(memory.run_id, "run_id")
    if memory.encoder_id:
        memory.encoder_id = validate_identifier(memory.encoder_id, "encoder_id")
    memory.timestamp = validate_timestamp(memory.timestamp, "timestamp")
    if memory.timestamp.year >= LAST_YEAR:
        raise InvalidRecordError(
            f"timestamp {memory.timestamp.isoformat()} lies after the last window.",
            remedy=f"Decisions lie before the year {LAST_YEAR}.",
            field="timestamp",
        )
    for name in ("known_at", "recorded_at", "return_known_at"):
        value = getattr(memory, name)
        if value is not None:
            setattr(memory, name, validate_timestamp(value, name))
    if memory.known_at is not None and memory.known_at < memory.timestamp:
        raise InvalidRecordError(
            f"known_at {memory.known_at.isoformat()} lies before timestamp {memory.timestamp.isoformat()}.",
            remedy="known_at is when reward and next state existed: the next decision time or later.",
            field="known_at",
        )
    memory.state_vector = validate_vector(memory.state_vector, "state_vector", dimension)
    if memory.next_state_vector is not None:
        memory.next_state_vector = validate_vector(memory.next_state_vector, "next_state_vector", dimension)
    validate_action(memory.action, "action")
    memory.reward = validate_number(memory.reward, "reward")
    memory.regime = validate_choice(memory.regime, "regime", REGIMES)
    memory.source = validate_choice(memory.source, "source", SOURCES)
    if isinstance(memory.step, bool) or not isinstance(memory.step, int) or memory.step < 0:
        raise InvalidRecordError(
            f"step {_shown(memory.step)} is not a count.", remedy="Use 0, 1, 2, ... within the episode.", field="step"
        )
    memory.confidence = validate_number(memory.confidence, "confidence", 0.0, 1.0)
    for name, low, high in _OPTIONAL_NUMBERS:
        value = getattr(memory, name)
        if value is not None:
            setattr(memory, name, validate_number(value, name, low, high))
    if memory.cumulative_return is not None and memory.return_known_at is None:
        raise InvalidRecordError(
            "cumulative_return is given without return_known_at.",
            remedy="Say when the return was known, so that earlier queries do not see it.",
            field="return_known_at",
        )
    if isinstance(memory.terminal, np.bool_):
        memory.terminal = bool(memory.terminal)
    for name, kind in _CONTAINERS:
        value = getattr(memory, name)
        if not isinstance(value, kind):
            raise InvalidRecordError(
                f"{name} {_shown(value)} is {type(value).__name__}.",
                remedy=f"Use a {kind[0].__name__}.",
                field=name,
            )
    features = {
        validate_identifier(name, "features"): validate_number(value, f"features[{name}]")
        for name, value in memory.features.items()
    }
    if not isinstance(memory.features, FeatureValues):
        memory.features = features
    for agent, action in memory.other_agent_actions.items():
        validate_identifier(agent, "other_agent_actions")
        validate_action(action, f"other_agent_actions[{agent}]")
    memory.pattern_ids = tuple(validate_identifier(pattern, "pattern_ids") for pattern in memory.pattern_ids)
    phase = market_phase(memory.timestamp)
    if memory.market_phase and memory.market_phase != phase:
        raise InvalidRecordError(
            f"market_phase {_shown(memory.market_phase)} does not fit timestamp {memory.timestamp.isoformat()}.",
            remedy=f"Leave it empty or use {phase}.",
            field="market_phase",
        )
    memory.market_phase = phase
    derived = experience_id(
        memory.source, memory.run_id, memory.agent_id, memory.product_id, memory.timestamp, memory.step
    )
    if memory.memory_id and memory.memory_id != derived:
        raise InvalidRecordError(
            f"memory_id {_shown(memory.memory_id)} does not belong to this record.",
            remedy=f"Leave it empty; it derives from source, run, agent, product, time and step ({derived}).",
            field="memory_id",
        )
    memory.memory_id = derived
    return memory


_CONTAINERS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("terminal", (bool,)),
    ("features", (dict, FeatureValues)),
    ("other_agent_actions", (dict,)),
    ("pattern_ids", (tuple, list)),
)
_OPTIONAL_NUMBERS: tuple[tuple[str, float, float], ...] = (
    ("price", 0.0, math.inf),
    ("spread", 0.0, math.inf),
    ("gross_return", -math.inf, math.inf),
    ("cost", 0.0, math.inf),
    ("position_before", -1.0, 1.0),
    ("position_after", -1.0, 1.0),
    ("cumulative_return", -math.inf, math.inf),
    ("quality", 0.0, 1.0),
)


def validate_semantic(memory: SemanticBase, dimension: int = VECTOR_DIMENSION) -> SemanticBase:
    """Check what every semantic memory must hold, in place; InvalidRecordError names the field."""
    semantic_type(memory)
    validate_identifier(memory.memory_id, "memory_id")
    validate_identifier(memory.encoder_id, "encoder_id")
    if isinstance(memory, PatternMemory | RegimeMemory):
        memory.concept_vector = validate_vector(memory.concept_vector, "concept_vector", dimension)
    memory.created_at = validate_timestamp(memory.created_at, "created_at")
    memory.valid_from = validate_timestamp(memory.valid_from, "valid_from")
    if memory.valid_to is not None:
        memory.valid_to = validate_timestamp(memory.valid_to, "valid_to")
        if memory.valid_to < memory.valid_from:
            raise InvalidRecordError(
                f"valid_to {memory.valid_to.isoformat()} lies before valid_from {memory.valid_from.isoformat()}.",
                remedy="A version ends when the next one begins.",
                field="valid_to",
            )
    if isinstance(memory, PatternMemory):
        memory.reach = validate_number(memory.reach, "reach", 0.0, LARGEST_COSINE_DISTANCE)
        if memory.split_from is not None:
            memory.split_from = validate_identifier(memory.split_from, "split_from")
    if isinstance(memory, RegimeMemory):
        _validate_base_rates(memory.base_rates)
    if isinstance(memory, CorrelationMemory) and memory.q_value is not None and not 0 <= memory.q_value <= 1:
        raise InvalidRecordError(
            f"q_value {_shown(memory.q_value)} is no share.",
            remedy="A q-value lies between 0 and 1; leave it None where nothing was tested.",
            field="q_value",
        )
    return memory


def _validate_base_rates(rates: tuple[BaseRate, ...]) -> None:
    horizons = [rate.horizon_minutes for rate in rates]
    if len(set(horizons)) != len(horizons) or any(horizon < 1 for horizon in horizons):
        raise InvalidRecordError(
            f"base_rates have the horizons {horizons}.",
            remedy="Give one base rate for each horizon of at least a minute.",
            field="base_rates",
        )
    for rate in rates:
        for figure in (rate.gross, rate.scaled, rate.volatility):
            if figure is not None and not _is_sound(figure):
                raise InvalidRecordError(
                    f"the base rate over {rate.horizon_minutes} minutes holds {_shown(figure)}.",
                    remedy="Figures are finite, over 1 block or more, with a value in each; leave out what is unknown.",
                    field="base_rates",
                )
        for name in ("magnitude_p90", "magnitude_p95"):
            size = getattr(rate, name)
            if size is not None and not 0 <= size < math.inf:
                raise InvalidRecordError(
                    f"{name} over {rate.horizon_minutes} minutes is {_shown(size)}.",
                    remedy="A magnitude is finite and at least 0; leave it None where it is unknown.",
                    field="base_rates",
                )


def _is_sound(figure: BlockFigure) -> bool:
    variances = [value for value in (figure.spread, figure.variance) if value is not None]
    return (
        1 <= figure.blocks <= figure.n
        and math.isfinite(figure.mean)
        and all(0 <= value < math.inf for value in variances)
        and 0 < figure.concentration <= 1
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
