"""A night of five partitions, in each something to cluster, and each of a size of its own, which tells them apart."""

from __future__ import annotations

import datetime as dt

import numpy as np

from memory.records import REGIMES, Action, EpisodicMemory, Regime, Side

SIZES = tuple(300 + number for number in range(len(REGIMES)))
"""States of the partitions, one a regime: just enough for a partition of its own."""
THIRD = SIZES[2]
"""States of the partition that fails, or that is waited for, in the middle of the others."""
PRODUCTS = ("BTC-USDT", "ETH-USDT", "SOL-USDT", "LTC-USDT", "XRP-USDT")


def lived(day: dt.date, encoder_id: str = "enc") -> list[EpisodicMemory]:
    """One agent's minutes of a day, a product a regime, in each around two places; the same for the same day."""
    draw = np.random.default_rng(day.toordinal())
    start = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
    found = []
    for regime, product, size in zip(REGIMES, PRODUCTS, SIZES, strict=True):
        centres = draw.standard_normal((2, 256))
        prices = 100 * np.exp(np.cumsum(draw.standard_normal(size) * 5e-4))
        for minute, price in enumerate(prices):
            vector = centres[minute // 10 % 2] + 0.3 * draw.standard_normal(256)
            at = start + dt.timedelta(minutes=minute)
            found.append(
                EpisodicMemory(
                    agent_id="scout",
                    timestamp=at,
                    state_vector=(vector / np.linalg.norm(vector)).astype(np.float32),
                    action=Action(Side.BUY, 0.5),
                    reward=float(draw.standard_normal() * 1e-4),
                    product_id=product,
                    regime=Regime(regime),
                    encoder_id=encoder_id,
                    source="replay",
                    run_id="planted",
                    known_at=at + dt.timedelta(minutes=1),
                    price=float(price),
                )
            )
    return found
