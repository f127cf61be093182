"""The encoder: unit vectors that keep neighbourhoods, the same bits everywhere, and a file that cannot be mistaken."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.catalogue import FEATURE_NAMES, FEATURES, QUOTE_FEATURES
from agents.encoder import StateEncoder, outcome_weights
from agents.features import compute_features
from agents.fitting import ENCODER_FOLDER, default_encoder, fit_encoder
from agents.market import Market
from memory.errors import EncoderError
from memory.records import IDENTIFIER_PATTERN, REGIMES, to_ms

UNTIL = datetime(2021, 6, 17, tzinfo=UTC)
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def features(binance: Market) -> np.ndarray:
    """Raw features of a sample night after the encoder's fit, three products."""
    start = to_ms(UTC_NIGHT)
    return np.concatenate(
        [compute_features(candles, start, start + DAY_MS).values for candles in binance.products.values()]
    )


UTC_NIGHT = datetime(2021, 6, 20, tzinfo=UTC)


def nearest(queries: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Indices of the nearest rows by Euclidean distance, the query itself left out."""
    distances = (queries**2).sum(1)[:, None] - 2 * queries @ among.T + (among**2).sum(1)
    np.fill_diagonal(distances, np.inf)
    return np.argpartition(distances, count, axis=1)[:, :count]


def overlap(left: np.ndarray, right: np.ndarray) -> float:
    """Mean share of common neighbours."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(left, right, strict=True)]))


def test_vectors_are_256_float32_of_length_one(encoder: StateEncoder, features: np.ndarray) -> None:
    vectors = encoder.transform(features)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4320, 256)
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1.0).max() < 1e-6


def test_neighbours_stay_neighbours(encoder: StateEncoder, features: np.ndarray) -> None:
    scores = encoder.standardise(features[::2])
    vectors = encoder.transform(features[::2]).astype(np.float64)
    assert overlap(nearest(scores, scores, 10), nearest(vectors, vectors, 10)) > 0.9


def test_similarity_spreads_over_a_useful_range(encoder: StateEncoder, features: np.ndarray) -> None:
    vectors = encoder.transform(features[::10])
    similarity = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    low, high = np.quantile(similarity, [0.1, 0.9])
    assert 0.2 < low < high < 0.95


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 4319), length=st.integers(1, 700))
def test_a_row_has_the_same_bits_alone_and_in_any_batch(features: np.ndarray, start: int, length: int) -> None:
    encoder = default_encoder()
    whole = encoder.transform(features)
    assert np.array_equal(encoder.transform(features[start : start + length]), whole[start : start + length])
    assert np.array_equal(encoder.transform(features[start : start + 1])[0], whole[start])


def test_features_by_name_give_the_same_vector(encoder: StateEncoder, features: np.ndarray) -> None:
    named = dict(zip(FEATURE_NAMES, features[7].tolist(), strict=True)) | {"trailing_volatility": 1e-3}
    assert np.array_equal(encoder.encode(named), encoder.transform(features[7:8])[0])


def test_missing_quote_features_are_imputed_neutrally(coinbase_encoder: StateEncoder, features: np.ndarray) -> None:
    named = dict(zip(FEATURE_NAMES, features[7].tolist(), strict=True))
    for name in QUOTE_FEATURES:
        assert named.pop(name) == 0.0
    assert np.array_equal(coinbase_encoder.encode(named), coinbase_encoder.transform(features[7:8])[0])


def test_a_missing_feature_is_refused_by_name(encoder: StateEncoder) -> None:
    with pytest.raises(EncoderError, match="lack return_1m, return_5m"):
        encoder.encode({})


def test_a_neighbourhood_does_not_move_without_quotes(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    candles = coinbase.products["BTC-USD"]
    nothing = np.full(len(candles), np.nan)
    bare = replace(candles, bid=nothing, ask=nothing, bid_size=nothing, ask_size=nothing)
    start = to_ms(datetime(2018, 4, 5, 4, tzinfo=UTC))
    quoted_features = compute_features(candles, start, start + DAY_MS).values
    bare_features = compute_features(bare, start, start + DAY_MS).values
    assert not np.array_equal(quoted_features, bare_features)
    quoted = coinbase_encoder.transform(quoted_features).astype(np.float64)
    unquoted = coinbase_encoder.transform(bare_features).astype(np.float64)
    assert overlap(nearest(quoted, quoted, 10), nearest(unquoted, quoted, 10)) > 0.95
    assert np.array_equal(np.argmax(unquoted @ quoted.T, axis=1), np.arange(len(quoted)))


def test_a_market_without_quotes_gives_them_no_weight(encoder: StateEncoder) -> None:
    weights = dict(zip(FEATURE_NAMES, encoder.weight_, strict=True))
    assert {name for name, weight in weights.items() if weight == 0.0} == set(QUOTE_FEATURES)


@pytest.mark.parametrize(
    ("name", "products", "until"),
    [
        ("binance", None, UNTIL),
        ("coinbase", ["BTC-USD", "ETH-USD"], datetime(2017, 12, 18, tzinfo=UTC)),
    ],
)
def test_the_shipped_encoders_can_be_fitted_again(name: str, products: list[str] | None, until: datetime) -> None:
    fitted = fit_encoder(Market.sample(name, products), until, name=name)
    assert fitted.to_json() == (ENCODER_FOLDER / f"encoder-{name}.json").read_text(encoding="utf-8")


def test_features_that_tell_what_follows_weigh_more() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((3000, 4))
    followed = 0.3 * scores[:, 2] + rng.standard_normal(3000)
    weights = outcome_weights(scores, np.column_stack([followed, np.full(3000, np.nan)]))
    assert np.argmax(weights) == 2
    assert weights[2] > 2 * np.delete(weights, 2).max()
    assert np.mean(weights**2) == pytest.approx(1.0, abs=0.01)


def test_the_scale_of_an_outcome_and_a_few_jumps_change_no_weight_much() -> None:
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((3000, 4))
    followed = 0.5 * scores[:, 1] + rng.standard_normal(3000)
    weights = outcome_weights(scores, followed[:, None])
    np.testing.assert_array_equal(outcome_weights(scores, 1e-4 * followed[:, None]), weights)
    followed[:5] = 1e6
    np.testing.assert_allclose(outcome_weights(scores, followed[:, None]), weights, atol=0.15)


def test_without_a_usable_outcome_all_features_weigh_the_same() -> None:
    scores = np.random.default_rng(2).standard_normal((50, 4))
    for outcomes in (np.full((50, 1), np.nan), np.ones((50, 1)), np.empty((50, 0))):
        np.testing.assert_array_equal(outcome_weights(scores, outcomes), np.ones(4))


def test_a_constant_feature_gets_no_weight() -> None:
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((1000, 3))
    scores[:, 0] = 0.0
    weights = outcome_weights(scores, scores[:, 1:2] + rng.standard_normal((1000, 1)))
    assert weights[0] == 0.0
    assert weights[1] > weights[2]


def test_outcomes_of_other_states_are_refused(features: np.ndarray) -> None:
    with pytest.raises(EncoderError, match="outcomes have shape"):
        StateEncoder("a").fit(features[:200], fitted_until=UNTIL, outcomes=np.zeros((199, 2)))


def test_the_shipped_encoder_has_learned_its_weights(encoder: StateEncoder) -> None:
    catalogue = np.array([spec.weight for spec in FEATURES])
    varies = encoder.weight_ > 0
    assert not np.allclose(encoder.weight_[varies], catalogue[varies])
    clock = [FEATURE_NAMES.index(name) for name in ("day_sine", "day_cosine")]
    assert encoder.weight_[clock].max() < encoder.weight_.max() / 2


def test_data_from_fitted_until_on_does_not_enter_the_fit(binance: Market) -> None:
    cut = Market(
        "sample-binance",
        [candles.between(0, to_ms(UNTIL)) for candles in binance.products.values()],
    )
    assert fit_encoder(cut, UNTIL).id_ == fit_encoder(binance, UNTIL).id_


def test_an_encoder_is_refused_before_it_was_known(encoder: StateEncoder) -> None:
    encoder.check_as_of(UNTIL)
    with pytest.raises(EncoderError, match="was not known at 2021-06-16T23:59"):
        encoder.check_as_of(UNTIL - timedelta(minutes=1))


def test_the_id_names_the_encoder_and_changes_with_what_was_fitted(binance: Market, encoder: StateEncoder) -> None:
    assert IDENTIFIER_PATTERN.fullmatch(encoder.id_)
    assert encoder.id_.startswith("binance-")
    later = fit_encoder(binance, UNTIL + timedelta(days=1), name="binance")
    seeded = fit_encoder(binance, UNTIL, name="binance", random_state=1)
    assert len({encoder.id_, later.id_, seeded.id_}) == 3


def test_fitting_again_replaces_what_was_derived(features: np.ndarray) -> None:
    encoder = StateEncoder("a").fit(features[:2000], fitted_until=UNTIL)
    first = encoder.id_, encoder.frequencies_.copy()
    encoder.fit(features[2000:], fitted_until=UNTIL)
    assert encoder.id_ != first[0]
    assert not np.array_equal(encoder.frequencies_, first[1])


def test_a_saved_encoder_gives_the_same_vectors_and_regimes(
    tmp_path: Path, encoder: StateEncoder, features: np.ndarray
) -> None:
    encoder.save(tmp_path / "encoder.json")
    loaded = StateEncoder.load(tmp_path / "encoder.json")
    assert loaded.id_ == encoder.id_
    assert loaded.fitted_until_ == encoder.fitted_until_
    assert np.array_equal(loaded.transform(features), encoder.transform(features))
    assert np.array_equal(loaded.regimes_.candidates(features), encoder.regimes_.candidates(features))


@pytest.mark.parametrize("field", ["center", "scale", "weight"])
def test_a_changed_file_is_refused(encoder: StateEncoder, field: str) -> None:
    data = json.loads(encoder.to_json())
    data[field][0] += 0.25
    with pytest.raises(EncoderError, match="does not match its content"):
        StateEncoder.from_json(json.dumps(data))


def test_frequencies_that_cannot_be_drawn_again_are_refused(encoder: StateEncoder) -> None:
    data = json.loads(encoder.to_json()) | {"frequencies": "0" * 16}
    with pytest.raises(EncoderError, match="cannot be drawn again here"):
        StateEncoder.from_json(json.dumps(data))


def test_an_encoder_of_other_features_is_refused(encoder: StateEncoder) -> None:
    data = json.loads(encoder.to_json())
    data["features"] = data["features"][:-1]
    with pytest.raises(EncoderError, match=f"with {len(FEATURES) - 1} features"):
        StateEncoder.from_json(json.dumps(data))


def test_an_encoder_of_another_regime_rule_is_refused(encoder: StateEncoder) -> None:
    data = json.loads(encoder.to_json())
    data["regimes"]["version"] = "0"
    with pytest.raises(EncoderError, match="rule version '0'"):
        StateEncoder.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}'])
def test_text_that_is_no_encoder_is_refused(text: str) -> None:
    with pytest.raises(EncoderError, match="not a saved encoder"):
        StateEncoder.from_json(text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"none\.json cannot be read"):
        StateEncoder.load(tmp_path / "none.json")


def test_an_encoder_that_is_not_fitted_says_so(features: np.ndarray) -> None:
    with pytest.raises(EncoderError, match="not fitted"):
        StateEncoder().transform(features)


def test_a_feature_that_is_not_finite_is_refused_by_name(encoder: StateEncoder, features: np.ndarray) -> None:
    broken = features[:3].copy()
    broken[1, 2] = np.nan
    with pytest.raises(EncoderError, match="feature return_15m of row 1 is nan"):
        encoder.transform(broken)


def test_a_wrong_number_of_features_is_refused(encoder: StateEncoder) -> None:
    with pytest.raises(EncoderError, match=r"shape \(2, 3\)"):
        encoder.transform(np.zeros((2, 3)))


def test_too_few_states_are_refused(features: np.ndarray) -> None:
    with pytest.raises(EncoderError, match="99 states are too few"):
        StateEncoder().fit(features[:99], fitted_until=UNTIL)


def test_an_unknown_default_encoder_is_refused() -> None:
    with pytest.raises(EncoderError, match="no encoder ships for market 'kraken'"):
        default_encoder("kraken")


def test_an_empty_batch_has_no_vectors(encoder: StateEncoder) -> None:
    assert encoder.transform(np.empty((0, len(FEATURES)))).shape == (0, 256)


def test_the_rule_travels_with_the_encoder(encoder: StateEncoder, features: np.ndarray) -> None:
    labels = encoder.regimes(features[:1440], np.arange(1440) * 60_000)
    assert {REGIMES[code] for code in labels.codes} <= set(REGIMES)
