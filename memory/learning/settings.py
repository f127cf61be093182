"""Everything about learning that can be set, declared once. A hash of the settings is part of every summary."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

import msgspec

from memory.errors import CoinswarmError
from memory.learning import serial
from memory.learning.predictions import HORIZONS
from memory.typed import convert_to


class LearningSettingsError(CoinswarmError, ValueError):
    """A setting of learning that does not exist, or a value that it cannot have."""


def _check(
    settings: object,
    *,
    shares: Collection[str] = (),
    positive: Collection[str] = (),
    least: Mapping[str, float] | None = None,
) -> None:
    """Raise ValueError for a share outside 0 to 1 (ends excluded), what is not positive, too small, or not finite."""
    for name in shares:
        if not 0 < (value := getattr(settings, name)) < 1:
            raise ValueError(f"{name} is {value}: choose a share above 0 and below 1")
    for name in positive:
        if not 0 < (value := getattr(settings, name)) < math.inf:
            raise ValueError(f"{name} is {value}: choose a finite number above 0")
    for name, bound in (least or {}).items():
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= bound):
            raise ValueError(
                f"{name} is {value}: choose a finite number{f' of at least {bound}' * (bound > -math.inf)}"
            )


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
        _check(
            self,
            shares=("confidence", "null_quantile", "clear_ratio", "redundant_correlation"),
            positive=(
                "volatility_floor",
                "trading_days_per_year",
                "separation_minutes",
                "look_back_minutes",
                "drift_windows_half_life",
                "moderation_blocks",
            ),
            least={
                "cost_bp": 0,
                "max_gap_minutes": 1,
                "block_minutes": 1,
                "min_blocks": 2,
                "min_support": 1,
                "clear_group": 1,
                "clear_known": 1,
                "fade_windows": 0,
                "candidate_windows": 0,
                "max_conditions": 0,
                "min_condition_shift": 0,
                "grace_windows": 0,
                "prune_sharpe": -math.inf,
                "prune_accesses": 0,
                "access_days": 1,
                "min_judged_occurrences": 0,
                "unseen_days": 0,
            },
        )
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


@dataclass(frozen=True, slots=True)
class TransitionSettings:
    """Settings of the transition statistics.

    Attributes
    ----------
    step_s
        Seconds between two decisions. Pairs of states farther apart (up to the gap) count as a jump where the regime
        differs, but not as a step.
    gap_s
        Time without a state after which a spell has ended, censored.
    alpha
        Dirichlet pseudo-count of each possible next regime (1 = Laplace, 0.5 = Jeffreys): no transition that was not
        seen yet is impossible.
    backoff_strength
        Pseudo-counts that the first-order chain is worth when the path of two jumps is known (MacKay & Peto 1995).
    """

    step_s: float = 60.0
    gap_s: float = 300.0
    alpha: float = 0.5
    backoff_strength: float = 10.0

    def __post_init__(self) -> None:
        _check(self, positive=("step_s", "gap_s"), least={"alpha": 0, "backoff_strength": 0})
        if self.gap_s < self.step_s:
            raise ValueError(
                f"gap_s is {self.gap_s}, step_s {self.step_s}: choose a gap that is no shorter than a step"
            )


@dataclass(frozen=True, slots=True)
class CorrelationSettings:
    """Settings of the correlations.

    Attributes
    ----------
    bar_minutes
        Lengths of the bars.
    max_lag
        Largest lag, in bars, either way.
    shifts
        Circular shifts of the null. With 20, the 95th percentile is their maximum: one claim in 21 is luck.
    null_quantile
        Share of the shifts that a correlation must exceed.
    market_reference
        Product whose regime keys the sums. None: the one with the largest mean `log_notional`, where states carry that
        feature, else the first by name.
    block_minutes, min_blocks, confidence
        Clock blocks that count as independent, the least number of them for an interval, and its coverage.
    false_discovery_rate
        Largest q-value of a claim: expected share of claims, among all pairs, bars and regimes, that are luck.
    """

    bar_minutes: tuple[int, ...] = (1, 15)
    max_lag: int = 10
    shifts: int = 20
    null_quantile: float = 0.95
    market_reference: str | None = None
    block_minutes: int = 30
    min_blocks: int = 8
    confidence: float = 0.95
    false_discovery_rate: float = 0.05

    def __post_init__(self) -> None:
        _check(
            self,
            shares=("null_quantile", "confidence", "false_discovery_rate"),
            least={"max_lag": 0, "shifts": 1, "block_minutes": 1, "min_blocks": 4},
        )
        for minutes in self.bar_minutes:
            if minutes < 1 or self.block_minutes % minutes:
                raise ValueError(f"bar_minutes holds {minutes}: choose divisors of block_minutes {self.block_minutes}")


DEFAULT_SETTINGS = LearningSettings()


class Overrides(NamedTuple):
    """The settings of patterns and strategies, of transitions, and of correlations."""

    learning: LearningSettings
    transitions: TransitionSettings
    correlations: CorrelationSettings


def from_overrides(overrides: Mapping[str, Any]) -> Overrides:
    """Default settings with some of them replaced.

    Parameters
    ----------
    overrides
        Name -> value, as JSON gives them. A plain name (`confidence`) sets every kind of settings that has it;
        `learning.confidence`, `transitions.alpha`, `correlations.confidence` set that of one kind alone, and win.

    Raises
    ------
    LearningSettingsError
        For a name that no settings have (all names are listed), a value of another type, or one that cannot work.
    """
    kinds = {"learning": LearningSettings, "transitions": TransitionSettings, "correlations": CorrelationSettings}
    types = {kind: get_type_hints(cls) for kind, cls in kinds.items()}
    chosen: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    # Plain names first, so that a name of one kind wins whatever the order.
    for name in sorted(overrides, key=lambda name: ("." in name, name)):
        kind, _, rest = name.rpartition(".")
        fitting = [known for known in kinds if (not kind or known == kind) and rest in types[known]]
        if not fitting:
            names = sorted({setting for known in types.values() for setting in known})
            raise LearningSettingsError(
                f"no setting of learning is called {name!r}.",
                remedy=f"Use one of {', '.join(names)}; put {', '.join(f'{known}.' for known in kinds)} before a name "
                "that shall hold for one kind alone.",
            )
        for known in fitting:
            try:
                chosen[known][rest] = convert_to(types[known][rest], overrides[name])
            except msgspec.ValidationError as error:
                raise LearningSettingsError(
                    f"the setting {name} is {overrides[name]!r}: {error}.",
                    remedy=f"Give it a value like its default, {getattr(kinds[known](), rest)!r}.",
                ) from error
    try:
        return Overrides(*(cls(**chosen[kind]) for kind, cls in kinds.items()))
    except ValueError as error:
        raise LearningSettingsError(
            f"settings of learning cannot work: {error}.", remedy="Correct that setting, or leave it out."
        ) from error


def settings_hash(*settings: object) -> str:
    """16 hex digits that name settings (any values that `serial.encode` takes): part of every summary."""
    return hashlib.sha256(b"".join(serial.encode(part) for part in settings)).hexdigest()[:16]
