from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from memory.learning.conditions import ConditionRange, condition_phrase, condition_ranges, conditions_in_words, sentence
from memory.learning.settings import LearningSettings
from memory.learning.sketches import FeatureSketch, grouped_sketches

SETTINGS = LearningSettings()
NAMES = ("trend", "twin", "volume", "width")


@dataclass(frozen=True)
class Text:
    description: str = "what it is"
    low_phrase: str = "price has fallen {size} volatilities"
    high_phrase: str = "price has risen {size} volatilities"
    neutral: float = 0.0
    unit: str = "volatilities"


def sketches() -> tuple[FeatureSketch, FeatureSketch]:
    """A pattern with a higher trend (and its twin), a lower volume, and a width that is only narrower."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((4000, 4))
    own = np.column_stack([base[:300, 0] + 3, base[:300, 0] + 2.9, base[:300, 2] - 1.5, 0.05 * base[:300, 3]])
    groups = np.zeros(4000, dtype=int)
    return grouped_sketches(own, NAMES, groups[:300], 1)[0], grouped_sketches(base, NAMES, groups, 1)[0]


CORRELATION = np.array([[1, 0.99, 0, 0], [0.99, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def test_the_most_telling_feature_comes_first_and_its_twin_is_passed_over() -> None:
    ranges = condition_ranges(*sketches(), CORRELATION, SETTINGS)
    assert [item.feature for item in ranges] == ["trend", "volume"]


def test_without_correlations_nothing_is_passed_over() -> None:
    assert {item.feature for item in condition_ranges(*sketches(), None, SETTINGS)} == {"trend", "twin", "volume"}


def test_range_and_lift_are_those_of_the_sample() -> None:
    trend = condition_ranges(*sketches(), CORRELATION, SETTINGS)[0]
    assert (trend.low, trend.high) == (pytest.approx(3 - 1.28, abs=0.2), pytest.approx(3 + 1.28, abs=0.3))
    # 80 % of the pattern against the share of a standard normal between 1.72 and 4.28: 4 %.
    assert trend.lift == pytest.approx(0.8 / 0.043, rel=0.4)


def test_excluded_features_are_no_conditions() -> None:
    ranges = condition_ranges(*sketches(), None, SETTINGS, exclude=frozenset({"trend", "twin"}))
    assert [item.feature for item in ranges] == ["volume"]


def test_a_pattern_like_its_regime_has_no_conditions() -> None:
    _, base = sketches()
    assert condition_ranges(base, base, CORRELATION, SETTINGS) == ()
    assert "nothing sets these states apart" in sentence("QUIET", ())


def range_of(low: float, median: float, high: float) -> ConditionRange:
    return ConditionRange("return_15m", low, median, high, 0.0, 0.8, 5.0)


def test_phrases_say_high_and_low_with_the_distance_from_neutral() -> None:
    assert condition_phrase(range_of(1.0, 2.13, 3.0), Text()) == "price has risen 2.1 volatilities (1 to 3)"
    assert condition_phrase(range_of(-3.0, -2.0, -1.0), Text()) == "price has fallen 2 volatilities (-3 to -1)"


def test_logarithms_are_said_as_multiples() -> None:
    text = Text(high_phrase="volume was heavy", unit="log ratio")
    assert condition_phrase(range_of(np.log(2), 1.0, np.log(4)), text) == "volume was heavy (2 to 4 times)"


def test_a_feature_without_a_text_is_named_in_general_words() -> None:
    assert condition_phrase(range_of(1.0, 2.0, 3.0), None) == "return 15m is high (1 to 3)"
    assert condition_phrase(range_of(-3.0, -2.0, -1.0), None) == "return 15m is low (-3 to -1)"


def test_ranges_around_the_neutral_value_are_not_said() -> None:
    texts = {"return_15m": Text()}
    assert conditions_in_words((range_of(-1.0, 0.1, 1.0),), texts, SETTINGS) == ()
    assert len(conditions_in_words((range_of(-0.1, 0.5, 1.0),), texts, SETTINGS)) == 1


def test_the_sentence_names_the_market_and_joins_the_phrases() -> None:
    said = conditions_in_words((range_of(1.0, 2.0, 3.0), range_of(-3.0, -2.0, -1.0)), {}, SETTINGS)
    assert sentence("MEAN_REVERTING", said) == (
        "In a mean-reverting market: return 15m is high (1 to 3), and return 15m is low (-3 to -1)."
    )
    assert sentence("MIXED", said).startswith("In any market: ")
