"""Probabilities of regimes: fitted to the past, kept as they were fitted, and refused before their time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from agents.encoder import StateEncoder
from agents.features import MINUTE_MS
from agents.market import Market
from agents.regime_calibration import CalibrationRows, RegimeCalibration, default_calibration
from agents.regime_history import calibration_rows, dwell_minutes, fit_calibration, hindsight_labels, labels_ahead
from agents.replay import MarketReplay
from memory.errors import EncoderError, InvalidQueryError, MarketDataError
from memory.records import REGIMES

UNTIL = datetime(2021, 7, 1, tzinfo=UTC)
SAMPLE = datetime(2021, 6, 17, tzinfo=UTC)


def drawn(n: int, seed: int = 0) -> CalibrationRows:
    """Rows whose label ahead is the rule's in 7 of 10 cases, the candidate's in the others; memory knows which."""
    rng = np.random.default_rng(seed)
    rule, candidate = rng.integers(0, 5, n), rng.integers(0, 5, n)
    ahead = np.where(rng.random(n) < 0.7, rule, candidate)
    vote = np.full((n, 5), 0.05)
    vote[np.arange(n), ahead] = 0.8
    return CalibrationRows(
        timestamp_ms=np.arange(n) * 600_000,
        rule=rule,
        share=rng.uniform(0.2, 1.0, n),
        dwell_minutes=rng.uniform(0.0, 200.0, n),
        candidate=candidate,
        vote=vote,
        voting_days=np.full(n, 9),
        ahead=ahead,
        hindsight=candidate,
    )


def columns(rows: CalibrationRows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return rows.rule, rows.share, rows.dwell_minutes, rows.candidate


@pytest.fixture(scope="module")
def fitted() -> RegimeCalibration:
    return RegimeCalibration().fit(drawn(4000), fitted_until=UNTIL, min_days=5)


def test_probabilities_are_as_often_right_as_they_say(fitted: RegimeCalibration) -> None:
    fresh = drawn(4000, seed=1)
    chances = fitted.probabilities(*columns(fresh), None)
    differ = fresh.rule != fresh.candidate
    own = chances[np.arange(len(fresh)), fresh.rule][differ]
    assert own.mean() == pytest.approx((fresh.ahead == fresh.rule)[differ].mean(), abs=0.03)
    assert chances.sum(axis=1) == pytest.approx(np.ones(len(fresh)))


def test_memorys_vote_and_hindsight_have_weights_of_their_own(fitted: RegimeCalibration) -> None:
    fresh = drawn(1000, seed=2)
    with_vote = fitted.probabilities(*columns(fresh), fresh.vote)
    assert (with_vote.argmax(axis=1) == fresh.ahead).mean() > 0.98
    seen_back = fitted.probabilities(*columns(fresh), None, target="hindsight")
    assert (seen_back.argmax(axis=1) == fresh.candidate).mean() > 0.98


def test_a_row_alone_has_the_probabilities_that_it_has_among_others(fitted: RegimeCalibration) -> None:
    rows = drawn(50, seed=3)
    together = fitted.probabilities(*columns(rows), rows.vote)
    for row in (0, 17, 49):
        one = rows.where(np.arange(50) == row)
        assert fitted.probabilities(*columns(one), one.vote).tobytes() == together[row : row + 1].tobytes()


def test_rows_that_memory_said_too_little_about_are_left_out_of_the_fits_with_a_vote() -> None:
    rows = drawn(4000)
    misled = np.roll(rows.vote, 1, axis=1)
    thin = CalibrationRows(
        *(getattr(rows, name) for name in ("timestamp_ms", "rule", "share", "dwell_minutes", "candidate")),
        vote=np.where((np.arange(4000) < 2000)[:, None], rows.vote, misled),
        voting_days=np.where(np.arange(4000) < 2000, 5, 4),
        ahead=rows.ahead,
        hindsight=rows.hindsight,
    )
    calibration = RegimeCalibration().fit(thin, fitted_until=UNTIL, min_days=5)
    alone = RegimeCalibration().fit(rows.where(np.arange(4000) < 2000), fitted_until=UNTIL, min_days=5)
    assert calibration.ahead_.tobytes() == alone.ahead_.tobytes()
    assert calibration.ahead_rule_.tobytes() != alone.ahead_rule_.tobytes()


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(EncoderError, match="400 rows are too few"):
        RegimeCalibration().fit(drawn(400), fitted_until=UNTIL, min_days=5)


def test_what_is_saved_comes_back_and_what_was_changed_is_refused(fitted: RegimeCalibration) -> None:
    text = fitted.to_json()
    again = RegimeCalibration.from_json(text)
    rows = drawn(20)
    assert again.id_ == fitted.id_
    assert (
        again.probabilities(*columns(rows), rows.vote).tobytes()
        == fitted.probabilities(*columns(rows), rows.vote).tobytes()
    )
    data = json.loads(text)
    data["weights"]["ahead_"][0][0] += 0.5
    with pytest.raises(EncoderError, match="does not match its content"):
        RegimeCalibration.from_json(json.dumps(data))
    with pytest.raises(EncoderError, match=r"is of version 0 for rule"):
        RegimeCalibration.from_json(json.dumps(data | {"version": "0"}))
    with pytest.raises(EncoderError, match="no regime calibration"):
        RegimeCalibration.from_json("{}")


def test_it_is_refused_before_it_was_known(fitted: RegimeCalibration) -> None:
    fitted.check_as_of(UNTIL)
    with pytest.raises(EncoderError, match="was not known at"):
        fitted.check_as_of(UNTIL - timedelta(seconds=1))


def test_another_target_is_refused(fitted: RegimeCalibration) -> None:
    with pytest.raises(InvalidQueryError, match="ahead or hindsight"):
        fitted.probabilities(*columns(drawn(3)), None, target="yesterday")


def test_the_calibration_that_ships_ends_before_the_span_it_is_judged_on() -> None:
    assert default_calibration().fitted_until_ == datetime(2018, 6, 1, tzinfo=UTC)


# --- rows from history ---------------------------------------------------------------------------------------


def test_labels_ahead_need_a_decision_at_that_very_time() -> None:
    times = np.array([0, 1, 2, 40]) * MINUTE_MS
    assert labels_ahead(times, np.array([3, 1, 2, 4]), minutes=2).tolist() == [2, -1, -1, -1]


def test_dwell_begins_anew_with_each_label_and_after_each_gap() -> None:
    times = np.array([0, 1, 2, 3, 20, 21]) * MINUTE_MS
    assert dwell_minutes(times, np.array([1, 1, 2, 2, 2, 2])).tolist() == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]


def test_no_row_changes_when_the_market_after_the_span_does(binance: Market, encoder: StateEncoder) -> None:
    until = SAMPLE + timedelta(hours=30)
    whole = Market("whole", [binance.products["BTC-USDT"]])
    cut_ms = int(until.timestamp() * 1000)
    cut = Market("cut", [binance.products["BTC-USDT"].between(0, cut_ms)])
    (full,), (short,) = (
        list(calibration_rows(market, SAMPLE, until, encoder, every_minutes=30)) for market in (whole, cut)
    )
    for name in ("rule", "share", "dwell_minutes", "candidate", "vote", "voting_days", "ahead", "hindsight"):
        assert getattr(full, name).tobytes() == getattr(short, name).tobytes(), name


def test_memory_has_no_vote_before_its_states_and_what_they_became_are_known(
    binance: Market, encoder: StateEncoder
) -> None:
    market = Market("one", [binance.products["BTC-USDT"]])
    (rows,) = calibration_rows(market, SAMPLE, SAMPLE + timedelta(hours=6), encoder, every_minutes=10)
    # Four hours of embargo, half an hour to become something, a minute until that was known.
    first = (rows.timestamp_ms[np.flatnonzero(rows.voting_days)[0]] - rows.timestamp_ms[0]) // MINUTE_MS
    assert first == 280
    voted = rows.voting_days > 0
    assert rows.vote[voted].sum(axis=1) == pytest.approx(np.ones(voted.sum()))
    assert not rows.vote[~voted].any()


def test_hindsight_agrees_with_the_rule_inside_long_spells(binance: Market, encoder: StateEncoder) -> None:
    states = MarketReplay(binance, SAMPLE, SAMPLE + timedelta(days=1), encoder).product("BTC-USDT")
    back = hindsight_labels(states, encoder)
    assert (back[-60:] == -1).all()  # Its windows end after the data.
    known = back >= 0
    codes = states.regimes.codes
    assert 0.25 < (back == codes)[known].mean() < 0.9
    assert set(back[known].tolist()) <= set(range(len(REGIMES)))


def test_a_span_without_states_cannot_be_fitted(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(MarketDataError, match="no warm state"):
        fit_calibration(binance, datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 3, tzinfo=UTC), encoder)
