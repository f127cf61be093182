"""The scorecard: patterns and what they must beat, scored on a window that they have not seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from memory.errors import InvalidRecordError
from memory.learning import serial
from memory.learning.predictions import HORIZONS, PatternPredictions, PredictionGain, PredictionRecord
from memory.learning.predictors import (
    NEARNESS,
    NO_PATTERN,
    Remembered,
    assign,
    predict_by_base_rate,
    predict_by_neighbours,
    predict_by_patterns,
    predict_by_ridge,
    random_balls,
)
from memory.learning.scorecard import ScorecardSettings, prediction_gains, remembered_states, score_window
from memory.learning.scores import (
    BALLS,
    BASE,
    COVERED,
    NEIGHBOURS,
    PATTERNS,
    RETURN,
    RIDGE,
    VOLATILITY,
    Scorecard,
    pool_differences,
    pool_scorecards,
)
from memory.learning.settings import LearningSettings
from memory.records import MIXED, REGIMES, to_ms
from memory.tables import TRAILING_VOLATILITY, StateTable
from memory.window import Window

DAY = Window.of_date(date(2021, 6, 20))
KINDS = 6
DIMENSION = 16
VOLATILE, QUIET = REGIMES.index("VOLATILE"), REGIMES.index("QUIET")


def market(day: int, *, products: tuple[str, ...] = ("A", "B"), signal: float = 1.0, minutes: int = 1440) -> StateTable:
    """A day in which the kind of a state tells how much the price moves next; kinds last ten minutes.

    Kinds 0 to 2 are QUIET, 3 to 5 VOLATILE; the vector is the kind's corner with some noise.
    """
    rng = np.random.default_rng(day + 1000)
    window = Window.of_date(DAY.start.date() + timedelta(days=day))
    kinds, prices = [], []
    for _ in products:
        kind = np.repeat(rng.integers(0, KINDS, minutes // 10), 10)
        size = 1e-3 * np.exp(signal * (kind - (KINDS - 1) / 2) / 2)
        moves = rng.standard_normal(minutes) * size
        prices.append(100 * np.exp(np.concatenate([[0.0], np.cumsum(moves)[:-1]])))
        kinds.append(kind)
    kind = np.concatenate(kinds)
    count = len(kind)
    vectors = np.eye(DIMENSION)[kind] + 0.1 * rng.standard_normal((count, DIMENSION))
    times = np.tile(to_ms(window.start) + 60_000 * np.arange(minutes, dtype=np.int64), len(products))
    return StateTable(
        encoder_id="enc",
        source="replay",
        feature_names=("kind", TRAILING_VOLATILITY),
        products=products,
        product=np.repeat(np.arange(len(products)), minutes),
        timestamp_ms=times,
        known_at_ms=times + 60_000,
        recorded_at_ms=times,
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        features=np.column_stack([kind + rng.standard_normal(count), np.full(count, 1e-3)]),
        price=np.concatenate(prices),
        spread=np.full(count, np.nan),
        regime=np.where(kind < 3, QUIET, VOLATILE),
    )


def patterns(kinds: tuple[int, ...] = tuple(range(KINDS)), signal: float = 1.0) -> PatternPredictions:
    """One pattern a kind, which predicts the volatility that the kind really has, one minute ahead.

    E log|z| = -0.635 for a standard normal z.
    """
    count = len(kinds)
    level = signal * (np.array(kinds, dtype=np.float64) - (KINDS - 1) / 2) / 2 - 0.635
    none = np.zeros((count, len(HORIZONS)))
    volatility = np.full((count, len(HORIZONS)), np.nan)
    volatility[:, 0] = level
    return PatternPredictions(
        pattern_ids=tuple(f"p-{kind}" for kind in kinds),
        partitions=tuple(f"enc/replay/{'QUIET' if kind < 3 else 'VOLATILE'}" for kind in kinds),
        vectors=np.eye(DIMENSION, dtype=np.float32)[list(kinds)],
        cosine_floor=np.full(count, 0.85),
        states=np.full(count, 200),
        scaled_return=none,
        volatility=volatility,
        base_scaled_return=none,
        base_volatility=none - 0.635,
    )


@pytest.fixture(scope="module")
def scorecard() -> Scorecard:
    remembered = remembered_states([market(day) for day in (-2, -1)])
    return score_window(patterns(), market(0), remembered, DAY)


def test_knowledge_of_volatility_shows_and_none_of_returns_does(scorecard: Scorecard):
    volatility = scorecard.score(PATTERNS, VOLATILITY, 1)
    assert volatility is not None
    assert volatility.rank_correlation is not None
    assert volatility.rank_correlation > 0.3
    assert volatility.rank_interval is not None
    assert volatility.rank_interval.low > 0
    assert volatility.slope == pytest.approx(1.0, abs=0.15)
    returns = scorecard.score(NEIGHBOURS, RETURN, 5)
    assert returns is not None
    assert returns.rank_interval is not None
    assert returns.rank_interval.low < 0.1


def test_all_predictors_are_scored_at_all_horizons(scorecard: Scorecard):
    for predictor in (PATTERNS, BALLS, NEIGHBOURS, RIDGE, BASE):
        for horizon in HORIZONS:
            found = scorecard.score(predictor, VOLATILITY, horizon)
            assert found is not None
            assert (found.n > 0) == (predictor != PATTERNS or horizon == 1)
    assert scorecard.patterns == scorecard.balls == KINDS
    assert scorecard.remembered == 2 * 2880


def test_finer_knowledge_beats_the_base_rate_of_the_regime(scorecard: Scorecard):
    def rank(predictor: str) -> float:
        found = scorecard.score(predictor, VOLATILITY, 1, COVERED if predictor != PATTERNS else "own")
        assert found is not None
        assert found.rank_correlation is not None
        return found.rank_correlation

    assert rank(PATTERNS) > rank(BASE) + 0.02
    assert rank(NEIGHBOURS) > rank(BASE) + 0.02


def test_predictions_that_know_more_than_their_base_gain(scorecard: Scorecard):
    gains = {gain.pattern_id: gain for gain in scorecard.gains}
    assert set(gains) == {f"p-{kind}" for kind in range(KINDS)}
    assert gains["p-0"].volatility_gain > 0.5
    assert gains["p-5"].volatility_gain > 0.5
    assert gains["p-0"].return_gain == 0.0


def test_wrong_predictions_lose_and_in_the_end_fail():
    wrong = patterns(signal=-1.0)
    record = PredictionRecord()
    for day in range(5):
        window = Window.of_date(DAY.start.date() + timedelta(days=day))
        card = score_window(wrong, market(day), None, window)
        (gain,) = [gain for gain in card.gains if gain.pattern_id == "p-0"]
        assert gain.volatility_gain < 0
        assert not record.fails()
        record = record.with_gain(gain)
    assert record.fails()


def test_the_score_is_deterministic():
    remembered = remembered_states([market(-1)])
    first, second = (score_window(patterns(), market(0), remembered, DAY) for _ in range(2))
    assert serial.encode(first) == serial.encode(second)


def test_a_scorecard_survives_the_ledger(scorecard: Scorecard):
    assert serial.decode(serial.encode(scorecard), Scorecard) == scorecard


def test_without_memory_patterns_alone_are_scored():
    card = score_window(patterns(), market(0), None, DAY)
    assert {score.predictor for score in card.scores} == {PATTERNS}
    assert card.covered_by_balls is None


def test_without_patterns_the_others_are_scored():
    none = patterns(())
    card = score_window(
        replace(none, vectors=np.zeros((0, 0), np.float32)), market(0), remembered_states([market(-1)]), DAY
    )
    assert card.covered == 0.0
    assert card.gains == ()
    found = card.score(RIDGE, VOLATILITY, 1)
    assert found is not None
    assert found.n > 2000


def test_an_empty_window_has_an_empty_scorecard():
    empty = market(0).take(np.zeros(2880, dtype=bool))
    card = score_window(patterns(), empty, remembered_states([market(-1)]), DAY)
    assert card.covered is None
    assert all(score.agreement.n == 0 for score in card.scores)


def test_memory_of_the_window_itself_is_refused():
    with pytest.raises(InvalidRecordError, match="reach into"):
        score_window(patterns(), market(0), remembered_states([market(-1), market(0)]), DAY)


def test_memory_of_another_encoder_is_refused():
    with pytest.raises(InvalidRecordError, match="one encoder"):
        score_window(patterns(), market(0), replace(market(-1), encoder_id="other"), DAY)


def test_memory_out_of_order_is_refused():
    shuffled = market(-1).take(np.arange(2880)[::-1].copy())
    with pytest.raises(InvalidRecordError, match="order"):
        score_window(patterns(), market(0), shuffled, DAY)


def test_large_tables_are_thinned_evenly():
    settings = ScorecardSettings(most_states=500, most_remembered=300, most_balls=3)
    card = score_window(patterns(), market(0), remembered_states([market(-1)]), DAY, settings)
    assert card.scored == 500
    assert card.states == 2880
    assert card.balls == 3


def test_a_state_goes_to_the_nearest_pattern_of_its_regime_that_covers_it():
    table = market(0)
    some = patterns((0, 4))
    chosen = assign(some, table)
    corner = table.vectors[:, 0].argsort()[::-1]
    assert chosen[corner[0]] == 0
    assert (table.regime[chosen == 0] == QUIET).all()
    assert (table.regime[chosen == 1] == VOLATILE).all()
    far = assign(replace(some, cosine_floor=np.array([1.1, 1.1])), table)
    assert (far == NO_PATTERN).all()
    mixed = assign(replace(some, partitions=(f"enc/replay/{MIXED}",) * 2), table)
    assert (mixed != NO_PATTERN).sum() >= (chosen != NO_PATTERN).sum()


def test_a_prediction_leans_on_the_patterns_around_and_most_on_the_nearest():
    table = market(0)
    some = patterns((0, 1))
    said = np.array([[0.0], [1.0]]) * np.ones(len(HORIZONS))
    some = replace(some, volatility=said, scaled_return=-said)
    chosen = assign(some, table)
    predicted = predict_by_patterns(some, table, chosen)
    assert np.isnan(predicted[chosen == NO_PATTERN]).all()
    first, second = predicted[chosen == 0, 0, 1], predicted[chosen == 1, 0, 1]
    assert first.max() < 0.5 < second.min()
    cosine = table.vectors @ some.vectors.T
    weight = np.exp(cosine.astype(np.float64) / NEARNESS)
    covered = chosen != NO_PATTERN
    np.testing.assert_allclose(predicted[covered, 2, 1], (weight[:, 1] / weight.sum(axis=1))[covered], rtol=1e-4)
    np.testing.assert_allclose(predicted[covered, 2, 0], -predicted[covered, 2, 1])


def test_a_pattern_that_knows_nothing_of_an_outcome_leaves_it_to_the_others():
    table = market(0)
    some = patterns((0, 1))
    said = np.full((2, len(HORIZONS)), np.nan)
    said[1, 1] = 0.5
    some = replace(some, volatility=said)
    chosen = assign(some, table)
    predicted = predict_by_patterns(some, table, chosen)[chosen != NO_PATTERN]
    np.testing.assert_allclose(predicted[:, 1, 1], 0.5)
    assert np.isnan(predicted[:, 0, 1]).all()


def test_patterns_of_other_regimes_say_nothing():
    table = market(0)
    some = patterns((0, 4))
    other = np.ones((2, len(HORIZONS)))
    other[1] = 7.0
    chosen = assign(some, table)
    predicted = predict_by_patterns(replace(some, volatility=other), table, chosen)
    np.testing.assert_allclose(predicted[chosen == 0, :, 1], 1.0)
    np.testing.assert_allclose(predicted[chosen == 1, :, 1], 7.0)


def remembered(day: int) -> Remembered:
    table = market(day)
    rng = np.random.default_rng(day + 1000)
    return Remembered(table, rng.standard_normal((len(table), len(HORIZONS), 2)))


DAY_MS = 86_400_000


def balls_of(some: PatternPredictions, past: Remembered, *, seed: int = 0, most: int = 100) -> PatternPredictions:
    return random_balls(some, past, np.random.default_rng(seed), window_ms=DAY_MS, most=most)


def test_balls_have_the_sizes_partitions_and_coverage_of_the_patterns():
    past = remembered(-1)
    balls = balls_of(patterns(), past)
    assert balls.partitions == patterns().partitions
    assert balls.states.tolist() == patterns().states.tolist()
    for place in range(KINDS):
        regime = QUIET if place < 3 else VOLATILE
        cosine = past.states.vectors[past.states.regime == regime] @ balls.vectors[place]
        # The floor leaves out the farthest tenth of the 200 members; states that are no members may lie nearer.
        assert 180 <= (cosine >= balls.cosine_floor[place]).sum() < 500
        assert np.linalg.norm(balls.vectors[place]) == pytest.approx(1.0, abs=1e-6)


def test_a_ball_predicts_the_mean_of_its_members():
    past = remembered(-1)
    whole = replace(patterns((0,)), states=np.array([10**9]))
    (ball,) = balls_of(whole, past).volatility
    assert ball == pytest.approx(past.targets[past.states.regime == QUIET][:, :, 1].mean(axis=0))


def test_a_ball_is_drawn_from_one_window():
    table = remembered_states([market(-2), market(-1)])
    assert table is not None
    day = table.timestamp_ms // DAY_MS
    targets = np.repeat(day[:, None], 2 * len(HORIZONS), axis=1).reshape(-1, len(HORIZONS), 2).astype(np.float64)
    found = set()
    for seed in range(20):
        found |= set(balls_of(patterns(), Remembered(table, targets), seed=seed).volatility[:, 0].tolist())
    assert found == set(day.tolist())


def test_balls_are_as_large_as_patterns_are_in_one_window():
    twice = replace(patterns(), windows=np.full(KINDS, 4))
    assert balls_of(twice, remembered(-1)).states.tolist() == [50] * KINDS


def test_mixed_patterns_meet_balls_of_all_pooled_states():
    past = remembered(-1)
    past.states.regime[:] = QUIET
    past.states.regime[:100], past.states.regime[100:150] = VOLATILE, REGIMES.index("TRENDING")
    some = replace(patterns((0, 4)), partitions=("enc/replay/QUIET", f"enc/replay/{MIXED}"), states=np.array([9, 999]))
    assert balls_of(some, past).volatility[1] == pytest.approx(past.targets[:150, :, 1].mean(axis=0))


def test_a_pattern_of_a_regime_that_was_pooled_meets_balls_of_that_regime_alone():
    past = remembered(-1)
    past.states.regime[:] = QUIET
    past.states.regime[:100], past.states.regime[100:150] = VOLATILE, REGIMES.index("TRENDING")
    (ball,) = balls_of(replace(patterns((4,)), states=np.array([999])), past).volatility
    assert ball == pytest.approx(past.targets[:100, :, 1].mean(axis=0))


def test_a_pattern_whose_home_is_not_remembered_has_no_ball():
    past = remembered(-1)
    past.states.regime[:] = QUIET
    assert len(balls_of(patterns((4,)), past)) == 0


def test_neighbours_are_the_nearest_by_cosine():
    past, table = remembered(-1), market(0).take(np.arange(50))
    found = predict_by_neighbours(past, table, neighbours=7, most=10**6)
    for row in range(50):
        nearest = np.argsort(-(past.states.vectors @ table.vectors[row]))[:7]
        assert found[row] == pytest.approx(past.targets[nearest].mean(axis=0))


def test_neighbours_without_an_outcome_do_not_count():
    past = remembered(-1)
    past.targets[:, 3, :] = np.nan
    past.targets[::2, 0, 0] = np.nan
    found = predict_by_neighbours(past, market(0), neighbours=20, most=10**6)
    assert np.isnan(found[:, 3]).all()
    assert np.isfinite(found[:, 0]).all()


def test_ridge_finds_a_linear_relation_and_bears_missing_features():
    past = remembered(-1)
    past.targets[:, 0, 1] = 2 * past.states.features[:, 0] + 1
    past.states.features[::5, 0] = np.nan
    table = market(0)
    table.features[7, 0] = np.nan
    found = predict_by_ridge(past, table, penalty=1e-6)[:, 0, 1]
    rows = np.isfinite(table.features[:, 0])
    assert np.corrcoef(found[rows], table.features[rows, 0])[0, 1] > 0.999
    assert np.isfinite(found).all()


def test_base_rates_are_those_of_the_regime():
    past = remembered(-1)
    rates = predict_by_base_rate(past, market(0))
    quiet = past.targets[past.states.regime == QUIET].mean(axis=0)
    assert rates[market(0).regime == QUIET][0] == pytest.approx(quiet)
    unseen = replace(market(0), regime=np.full(2880, REGIMES.index("CRISIS")))
    assert predict_by_base_rate(past, unseen)[0] == pytest.approx(past.targets.mean(axis=0))


def test_windows_are_remembered_in_order_of_product_and_time():
    joined = remembered_states([market(-2, products=("B", "C")), market(-1, products=("A", "B"))])
    assert joined is not None
    assert joined.products == ("A", "B", "C")
    assert np.array_equal(np.lexsort((joined.timestamp_ms, joined.product)), np.arange(len(joined)))
    assert np.count_nonzero(joined.product == 1) == 2880
    assert remembered_states([]) is None
    with pytest.raises(InvalidRecordError, match="one encoder"):
        remembered_states([market(-2), replace(market(-1), source="live")])


def test_gains_need_a_known_outcome():
    targets = np.full((4, len(HORIZONS), 2), np.nan)
    chosen = np.array([0, 0, 1, NO_PATTERN])
    targets[2] = 1.0
    gains = prediction_gains(patterns(), chosen, targets, np.arange(4) * 60_000, LearningSettings())
    assert [(gain.pattern_id, gain.states) for gain in gains] == [("p-1", 1)]


def test_scorecards_are_pooled_over_windows():
    cards = []
    for day in range(4):
        window = Window.of_date(DAY.start.date() + timedelta(days=day))
        cards.append(score_window(patterns(), market(day), None, window))
    pooled = {(item.outcome, item.horizon_minutes): item for item in pool_scorecards(cards)}
    item = pooled[VOLATILITY, 1]
    values = [card.score(PATTERNS, VOLATILITY, 1).rank_correlation for card in cards]
    assert item.windows == 4
    assert item.rank_correlation == pytest.approx(np.mean(values))
    assert item.interval.high - item.interval.low == pytest.approx(2 * 1.96 * np.std(values, ddof=1) / 2)
    assert pool_scorecards([]) == []


def test_differences_are_paired_by_window_and_taken_on_the_same_states(scorecard: Scorecard):
    other = score_window(
        patterns(), market(1), remembered_states([market(-2), market(-1)]), Window.of_date(date(2021, 6, 21))
    )
    cards = [scorecard, other]
    pooled = {(item.predictor, item.outcome, item.horizon_minutes): item for item in pool_differences(cards)}
    values = [
        card.score(PATTERNS, VOLATILITY, 1).rank_correlation
        - card.score(BALLS, VOLATILITY, 1, COVERED).rank_correlation
        for card in cards
    ]
    item = pooled[BALLS, VOLATILITY, 1]
    assert item.windows == 2
    assert item.rank_correlation == pytest.approx(np.mean(values))
    assert item.interval.high - item.interval.low == pytest.approx(2 * 1.96 * np.std(values, ddof=1) / np.sqrt(2))
    assert PATTERNS not in {predictor for predictor, _, _ in pooled}


def test_windows_without_rivals_have_no_difference():
    assert pool_differences([score_window(patterns(), market(0), None, DAY)]) == []


def test_a_scorecard_takes_up_what_the_fold_confirmed(scorecard: Scorecard):
    card = scorecard.with_confirmation(0.5, 0.04, 0.2)
    assert (card.confirmation_rate, card.null_confirmation_rate, card.unmistakable_share) == (0.5, 0.04, 0.2)
    assert scorecard.with_confirmation(0.0, 0.0).unmistakable_share is None


def _gain(value: float) -> PredictionGain:
    return PredictionGain(pattern_id="p", states=1, occurrences=1, volatility_gain=value, return_gain=0.0)


def _record(values: list[float]) -> PredictionRecord:
    record = PredictionRecord()
    for value in values:
        record = record.with_gain(_gain(value))
    return record


def test_a_pattern_fails_only_on_evidence():
    assert not _record([]).fails()
    assert not _record([-1.0] * 4).fails()
    assert _record([-1.0] * 5).fails()
    assert not _record([1.0, -2.0, 3.0, -4.0, 1.0]).fails()
    assert _record([-1.0, -1.2, -0.8, -1.1, -0.9, -1.0]).fails()
    assert not _record([0.5] * 20).fails()


def test_records_add_up():
    first, second = _record([1.0, -2.0]), _record([0.5])
    merged = first.merged_with(second)
    assert merged == _record([1.0, -2.0, 0.5])
    assert merged.mean_volatility_gain == pytest.approx(-0.5 / 3)
    assert _record([]).mean_volatility_gain is None


def test_predictions_of_odd_shape_are_refused():
    with pytest.raises(InvalidRecordError, match="one row a pattern"):
        replace(patterns(), cosine_floor=np.zeros(2))
    with pytest.raises(InvalidRecordError, match="horizons"):
        replace(patterns(), volatility=np.zeros((KINDS, 2)))
