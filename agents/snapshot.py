"""Market snapshots: the last candles and the quote of one product, as they are known at a decision time.

A snapshot leads to the same state, bit for bit, whether its candles come from a market that is replayed or one by one
from a live feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from agents.candles import (
    PRICE_COLUMNS,
    QUOTE_COLUMNS,
    REQUIRED_COLUMNS,
    CandleFile,
    Candles,
    FloatArray,
    candles_from_frame,
)
from agents.encoder import StateEncoder
from agents.features import (
    DEFAULT_BAR_SHARE,
    GAP_MINUTES,
    HISTORY_BREAK_MINUTES,
    LOOKBACK_MINUTES,
    MINUTE_MS,
    FeatureTable,
    compute_features,
)
from agents.market import LONGEST_BAR_MS, Market
from agents.regimes import VOTE_MINUTES, RegimeLabels
from agents.replay import State, replay_product
from memory.errors import InvalidQueryError, MarketDataError
from memory.records import REGIMES, from_ms, to_ms
from memory.validation import validate_identifier, validate_timestamp

STATE_MINUTES = LOOKBACK_MINUTES + HISTORY_BREAK_MINUTES + VOTE_MINUTES
"""History that one state is computed from: its look-back, what tells whether that is unbroken, and the votes."""
DEFAULT_LOOKBACK_PERIODS = 100
"""Bars over which a regime's dwell is looked at by default."""
SNAPSHOT_MINUTES = STATE_MINUTES + 2 * DEFAULT_LOOKBACK_PERIODS
"""History that a snapshot of minutes carries: that of a state, and of the labels of the hours before it."""


@dataclass(frozen=True, eq=False)
class MarketSnapshot:
    """One product at one decision time: its last candles, and the quote of the last one.

    Parameters
    ----------
    candles
        Candles up to the decision, oldest first; the last one ends at it. All that lies after the decision must be
        left out: whatever is in here counts as known.
    bar_share
        Share of the look-back's bars that must exist for the state to be warm.
    """

    candles: Candles
    bar_share: float = DEFAULT_BAR_SHARE

    def __post_init__(self) -> None:
        if not len(self.candles):
            raise MarketDataError(
                f"the snapshot of {self.candles.product_id} holds no candle.", remedy="Give it at least one."
            )

    @classmethod
    def of_market(
        cls,
        market: Market,
        product_id: str,
        timestamp: datetime,
        *,
        minutes: int = SNAPSHOT_MINUTES,
        bar_share: float = DEFAULT_BAR_SHARE,
    ) -> MarketSnapshot:
        """A product of a market as it was known at a decision time; about 10 microseconds.

        Parameters
        ----------
        market
            The candles.
        product_id
            One of its products.
        timestamp
            Aware UTC; the last bar that had ended by then is the snapshot's last one.
        minutes
            History to carry, at least `STATE_MINUTES` for a state to come out as in a replay.

        Raises
        ------
        MarketDataError
            The market lacks the product, or it has no bar that ended within `minutes` before the time.
        """
        candles = market.products.get(product_id)
        if candles is None:
            raise MarketDataError(
                f"market {market.name} has no product {product_id!r}.",
                remedy=f"It has {', '.join(market.product_ids)}.",
            )
        end_ms = to_ms(validate_timestamp(timestamp, "timestamp"))
        known = candles.between(end_ms - minutes * MINUTE_MS, end_ms + 1)
        if not len(known):
            raise MarketDataError(
                f"{product_id} of market {market.name} has no candle in the {minutes} minutes before "
                f"{from_ms(end_ms).isoformat()}.",
                remedy=f"Its candles end from {candles.first_decision.isoformat()} to "
                f"{candles.last_decision.isoformat()}.",
            )
        return cls(known, bar_share)

    @classmethod
    def of_rows(
        cls,
        product_id: str,
        rows: Iterable[Mapping[str, Any]],
        *,
        bar_ms: int = MINUTE_MS,
        exchange: str = "live",
        bar_share: float = DEFAULT_BAR_SHARE,
    ) -> MarketSnapshot:
        """A product as the rows of a feed show it; about 2 ms for 600 rows.

        Parameters
        ----------
        rows
            Candles by name, oldest first: ``timestamp`` (aware, the open of the bar), ``open``, ``high``, ``low``,
            ``close``, ``volume``; where there are quotes, ``bid``, ``ask``, ``bid_size``, ``ask_size`` as of its end.
        bar_ms
            Length of a bar, milliseconds.

        Raises
        ------
        MarketDataError
            A row lacks a column or holds what no candle can hold (NaN, a high below the low, ...), a timestamp is
            naive, repeated, out of order or off the grid: with the row, counted from 1, the value and the remedy.
        """
        return cls(candles_of_rows(product_id, rows, bar_ms=bar_ms, exchange=exchange), bar_share)

    # --- what is known --------------------------------------------------------------------------------------

    @property
    def product_id(self) -> str:
        """The product."""
        return self.candles.product_id

    @property
    def timestamp(self) -> datetime:
        """The decision time: the end of the last bar."""
        return self.candles.last_decision

    @property
    def price(self) -> float:
        """Middle of the quote, or the close where there is none, in the quote currency."""
        return float(self.candles.mid[-1])

    @property
    def spread(self) -> float | None:
        """Ask less bid in the quote currency; None without a quote."""
        spread = float(self.candles.ask[-1] - self.candles.bid[-1])
        return None if np.isnan(spread) else spread

    @property
    def orderbook_imbalance(self) -> float | None:
        """Size at the bid less size at the ask as a share of both, -1 to 1; None where sizes are unknown or 0."""
        bid, ask = float(self.candles.bid_size[-1]), float(self.candles.ask_size[-1])
        return (bid - ask) / (bid + ask) if bid + ask > 0 else None  # NaN is not above 0.

    def get_price_history(self, n: int) -> FloatArray:
        """Closes of the last `n` bars, oldest first, in the quote currency; fewer where the snapshot holds fewer."""
        return self.candles.close[-_checked_count(n) :]

    def get_volume_history(self, n: int) -> FloatArray:
        """Volumes of the last `n` bars, oldest first, in the base currency; fewer where the snapshot holds fewer."""
        return self.candles.volume[-_checked_count(n) :]

    # --- what follows from it -------------------------------------------------------------------------------

    @cached_property
    def _last(self) -> FeatureTable:
        now_ms = int(self.candles.decision_ms[-1])
        return compute_features(self.candles, now_ms, now_ms + 1, bar_share=self.bar_share)

    @property
    def warm(self) -> bool:
        """Whether there is enough history for a state: 240 unbroken minutes, and half of their bars."""
        return bool(self._last.warm[0])

    def state(self, encoder: StateEncoder) -> State:
        """The state that agents act on, bit for bit that of a replay of the same candles; about 3 ms.

        Raises
        ------
        MarketDataError
            The snapshot is cold.
        EncoderError
            The encoder was fitted on later data.
        """
        state = self.state_if_warm(encoder)
        if state is None:
            raise self._cold()
        return state

    def state_if_warm(self, encoder: StateEncoder) -> State | None:
        """As `state`; None where the snapshot is cold."""
        encoder.check_as_of(self.timestamp)
        now_ms = int(self.candles.decision_ms[-1])
        table = replay_product(self.candles, now_ms, now_ms + 1, encoder, self.bar_share)
        return table.state(0) if table.warm[0] else None

    def labels(self, encoder: StateEncoder, periods: int) -> tuple[list[datetime], RegimeLabels]:
        """The rule's labels of the last bars, the decision's own last.

        Parameters
        ----------
        encoder
            With the rule's statistics.
        periods
            Bars wanted. Labels end where the history does: before a gap of more than five minutes, at the first cold
            state, and where the snapshot begins.
        """
        if not self.warm:
            raise self._cold()
        times = self.candles.decision_ms
        first = len(times) - min(_checked_count(periods, "periods"), len(times))
        table = compute_features(
            self.candles,
            int(times[first]) - VOTE_MINUTES * MINUTE_MS,
            int(times[-1]) + 1,
            bar_share=self.bar_share,
        )
        labels = encoder.regimes(table.values, table.decision_ms)
        rows = np.flatnonzero(table.decision_ms >= times[first])
        whole = table.warm[rows]
        whole[1:] &= np.diff(table.decision_ms[rows]) <= GAP_MINUTES * MINUTE_MS
        # Row i begins a run where it is broken off from the one before; a cold row is in no run.
        broken = np.flatnonzero(~whole)
        start = 0
        if len(broken):
            last = int(broken[-1])
            start = last if table.warm[rows[last]] else last + 1
        rows = rows[start:]
        return (
            [from_ms(time) for time in table.decision_ms[rows].tolist()],
            RegimeLabels(labels.codes[rows], labels.confidence[rows]),
        )

    def dwell_minutes(self, encoder: StateEncoder, periods: int = DEFAULT_LOOKBACK_PERIODS) -> float:
        """Minutes that the rule's label has lasted, as far as the last `periods` bars show."""
        times, labels = self.labels(encoder, periods)
        other = np.flatnonzero(labels.codes != labels.codes[-1])
        begun = times[int(other[-1]) + 1 if len(other) else 0]
        return (times[-1] - begun).total_seconds() / 60.0

    def previous_regimes(self, encoder: StateEncoder, periods: int = DEFAULT_LOOKBACK_PERIODS) -> tuple[str, ...]:
        """Regimes by the rule before the present one, oldest first, as far as the last `periods` bars show."""
        _, labels = self.labels(encoder, periods)
        changes = np.flatnonzero(np.diff(labels.codes) != 0)
        return tuple(REGIMES[labels.codes[row]] for row in changes)

    def _cold(self) -> MarketDataError:
        return MarketDataError(
            f"the snapshot of {self.product_id} at {self.timestamp.isoformat()} is cold: it lacks "
            f"{LOOKBACK_MINUTES} unbroken minutes of history.",
            remedy="Wait until there are as many, or give the snapshot more of the past.",
        )


class LiveCandles:
    """The last candles of one product, bar by bar as a feed gives them.

    Parameters
    ----------
    product_id
        The product.
    bar_ms
        Length of a bar, milliseconds.
    minutes
        History that is kept.
    bar_share
        As in `MarketSnapshot`.
    """

    def __init__(
        self,
        product_id: str,
        *,
        bar_ms: int = MINUTE_MS,
        exchange: str = "live",
        minutes: int = SNAPSHOT_MINUTES,
        bar_share: float = DEFAULT_BAR_SHARE,
    ) -> None:
        self._product_id = validate_identifier(product_id, "product_id")
        self._bar_ms = bar_ms
        self._exchange = exchange
        self._reach_ms = minutes * MINUTE_MS
        self._bar_share = bar_share
        self._candles: Candles | None = None

    def add(self, row: Mapping[str, Any]) -> MarketSnapshot:
        """Take the next bar, and give the snapshot of its end; about 1 ms.

        Raises
        ------
        MarketDataError
            The row is no candle (see `MarketSnapshot.of_rows`), or does not come after the one before. It is left out.
        """
        new = candles_of_rows(self._product_id, [row], bar_ms=self._bar_ms, exchange=self._exchange)
        held = self._candles
        if held is not None:
            if new.decision_ms[0] <= held.decision_ms[-1]:
                raise MarketDataError(
                    f"the bar of {self._product_id} that ends at {new.last_decision.isoformat()} comes after that of "
                    f"{held.last_decision.isoformat()}.",
                    remedy="Give each bar once, in order, when it has ended.",
                )
            kept = held.between(int(new.decision_ms[0]) - self._reach_ms, int(new.decision_ms[0]))
            new = _joined(kept, new)
        self._candles = new
        return MarketSnapshot(new, self._bar_share)


def candles_of_rows(
    product_id: str, rows: Iterable[Mapping[str, Any]], *, bar_ms: int = MINUTE_MS, exchange: str = "live"
) -> Candles:
    """Candles from rows by name, checked as those of a file are; see `MarketSnapshot.of_rows`."""
    validate_identifier(product_id, "product_id")
    if not 0 < bar_ms <= LONGEST_BAR_MS:
        raise MarketDataError(
            f"bars of {bar_ms} ms cannot be used.", remedy=f"States need bars of at most {LONGEST_BAR_MS} ms."
        )
    listed = list(rows)
    file = CandleFile(Path(f"rows of {product_id}"), exchange, product_id, bar_ms)
    for number, row in enumerate(listed, 1):
        missing = [name for name in REQUIRED_COLUMNS if row.get(name) is None]
        if missing:
            raise MarketDataError(
                f"{file.path}, row {number}: {', '.join(missing)} missing.",
                remedy=f"Candles need {', '.join(REQUIRED_COLUMNS)}.",
            )
        validate_timestamp(row["timestamp"], "timestamp")
    columns: dict[str, Any] = {
        "timestamp": pl.Series(
            [validate_timestamp(row["timestamp"], "timestamp") for row in listed], dtype=pl.Datetime("ms", "UTC")
        )
    }
    for name in (*PRICE_COLUMNS, "volume", *QUOTE_COLUMNS):
        if name in REQUIRED_COLUMNS or any(row.get(name) is not None for row in listed):
            columns[name] = pl.Series(name, [row.get(name) for row in listed], strict=False)
    return candles_from_frame(pl.DataFrame(columns), file)


def _joined(first: Candles, second: Candles) -> Candles:
    names = ("decision_ms", *PRICE_COLUMNS, "volume", *QUOTE_COLUMNS)
    arrays = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names}
    return Candles(second.product_id, second.exchange, second.bar_ms, **arrays)


def _checked_count(value: Any, name: str = "n") -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidQueryError(
            f"{name} is {value!r}; it must be a whole number of bars, at least 1.",
            remedy="Give 1 or more.",
            argument=name,
        )
    return int(value)
