"""Which patterns a report shows first, and by which of their outcomes."""

from __future__ import annotations

from collections.abc import Iterable

from memory.records import Outcome, PatternMemory, VolatilityOutcome
from memory.reporting import wording

FADED = "faded"
_TRADES = ("LONG", "SHORT")
_LABEL_LENGTH = 54
"""Characters of a row's label that fit above a forest plot's row on a phone."""


def leading_outcome(pattern: PatternMemory) -> Outcome | None:
    """The outcome that a pattern is ranked by: its best trade over the horizon with the highest shrunk net mean.

    LONG and SHORT compete where the pattern names no best action, or FLAT. None where it has no outcome of a trade.
    """
    actions = (pattern.best_action,) if pattern.best_action in _TRADES else _TRADES
    outcomes = [outcome for outcome in pattern.outcomes if outcome.action in actions]
    return max(outcomes, key=lambda outcome: (outcome.shrunk_net_mean, -outcome.horizon_minutes), default=None)


def strongest(patterns: Iterable[PatternMemory]) -> list[PatternMemory]:
    """Patterns that have not faded, best first by shrunk net mean; those without a trade's outcome come last."""

    def key(pattern: PatternMemory) -> tuple[bool, float, str]:
        outcome = leading_outcome(pattern)
        return outcome is None, -outcome.shrunk_net_mean if outcome else 0.0, pattern.pattern_id

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


def row_label(rank: int, pattern: PatternMemory) -> str:
    """What a chart calls a pattern: its rank, its regime and what sets it apart."""
    phrases = ", ".join(condition.phrase for condition in pattern.conditions) or wording.short_id(pattern.pattern_id)
    text = f"{rank}  {wording.regime_name(pattern.regime)}: {phrases}"
    return text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 1].rstrip(' ,')}…"
