"""Conditions: which named features set a pattern apart from its regime, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import msgspec
import numpy as np

from memory.learning.settings import LearningSettings
from memory.learning.sketches import BIN_VALUES, FeatureSketch, quantiles_of
from memory.records import MIXED, Condition
from memory.tables import Floats

LOW_SHARE, HIGH_SHARE = 0.1, 0.9
"""A condition's range runs from the 10th to the 90th percentile."""
LOG_RATIO = "log ratio"
"""Unit of features whose ranges read better as multiples."""
_MIDDLE = 0.25
"""A range with its neutral value more than this share of its width away from both ends is neither high nor low."""
MOST_LIFT = 100.0
"""Lifts above this come from ranges that the base hardly ever visits, and are not known to any precision."""


class FeatureText(Protocol):
    """What a feature is called in sentences. `agents.features.FeatureSpec` is one.

    The phrases are for values below and above `neutral`; ``{size}`` in them stands for the distance from it.
    """

    @property
    def description(self) -> str:
        """What the feature is, in one line."""

    @property
    def low_phrase(self) -> str:
        """What a low value means."""

    @property
    def high_phrase(self) -> str:
        """What a high value means."""

    @property
    def neutral(self) -> float:
        """The value that says nothing."""

    @property
    def unit(self) -> str:
        """What the feature is counted in."""


class ConditionRange(msgspec.Struct, frozen=True):
    """A condition before it is put into words.

    Attributes
    ----------
    feature
        Name.
    low, median, high
        10th, 50th and 90th percentile in the pattern.
    base_median
        Median in the pattern's regime.
    shift
        Difference of the two one-sided Kolmogorov-Smirnov distances between pattern and regime, 0 to 1.
    lift
        Share of the pattern's states within the range over the share of its regime's states that are.
    """

    feature: str
    low: float
    median: float
    high: float
    base_median: float
    shift: float
    lift: float


def condition_ranges(
    pattern: FeatureSketch,
    base: FeatureSketch,
    correlation: Floats | None,
    settings: LearningSettings,
    *,
    exclude: frozenset[str] = frozenset(),
) -> tuple[ConditionRange, ...]:
    """The few features that set a pattern apart most, the most telling first.

    Features are taken in order of how far they are shifted against the base; one that is correlated with a feature
    taken already says the same thing again and is passed over.

    Parameters
    ----------
    pattern, base
        Features of the pattern's states, and of all states of its partition.
    correlation
        (features, features) rank correlations in the base, in order of `base.features`; None to allow all.
    settings
        `max_conditions`, `min_condition_shift`, `redundant_correlation`.
    exclude
        Features that are no conditions (such as the scale of the returns).

    Returns
    -------
    At most twice `max_conditions` ranges, of which `conditions_in_words` chooses; fewer, or none, where nothing sets
    the pattern apart.
    """
    names = tuple(name for name in base.features if name in pattern.features and name not in exclude)
    if not names:
        return ()
    own, other = pattern.dense(names), base.dense(names)
    own_total, other_total = own.sum(axis=1), other.sum(axis=1)
    known = (own_total > 0) & (other_total > 0)
    own_share = np.cumsum(own, axis=1) / np.maximum(own_total, 1)[:, None]
    other_share = np.cumsum(other, axis=1) / np.maximum(other_total, 1)[:, None]
    apart = own_share - other_share
    # Of a shifted distribution one of the two is 0; of one that is merely narrower they are equal, and the feature is
    # ordinary in both.
    below, above = apart.max(axis=1), -apart.min(axis=1)
    shift = np.where(known, np.abs(below - above), 0.0)
    ranges = quantiles_of(own, (LOW_SHARE, 0.5, HIGH_SHARE))
    base_median = quantiles_of(other, (0.5,))[:, 0]
    position = {name: base.features.index(name) for name in names}
    taken: list[int] = []
    for row in sorted(range(len(names)), key=lambda row: (-shift[row], names[row])):
        if len(taken) == 2 * settings.max_conditions or shift[row] < settings.min_condition_shift:
            break
        if correlation is not None and any(
            abs(correlation[position[names[row]], position[names[other_row]]]) > settings.redundant_correlation
            for other_row in taken
        ):
            continue
        taken.append(row)
    return tuple(
        ConditionRange(
            feature=names[row],
            low=float(ranges[row, 0]),
            median=float(ranges[row, 1]),
            high=float(ranges[row, 2]),
            base_median=float(base_median[row]),
            shift=float(shift[row]),
            lift=_lift(own_share[row], other_share[row], float(ranges[row, 0]), float(ranges[row, 2])),
        )
        for row in taken
    )


def _lift(own: Floats, base: Floats, low: float, high: float) -> float:
    first, last = np.searchsorted(BIN_VALUES, low), np.searchsorted(BIN_VALUES, high)

    def within(shares: Floats) -> float:
        return float(shares[last] - (shares[first - 1] if first > 0 else 0.0))

    share = within(base)
    return MOST_LIFT if share * MOST_LIFT <= within(own) else within(own) / share


def condition_phrase(condition: ConditionRange, text: FeatureText | None) -> str:
    """One condition in plain words, for example "volume was heavy in the last 5 minutes (1.5 to 6.7 times)"."""
    if text is None:
        return _generic_phrase(condition)
    ends = condition.low, condition.high
    if text.unit == LOG_RATIO:
        span = f"{_number(math.exp(ends[0]))} to {_number(math.exp(ends[1]))} times"
    else:
        span = f"{_number(ends[0])} to {_number(ends[1])}"
    template = text.high_phrase if condition.median >= text.neutral else text.low_phrase
    size = _number(abs(condition.median - text.neutral))
    return f"{template.replace('{size}', size)} ({span})"


def _one_sided(condition: ConditionRange, text: FeatureText | None) -> bool:
    """Whether high or low says it: the neutral value lies outside the range, or near one of its ends."""
    if text is None:
        return True
    nearer_end = min(text.neutral - condition.low, condition.high - text.neutral)
    return nearer_end <= _MIDDLE * (condition.high - condition.low)


def _generic_phrase(condition: ConditionRange) -> str:
    if condition.low <= condition.base_median <= condition.high:
        where = "in a narrow range"
    else:
        where = "high" if condition.median > condition.base_median else "low"
    span = f"{_number(condition.low)} to {_number(condition.high)}"
    return f"{condition.feature.replace('_', ' ')} is {where} ({span})"


def conditions_in_words(
    ranges: tuple[ConditionRange, ...], texts: Mapping[str, FeatureText], settings: LearningSettings
) -> tuple[Condition, ...]:
    """The conditions as records, each with its phrase: the first `max_conditions` that high or low can say."""
    said = [item for item in ranges if _one_sided(item, texts.get(item.feature))]
    return tuple(
        Condition(
            feature=item.feature,
            low=item.low,
            high=item.high,
            lift=item.lift,
            phrase=condition_phrase(item, texts.get(item.feature)),
        )
        for item in said[: settings.max_conditions]
    )


def sentence(regime: str, conditions: tuple[Condition, ...]) -> str:
    """What the pattern is, as one sentence."""
    market = "In any market" if regime == MIXED else f"In a {regime.lower().replace('_', '-')} market"
    if not conditions:
        return f"{market}: nothing sets these states apart from the rest but their combination."
    phrases = [condition.phrase for condition in conditions]
    joined = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])}, and {phrases[-1]}"
    return f"{market}: {joined}."


def _number(value: float) -> str:
    """Two significant digits, without an exponent where that is short."""
    if value == 0 or abs(value) < 1e-6:
        return "0"
    text = f"{value:.2g}"
    return f"{float(text):g}" if "e" in text and 1e-4 <= abs(value) < 1e6 else text
