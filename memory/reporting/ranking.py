"""Which patterns a report shows first, and by which of their outcomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from memory.records import Outcome, PatternMemory, VolatilityOutcome
from memory.reporting import wording

FADED = "faded"
_TRADES = ("LONG", "SHORT")
_LABEL_LENGTH = 58
"""Characters of a row's label that fit above a row of a forest plot."""


def leading_outcome(pattern: PatternMemory, horizon_minutes: int) -> Outcome | None:
    """The outcome that a pattern is ranked by: its best trade at one horizon, by shrunk net mean.

    LONG and SHORT compete where the pattern names no best action, or FLAT. Where the pattern lacks the horizon, the
    nearest one stands in; None where it has no outcome of a trade.
    """
    actions = (pattern.best_action,) if pattern.best_action in _TRADES else _TRADES
    trades = [outcome for outcome in pattern.outcomes if outcome.action in actions]

    def key(outcome: Outcome) -> tuple[int, int, float]:
        return abs(outcome.horizon_minutes - horizon_minutes), outcome.horizon_minutes, -outcome.shrunk_net_mean

    return min(trades, key=key, default=None)


def strongest(patterns: Iterable[PatternMemory], horizon_minutes: int) -> list[PatternMemory]:
    """Patterns that have not faded, best first by shrunk net mean.

    Demoted ones, whose predictions failed, come after all others; those without a trade's outcome come last.
    """

    def key(pattern: PatternMemory) -> tuple[bool, bool, float, str]:
        outcome = leading_outcome(pattern, horizon_minutes)
        mean = outcome.shrunk_net_mean if outcome else 0.0
        return outcome is None, pattern.demoted, -mean, pattern.pattern_id

    return sorted((pattern for pattern in patterns if pattern.status != FADED), key=key)


def outcome_of(pattern: PatternMemory, action: str, horizon_minutes: int) -> Outcome | None:
    """One outcome of a pattern, or None."""
    for outcome in pattern.outcomes:
        if outcome.action == action and outcome.horizon_minutes == horizon_minutes:
            return outcome
    return None


def volatility_of(pattern: PatternMemory, horizon_minutes: int) -> VolatilityOutcome | None:
    """The volatility that followed a pattern over one horizon, or None."""
    for outcome in pattern.volatility:
        if outcome.horizon_minutes == horizon_minutes:
            return outcome
    return None


def horizons_of(patterns: Iterable[PatternMemory]) -> list[int]:
    """Horizons that any of the patterns has outcomes for, in minutes, ascending."""
    return sorted({outcome.horizon_minutes for pattern in patterns for outcome in pattern.outcomes})


def gist(pattern: PatternMemory) -> str:
    """What sets a pattern apart, without ranges and without its regime; its id where nothing does."""
    phrases = ", ".join(wording.without_ranges(condition.phrase) for condition in pattern.conditions)
    return phrases or wording.short_id(pattern.pattern_id)


def row_label(rank: int, pattern: PatternMemory) -> str:
    """What a chart calls a pattern: its rank, its regime and what sets it apart."""
    text = f"{rank}  {wording.regime_name(pattern.regime)}: {gist(pattern)}"
    return text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 1].rstrip(' ,')}…"


def surest_volatility(ranked: Sequence[tuple[int, PatternMemory]]) -> list[tuple[int, PatternMemory]]:
    """Patterns with their ranks, those first whose volatility differs most surely from the base rate.

    Sure is how far the base rate lies outside the interval (inside counts as negative), summed over the horizons;
    patterns without any interval come last, in their order.
    """

    def key(row: tuple[int, PatternMemory]) -> tuple[bool, float]:
        margins = [
            max(outcome.interval.low - outcome.base_mean, outcome.base_mean - outcome.interval.high)
            for outcome in row[1].volatility
            if outcome.interval is not None
        ]
        return not margins, -sum(margins)

    return sorted(ranked, key=key)


def anchor(pattern_id: str) -> str:
    """Where a report tells of a pattern: the fragment of its address."""
    return f"pattern-{re.sub(r'[^A-Za-z0-9-]', '-', pattern_id)}"


def title(pattern: PatternMemory) -> str:
    """What lists call a pattern: the first sentence of its description, without ranges; its id where it has none."""
    return wording.without_ranges(wording.first_sentence(pattern.description)) or pattern.pattern_id
