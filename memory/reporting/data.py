"""What a nightly report is made from: plain frozen data, assembled by the caller, with no tie to ledger or stores.

Only `facts` is required of a `ReportData`; whatever else is missing becomes a section that says why it is empty.
Returns are fractions of notional, times are aware UTC, durations carry their unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from memory.records import CorrelationMemory, Interval, PatternMemory, RegimeMemory, StrategyMemory

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PREDICTORS = ("patterns", "balls", "neighbours", "ridge", "base")
"""Whose predictions the scorecard compares; the order of legends and tables. Others are drawn after these."""

RETURN, VOLATILITY = "return", "volatility"
"""The two sides of an outcome: which way the price went, and how far it moved either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One step of the nightly run and the seconds that it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What ran, over which window, and with what.

    Attributes
    ----------
    namespace, window_name
        Name the report's file: `nightly-<namespace>-<window_name>.html`.
    details
        Further facts to show as they are, by name (archive reference, digest, versions).
    """

    namespace: str
    window_name: str
    window_start: datetime
    window_end: datetime
    run_id: str
    encoder_id: str = ""
    settings_hash: str = ""
    line: str = ""
    generation: int | None = None
    source: str = ""
    steps: tuple[StepTime, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A span without data that ended an episode."""

    product_id: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingCounts:
    """What was recorded for the window, and what was not.

    Attributes
    ----------
    stored
        Experiences that are new in the store.
    duplicates
        Experiences that were there already, with the same content.
    dead_letters, dead_letter_reasons
        Records that were refused, and how many for which reason.
    cold_states
        States with less than the longest look-back behind them: counted, not recorded.
    skipped_by_quality
        Experiences below `min_quality`.
    experiences, states
        Experiences and distinct states that the window holds after recording.
    """

    stored: int
    duplicates: int = 0
    dead_letters: int = 0
    dead_letter_reasons: Mapping[str, int] = field(default_factory=dict)
    cold_states: int = 0
    skipped_by_quality: int = 0
    experiences: int = 0
    states: int = 0
    gaps: tuple[Gap, ...] = ()
    agents: tuple[str, ...] = ()
    products: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NightCounts:
    """What one night's fold did; `ReportData.nights` holds them oldest first, the reported window last.

    Attributes
    ----------
    clusters, clusters_matched
        Clusters of the night, and those nearer to something known than chance.
    confirmation_rate, null_confirmation_rate
        Share of the clusters that matched, and of as many random balls that would have; None where nothing was known
        before that could have been matched.
    patterns_confirmed, patterns_returned
        Patterns published before that were seen again; those among them that had faded or been pruned.
    patterns_current
        Patterns that stand after the night.
    """

    window_name: str
    experiences: int = 0
    states: int = 0
    clusters: int = 0
    clusters_matched: int = 0
    noise_share: float | None = None
    patterns_new: int = 0
    patterns_confirmed: int = 0
    patterns_returned: int = 0
    patterns_faded: int = 0
    patterns_merged: int = 0
    patterns_demoted: int = 0
    patterns_pruned: int = 0
    patterns_current: int = 0
    confirmation_rate: float | None = None
    null_confirmation_rate: float | None = None

    @property
    def null_confirmed(self) -> float | None:
        """Patterns that would have been confirmed at the null's rate: the confirmed ones, scaled by both rates.

        None where there is no rate to compare with.
        """
        if not self.confirmation_rate or self.null_confirmation_rate is None:
            return None
        return self.patterns_confirmed * self.null_confirmation_rate / self.confirmation_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageEvent:
    """What happened to a pattern in one window: founded, confirmed, merged, faded, demoted, pruned, came back.

    Attributes
    ----------
    states
        Of the night's cluster that was the occasion; None where there was none.
    name, other
        Id that the pattern had then, where it was another; id of the other pattern that is part of it.
    cosine, threshold
        How near the two came that were compared, and what chance reaches; None where nothing was compared, or no null
        set a threshold.
    note
        The rule that decided, or what else there is to say.
    """

    window_name: str
    event: str
    states: int | None = None
    name: str = ""
    other: str = ""
    cosine: float | None = None
    threshold: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAction:
    """The best action of a pattern, named on earlier windows and judged on later ones: net, out of sample."""

    pattern_id: str
    action: str
    windows: int
    n: int
    mean: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRate:
    """What one action brought in all states of a partition, whatever the pattern: the yardstick of its patterns."""

    regime: str
    action: str
    horizon_minutes: int
    n: int
    blocks: int
    gross_mean: float
    net_mean: float
    interval: Interval | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StateCloud:
    """Distinct states of the window for the pattern map.

    Attributes
    ----------
    vectors
        float32 or float64, shape (n, dimension). A few thousand are enough; more are thinned evenly.
    regimes
        Regime names, length n.
    """

    vectors: npt.NDArray[np.floating]
    regimes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PricePath:
    """Price and regime of one product over the window, in time order.

    Attributes
    ----------
    timestamp_ms
        int64, shape (n,), decision times.
    price
        float64, shape (n,), quote currency; NaN where unknown.
    regimes
        Regime names, length n.
    """

    product_id: str
    timestamp_ms: Ints
    price: Floats
    regimes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorecardEntry:
    """How well one predictor's forecasts of last night ranked what then happened.

    Attributes
    ----------
    predictor
        One of `PREDICTORS`, or another name.
    outcome
        `RETURN` or `VOLATILITY`.
    ic
        Rank correlation of predicted and realised, -1 to 1; None where it is not defined.
    calibration
        Slope of realised on predicted: 1 is calibrated, 0 says nothing.
    """

    predictor: str
    outcome: str
    horizon_minutes: int
    n: int
    blocks: int
    ic: float | None
    interval: Interval | None = None
    calibration: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorecardNight:
    """Yesterday's knowledge judged on one window, before that window was learned from."""

    window_name: str
    coverage: float | None
    entries: tuple[ScorecardEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneDecision:
    """Whether one memory stays, by which rules, and the figures that decided it.

    Attributes
    ----------
    rules
        Names of the rules that keep it; none for one that is removed.
    net_sharpe
        Annualised net Sharpe ratio from the shrunk mean of the best action: what the rule looks at.
    raw_sharpe, sharpe_lower_bound
        The same without shrinkage, and the lower end of its interval: shown, not judged by.
    random_share
        Share that would pass the same rule without knowing anything: of random sets of states for a pattern, of agents
        that toss their direction for a strategy; None where unknown.
    """

    memory_id: str
    kind: str
    removed: bool
    rules: tuple[str, ...]
    description: str = ""
    net_sharpe: float | None = None
    raw_sharpe: float | None = None
    sharpe_lower_bound: float | None = None
    accesses: int = 0
    age_windows: int = 0
    occurrences: int = 0
    random_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassShares:
    """What passing the rule on Sharpe is worth: shares that pass it, by shrunk and by raw mean; None where unknown.

    Clusters and random balls are those of the window alone and of equal size, hence comparable.
    """

    patterns: float | None = None
    patterns_raw: float | None = None
    clusters: float | None = None
    clusters_raw: float | None = None
    random_sets: float | None = None
    random_sets_raw: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningReport:
    """What pruning decided; `episodic_removed` and `shared_removed` are experiences that went for their age."""

    decisions: tuple[PruneDecision, ...] = ()
    pass_shares: PassShares | None = None
    episodic_removed: int = 0
    shared_removed: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencySeries:
    """Latencies of one kind of query: milliseconds, shape (n,), n > 0."""

    name: str
    samples_ms: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure and the bar that it must clear."""

    name: str
    value: float
    limit: float
    unit: str = "ms"
    higher_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure clears the bar."""
        return self.value >= self.limit if self.higher_is_better else self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """Speed and recall of retrieval, measured on the data that the run left behind."""

    latencies: tuple[LatencySeries, ...] = ()
    bars: tuple[Bar, ...] = ()
    recall: float | None = None
    documents: int | None = None
    queries_per_s: float | None = None


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
