"""The answer to "what comes of this state?", and what each source of it said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from memory.records import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatePart:
    """What one source said, and its share of the answer; the shares of a kind of outcome sum to 1.

    Attributes
    ----------
    source
        ``base``, ``neighbours`` or ``pattern``.
    mean_return
        Mean gross return of the action; None where the source says nothing about it.
    volatility
        Mean of log |return / trailing volatility|; likewise.
    return_weight, volatility_weight
        Shares of the answer.
    blocks
        Independent clock blocks behind it.
    """

    source: str
    mean_return: float | None
    volatility: float | None
    return_weight: float
    volatility_weight: float
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a memory expects of a state; returns are fractions of notional, of the action asked about.

    Attributes
    ----------
    action, horizon_minutes
        LONG, SHORT or FLAT, and the minutes after the decision.
    known
        Whether the memory knows anything beyond the base rate. Where not, `reason` says why, and the figures of
        the estimate are None.
    mean_return, net_return
        Expected return, before and after the costs of a round trip.
    interval
        95 % interval of the expected return, before costs.
    outcome_interval
        Where 95 % of the returns themselves fall, before costs; None unless the state's trailing volatility is known.
    volatility, volatility_interval
        Expected log(|return| / (trailing volatility * sqrt(horizon))), and its 95 % interval: how much more or less
        than of late the price will move.
    expected_move
        The typical |return| that it means, exp(volatility) * trailing volatility * sqrt(horizon), a fraction; None
        unless the state's trailing volatility is known.
    effective_n, blocks, neighbours
        Effective number of independent clock blocks, blocks, and states behind the neighbours' mean. Where only
        a pattern speaks, its blocks.
    pattern_id, pattern_valid_from
        Pattern that was used and its version; None where none is near enough.
    base_return, base_volatility, base_blocks
        Base rate of the regime, and the clock blocks that it was taken from; None where nothing is remembered.
    edge
        `mean_return` - `base_return`.
    parts
        What each source said and its weight.
    """

    action: str
    horizon_minutes: int
    known: bool
    reason: str
    mean_return: float | None = None
    net_return: float | None = None
    interval: Interval | None = None
    outcome_interval: Interval | None = None
    volatility: float | None = None
    volatility_interval: Interval | None = None
    expected_move: float | None = None
    effective_n: float = 0.0
    blocks: int = 0
    neighbours: int = 0
    pattern_id: str | None = None
    pattern_valid_from: datetime | None = None
    base_return: float | None = None
    base_volatility: float | None = None
    base_blocks: int = 0
    edge: float | None = None
    parts: tuple[EstimatePart, ...] = ()
