"""Everything about learning that can be set, declared once. A hash of the settings is part of every summary."""

from __future__ import annotations

import hashlib

import msgspec

from memory.learning import serial
from memory.learning.predictions import HORIZONS


class LearningSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of summaries, fold and pruning; METHODS of the project's docs gives the reasons at length.

    Attributes
    ----------
    cost_bp
        Trading cost a side in basis points, beside half the spread.
    max_gap_minutes
        A longer time without a state ends an episode: no forward return reaches across it.
    volatility_floor
        Least |return| / (trailing volatility * sqrt(horizon)) before its logarithm is taken: a minute without a trade
        has a return of 0, whose logarithm is -infinity; one hundredth lies below 99 % of the minutes that do move.
    block_minutes
        Length of the clock blocks that statistics count as independent; the 60-minute horizon uses 60.
    min_blocks
        Blocks below which no interval is given.
    confidence
        Coverage of intervals.
    trading_days_per_year
        Days that Sharpe ratios are annualised with: crypto trades every day.
    reference_horizon_minutes
        Horizon at which the best action of a pattern is named and pruned by. One, so that no horizon is picked for its
        luck; a quarter of an hour, because at less the costs of a round trip exceed what a price moves.
    min_support
        Occurrences below which a cluster is a candidate only: followed, but not published.
    separation_minutes, look_back_minutes
        Time apart of two occurrences, and of two effectively independent states.
    null_quantile
        Share of random balls that a match must beat.
    clear_ratio, clear_group, clear_known
        A match is unmistakable where the distance (1 - cosine) jumps by more than 1 / `clear_ratio` after at most
        `clear_group` patterns, among at least `clear_known`: among few patterns there are such jumps by chance.
    drift_windows_half_life
        Sightings after which the place of a pattern has moved half way to where it is seen now.
    fade_windows
        Windows without a sighting after which a pattern has faded.
    candidate_windows
        Windows without a sighting after which a candidate is forgotten.
    max_conditions, min_condition_shift, redundant_correlation
        Conditions named for a pattern; least shift of a feature against its base (difference of the one-sided
        Kolmogorov-Smirnov distances) that is worth a condition; rank correlation above which a second feature says what
        the first one said.
    moderation_blocks
        Weight, in blocks, of the partition's variance beside a pattern's own, which few blocks estimate badly.
    grace_windows, prune_sharpe, prune_accesses, access_days, min_judged_occurrences, unseen_days
        Pruning: age below which nothing is pruned; annualised net Sharpe above which a pattern stays; accesses within
        `access_days` above which it stays; occurrences below which it is not judged while seen within `unseen_days`.
    """

    cost_bp: float = 2.0
    max_gap_minutes: int = 5
    volatility_floor: float = 0.01
    block_minutes: int = 30
    min_blocks: int = 8
    confidence: float = 0.95
    trading_days_per_year: float = 365.0
    reference_horizon_minutes: int = 15

    min_support: int = 3
    separation_minutes: float = 60.0
    look_back_minutes: float = 240.0

    null_quantile: float = 0.95
    clear_ratio: float = 0.25
    clear_group: int = 2
    clear_known: int = 20
    drift_windows_half_life: float = 3.0
    fade_windows: int = 3
    candidate_windows: int = 30

    max_conditions: int = 4
    min_condition_shift: float = 0.25
    redundant_correlation: float = 0.7

    moderation_blocks: float = 7.0

    grace_windows: int = 7
    prune_sharpe: float = 1.0
    prune_accesses: int = 100
    access_days: int = 30
    min_judged_occurrences: int = 20
    unseen_days: int = 30

    def __post_init__(self) -> None:
        if self.reference_horizon_minutes not in HORIZONS:
            raise ValueError(f"reference_horizon_minutes is {self.reference_horizon_minutes}: choose one of {HORIZONS}")
        if 60 % self.block_minutes:
            raise ValueError(f"block_minutes is {self.block_minutes}: choose a divisor of 60, so that days hold blocks")

    def block_minutes_of(self, horizon: int) -> int:
        """Length in minutes of the blocks of a horizon: at least the horizon, so that returns end near their block."""
        length = self.block_minutes
        while length < horizon:
            length += self.block_minutes
        return length

    def periods_per_year(self, horizon: int) -> float:
        """Blocks of a horizon in a year: what its Sharpe ratios are annualised with."""
        return self.trading_days_per_year * 24 * 60 / self.block_minutes_of(horizon)


DEFAULT_SETTINGS = LearningSettings()


def settings_hash(*settings: object) -> str:
    """16 hex digits that name settings (any values that `serial.encode` takes): part of every summary."""
    return hashlib.sha256(b"".join(serial.encode(part) for part in settings)).hexdigest()[:16]
