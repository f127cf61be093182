"""Shows what the regime rule does on history: shares of minutes, dwell times, and the volatility that followed.

Run as ``python benchmarks/regimes.py`` with COINSWARM_HISTORY set to the folder of larger history; without it, only the
sample market is shown. Bitfinex is labelled with statistics fitted to its own past (March 2018), as a replay would be,
and with those that ship (2021), which shows how far they carry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from agents.candles import Candles
from agents.encoder import StateEncoder
from agents.features import GAP_MINUTES, MINUTE_MS, compute_features
from agents.fitting import default_encoder, fit_encoder
from agents.market import Market
from memory.records import REGIMES, to_ms
from memory.settings import Settings

NEXT_MINUTES = 60


@dataclass(frozen=True)
class LabelledProduct:
    """Warm labels of one product; dwell times in minutes, one a spell, and the spells' regimes."""

    product_id: str
    codes: npt.NDArray[np.int8]
    confidence: npt.NDArray[np.float64]
    dwell: npt.NDArray[np.float64]
    dwell_codes: npt.NDArray[np.int8]
    next_volatility: npt.NDArray[np.float64]
    relative_volatility: npt.NDArray[np.float64]

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Share of the minutes that each regime holds, in the order of REGIMES."""
        return np.asarray(np.bincount(self.codes, minlength=len(REGIMES)) / len(self.codes))


def label_market(market: Market, start: datetime, end: datetime, encoder: StateEncoder) -> Iterator[LabelledProduct]:
    """Labels of each product's warm decision times in [start, end)."""
    for candles in market.products.values():
        table = compute_features(candles, to_ms(start), to_ms(end))
        if not table.warm.any():
            continue
        labels = encoder.regimes(table.values, table.decision_ms)
        times, codes = table.decision_ms[table.warm], labels.codes[table.warm]
        following = _next_volatility(candles, times)
        dwell, dwell_codes = spells(times, codes)
        yield LabelledProduct(
            product_id=candles.product_id,
            codes=codes,
            confidence=labels.confidence[table.warm],
            dwell=dwell,
            dwell_codes=dwell_codes,
            next_volatility=following,
            relative_volatility=np.log(np.maximum(following, 1e-6) / table.trailing_volatility[table.warm]),
        )


def spells(
    times: npt.NDArray[np.int64], codes: npt.NDArray[np.int8]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
    """Lengths in minutes of the spells of equal labels, and their labels; a gap ends a spell."""
    changes = (np.diff(codes) != 0) | (np.diff(times) > GAP_MINUTES * MINUTE_MS)
    starts = np.flatnonzero(np.append(True, changes))
    ends = np.append(starts[1:], len(codes)) - 1
    return (times[ends] - times[starts]) / MINUTE_MS + 1.0, codes[starts]


def _next_volatility(candles: Candles, times: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Volatility a minute over the next hour, as far as there are candles."""
    squares = np.append(0.0, np.cumsum(np.diff(np.log(candles.close), prepend=np.log(candles.close[0])) ** 2))
    now = np.searchsorted(candles.decision_ms, times)
    later = np.searchsorted(candles.decision_ms, times + NEXT_MINUTES * MINUTE_MS, side="right") - 1
    return np.asarray(np.sqrt((squares[later + 1] - squares[now + 1]) / NEXT_MINUTES))


def show(title: str, market: Market, start: datetime, end: datetime, encoder: StateEncoder) -> None:
    """Print the table of one market and span."""
    print(f"\n{title}  (statistics: {encoder.id_}, fitted until {encoder.fitted_until_:%Y-%m-%d})")
    print(f"{'':12}" + "".join(f"{regime:>16}" for regime in REGIMES) + f"{'all':>10}")
    products = list(label_market(market, start, end, encoder))
    for product in products:
        medians = [np.median(product.dwell[product.dwell_codes == code]) if (product.dwell_codes == code).any()
                   else np.nan for code in range(len(REGIMES))]  # fmt: skip
        print(
            f"{product.product_id:12}" + "".join(f"{share:>16.1%}" for share in product.shares) + "   share of minutes"
        )
        print(f"{'':12}" + "".join(f"{median:>16.1f}" for median in medians)
              + f"{np.median(product.dwell):>10.1f}   median dwell, minutes; "
              f"{np.mean(product.dwell <= 3):.0%} of spells last 3 or less")  # fmt: skip
    codes = np.concatenate([product.codes for product in products])
    for name, values, unit in (
        (
            "next hour",
            np.concatenate([product.next_volatility for product in products]) * 1e4,
            "volatility, bp a minute",
        ),
        (
            "relative",
            np.concatenate([product.relative_volatility for product in products]),
            "log of it to the last hour's",
        ),
        ("confidence", np.concatenate([product.confidence for product in products]), "mean share of the vote"),
    ):
        means = [values[codes == code].mean() if (codes == code).any() else np.nan for code in range(len(REGIMES))]
        print(f"{name:12}" + "".join(f"{mean:>16.2f}" for mean in means) + f"{values.mean():>10.2f}   {unit}")


def main() -> None:
    """Print the tables of the sample and, where configured, of history."""
    shipped = default_encoder()
    show("Binance sample", Market.sample(), shipped.fitted_until_, datetime(2021, 7, 11, tzinfo=UTC), shipped)
    coinbase = default_encoder("coinbase")
    days = datetime(2018, 4, 4, tzinfo=UTC), datetime(2018, 4, 7, tzinfo=UTC)
    show("Coinbase sample, April 2018", Market.sample("coinbase"), *days, coinbase)
    if Settings().history is None:
        print("\nSet COINSWARM_HISTORY to the folder of larger history to see more.")
        return
    bitfinex = Market.history("bitfinex")
    own = fit_encoder(bitfinex, datetime(2018, 4, 1, tzinfo=UTC), since=datetime(2018, 3, 1, tzinfo=UTC))
    span = datetime(2018, 4, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC)
    show("Bitfinex, April to December 2018", bitfinex, *span, own)
    show("Bitfinex, April to December 2018", bitfinex, *span, shipped)
    binance = Market.history("binance")
    show("Binance, April to October 2021", binance, *binance.span, shipped)
    five = Market.history("binance", bar="5m")
    own_five = fit_encoder(five, datetime(2022, 2, 1, tzinfo=UTC))
    show("Binance 2022, bars of five minutes", five, own_five.fitted_until_, five.span[1], own_five)


if __name__ == "__main__":
    main()
