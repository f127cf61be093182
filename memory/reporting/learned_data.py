"""Data of a report about what was learned: nights, patterns and their stories, scorecards, states and prices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.records import Interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PREDICTORS = ("patterns", "balls", "neighbours", "ridge", "base")
"""Whose predictions the scorecard compares; the order of legends and tables. Others are drawn after these."""

RETURN, VOLATILITY = "return", "volatility"
"""The two sides of an outcome: which way the price went, and how far it moved either way."""


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
    patterns_split: int = 0
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
