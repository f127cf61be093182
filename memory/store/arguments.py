"""Arguments of what the stores are asked, checked before anything is sent; refusals name the argument."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from memory.asof import check_time
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import REGIMES, SOURCES, to_ms
from memory.store.keys import run_tag, scope_tag, source_tag
from memory.validation import validate_choice, validate_identifier

MEMORY_ID_LENGTH = 32


def check_identifier(value: Any, name: str) -> str | None:
    """An id or None. An empty one is refused: taken for none it would widen what is counted or removed."""
    try:
        return None if value is None else validate_identifier(value, name)
    except InvalidRecordError as error:
        raise InvalidQueryError(error.message, remedy=error.remedy, argument=name) from error


def check_one_of(value: Any, name: str, choices: tuple[str, ...]) -> str | None:
    """One of some names or None."""
    try:
        return None if value is None else validate_choice(value, name, choices)
    except InvalidRecordError as error:
        raise InvalidQueryError(error.message, remedy=error.remedy, argument=name) from error


def check_memory_id(value: Any) -> str:
    """The id of an experience."""
    hexadecimal = isinstance(value, str) and len(value) == MEMORY_ID_LENGTH and set(value) <= set("0123456789abcdef")
    if not hexadecimal:
        raise InvalidQueryError(
            f"memory_id {repr(value)[:80]} is not an experience's id.",
            remedy=f"Ids of experiences are {MEMORY_ID_LENGTH} hex digits.",
            argument="memory_id",
        )
    return str(value)


def ms_of(value: datetime | None, name: str, rounded: Callable[[datetime], int] = to_ms) -> int | None:
    """Milliseconds since 1970 of an aware time; None where there is none."""
    return None if value is None else rounded(check_time(value, name))


def experience_tags_of(
    agent_id: Any = None, product_id: Any = None, regime: Any = None, source: Any = None, run_id: Any = None
) -> list[str]:
    """Tags that experiences of these carry; what is None is left open."""
    agent_id, product_id = check_identifier(agent_id, "agent_id"), check_identifier(product_id, "product_id")
    scope = scope_tag(agent_id, product_id, check_one_of(regime, "regime", REGIMES))
    source, run_id = check_one_of(source, "source", SOURCES), check_identifier(run_id, "run_id")
    given = (
        scope,
        None if source is None else source_tag(source),
        None if run_id is None else run_tag(run_id),
    )
    return [tag for tag in given if tag is not None]
