"""Questions to the memory: what may be asked, and the search that it becomes.

Every argument is checked before anything is sent. Values travel as parameters of the search, never inside its text,
so no id can widen a filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from memory.asof import check_time
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import MIXED, PHASES, REGIMES, SOURCES, VECTOR_DIMENSION, Vector, to_ms
from memory.store.codec import Body, ms_rounded_up
from memory.store.keys import EpisodicKey, phase_tag, scope_tag, semantic_tag, source_tag
from memory.validation import validate_choice, validate_identifier, validate_number, validate_vector


@dataclass(frozen=True, slots=True)
class Filter:
    """The filter of a search: its text, which depends on what is asked for only, and its parameters."""

    text: str
    parameters: tuple[Any, ...]


EVERYTHING = Filter("*", ())


@dataclass(slots=True)
class Bounds:
    """Checked limits of a question about experiences; times in milliseconds, `until` excluded. Nobody changes them.

    `min_quality` and `live_since_ms`, which only live experiences are held to, can be asked of the shared pool only.
    """

    agent_id: str | None
    product_id: str | None
    regime: str | None
    market_phase: str | None
    exclude_agent_id: str | None
    since_ms: int | None
    until_ms: int | None
    as_of_ms: int | None
    min_reward: float | None
    min_quality: float | None = None
    live_since_ms: int | None = None

    @property
    def limits(self) -> int:
        """Which limits there are beside the scope, as bits; 0 where there are none."""
        return (
            (self.exclude_agent_id is not None)
            | (self.since_ms is not None) << 1
            | (self.until_ms is not None) << 2
            | (self.as_of_ms is not None) << 3
            | (self.min_reward is not None) << 4
            | (self.min_quality is not None) << 5
            | (self.live_since_ms is not None) << 6
        )

    def scope(self) -> Filter:
        """The filter that lets through the experiences of agent, product, regime and phase, whatever else is asked.

        Tags cost the server next to nothing, unlike the ranges of `filter`.
        """
        parts: list[str] = []
        parameters: list[Any] = []
        self._add_scope(parts, parameters)
        return _joined(parts, parameters)

    def admits(self, key: EpisodicKey, body: Body, known_ms: int) -> bool:
        """Whether an experience of the scope lies within the other limits as well; agrees with `filter`."""
        return (
            (self.as_of_ms is None or known_ms <= self.as_of_ms)
            and (self.since_ms is None or key.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or key.timestamp_ms < self.until_ms)
            and (self.min_reward is None or body.reward >= self.min_reward)
            and (self.exclude_agent_id is None or key.agent_id != self.exclude_agent_id)
            and (self.min_quality is None or (body.quality is not None and body.quality >= self.min_quality))
            and (self.live_since_ms is None or SOURCES[body.source] != "live" or key.timestamp_ms >= self.live_since_ms)
        )

    def filter(self, *, few: bool = False) -> Filter:
        """The filter that lets exactly these experiences through.

        Parameters
        ----------
        few
            Ask for ranges as such, which is quicker where they hold a small part of all experiences (100,000 of which
            a tenth lie within: 0.7 ms, by the complement 3 ms); otherwise by their complements, which is quicker where
            they hold most (nine tenths: 1.4 ms, as such 4.7 ms).
        """
        parts: list[str] = []
        parameters: list[Any] = []
        self._add_scope(parts, parameters)
        if self.exclude_agent_id is not None:
            parts.append("-@scope:{$excluded}")
            parameters += ["excluded", scope_tag(self.exclude_agent_id)]
        if few and (self.since_ms is not None or self.until_ms is not None):
            low = "-inf" if self.since_ms is None else "$since"
            high = "+inf" if self.until_ms is None else "($until"
            parts.append(f"@timestamp:[{low} {high}]")
        elif self.since_ms is not None or self.until_ms is not None:
            parts += [] if self.since_ms is None else ["-@timestamp:[-inf ($since]"]
            parts += [] if self.until_ms is None else ["-@timestamp:[$until +inf]"]
        if self.since_ms is not None:
            parameters += ["since", self.since_ms]
        if self.until_ms is not None:
            parameters += ["until", self.until_ms]
        if self.as_of_ms is not None:
            parts.append("@known_at:[-inf $as_of]" if few else "-@known_at:[($as_of +inf]")
            parameters += ["as_of", self.as_of_ms]
        if self.min_reward is not None:
            parts.append("@reward:[$reward +inf]" if few else "-@reward:[-inf ($reward]")
            parameters += ["reward", repr(self.min_reward)]
        if self.min_quality is not None:
            parts.append("@quality:[$quality +inf]" if few else "-@quality:[-inf ($quality]")
            parameters += ["quality", repr(self.min_quality)]
        if self.live_since_ms is not None:
            parts.append("-(@scope:{$live} @timestamp:[-inf ($live_since])")
            parameters += ["live", source_tag("live"), "live_since", self.live_since_ms]
        return _joined(parts, parameters)

    def _add_scope(self, parts: list[str], parameters: list[Any]) -> None:
        scope = scope_tag(self.agent_id, self.product_id, self.regime)
        if scope is not None:
            parts.append("@scope:{$scope}")
            parameters += ["scope", scope]
        if self.market_phase is not None:
            parts.append("@scope:{$phase}")
            parameters += ["phase", phase_tag(self.market_phase)]


def _joined(parts: list[str], parameters: list[Any]) -> Filter:
    return Filter(f"({' '.join(parts)})", tuple(parameters)) if parts else EVERYTHING


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
    min_quality: float | None = None,
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
        min_quality=None if min_quality is None else _number(min_quality, "min_quality", 0.0, 1.0),
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


def check_vector(value: Any, name: str, dimension: int | None) -> Vector:
    """The value where it is a unit-length float32 vector, or InvalidQueryError.

    Of `dimension` numbers; of any number where that is None, since the server has to be asked for it yet.
    """
    if dimension is None:
        known = isinstance(value, np.ndarray) and value.ndim == 1 and value.size > 0
        dimension = value.size if known else VECTOR_DIMENSION
    try:
        return validate_vector(value, name, dimension)
    except InvalidRecordError as error:
        raise _as_query_error(error, name) from error


def check_top_k(value: Any, limit: int) -> int:
    """The number of results asked for, or InvalidQueryError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= limit:
        shown = repr(value)[:80]
        raise InvalidQueryError(
            f"top_k is {shown}; it must be a whole number from 1 to {limit}.",
            remedy=f"Ask for 1 to {limit} results; COINSWARM_MAX_TOP_K sets the limit.",
            argument="top_k",
        )
    return int(value)


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


def _number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        return validate_number(value, name, low, high)
    except InvalidRecordError as error:
        raise _as_query_error(error, name) from error


def _as_query_error(error: InvalidRecordError, name: str) -> InvalidQueryError:
    return InvalidQueryError(error.message, remedy=error.remedy, argument=name)
