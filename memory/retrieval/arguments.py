"""Arguments of questions, checked one by one: what is wrong becomes an InvalidQueryError that names the argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import REGIMES, SOURCES, VECTOR_DIMENSION, Vector
from memory.retrieval.context import QuestionContext
from memory.retrieval.query import check_vector
from memory.validation import validate_choice, validate_identifier, validate_number

Checked = TypeVar("Checked")


def checked(check: Callable[..., Checked], value: Any, name: str, *further: Any) -> Checked:
    """What a check of `memory.validation` makes of a value, its refusal turned into that of a question."""
    try:
        return check(value, name, *further)
    except InvalidRecordError as error:
        raise InvalidQueryError(error.message, remedy=error.remedy, argument=name) from error


def check_product(value: Any, name: str = "product_id") -> str | None:
    """A product id or None."""
    return None if value is None else checked(validate_identifier, value, name)


def check_regime(value: Any, name: str = "regime", choices: tuple[str, ...] = REGIMES) -> str:
    """The name of a regime."""
    return checked(validate_choice, value, name, choices)


def check_source(value: Any, name: str = "source") -> str | None:
    """live, replay, backtest or None."""
    return None if value is None else checked(validate_choice, value, name, SOURCES)


def check_number(value: Any, name: str, low: float, high: float) -> float:
    """A finite number within [low, high]."""
    return checked(validate_number, value, name, low, high)


def check_path(value: Any, name: str = "previous_regimes") -> tuple[str, ...]:
    """Regimes in time order; a single name is refused, since its letters are no regimes."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidQueryError(
            f"{name} is {type(value).__name__}, not a sequence of regimes.",
            remedy="Pass a tuple of names, oldest first, such as ('QUIET', 'VOLATILE').",
            argument=name,
        )
    return tuple(check_regime(item, name) for item in value)


def check_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number, at least so many."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidQueryError(
            f"{name} is {repr(value)[:80]}; it must be a whole number, at least {least}.",
            remedy=f"Give {least} or more.",
            argument=name,
        )
    return int(value)


def check_flag(value: Any, name: str) -> bool:
    """True or False, and nothing that merely counts as either."""
    if not isinstance(value, bool):
        raise InvalidQueryError(
            f"{name} is {type(value).__name__}, not a bool.", remedy="Pass True or False.", argument=name
        )
    return value


def check_minutes(value: Any, name: str) -> int:
    """A whole number of minutes, at least one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidQueryError(
            f"{name} is {repr(value)[:80]}; it must be a whole number of minutes, at least 1.",
            remedy="Pass the length of a bar in minutes, such as 1 or 15.",
            argument=name,
        )
    return int(value)


async def check_state(context: QuestionContext, value: Any, name: str) -> Vector:
    """A vector of the encoder that is asked in; its length is that of the index, which this process knows."""
    if not context.indexes.at_hand(context.indexes.experiences, context.encoder_id):
        check_vector(value, name, None)  # All that can be known of it before anything is sent.
    encoder_id = context.encoder_id or await context.encoder()
    if encoder_id is None:
        return check_vector(value, name, VECTOR_DIMENSION)
    schema = await context.indexes.episodic(encoder_id)
    dimension = schema.dimension if schema is not None else await context.encoders.dimension(encoder_id)
    return check_vector(value, name, dimension)
