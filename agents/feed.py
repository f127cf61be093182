"""Feeds: what reaches an agent bar by bar, the same from a replay of history and from a live market.

A feed gives, at each decision time, one tick for each product that has a bar. A live feed is any async iterator of
lists of ticks; `live_ticks` makes one of rows of candles.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from agents.encoder import StateEncoder
from agents.features import MINUTE_MS
from agents.replay import MarketReplay, ProductStates, State
from agents.snapshot import LiveCandles
from memory.errors import MarketDataError
from memory.records import from_ms


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """One product's bar that has ended.

    Attributes
    ----------
    timestamp
        Its end, the decision time.
    price, spread
        Middle of the quote, or the close where there is none; ask less bid, None without a quote. Quote currency.
    state
        What agents act on; None while there is not enough history for one.
    acts
        Whether a decision may be taken: of the bar after the end of a span only the price counts, which rewards the
        last decision.
    """

    product_id: str
    timestamp: datetime
    price: float
    spread: float | None
    state: State | None
    acts: bool = True


def replay_ticks(replay: MarketReplay) -> Iterator[list[Tick]]:
    """The ticks of a replay in time order, cold ones and the bar after the span included, products in order.

    The replay's clock moves with the ticks: ``with memory.replaying(replay.clock):`` around the loop refuses questions
    that could see the future. Memory: 1.3 KB a state.
    """
    tables = list(replay.products())
    times = np.unique(np.concatenate([table.decision_ms for table in tables]))
    rows = [dict(zip(table.decision_ms.tolist(), range(len(table.decision_ms)), strict=True)) for table in tables]
    for time in times.tolist():
        replay.clock.now = from_ms(time)
        yield [_tick(table, index[time]) for table, index in zip(tables, rows, strict=True) if time in index]


def _tick(table: ProductStates, row: int) -> Tick:
    spread = float(table.spread[row])
    return Tick(
        product_id=table.product_id,
        timestamp=from_ms(int(table.decision_ms[row])),
        price=float(table.price[row]),
        spread=None if np.isnan(spread) else spread,
        state=table.state(row) if table.warm[row] else None,
        acts=bool(table.inside[row]),
    )


async def live_ticks(
    rows: AsyncIterable[Mapping[str, Mapping[str, Any]]], encoder: StateEncoder, *, bar_ms: int = MINUTE_MS
) -> AsyncIterator[list[Tick]]:
    """Ticks of a live market: states are those that a replay of the same candles would give; about 4 ms a bar.

    Parameters
    ----------
    rows
        At each bar's end, the bars that have ended by product id; columns as `MarketSnapshot.of_rows`.
    encoder
        A fitted encoder.
    bar_ms
        Length of a bar, milliseconds.

    Raises
    ------
    MarketDataError
        A bar is malformed, comes out of order, or ends at another time than the others that came with it.
    """
    held: dict[str, LiveCandles] = {}
    async for bars in rows:
        snapshots = []
        for product_id in sorted(bars):
            candles = held.setdefault(product_id, LiveCandles(product_id, bar_ms=bar_ms))
            snapshots.append(candles.add(bars[product_id]))
        ends = sorted({snapshot.timestamp for snapshot in snapshots})
        if len(ends) > 1:
            raise MarketDataError(
                f"bars that end at {', '.join(end.isoformat() for end in ends)} came together.",
                remedy="Give the bars of one decision time together, and those of the next one afterwards.",
            )
        yield [
            Tick(
                product_id=snapshot.product_id,
                timestamp=snapshot.timestamp,
                price=snapshot.price,
                spread=snapshot.spread,
                state=snapshot.state_if_warm(encoder),
            )
            for snapshot in snapshots
        ]
