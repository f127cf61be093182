"""States and outcomes of a market as arrays: of every minute, and at the decision times of an interval."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from agents.candles import Candles, FloatArray, IntArray
from agents.catalogue import FEATURE_NAMES
from agents.encoder import StateEncoder, VectorArray
from agents.features import GAP_MINUTES, MINUTE_MS, FeatureTable, compute_features
from agents.market import Market
from agents.regimes import VOTE_MINUTES
from agents.replay import State
from memory.errors import MarketDataError
from memory.learning.outcomes import SCALED, VOLATILITY, compute_outcomes
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.records import REGIMES, VECTOR_DIMENSION, from_ms, to_ms
from memory.tables import TRAILING_VOLATILITY, StateTable

RETURN_TARGET, VOLATILITY_TARGET = 0, 1
"""Last axis of `Grid.targets`."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Warm states at the decision times of an interval, sorted by product, then time; n states.

    Attributes
    ----------
    products
        Product ids; `product` holds indices into them.
    interval_minutes
        Minutes from one decision to the next.
    timestamp_ms, product, regime
        int64 (n,).
    regime_confidence, trailing_volatility, price, spread
        float64 (n,); spread is NaN without a quote.
    features
        float64 (n, len(FEATURE_NAMES)), raw.
    following
        int64 (n,): row of the product's next decision; -1 where there is none.
    linked
        bool (n,): whether that decision follows without a gap, so that the step is one experience.
    move
        float64 (n,): return of the price until the next decision, 0 where there is none.
    late_move
        float64 (n,): the same between the prices one bar after each decision: what is left for one who is a bar late,
        or whose last price was the bid or the ask of a bounce.
    targets
        float64 (n, H, 2): scaled forward return and volatility that followed, over `HORIZONS`; NaN where unknown.
    returns
        float64 (n, H): forward returns, fractions; NaN where unknown.
    """

    products: tuple[str, ...]
    interval_minutes: int
    timestamp_ms: IntArray
    product: IntArray
    regime: IntArray
    regime_confidence: FloatArray
    trailing_volatility: FloatArray
    price: FloatArray
    spread: FloatArray
    features: FloatArray
    following: IntArray
    linked: npt.NDArray[np.bool_]
    move: FloatArray
    late_move: FloatArray
    targets: FloatArray
    returns: FloatArray

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    def half_spread(self) -> FloatArray:
        """Half the spread as a fraction of the price, 0 without a quote; (n,)."""
        return np.where(np.isnan(self.spread), 0.0, self.spread) / (2.0 * self.price)

    def vectors(self, encoder: StateEncoder, rows: IntArray) -> VectorArray:
        """Unit vectors of some rows, float32 (len(rows), 256). Cost: about 6 microseconds a row."""
        return encoder.transform(self.features[rows])

    def state(self, row: int, vector: VectorArray | None = None) -> State:
        """One row as what an agent acts on; its vector is zero unless given, for agents that do not read it."""
        features = dict(zip(FEATURE_NAMES, self.features[row].tolist(), strict=True))
        features[TRAILING_VOLATILITY] = float(self.trailing_volatility[row])
        spread = float(self.spread[row])
        return State(
            product_id=self.products[self.product[row]],
            timestamp=from_ms(int(self.timestamp_ms[row])),
            features=features,
            vector=_NO_VECTOR if vector is None else vector,
            price=float(self.price[row]),
            spread=None if np.isnan(spread) else spread,
            regime=REGIMES[self.regime[row]],
            regime_confidence=float(self.regime_confidence[row]),
        )

    def between(self, start_ms: int, end_ms: int) -> IntArray:
        """Rows with start_ms <= decision time < end_ms."""
        return np.flatnonzero((self.timestamp_ms >= start_ms) & (self.timestamp_ms < end_ms))

    def as_table(self, rows: IntArray, encoder_id: str) -> StateTable:
        """Some rows as the table that predictors read; vectors are left out."""
        return StateTable(
            encoder_id=encoder_id,
            source="backtest",
            feature_names=FEATURE_NAMES,
            products=self.products,
            product=self.product[rows],
            timestamp_ms=self.timestamp_ms[rows],
            known_at_ms=self.timestamp_ms[rows],
            recorded_at_ms=self.timestamp_ms[rows],
            vectors=np.empty((len(rows), 0), np.float32),
            features=self.features[rows],
            price=self.price[rows],
            spread=self.spread[rows],
            regime=self.regime[rows],
        )


_NO_VECTOR = np.zeros(VECTOR_DIMENSION, np.float32)


class Minutes:
    """Features and outcomes of every bar of a market in a span, computed once for all folds and intervals.

    Features look back only, so one table serves all folds. Outcomes look ahead by at most `max(HORIZONS)` minutes:
    folds take those that are known in their past. Cost: about 2 microseconds a bar; memory: 300 bytes a bar.

    Parameters
    ----------
    market
        The candles.
    start, end
        Half-open span of decision times; no candle that ends at or after `end` is read.
    """

    def __init__(self, market: Market, start: datetime, end: datetime) -> None:
        market.check_span(start, end)
        self.products = market.product_ids
        self.bar_minutes = market.bar_ms // MINUTE_MS
        self.start_ms, self.end_ms = to_ms(start), to_ms(end)
        self._tables: list[FeatureTable] = []
        self._bars: list[Candles] = []
        self._outcomes: list[FloatArray] = []
        for index, product_id in enumerate(self.products):
            candles = market.products[product_id]
            table = compute_features(candles, self.start_ms - VOTE_MINUTES * MINUTE_MS, self.end_ms)
            bars = candles.between(self.start_ms - VOTE_MINUTES * MINUTE_MS, self.end_ms)
            self._tables.append(table)
            self._bars.append(bars)
            self._outcomes.append(_outcomes(table, bars, index, self.products))

    def grid(self, interval_minutes: int, encoder: StateEncoder) -> Grid:
        """Warm states at the multiples of an interval, labelled by the encoder's regime rule.

        Raises
        ------
        MarketDataError
            The interval is no multiple of the market's bars, or no state is warm.
        """
        if interval_minutes % self.bar_minutes:
            raise MarketDataError(
                f"decisions every {interval_minutes} minutes do not fall on bars of {self.bar_minutes}.",
                remedy="Choose intervals that are multiples of the market's bars.",
            )
        parts = [self._part(index, interval_minutes, encoder) for index in range(len(self.products))]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not len(columns["timestamp_ms"]):
            raise MarketDataError("no state of the span is warm.", remedy="Choose a span with more history before it.")
        time, product = columns["timestamp_ms"], columns["product"]
        n = len(time)
        following = np.where(np.append(product[1:] == product[:-1], False), np.arange(1, n + 1), -1)
        after = np.maximum(following, 0)
        reach_ms = (interval_minutes + GAP_MINUTES) * MINUTE_MS
        linked = (following >= 0) & (time[after] - time <= reach_ms)
        late = columns.pop("late_price")
        move, late_move = (
            np.where(following >= 0, price[after] / price - 1.0, 0.0) for price in (columns["price"], late)
        )
        return Grid(
            products=self.products,
            interval_minutes=interval_minutes,
            following=following,
            linked=linked,
            move=move,
            late_move=late_move,
            **columns,
        )

    def _part(self, index: int, interval_minutes: int, encoder: StateEncoder) -> dict[str, npt.NDArray[np.generic]]:
        table, bars, outcomes = self._tables[index], self._bars[index], self._outcomes[index]
        labels = encoder.regimes(table.values, table.decision_ms)
        on_grid = table.decision_ms % (interval_minutes * MINUTE_MS) == 0
        rows = np.flatnonzero(on_grid & table.warm & (table.decision_ms >= self.start_ms))
        return {
            "timestamp_ms": table.decision_ms[rows],
            "product": np.full(len(rows), index, np.int64),
            "regime": labels.codes[rows].astype(np.int64),
            "regime_confidence": labels.confidence[rows],
            "trailing_volatility": table.trailing_volatility[rows],
            "price": bars.mid[rows],
            "late_price": bars.mid[np.minimum(rows + 1, len(bars.mid) - 1)],
            "spread": (bars.ask - bars.bid)[rows],
            "features": table.values[rows],
            "targets": outcomes[rows][:, :, 1:],
            "returns": outcomes[rows][:, :, 0],
        }


def _outcomes(table: FeatureTable, bars: Candles, product: int, products: tuple[str, ...]) -> FloatArray:
    """Forward return, scaled return and volatility by horizon, (n, H, 3); the rules are those of learning."""
    n = len(table.decision_ms)
    states = StateTable(
        encoder_id="",
        source="backtest",
        feature_names=(TRAILING_VOLATILITY,),
        products=products,
        product=np.full(n, product, np.int64),
        timestamp_ms=table.decision_ms,
        known_at_ms=table.decision_ms,
        recorded_at_ms=table.decision_ms,
        vectors=np.empty((n, 0), np.float32),
        features=table.trailing_volatility[:, None],
        price=bars.mid,
        spread=bars.ask - bars.bid,
        regime=np.zeros(n, np.int64),
    )
    measures = compute_outcomes(states, LearningSettings(max_gap_minutes=GAP_MINUTES)).measures
    chosen: FloatArray = measures[:, :, [0, SCALED, VOLATILITY]]
    return chosen


def horizon_index(minutes: int) -> int:
    """Position of a horizon in `HORIZONS`; the longest one not above where it is none of them."""
    return max(position for position, horizon in enumerate(HORIZONS) if horizon <= minutes)
