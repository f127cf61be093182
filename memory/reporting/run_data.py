"""Data of a report about the run: what ran, what was recorded, what was pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


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
