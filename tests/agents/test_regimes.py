"""The regime rule: what its labels mean, and that they hold still without remembering for ever."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.catalogue import FEATURE_NAMES, FEATURES
from agents.encoder import StateEncoder
from agents.features import MINUTE_MS, compute_features
from agents.market import Market
from agents.regimes import CRISIS_SHARE, VOTE_MINUTES, RegimeRule
from memory.records import REGIMES, Regime, to_ms

Label = Callable[..., tuple[list[str], np.ndarray]]
RULE_FEATURES = arrays(np.float64, st.tuples(st.integers(1, 90), st.just(len(FEATURES))), elements=st.floats(-4, 4))


@pytest.fixture(scope="module")
def rule(encoder: StateEncoder) -> RegimeRule:
    """The rule that ships."""
    return encoder.regimes_


def usual(**named: float) -> np.ndarray:
    """One row of features: neutral but for some."""
    row = np.array([spec.neutral for spec in FEATURES])
    for name, value in named.items():
        row[FEATURE_NAMES.index(name)] = value
    return row[None, :]


@pytest.mark.parametrize(
    ("named", "regime"),
    [
        ({"trend_strength": 2.5, "hurst_exponent": 0.65, "mean_reversion": -0.3}, Regime.TRENDING),
        ({"trend_strength": 0.1, "hurst_exponent": 0.35, "mean_reversion": 0.5}, Regime.MEAN_REVERTING),
        ({"volatility": 0.5, "volume_trend": 0.5}, Regime.VOLATILE),
        ({"volatility": -0.6, "volume_trend": -0.6}, Regime.QUIET),
        ({"volatility": 1.0, "volume_trend": 1.5, "drawdown": -3.0}, Regime.CRISIS),
    ],
)
def test_each_regime_is_what_its_name_says(rule: RegimeRule, named: dict[str, float], regime: Regime) -> None:
    assert REGIMES[rule.candidates(usual(**named))[0]] == regime


def test_high_volatility_without_a_drawdown_is_no_crisis(rule: RegimeRule) -> None:
    row = usual(volatility=0.7, volume_trend=1.5, drawdown=0.0)
    assert REGIMES[rule.candidates(row)[0]] == Regime.VOLATILE


@pytest.fixture
def labelled(rule: RegimeRule, monkeypatch: pytest.MonkeyPatch) -> Label:
    """Labels from given candidates, one a minute."""

    def label(candidates: list[str], times: np.ndarray | None = None) -> tuple[list[str], np.ndarray]:
        codes = np.array([REGIMES.index(name) for name in candidates], dtype=np.int8)
        monkeypatch.setattr(RegimeRule, "candidates", lambda self, features: codes)
        labels = rule.label(
            np.zeros((len(codes), len(FEATURES))), np.arange(len(codes)) * MINUTE_MS if times is None else times
        )
        return labels.names(), labels.confidence

    return label


def test_a_short_flicker_does_not_change_the_label(labelled: Label) -> None:
    names, _ = labelled(["QUIET"] * 30 + ["VOLATILE"] * 10 + ["QUIET"] * 10)
    assert set(names) == {"QUIET"}


def test_a_lasting_change_wins_after_half_the_vote(labelled: Label) -> None:
    names, confidence = labelled(["QUIET"] * 40 + ["VOLATILE"] * 30)
    assert names.index("VOLATILE") == 40 + VOTE_MINUTES // 2 - 1
    assert confidence[54] == 0.5
    assert confidence[69] == 1.0


def test_a_crisis_is_seen_after_a_third_of_the_vote(labelled: Label) -> None:
    names, confidence = labelled(["QUIET"] * 40 + ["CRISIS"] * 30)
    first = names.index("CRISIS")
    assert first == 40 + int(CRISIS_SHARE * VOTE_MINUTES) - 1
    assert confidence[first] == pytest.approx(CRISIS_SHARE)


def test_fewer_crisis_votes_than_a_third_make_no_crisis(labelled: Label) -> None:
    names, _ = labelled(["QUIET"] * 40 + ["CRISIS"] * 9 + ["QUIET"] * 9)
    assert "CRISIS" not in names


def test_votes_are_counted_by_time_not_by_rows(labelled: Label) -> None:
    times = np.append(np.arange(30), 100 + np.arange(5)) * MINUTE_MS
    names, confidence = labelled(["QUIET"] * 30 + ["TRENDING"] * 5, times)
    assert names[30:] == ["TRENDING"] * 5
    assert (confidence[30:] == 1.0).all()


@given(RULE_FEATURES)
def test_labels_depend_on_the_span_of_the_vote_only(features: np.ndarray) -> None:
    rule = RegimeRule(np.zeros(9), np.ones(9), np.zeros(5), np.ones(5))
    times = np.arange(len(features)) * MINUTE_MS
    whole = rule.label(features, times)
    start = max(0, len(features) - VOTE_MINUTES)
    part = rule.label(features[start:], times[start:])
    assert part.codes[-1] == whole.codes[-1]
    assert part.confidence[-1] == whole.confidence[-1]


@given(RULE_FEATURES)
def test_confidence_is_a_share_and_at_least_that_of_any_rival(features: np.ndarray) -> None:
    rule = RegimeRule(np.zeros(9), np.ones(9), np.zeros(5), np.ones(5))
    labels = rule.label(features, np.arange(len(features)) * MINUTE_MS)
    assert ((labels.confidence > 0) & (labels.confidence <= 1)).all()
    assert (labels.confidence[labels.codes != REGIMES.index("CRISIS")] >= 0.2).all()


def test_no_rows_give_no_labels(rule: RegimeRule) -> None:
    assert rule.label(np.empty((0, len(FEATURES))), np.empty(0, np.int64)).names() == []


def test_the_crash_of_june_2021_was_a_crisis(binance: Market, encoder: StateEncoder) -> None:
    start = to_ms(datetime(2021, 6, 22, 12, 30, tzinfo=UTC))
    table = compute_features(binance.products["BTC-USDT"], start, start + 120 * MINUTE_MS)
    assert "CRISIS" in encoder.regimes(table.values, table.decision_ms).names()


def test_on_the_sample_every_regime_has_its_share_and_lasts(binance: Market, encoder: StateEncoder) -> None:
    codes, spells = [], []
    for candles in binance.products.values():
        table = compute_features(candles, to_ms(encoder.fitted_until_), to_ms(binance.span[1]))
        labels = encoder.regimes(table.values, table.decision_ms).codes[table.warm]
        codes.append(labels)
        spells.append(np.diff(np.flatnonzero(np.diff(labels, prepend=-1, append=-1))))
    shares = np.bincount(np.concatenate(codes), minlength=5) / sum(map(len, codes))
    for name, share in zip(REGIMES, shares, strict=True):
        low, high = (0.005, 0.05) if name == "CRISIS" else (0.05, 0.5)
        assert low <= share <= high, (name, share)
    assert np.median(np.concatenate(spells)) >= 10
