"""Small markets with known answers, for the tests of summaries and fold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from memory.learning.clustering import MarketStateClusterer
from memory.learning.fold import FoldStep, fold_window
from memory.learning.knowledge import FoldState
from memory.learning.partitions import assign_partitions
from memory.learning.settings import LearningSettings
from memory.learning.summaries import PartitionSummary, summarise_partition
from memory.records import REGIMES, to_ms
from memory.tables import TRAILING_VOLATILITY, ExperienceTable, StateTable
from memory.window import Window

FIRST_DAY = date(2021, 6, 17)
MINUTE_MS = 60_000
# Six patterns are too few for the rule of the unmistakable; here every mutual nearest pair above 0 counts instead.
LENIENT = LearningSettings(clear_known=3, clear_group=1, clear_ratio=0.9)


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
    known: dict[Any, PartitionSummary] = field(default_factory=dict)
    """Summaries that were asked for before: they never change."""

    def states(
        self, number: int, *, seed: int = 0, shift: np.ndarray | None = None, regime: str = "QUIET"
    ) -> tuple[StateTable, np.ndarray]:
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
            regime=np.full(n, REGIMES.index(regime)),
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
        chosen = None if keep is None else tuple(keep)
        asked = (number, seed, chosen, None if shift is None else shift.tobytes(), settings, regime)
        if experiences is not None:
            return self._summarise(number, seed, chosen, shift, settings, regime, experiences)
        if asked not in self.known:
            self.known[asked] = self._summarise(number, seed, chosen, shift, settings, regime, None)
        return self.known[asked]

    def _summarise(
        self,
        number: int,
        seed: int,
        keep: Sequence[int] | None,
        shift: np.ndarray | None,
        settings: LearningSettings | None,
        regime: str,
        experiences: ExperienceTable | None,
    ) -> PartitionSummary:
        table, truth = self.states(number, seed=seed, shift=shift, regime=regime)
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
def summaries(market) -> Callable[..., PartitionSummary]:
    """Summaries of the test market with lenient settings, by window number and the clusters kept."""

    def summary(number: int, keep: tuple[int, ...] | None = None) -> PartitionSummary:
        return market.summary(number, keep=keep, settings=LENIENT)

    return summary


@pytest.fixture
def fold(summaries) -> Callable[..., FoldStep]:
    """Folds windows one after the other: numbers, or (number, clusters kept); gives the last step."""

    def run(*numbers, state: FoldState | None = None, settings: LearningSettings = LENIENT, **arguments) -> FoldStep:
        assert numbers
        for item in numbers:
            number, keep = item if isinstance(item, tuple) else (item, None)
            window, before = window_number(number), state or FoldState()
            step = fold_window(before, window, [summaries(number, keep)], settings=settings, **arguments)
            state = step.state
        return step

    return run


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def window_of() -> Callable[[int], Window]:
    """As `window`, for fixtures that outlive a test."""
    return window_number


@functools.cache
def make_market(n_centres: int, dimension: int = 32) -> Market:
    """A market with random, well separated centres."""
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((n_centres, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return Market(centres, 0.03, ("AAA-USD", "BBB-USD"), ("trend", "volume"))


@dataclass(frozen=True)
class RegimeMarket:
    """Makes windows of one product whose patterns each belong to one regime, in runs of ten minutes.

    Attributes
    ----------
    centres
        Centres of the patterns of each regime, (patterns, dimension).
    """

    centres: Mapping[str, np.ndarray]

    def names(self) -> list[tuple[str, int]]:
        """Regime and number of every pattern; its place in the list is its true label."""
        return [(regime, number) for regime in sorted(self.centres) for number in range(len(self.centres[regime]))]

    def states(self, number: int, counts: Mapping[str, int]) -> tuple[StateTable, np.ndarray]:
        """States of one window, and the true label of each (-1: none); `counts` are minutes, whole runs each."""
        rng = np.random.default_rng((11, number))
        runs = rng.permutation(np.repeat(sorted(counts), [counts[regime] // 10 for regime in sorted(counts)]))
        names = self.names()
        dimension = len(next(iter(self.centres.values()))[0])
        # A run in six a pattern; the others belong to none.
        turns = {regime: iter(rng.permutation(np.arange(counts[regime] // 10) % 6).tolist()) for regime in counts}
        labels, points = [], []
        for regime in runs.tolist():
            turn = next(turns[regime])
            own = turn if turn < len(self.centres[regime]) else -1
            labels += [-1 if own < 0 else names.index((regime, own))] * 10
            scattered = rng.standard_normal((10, dimension))
            points.append(scattered if own < 0 else self.centres[regime][own] + 0.03 * scattered)
        vectors = np.concatenate(points)
        n = len(vectors)
        times = to_ms(window_number(number).start) + np.arange(n) * MINUTE_MS
        table = StateTable(
            encoder_id="enc",
            source="replay",
            feature_names=("trend", TRAILING_VOLATILITY),
            products=("AAA-USD",),
            product=np.zeros(n, dtype=np.int64),
            timestamp_ms=times,
            known_at_ms=times + MINUTE_MS,
            recorded_at_ms=times,
            vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
            features=np.column_stack([rng.standard_normal(n), np.full(n, 5e-4)]),
            price=100 * np.exp(np.cumsum(rng.standard_normal(n) * 5e-4)),
            spread=np.full(n, np.nan),
            regime=np.array([REGIMES.index(regime) for regime in np.repeat(runs, 10)]),
        )
        return table, np.array(labels)

    def summaries(
        self,
        number: int,
        counts: Mapping[str, int],
        settings: LearningSettings,
        table: StateTable | None = None,
        clustered: bool = False,
    ) -> list[PartitionSummary]:
        """Summaries of one window's partitions; clusters are the true patterns, or what the clustering finds."""
        drawn, truth = self.states(number, counts)
        states = drawn if table is None else table
        partitions = assign_partitions(states.regime_names)
        summaries = []
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            present = np.unique(truth[rows][truth[rows] >= 0])
            labels = np.where(truth[rows] >= 0, np.searchsorted(present, truth[rows]), -1)
            broad = np.zeros(len(present), dtype=bool)
            if clustered:
                found = MarketStateClusterer().fit(states.vectors[rows], timestamps_ms=states.timestamp_ms[rows])
                labels, broad = found.labels_, found.broad_
            summaries.append(
                summarise_partition(
                    states,
                    rows,
                    labels,
                    broad,
                    window=window_number(number),
                    regime=partition,
                    settings=settings,
                )
            )
        return summaries


@pytest.fixture(scope="session")
def regime_market() -> RegimeMarket:
    """Three patterns of quiet markets, three of volatile ones and one of crises, 32 dimensions."""
    rng = np.random.default_rng(5)
    directions = rng.standard_normal((7, 32))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return RegimeMarket({"QUIET": directions[:3], "VOLATILE": directions[3:6], "CRISIS": directions[6:]})
