"""The regime rule: what kind of market it is, from the eight regime features and the drawdown.

Each regime has a score, a weighted sum of standardised features (`SCORE_WEIGHTS`). A bar's candidate label is CRISIS
where its score is extreme, and otherwise the regime with the highest score. The label of a decision is the mode of the
candidates of the last half-hour: a hysteresis with a finite memory, so that a label is a function of the look-back
alone. A crisis needs a third of these votes only, because it must be seen early.

The features are relative to the product's trailing values; the statistics that standardise them are fitted once, pooled
over products, and travel with the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray, IntArray
from agents.catalogue import FEATURE_NAMES, REGIME_FEATURES
from agents.features import MINUTE_MS
from memory.errors import EncoderError
from memory.records import REGIMES, Regime

RULE_VERSION = "1"
"""Changes whenever labels would change for the same features and statistics."""
VOTE_MINUTES = 30
"""Span of the candidates that vote. With the features' own reach it stays within the look-back."""
CRISIS_SHARE = 1 / 3
"""Share of the votes that makes a crisis."""

RULE_INPUTS: tuple[str, ...] = (*REGIME_FEATURES, "drawdown")
"""What the rule reads. Drawdown sets a crisis apart from mere volatility."""

SCORE_WEIGHTS: Mapping[Regime, Mapping[str, float]] = {
    Regime.TRENDING: {"trend_strength": 1.0, "mean_reversion": -0.5, "autocorrelation": 0.25, "hurst_exponent": 0.5},
    Regime.MEAN_REVERTING: {
        "trend_strength": -0.6,
        "mean_reversion": 1.0,
        "autocorrelation": -0.25,
        "hurst_exponent": -0.6,
    },
    Regime.VOLATILE: {"volatility": 1.5, "volume_trend": 0.5, "relative_spread": 0.25},
    Regime.QUIET: {"volatility": -1.5, "volume_trend": -0.5, "relative_spread": -0.25},
    Regime.CRISIS: {
        "volatility": 1.0,
        "volume_trend": 0.25,
        "relative_spread": 0.25,
        "orderbook_imbalance": -0.1,
        "drawdown": -1.0,
    },
}
"""Weights of the standardised inputs. Scores are standardised again, so that only ratios within a row matter."""

SCORE_THRESHOLDS: Mapping[Regime, float] = {
    Regime.TRENDING: 0.0,
    Regime.MEAN_REVERTING: 0.0,
    Regime.VOLATILE: 0.2,
    Regime.QUIET: 0.2,
    Regime.CRISIS: 2.6,
}
"""Subtracted from the standardised scores. Chosen on Bitfinex before October 2018 and on Binance 2021: all regimes but
CRISIS then hold between a tenth and two fifths of the minutes, CRISIS one to four in a hundred."""

INPUT_CLIP = 5.0
"""Standardised inputs beyond this many robust standard deviations count as this."""
_IQR_OF_NORMAL = 1.349


@dataclass(frozen=True, slots=True, eq=False)
class RegimeLabels:
    """Regimes of decision times: codes into `memory.records.REGIMES` and the share of the vote, both of shape (n,)."""

    codes: npt.NDArray[np.int8]
    confidence: FloatArray

    def names(self) -> list[str]:
        """Regime names, one a decision time."""
        return [REGIMES[code] for code in self.codes]


@dataclass(frozen=True, slots=True, eq=False)
class RegimeRule:
    """The rule with its fitted statistics.

    Attributes
    ----------
    center, scale
        Median and robust standard deviation of each of `RULE_INPUTS`, shape (9,).
    score_center, score_scale
        Mean and standard deviation of each regime's score, in the order of `REGIMES`, shape (5,).
    version
        `RULE_VERSION` at the time of fitting.
    """

    center: FloatArray
    scale: FloatArray
    score_center: FloatArray
    score_scale: FloatArray
    version: str = RULE_VERSION

    @classmethod
    def fit(cls, features: FloatArray) -> RegimeRule:
        """Fit the statistics to the raw features of warm states, shape (n, len(FEATURES)), pooled over products."""
        inputs = features[:, _INPUT_COLUMNS]
        center = np.median(inputs, axis=0)
        low, high = np.percentile(inputs, [25, 75], axis=0)
        scale = (high - low) / _IQR_OF_NORMAL
        scale[scale == 0] = 1.0
        center, scale = rounded(center), rounded(scale)
        raw = cls(center, scale, np.zeros(len(REGIMES)), np.ones(len(REGIMES)))
        scores = raw._scores(features)
        return cls(center, scale, rounded(scores.mean(axis=0)), rounded(np.maximum(scores.std(axis=0), 1e-9)))

    def candidates(self, features: FloatArray) -> npt.NDArray[np.int8]:
        """Label of each row of raw features by itself, without hysteresis: codes into `REGIMES`, shape (n,)."""
        margins = (self._scores(features) - self.score_center) / self.score_scale - _THRESHOLDS
        usual = [code for code in range(len(REGIMES)) if code != _CRISIS]
        best = np.array(usual)[np.argmax(margins[:, usual], axis=1)] if len(margins) else np.empty(0, np.int64)
        return np.where(margins[:, _CRISIS] > 0, _CRISIS, best).astype(np.int8)

    def label(self, features: FloatArray, decision_ms: IntArray) -> RegimeLabels:
        """Labels with hysteresis.

        Parameters
        ----------
        features
            Raw features of one product, shape (n, len(FEATURES)).
        decision_ms
            Their decision times, increasing, shape (n,). Labels of times less than `VOTE_MINUTES` after the first
            rest on fewer votes: begin that much earlier than the first label wanted.
        """
        codes = self.candidates(features)
        n = len(codes)
        if n == 0:
            return RegimeLabels(codes, np.empty(0))
        counts = np.zeros((n + 1, len(REGIMES)), np.int64)
        np.cumsum(codes[:, None] == np.arange(len(REGIMES)), axis=0, out=counts[1:])
        first = np.searchsorted(decision_ms, decision_ms - VOTE_MINUTES * MINUTE_MS, side="right")
        votes = counts[1:] - counts[first]
        total = votes.sum(axis=1)
        rows = np.arange(n)
        # Ties go to the candidate of the decision itself, then to the order of REGIMES.
        ranked = 2 * votes
        ranked[rows, codes] += 1
        crisis = votes[:, _CRISIS] >= CRISIS_SHARE * total
        ranked[:, _CRISIS] = np.where(crisis, 4 * total + 2, -1)
        labels = np.argmax(ranked, axis=1)
        return RegimeLabels(labels.astype(np.int8), votes[rows, labels] / total)

    def _scores(self, features: FloatArray) -> FloatArray:
        inputs = np.clip((features[:, _INPUT_COLUMNS] - self.center) / self.scale, -INPUT_CLIP, INPUT_CLIP)
        # Added up column by column: a matrix product may round one row alone differently than within a batch.
        scores = np.zeros((len(features), len(REGIMES)))
        for column in range(len(RULE_INPUTS)):
            scores += inputs[:, column : column + 1] * _WEIGHTS[column]
        return scores

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON-ready data."""
        return {
            "version": self.version,
            "inputs": list(RULE_INPUTS),
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "score_center": self.score_center.tolist(),
            "score_scale": self.score_scale.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RegimeRule:
        """The rule of `to_dict`'s data; EncoderError where it belongs to another version of the rule."""
        if data.get("version") != RULE_VERSION or tuple(data.get("inputs", ())) != RULE_INPUTS:
            raise EncoderError(
                f"the regime statistics are of rule version {data.get('version')!r}, not {RULE_VERSION!r}.",
                remedy="Fit the encoder again, or use the software version that fitted it.",
            )
        return cls(
            center=np.array(data["center"], dtype=np.float64),
            scale=np.array(data["scale"], dtype=np.float64),
            score_center=np.array(data["score_center"], dtype=np.float64),
            score_scale=np.array(data["score_scale"], dtype=np.float64),
        )


def rounded(values: FloatArray) -> FloatArray:
    """Values to six significant digits: enough for statistics, and the same on every processor."""
    return np.array([float(f"{value:.6g}") for value in np.ravel(values)]).reshape(np.shape(values))


_CRISIS = REGIMES.index(Regime.CRISIS)
_INPUT_COLUMNS = [FEATURE_NAMES.index(name) for name in RULE_INPUTS]
_WEIGHTS = np.array([[SCORE_WEIGHTS[Regime(regime)].get(name, 0.0) for regime in REGIMES] for name in RULE_INPUTS])
_THRESHOLDS = np.array([SCORE_THRESHOLDS[Regime(regime)] for regime in REGIMES])
