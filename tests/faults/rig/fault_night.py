"""The night that is struck: planted, so that what it knows in the end hangs on no encoder and on no luck."""

from __future__ import annotations

import datetime as dt

import numpy as np

from agents.fitting import default_encoder
from memory.records import Action, EpisodicMemory, Regime, Side

MINUTES = 480
"""States of a day: enough for patterns of the pool of all regimes, few enough for seconds."""
PLACES = 3
VISIT = 24
"""Minutes of a visit. Each place is left for three visits, longer than the hour that makes the next one a new one."""
REGIME_MINUTES = 120
REGIMES = (Regime.QUIET, Regime.TRENDING, Regime.QUIET, Regime.VOLATILE)


def planted(day: dt.date, product: str, agents: tuple[str, ...]) -> list[EpisodicMemory]:
    """What some agents live through: places that are visited again and again, on all days the same, and noise between.

    The first agent follows the place, the others toss a coin.
    """
    places = np.random.default_rng(7).standard_normal((PLACES, 256))
    draw = np.random.default_rng(day.toordinal())
    noise = draw.standard_normal((MINUTES, 256))
    drifts = np.array([2e-4, -2e-4, 0.0, 0.0])
    visits = np.arange(MINUTES) // VISIT % (PLACES + 1)
    returns = drifts[visits] + 5e-4 * draw.standard_normal(MINUTES)
    prices = 100 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
    coins = draw.integers(0, 2, size=(len(agents), MINUTES))
    start = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
    found = []
    for number, agent in enumerate(agents):
        for minute, visit in enumerate(visits):
            vector = noise[minute] if visit == PLACES else places[visit] + 0.25 * noise[minute]
            buys = drifts[visit] > 0 if number == 0 else bool(coins[number, minute])
            position = 0.5 if buys else -0.5
            gross = position * (prices[minute + 1] / prices[minute] - 1)
            at = start + dt.timedelta(minutes=minute)
            found.append(
                EpisodicMemory(
                    agent_id=agent,
                    timestamp=at,
                    state_vector=(vector / np.linalg.norm(vector)).astype(np.float32),
                    action=Action(Side.BUY if buys else Side.SELL, 0.5),
                    reward=float(gross),
                    product_id=product,
                    regime=REGIMES[minute // REGIME_MINUTES],
                    encoder_id=default_encoder().id_,
                    source="replay",
                    run_id="planted",
                    known_at=at + dt.timedelta(minutes=1),
                    price=float(prices[minute]),
                    gross_return=float(gross),
                    cost=0.0,
                    position_before=position,
                    position_after=position,
                )
            )
    return found
