"""What the rule does on history that it was not chosen on."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from agents.encoder import StateEncoder
from agents.features import compute_features
from agents.fitting import default_encoder, fit_encoder
from agents.market import Market
from memory.records import REGIMES, to_ms

pytestmark = [
    pytest.mark.history,
    pytest.mark.skipif(
        "COINSWARM_HISTORY" not in os.environ, reason="COINSWARM_HISTORY does not name the folder of market history"
    ),
]

START, END = datetime(2018, 4, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def bitfinex() -> Market:
    """Bitfinex minutes of 2018."""
    return Market.history("bitfinex", folder=Path(os.environ["COINSWARM_HISTORY"]))


@pytest.fixture(scope="module", params=["own past", "shipped"])
def statistics(request: pytest.FixtureRequest, bitfinex: Market) -> StateEncoder:
    """Statistics fitted to the market's own past, as a replay would use, and those of Binance three years later."""
    if request.param == "shipped":
        return default_encoder()
    return fit_encoder(bitfinex, START, since=datetime(2018, 3, 1, tzinfo=UTC))


def test_on_bitfinex_every_regime_has_its_share_and_lasts(bitfinex: Market, statistics: StateEncoder) -> None:
    codes, spells = [], []
    for candles in bitfinex.products.values():
        table = compute_features(candles, to_ms(START), to_ms(END))
        labels = statistics.regimes(table.values, table.decision_ms).codes[table.warm]
        shares = np.bincount(labels, minlength=len(REGIMES)) / len(labels)
        for name, share in zip(REGIMES, shares, strict=True):
            low, high = (0.005, 0.05) if name == "CRISIS" else (0.05, 0.5)
            assert low <= share <= high, (candles.product_id, name, share)
        codes.append(labels)
        times = table.decision_ms[table.warm]
        starts = np.flatnonzero(np.append(True, np.diff(labels) != 0))
        spells.append(np.diff(np.append(times[starts], times[-1])) / 60_000)
    assert np.median(np.concatenate(spells)) >= 10


def test_a_product_that_lacks_a_sixth_of_its_minutes_stays_usable(bitfinex: Market) -> None:
    table = compute_features(bitfinex.products["LTC-USD"], to_ms(START), to_ms(END))
    assert table.warm.mean() > 0.9
