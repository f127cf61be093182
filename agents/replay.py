"""Market replay: history as the states that agents would have seen, one at each bar's end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np
import numpy.typing as npt

from agents.candles import Candles, FloatArray, IntArray
from agents.catalogue import FEATURE_NAMES
from agents.encoder import StateEncoder, VectorArray
from agents.features import (
    DEFAULT_BAR_SHARE,
    GAP_MINUTES,
    MINUTE_MS,
    compute_features,
)
from agents.market import Market
from agents.regimes import VOTE_MINUTES, RegimeLabels
from memory.asof import ReplayClock
from memory.errors import WindowError
from memory.records import REGIMES, from_ms, to_ms
from memory.tables import TRAILING_VOLATILITY
from memory.validation import validate_timestamp


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """One product at one decision time; shared by all agents that act then.

    Attributes
    ----------
    timestamp
        The decision, at the end of a bar.
    features
        Raw features by name, columns of `agents.features.FEATURES`, and the trailing volatility.
    vector
        Unit vector, float32 of shape (256,).
    price
        Middle of the quote, or the close where there is none, in the quote currency.
    spread
        Ask less bid in the quote currency; None without a quote.
    regime, regime_confidence
        The rule's label, and its share of the vote.
    """

    product_id: str
    timestamp: datetime
    features: dict[str, float]
    vector: npt.NDArray[np.float32]
    price: float
    spread: float | None
    regime: str
    regime_confidence: float

    def __eq__(self, other: object) -> bool:
        """Whether every value is the same, the vector's bit for bit."""
        if not isinstance(other, State):
            return NotImplemented
        plain = (field.name for field in fields(self) if field.name != "vector")
        return np.array_equal(self.vector, other.vector) and all(
            getattr(self, name) == getattr(other, name) for name in plain
        )

    def __hash__(self) -> int:
        """By what the state is of."""
        return hash((self.product_id, self.timestamp))


@dataclass(frozen=True, slots=True, eq=False)
class ProductStates:
    """All decision times of one product in a span, cold ones included, and the one after; arrays of shape (n, ...).

    Attributes
    ----------
    decision_ms
        Decision times, milliseconds since 1970.
    inside
        Whether the decision time lies in the span; only the last may lie outside, as the next state of the one before.
    warm
        Whether there is enough history for a state; of cold ones only price and spread mean something.
    has_next
        Whether a next decision follows within `GAP_MINUTES`; it is then the next row.
    features, vectors
        Raw features (n, n_features) and unit vectors (n, 256).
    price, spread
        In the quote currency; spread is NaN without a quote.
    trailing_volatility
        Standard deviation of one-minute log returns over the last hour.
    regimes
        Codes into `REGIMES`, and their share of the vote.
    """

    product_id: str
    decision_ms: IntArray
    inside: npt.NDArray[np.bool_]
    warm: npt.NDArray[np.bool_]
    has_next: npt.NDArray[np.bool_]
    features: FloatArray
    vectors: VectorArray
    price: FloatArray
    spread: FloatArray
    trailing_volatility: FloatArray
    regimes: RegimeLabels

    def state(self, row: int) -> State:
        """One row as a `State`."""
        spread = float(self.spread[row])
        features = dict(zip(FEATURE_NAMES, self.features[row].tolist(), strict=True))
        features[TRAILING_VOLATILITY] = float(self.trailing_volatility[row])
        return State(
            product_id=self.product_id,
            timestamp=from_ms(int(self.decision_ms[row])),
            features=features,
            vector=self.vectors[row],
            price=float(self.price[row]),
            spread=None if np.isnan(spread) else spread,
            regime=REGIMES[self.regimes.codes[row]],
            regime_confidence=float(self.regimes.confidence[row]),
        )


class MarketReplay:
    """States of a market for the decision times in [start, end).

    A state depends on the candles of the last 240 minutes only: replaying one day gives bit for bit the states that a
    replay of the month gives for that day, and candles from `t` on change nothing before `t`.

    Parameters
    ----------
    market
        The candles.
    start, end
        Half-open span of decision times, aware UTC.
    encoder
        A fitted encoder that was known at `start`.
    bar_share
        Share of the look-back's bars that must exist for a state to be warm.

    Attributes
    ----------
    clock
        The present of the replay: the decision time of the states that iteration gave last. Agents that ask a memory
        while they iterate do so inside ``with memory.replaying(replay.clock):``, which refuses every question that
        could see the future.

    Raises
    ------
    MarketDataError
        The market has no candle in the span.
    EncoderError
        The encoder was fitted on data later than `start`.
    WindowError
        `end` is not after `start`.
    """

    def __init__(
        self,
        market: Market,
        start: datetime,
        end: datetime,
        encoder: StateEncoder,
        *,
        bar_share: float = DEFAULT_BAR_SHARE,
    ) -> None:
        self.start = validate_timestamp(start, "start")
        self.end = validate_timestamp(end, "end")
        if self.end <= self.start:
            raise WindowError(
                f"the span from {start.isoformat()} to {end.isoformat()} is empty.",
                remedy="Let it end after its start.",
            )
        encoder.check_as_of(self.start)
        market.check_span(self.start, self.end)
        self.market = market
        self.encoder = encoder
        self.bar_share = bar_share
        self.clock = ReplayClock(self.start)

    def product(self, product_id: str) -> ProductStates:
        """States of one product. Cost: about 20 microseconds a state; memory: 1.3 KB a state."""
        return replay_product(
            self.market.products[product_id], to_ms(self.start), to_ms(self.end), self.encoder, self.bar_share
        )

    def products(self) -> Iterator[ProductStates]:
        """States of each product that has any in the span, products in order."""
        for product_id in self.market.product_ids:
            states = self.product(product_id)
            if states.inside.any():
                yield states

    def __iter__(self) -> Iterator[list[State]]:
        """Warm states in time order: at each decision time one list, of the products that have a state then."""
        tables = list(self.products())
        times = np.concatenate([table.decision_ms[table.inside & table.warm] for table in tables])
        rows = [dict(zip(table.decision_ms.tolist(), range(len(table.decision_ms)), strict=True)) for table in tables]
        for time in np.unique(times).tolist():
            self.clock.now = from_ms(time)
            yield [
                table.state(index[time])
                for table, index in zip(tables, rows, strict=True)
                if time in index and table.warm[index[time]]
            ]


def replay_product(
    candles: Candles, start_ms: int, end_ms: int, encoder: StateEncoder, bar_share: float = DEFAULT_BAR_SHARE
) -> ProductStates:
    """States of one product for the decision times in [start_ms, end_ms), and the next one where it follows closely."""
    gap_ms = GAP_MINUTES * MINUTE_MS
    lead_ms = VOTE_MINUTES * MINUTE_MS
    table = compute_features(candles, start_ms - lead_ms, end_ms + gap_ms, bar_share=bar_share)
    labels = encoder.regimes(table.values, table.decision_ms)
    first, after = np.searchsorted(table.decision_ms, [start_ms, end_ms])
    if (
        after > first
        and after < len(table.decision_ms)
        and (table.decision_ms[after] - table.decision_ms[after - 1] <= gap_ms)
    ):
        after += 1
    rows = slice(int(first), int(after))
    times = table.decision_ms[rows]
    bars = candles.between(int(times[0]), int(times[-1]) + 1) if len(times) else candles.between(0, 0)
    return ProductStates(
        product_id=candles.product_id,
        decision_ms=times,
        inside=times < end_ms,
        warm=table.warm[rows],
        has_next=np.append(np.diff(times) <= gap_ms, False)[: len(times)],
        features=table.values[rows],
        vectors=encoder.transform(table.values[rows]),
        price=bars.mid,
        spread=bars.ask - bars.bid,
        trailing_volatility=table.trailing_volatility[rows],
        regimes=RegimeLabels(labels.codes[rows], labels.confidence[rows]),
    )
