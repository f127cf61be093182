"""Days of states and experiences as hypothesis draws them, cut at midnight.

"At once" has the one convention that windows have: a forward return is known only where its horizon ends within the
day, and pairs of returns lie within one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
from hypothesis import strategies as st

from memory.learning.outcomes import Outcomes, compute_outcomes
from memory.learning.settings import LearningSettings
from memory.records import to_ms
from memory.tables import TRAILING_VOLATILITY, ExperienceTable, StateTable
from memory.window import Window

SETTINGS = LearningSettings()
FIRST_DAY = date(2021, 6, 17)
MINUTE_MS = 60_000
DAY_MINUTES = 1_440


@dataclass(frozen=True)
class Days:
    """States of some days, those of each and those of all."""

    windows: tuple[Window, ...]
    tables: tuple[StateTable, ...]
    members: tuple[np.ndarray, ...]

    @property
    def span(self) -> Window:
        """All days as if they were one window."""
        return Window(self.windows[0].start, self.windows[-1].end)

    @property
    def together(self) -> StateTable:
        """All states, in canonical order."""
        names = StateTable.__slots__
        columns = {
            name: np.concatenate([getattr(table, name) for table in self.tables])
            for name in names
            if isinstance(getattr(self.tables[0], name), np.ndarray)
        }
        whole = replace(self.tables[0], **columns)
        return whole.take(self.canonical)

    @property
    def canonical(self) -> np.ndarray:
        """Order that brings the days' rows, one after the other, into canonical order."""
        product = np.concatenate([table.product for table in self.tables])
        times = np.concatenate([table.timestamp_ms for table in self.tables])
        return np.lexsort((times, product))

    def outcomes(self) -> list[Outcomes]:
        """Outcomes of each day: censored at its end."""
        return [compute_outcomes(table, SETTINGS) for table in self.tables]

    def all_outcomes(self) -> Outcomes:
        """The same outcomes, of all states in canonical order."""
        days = self.outcomes()
        measures = np.concatenate([outcomes.measures for outcomes in days])
        cost = np.concatenate([outcomes.cost for outcomes in days])
        return Outcomes(measures[self.canonical], cost[self.canonical])


def draw_days(seed: int, count: int, products: int, density: float) -> Days:
    """Days whose states are sparse or dense, with gaps, unknown prices, spreads, features and volatilities."""
    rng = np.random.default_rng(seed)
    windows = tuple(Window.of_date(FIRST_DAY + timedelta(days=day)) for day in range(count))
    tables, members = [], []
    for window in windows:
        keep = rng.random((products, DAY_MINUTES)) < density
        if rng.random() < 0.15:
            keep[:] = False
        product, minute = np.nonzero(keep)
        n = len(minute)
        # Seconds within the minute, so that nothing relies on decisions at its full.
        times = to_ms(window.start) + minute * MINUTE_MS + rng.integers(0, 2, n) * 500
        price = 100 * np.exp(np.cumsum(rng.standard_normal((products, DAY_MINUTES)) * 1e-3, axis=1))[keep]
        price[rng.random(n) < 0.02] = np.nan
        trailing = rng.uniform(5e-4, 2e-3, n)
        trailing[rng.random(n) < 0.02] = np.nan
        trailing[rng.random(n) < 0.02] = 0.0
        plain = rng.standard_normal(n)
        plain[rng.random(n) < 0.1] = np.nan
        vectors = rng.standard_normal((n, 8)).astype(np.float32)
        tables.append(
            StateTable(
                encoder_id="enc",
                source="replay",
                feature_names=("plain", TRAILING_VOLATILITY),
                products=tuple(f"P{number}" for number in range(products)),
                product=product.astype(np.int64),
                timestamp_ms=times.astype(np.int64),
                known_at_ms=times.astype(np.int64) + MINUTE_MS,
                recorded_at_ms=times.astype(np.int64),
                vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
                features=np.column_stack([plain, trailing]),
                price=price,
                spread=np.where(rng.random(n) < 0.5, 0.01, np.nan),
                regime=np.repeat(rng.integers(0, 3, DAY_MINUTES // 20), 20)[minute].astype(np.int64),
            )
        )
        members.append(rng.random(n) < 0.3)
    return Days(windows, tuple(tables), tuple(members))


days_of_states = st.builds(
    draw_days,
    seed=st.integers(0, 10_000),
    count=st.integers(1, 4),
    products=st.integers(1, 3),
    density=st.sampled_from([0.003, 0.05, 0.5, 0.9]),
)


def draw_experiences(
    seed: int, window: Window, *, agents: tuple[str, ...], products: tuple[str, ...], share: float
) -> ExperienceTable:
    """Experiences of some minutes of a day; some rewards, gross returns and positions are unknown."""
    rng = np.random.default_rng((seed, to_ms(window.start)))
    agent, product, minute = np.nonzero(rng.random((len(agents), len(products), DAY_MINUTES)) < share)
    n = len(minute)
    reward = rng.standard_normal(n) * 1e-3
    gross = reward + 1e-4
    gross[rng.random(n) < 0.02] = np.nan
    zero = np.zeros(n, dtype=np.int64)
    times = to_ms(window.start) + minute * MINUTE_MS
    position = rng.integers(-1, 2, n).astype(np.float64)
    return ExperienceTable(
        encoder_id="enc",
        source="replay",
        agents=agents,
        products=products,
        runs=("r",),
        agent=agent.astype(np.int64),
        product=product.astype(np.int64),
        run=zero,
        timestamp_ms=times.astype(np.int64),
        known_at_ms=times.astype(np.int64) + MINUTE_MS,
        recorded_at_ms=times.astype(np.int64),
        step=minute.astype(np.int64),
        regime=rng.integers(0, 3, n),
        side=rng.integers(-1, 2, n),
        size=np.ones(n),
        reward=reward,
        gross_return=gross,
        cost=np.full(n, 1e-4),
        position_before=position,
        position_after=np.where(rng.random(n) < 0.05, np.nan, rng.integers(-1, 2, n)),
        confidence=np.ones(n),
        quality=np.full(n, np.nan),
        terminal=np.zeros(n, dtype=np.bool_),
    )
