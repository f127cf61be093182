"""Fitting encoders to a market's past, and those that ship with the project."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path

import numpy as np

from agents.candles import Candles, FloatArray
from agents.encoder import DEFAULT_BANDWIDTH_FACTOR, StateEncoder
from agents.features import DEFAULT_BAR_SHARE, GAP_MINUTES, FeatureTable, compute_features
from agents.market import SAMPLES, Market
from memory.errors import EncoderError
from memory.learning.moves import forward_moves
from memory.records import to_ms
from memory.validation import validate_timestamp

ENCODER_FOLDER = Path(__file__).parent / "data"
OUTCOME_MINUTES = (1, 5, 15)
"""Spans of the outcomes that weights are learned from; over an hour, a week holds too few that are independent."""
LEAST_MOVE = 0.01
"""Least size of a scaled return before its logarithm is taken: a minute without a trade has none."""


def fit_encoder(
    market: Market,
    until: datetime,
    *,
    since: datetime | None = None,
    name: str | None = None,
    bandwidth_factor: float = DEFAULT_BANDWIDTH_FACTOR,
    bar_share: float = DEFAULT_BAR_SHARE,
    random_state: int = 0,
) -> StateEncoder:
    """Fit an encoder and its regime rule to a market's warm states before `until`, pooled over products.

    Features weigh by what they told about the scaled returns and the volatility that followed within `OUTCOME_MINUTES`,
    in the same span. Cost: about 5 s for a year of three products.

    Parameters
    ----------
    market
        The candles.
    until
        Aware UTC time; no candle that ends at or after it is used. It becomes the encoder's `fitted_until_`.
    since
        Aware UTC time of the first state; the market's first where None.
    name
        First part of the encoder's id; the market's name where None.
    bandwidth_factor, random_state
        As in `StateEncoder`.
    bar_share
        As in `agents.replay.MarketReplay`.

    Raises
    ------
    EncoderError
        Fewer than 100 warm states before `until`.
    """
    until = validate_timestamp(until, "until")
    start_ms = to_ms(market.span[0] if since is None else validate_timestamp(since, "since"))
    tables = [
        compute_features(candles, start_ms, to_ms(until), bar_share=bar_share) for candles in market.products.values()
    ]
    features = np.concatenate([table.values[table.warm] for table in tables])
    outcomes = np.concatenate(
        [
            _outcomes(candles.between(start_ms, to_ms(until)), table)[table.warm]
            for candles, table in zip(market.products.values(), tables, strict=True)
        ]
    )
    encoder = StateEncoder(name or market.name, bandwidth_factor=bandwidth_factor, random_state=random_state)
    return encoder.fit(features, fitted_until=until, outcomes=outcomes)


def _outcomes(candles: Candles, table: FeatureTable) -> FloatArray:
    """Scaled return and volatility after each of `OUTCOME_MINUTES`, shape (n, 2 len(OUTCOME_MINUTES)).

    As the outcomes of patterns are defined: in trailing volatilities of the span; NaN across gaps and where the span
    ends after the last candle.
    """
    returns = forward_moves(table.decision_ms, candles.mid, OUTCOME_MINUTES, max_gap_minutes=GAP_MINUTES)
    expected = table.trailing_volatility[:, None] * np.sqrt(np.array(OUTCOME_MINUTES, dtype=np.float64))
    scaled = returns / expected
    both = np.stack([scaled, np.log(np.maximum(np.abs(scaled), LEAST_MOVE))], axis=2)
    return both.reshape(len(scaled), 2 * len(OUTCOME_MINUTES))


@cache
def default_encoder(market: str = "binance") -> StateEncoder:
    """The encoder that ships for a sample market ("binance" or "coinbase"); see `Market.sample`.

    "binance" is fitted to the sample's first days, until 2021-06-17; "coinbase" to its days of 2017, until 2017-12-18.
    """
    if market not in SAMPLES:
        raise EncoderError(
            f"no encoder ships for market {market!r}.",
            remedy=f"Choose {' or '.join(SAMPLES)}, or fit one with fit_encoder(market, until).",
        )
    return StateEncoder.load(ENCODER_FOLDER / f"encoder-{market}.json")
