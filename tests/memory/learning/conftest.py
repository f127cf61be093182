"""Small markets with known answers, for the tests of summaries and fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pytest

from memory.learning.settings import LearningSettings
from memory.learning.summaries import PartitionSummary, summarise_partition
from memory.records import REGIMES, to_ms
from memory.tables import TRAILING_VOLATILITY, ExperienceTable, StateTable
from memory.window import Window

FIRST_DAY = date(2021, 6, 17)
MINUTE_MS = 60_000


def window_number(number: int) -> Window:
    """The window a number of days after the first."""
    return Window.of_date(FIRST_DAY + timedelta(days=number))


@dataclass(frozen=True)
class Market:
    """Makes windows whose states lie around fixed centres, in runs of some minutes."""

    centres: np.ndarray
    spread: float
    products: tuple[str, ...]
    features: tuple[str, ...]

    def states(self, number: int, *, seed: int = 0, shift: np.ndarray | None = None) -> tuple[StateTable, np.ndarray]:
        """States of one window, every minute of each product, and the centre (-1: none) that each belongs to."""
        rng = np.random.default_rng((seed, number))
        minutes = 1440
        centres = self.centres if shift is None else self.centres + shift
        labels, vectors, prices = [], [], []
        for _ in self.products:
            run = np.repeat(rng.integers(-1, len(centres), minutes // 10), 10)
            points = rng.standard_normal((minutes, centres.shape[1])) * self.spread
            noise = rng.standard_normal((minutes, centres.shape[1]))
            points = np.where(run[:, None] >= 0, centres[run] + points, noise)
            labels.append(run)
            vectors.append((points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32))
            prices.append(100 * np.exp(np.cumsum(rng.standard_normal(minutes) * 5e-4)))
        n = minutes * len(self.products)
        start = to_ms(window_number(number).start)
        times = np.tile(start + np.arange(minutes) * MINUTE_MS, len(self.products))
        label = np.concatenate(labels)
        features = rng.standard_normal((n, len(self.features)))
        features[:, 0] += 2.0 * (label == 0)
        table = StateTable(
            encoder_id="enc",
            source="replay",
            feature_names=(*self.features, TRAILING_VOLATILITY),
            products=self.products,
            product=np.repeat(np.arange(len(self.products)), minutes),
            timestamp_ms=times,
            known_at_ms=times + MINUTE_MS,
            recorded_at_ms=times,
            vectors=np.concatenate(vectors),
            features=np.column_stack([features, np.full(n, 5e-4)]),
            price=np.concatenate(prices),
            spread=np.full(n, np.nan),
            regime=np.full(n, REGIMES.index("QUIET")),
        )
        return table, label

    def summary(
        self,
        number: int,
        *,
        seed: int = 0,
        keep: Sequence[int] | None = None,
        shift: np.ndarray | None = None,
        settings: LearningSettings | None = None,
        regime: str = "QUIET",
        experiences: ExperienceTable | None = None,
    ) -> PartitionSummary:
        """Summary of one window whose clusters are the true ones (those in `keep`; all by default)."""
        table, truth = self.states(number, seed=seed, shift=shift)
        kept = [label for label in (range(len(self.centres)) if keep is None else keep) if (truth == label).any()]
        labels = np.full(len(table), -1)
        for position, label in enumerate(kept):
            labels[truth == label] = position
        return summarise_partition(
            table,
            np.arange(len(table)),
            labels,
            np.zeros(len(kept), dtype=bool),
            window=window_number(number),
            regime=regime,
            settings=settings or LearningSettings(),
            experiences=experiences,
        )


@pytest.fixture
def market() -> Market:
    """Six well separated patterns and noise, two products, 32 dimensions: small enough for a test."""
    return make_market(6)


@pytest.fixture
def markets() -> Callable[[int], Market]:
    """Makes a market with a number of patterns."""
    return make_market


@pytest.fixture
def window() -> Callable[[int], Window]:
    """The window a number of days after the first."""
    return window_number


def make_market(n_centres: int, dimension: int = 32) -> Market:
    """A market with random, well separated centres."""
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((n_centres, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return Market(centres, 0.03, ("AAA-USD", "BBB-USD"), ("trend", "volume"))
