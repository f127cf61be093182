"""Fitting encoders to a market's past, and those that ship with the project."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path

import numpy as np

from agents.encoder import DEFAULT_BANDWIDTH_FACTOR, StateEncoder
from agents.features import DEFAULT_BAR_SHARE, compute_features
from agents.market import SAMPLES, Market
from memory.errors import EncoderError
from memory.records import to_ms
from memory.validation import validate_timestamp

ENCODER_FOLDER = Path(__file__).parent / "data"


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

    Cost: about 5 s for a year of three products.

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
    encoder = StateEncoder(name or market.name, bandwidth_factor=bandwidth_factor, random_state=random_state)
    return encoder.fit(features, fitted_until=until)


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
