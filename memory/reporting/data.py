"""What a nightly report is made from: plain frozen data, assembled by the caller, with no tie to ledger or stores.

Only `facts` is required of a `ReportData`; whatever else is missing becomes a section that says why it is empty.
Returns are fractions of notional, times are aware UTC, durations carry their unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memory.records import CorrelationMemory, PatternMemory, RegimeMemory, StrategyMemory
from memory.reporting.learned_data import (
    PREDICTORS,
    RETURN,
    VOLATILITY,
    BaseRate,
    Floats,
    Ints,
    JudgedAction,
    LineageEvent,
    NightCounts,
    PricePath,
    ScorecardEntry,
    ScorecardNight,
    StateCloud,
)
from memory.reporting.measured_data import Bar, BenchmarkReport, LatencySeries, NightSizes, Trend, TrendPoint
from memory.reporting.run_data import Gap, PassShares, PruneDecision, PruningReport, RecordingCounts, RunFacts, StepTime

__all__ = [
    "PREDICTORS",
    "RETURN",
    "VOLATILITY",
    "Bar",
    "BaseRate",
    "BenchmarkReport",
    "Floats",
    "Gap",
    "Ints",
    "JudgedAction",
    "LatencySeries",
    "LineageEvent",
    "NightCounts",
    "NightSizes",
    "PassShares",
    "PricePath",
    "PruneDecision",
    "PruningReport",
    "RecordingCounts",
    "ReportData",
    "RunFacts",
    "ScorecardEntry",
    "ScorecardNight",
    "StateCloud",
    "StepTime",
    "Trend",
    "TrendPoint",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportData:
    """Everything that one nightly report shows.

    Attributes
    ----------
    patterns
        Current and faded patterns; status `new`, `confirmed` or `faded`.
    lineage
        Events by pattern id, oldest first.
    regimes
        REGIME memories; those of all products together carry a `product_id` of "" or "*" or "ALL".
    nights, scorecards
        Oldest first; the reported window is the last.
    pooled_scores
        The scores of all nights together: mean rank correlations, each night counting once; `blocks` counts nights.
    machine, trends
        Machine that retrieval was measured on, and its figures over past runs.
    sizes
        Room that the memory took, oldest night first.
    regressions
        Figures that were worse than usual in this run, each in words.
    reference_horizon_minutes
        Horizon by which patterns are ranked and `judged` was judged: one for all, so that none is chosen by luck.
    sharpe_limit
        Annualised net Sharpe ratio above which pruning keeps a pattern or strategy.
    """

    facts: RunFacts
    recording: RecordingCounts | None = None
    nights: tuple[NightCounts, ...] = ()
    patterns: tuple[PatternMemory, ...] = ()
    lineage: Mapping[str, tuple[LineageEvent, ...]] = field(default_factory=dict)
    judged: tuple[JudgedAction, ...] = ()
    base_rates: tuple[BaseRate, ...] = ()
    states: StateCloud | None = None
    prices: tuple[PricePath, ...] = ()
    regimes: tuple[RegimeMemory, ...] = ()
    strategies: tuple[StrategyMemory, ...] = ()
    correlations: tuple[CorrelationMemory, ...] = ()
    scorecards: tuple[ScorecardNight, ...] = ()
    pooled_scores: tuple[ScorecardEntry, ...] = ()
    pruning: PruningReport | None = None
    benchmark: BenchmarkReport | None = None
    machine: str = ""
    trends: tuple[Trend, ...] = ()
    sizes: tuple[NightSizes, ...] = ()
    regressions: tuple[str, ...] = ()
    reference_horizon_minutes: int = 15
    sharpe_limit: float = 1.0

    @property
    def night(self) -> NightCounts | None:
        """Counts of the reported window; None where the fold has not run for it."""
        for counts in self.nights:
            if counts.window_name == self.facts.window_name:
                return counts
        return None

    @property
    def scorecard(self) -> ScorecardNight | None:
        """Scorecard of the reported window; None on a first night."""
        for card in self.scorecards:
            if card.window_name == self.facts.window_name:
                return card
        return None
