"""Questions to the memory: what may be asked, and the search that it becomes.

Every argument is checked before anything is sent. Values travel as parameters of the search, never inside its text,
so no id can widen a filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory.asof import check_time
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import MIXED, PHASES, REGIMES, Vector, to_ms
from memory.store.codec import ms_rounded_up
from memory.store.keys import phase_tag, scope_tag, semantic_tag
from memory.validation import validate_choice, validate_identifier, validate_number, validate_vector


@dataclass(frozen=True, slots=True)
class Filter:
    """The filter of a search: its text, which depends on what is asked for only, and its parameters."""

    text: str
    parameters: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Checked limits of a question about experiences; times in milliseconds, `until` excluded."""

    agent_id: str | None
    product_id: str | None
    regime: str | None
    market_phase: str | None
    exclude_agent_id: str | None
    since_ms: int | None
    until_ms: int | None
    as_of_ms: int | None
    min_reward: float | None

    def filter(self) -> Filter:
        """The filter that lets exactly these experiences through."""
        parts: list[str] = []
        parameters: list[Any] = []
        scope = scope_tag(self.agent_id, self.product_id, self.regime)
        if scope is not None:
            parts.append("@scope:{$scope}")
            parameters += ["scope", scope]
        if self.market_phase is not None:
            parts.append("@scope:{$phase}")
            parameters += ["phase", phase_tag(self.market_phase)]
        if self.exclude_agent_id is not None:
            parts.append("-@scope:{$excluded}")
            parameters += ["excluded", scope_tag(self.exclude_agent_id)]
        # Ranges are asked for by their complement, which the server answers several times faster.
        if self.since_ms is not None:
            parts.append("-@timestamp:[-inf ($since]")
            parameters += ["since", self.since_ms]
        if self.until_ms is not None:
            parts.append("-@timestamp:[$until +inf]")
            parameters += ["until", self.until_ms]
        if self.as_of_ms is not None:
            parts.append("-@known_at:[($as_of +inf]")
            parameters += ["as_of", self.as_of_ms]
        if self.min_reward is not None:
            parts.append("@reward:[$reward +inf]")
            parameters += ["reward", repr(self.min_reward)]
        if not parts:
            return Filter("*", ())
        return Filter(f"({' '.join(parts)})", tuple(parameters))


def check_bounds(
    *,
    agent_id: str | None = None,
    product_id: str | None = None,
    regime: str | None = None,
    market_phase: str | None = None,
    exclude_agent_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    as_of: datetime | None = None,
    min_reward: float | None = None,
) -> Bounds:
    """The limits of a question about experiences, or InvalidQueryError, which names the argument."""
    since = None if since is None else check_time(since, "since")
    until = None if until is None else check_time(until, "until")
    if since is not None and until is not None and since > until:
        raise InvalidQueryError(
            f"since {since.isoformat()} lies after until {until.isoformat()}.",
            remedy="Swap them.",
            argument="since",
        )
    as_of = None if as_of is None else check_time(as_of, "as_of")
    return Bounds(
        agent_id=_identifier(agent_id, "agent_id"),
        product_id=_identifier(product_id, "product_id"),
        regime=_choice(regime, "regime", REGIMES),
        market_phase=_choice(market_phase, "market_phase", PHASES),
        exclude_agent_id=_identifier(exclude_agent_id, "exclude_agent_id"),
        since_ms=None if since is None else ms_rounded_up(since),
        until_ms=None if until is None else ms_rounded_up(until),
        as_of_ms=None if as_of is None else to_ms(as_of),
        min_reward=None if min_reward is None else _number(min_reward, "min_reward"),
    )


def pattern_filter(kind: str, line: str, product_id: str | None, regime: str | None, as_of_ms: int | None) -> Filter:
    """The filter for memories of one kind and line that are current, or were valid at a time."""
    parameters: list[Any] = ["scope", semantic_tag(kind, line, product_id, regime)]
    if as_of_ms is None:
        return Filter("(@scope:{$scope} @current:{1})", tuple(parameters))
    parameters += ["as_of", as_of_ms]
    return Filter(
        "(@scope:{$scope} -@valid_from:[($as_of +inf] -@valid_to:[-inf $as_of])",
        tuple(parameters),
    )


def check_pattern_scope(product_id: str | None, regime: str | None) -> tuple[str | None, str | None]:
    """Product and regime of a question about patterns, or InvalidQueryError."""
    return _identifier(product_id, "product_id"), _choice(regime, "regime", (*REGIMES, MIXED))


def check_vector(value: Any, name: str, dimension: int) -> Vector:
    """The value where it is a unit-length float32 vector of that length, or InvalidQueryError."""
    try:
        return validate_vector(value, name, dimension)
    except InvalidRecordError as error:
        raise _as_query_error(error, name) from error


def check_top_k(value: Any, limit: int) -> int:
    """The number of results asked for, or InvalidQueryError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        shown = repr(value)[:80]
        raise InvalidQueryError(
            f"top_k is {shown}; it must be a whole number from 1 to {limit}.",
            remedy="Ask for fewer results, or raise COINSWARM_MAX_TOP_K.",
            argument="top_k",
        )
    return value


def _identifier(value: Any, name: str) -> str | None:
    if value is None:
        return None
    try:
        return validate_identifier(value, name)
    except InvalidRecordError as error:
        raise _as_query_error(error, name) from error


def _choice(value: Any, name: str, choices: tuple[str, ...]) -> str | None:
    if value is None:
        return None
    try:
        return validate_choice(value, name, choices)
    except InvalidRecordError as error:
        raise _as_query_error(error, name) from error


def _number(value: Any, name: str) -> float:
    try:
        return validate_number(value, name)
    except InvalidRecordError as error:
        raise _as_query_error(error, name) from error


def _as_query_error(error: InvalidRecordError, name: str) -> InvalidQueryError:
    return InvalidQueryError(error.message, remedy=error.remedy, argument=name)
