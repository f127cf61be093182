"""Markets: the candles of several products of one exchange, from the samples that ship, or from any folder."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np

from agents.candles import FILE_NAME, CandleFile, Candles, read_candles
from memory.errors import MarketDataError
from memory.records import IDENTIFIER_PATTERN, to_ms
from memory.settings import Settings

SAMPLE_FOLDER = Path(__file__).parent / "data" / "sample"
SAMPLES = ("binance", "coinbase")
LONGEST_NAME = 64
"""Names begin the ids of runs and encoders, which may hold 128 characters."""
LONGEST_BAR_MS = 300_000
"""Longer bars would leave the features with too few of them in their look-back of minutes to hours."""


class Market:
    """Products of one exchange with bars of one length, all in memory.

    Parameters
    ----------
    name
        Stable name of the market. Together with a product and a bar length it stands for the candles' content: runs
        that replay the same market under the same name are taken for the same.
    candles
        Candles of one exchange and one bar length; one entry a product.
    """

    def __init__(self, name: str, candles: Iterable[Candles]) -> None:
        self.name = name
        products = {item.product_id: item for item in sorted(candles, key=lambda item: item.product_id)}
        if not products:
            raise MarketDataError(f"market {name} holds no product.", remedy="Give it the candles of at least one.")
        if not IDENTIFIER_PATTERN.fullmatch(name) or len(name) > LONGEST_NAME:
            raise MarketDataError(
                f"market name {name!r} is not a valid id.",
                remedy=f"Use up to {LONGEST_NAME} letters, digits, '.', '_' or '-', beginning with a letter or digit.",
            )
        bar_lengths = sorted({item.bar_ms for item in products.values()})
        if len(bar_lengths) > 1:
            raise MarketDataError(
                f"market {name} mixes bars of {', '.join(f'{length // 1000} s' for length in bar_lengths)}.",
                remedy="Give a glob that names one bar length, such as '*_1m.parquet'.",
            )
        self.bar_ms = bar_lengths[0]
        if self.bar_ms > LONGEST_BAR_MS:
            raise MarketDataError(
                f"market {name} has bars of {self.bar_ms // 1000} s.",
                remedy=f"States need bars of at most {LONGEST_BAR_MS // 1000} s.",
            )
        self.products: Mapping[str, Candles] = MappingProxyType(products)

    @classmethod
    def sample(cls, name: str = "binance", products: Iterable[str] | None = None) -> Market:
        """A market that ships with the project.

        Parameters
        ----------
        name
            "binance": BTC, ETH and DOT in June and July 2021, no quotes, no gaps. "coinbase": BTC, ETH and LTC on days
            of 2017 and 2018, with quotes and gaps.
        products
            Product ids to keep; all where None.
        """
        if name not in SAMPLES:
            raise MarketDataError(
                f"there is no sample market {name!r}.", remedy=f"Choose {' or '.join(SAMPLES)}, or give a path."
            )
        files = [CandleFile.of(path) for path in sorted(SAMPLE_FOLDER.glob(f"{name}_*.parquet"))]
        return cls._read(f"sample-{name}", files, products)

    @classmethod
    def from_path(cls, path: str | Path, products: Iterable[str] | None = None, *, name: str | None = None) -> Market:
        """A market from a parquet file, a folder of them, or a glob; file names as `agents.candles.FILE_NAME`.

        Parameters
        ----------
        path
            File, folder or glob, of one exchange and one bar length.
        products
            Product ids to keep; all where None.
        name
            Name of the market; the exchange's name where None.
        """
        text = str(path)
        if Path(text).is_dir():
            paths = sorted(Path(text).glob("*.parquet"))
        elif Path(text).exists():
            paths = [Path(text)]
        else:
            paths = sorted(Path(found) for found in glob.glob(text))  # noqa: PTH207 (the glob may be absolute)
        if not paths:
            raise MarketDataError(
                f"{text} holds no parquet file.", remedy="Give a candle file, a folder of them, or a glob."
            )
        files = [CandleFile.of(item) for item in paths]
        exchanges = sorted({file.exchange for file in files})
        if len(exchanges) > 1:
            raise MarketDataError(
                f"{text} mixes the exchanges {', '.join(exchanges)}.",
                remedy=f"Give a glob that names one, such as '{exchanges[0]}_*.parquet'.",
            )
        return cls._read(name or exchanges[0], files, products)

    @classmethod
    def history(
        cls, exchange: str, products: Iterable[str] | None = None, *, bar: str = "1m", folder: str | Path | None = None
    ) -> Market:
        """A market from the folder of larger history that COINSWARM_HISTORY names.

        Parameters
        ----------
        exchange
            Exchange in the files' names, such as "bitfinex".
        products
            Product ids to keep; all of the exchange where None.
        bar
            Bar length in the files' names, such as "1m" or "5m".
        folder
            Another folder than the one that COINSWARM_HISTORY names.
        """
        root = folder if folder is not None else Settings().history
        if root is None:
            raise MarketDataError(
                "no folder of market history is configured.",
                remedy="Set COINSWARM_HISTORY to the folder, or use a sample market.",
            )
        matches = [path for path in sorted(Path(root).glob("*.parquet")) if FILE_NAME.fullmatch(path.name)]
        files = [CandleFile.of(path) for path in matches if path.name.split("_")[2].removesuffix(".parquet") == bar]
        chosen = [file for file in files if file.exchange == exchange]
        if not chosen:
            known = sorted(
                {
                    f"{file.exchange} {path.name.split('_')[2].removesuffix('.parquet')}"
                    for path in matches
                    for file in [CandleFile.of(path)]
                }
            )
            raise MarketDataError(
                f"{root} holds no bars of {bar} of exchange {exchange!r}.",
                remedy=f"It holds {', '.join(known)}." if known else "It holds no candle file: set COINSWARM_HISTORY.",
            )
        return cls._read(f"history-{exchange}", chosen, products)

    @classmethod
    def _read(cls, name: str, files: list[CandleFile], products: Iterable[str] | None) -> Market:
        by_product: dict[str, CandleFile] = {}
        for file in files:
            if file.product_id in by_product:
                raise MarketDataError(
                    f"{file.path} and {by_product[file.product_id].path} both hold {file.product_id}.",
                    remedy="Give a glob that matches one file a product.",
                )
            by_product[file.product_id] = file
        wanted = list(by_product) if products is None else list(products)
        unknown = [product for product in wanted if product not in by_product]
        if unknown or not wanted:
            raise MarketDataError(
                f"market {name} has no product {', '.join(unknown) or '(none was asked for)'}.",
                remedy=f"It has {', '.join(sorted(by_product))}.",
            )
        return cls(name, [read_candles(by_product[product]) for product in dict.fromkeys(wanted)])

    @property
    def product_ids(self) -> tuple[str, ...]:
        """Product ids, sorted."""
        return tuple(self.products)

    @property
    def span(self) -> tuple[datetime, datetime]:
        """First and last decision time of any product."""
        return (
            min(item.first_decision for item in self.products.values()),
            max(item.last_decision for item in self.products.values()),
        )

    @property
    def identity(self) -> dict[str, object]:
        """What makes it this market, for run ids. Products are absent: each is replayed independently."""
        return {"name": self.name, "bar_ms": self.bar_ms}

    def has_decisions(self, start: datetime, end: datetime) -> bool:
        """Whether some product has a decision time after `start` and before `end`: one at `start` ends an older bar."""
        span = [to_ms(start) + 1, to_ms(end)]
        return any(
            first < last for first, last in (np.searchsorted(item.decision_ms, span) for item in self.products.values())
        )

    def check_span(self, start: datetime, end: datetime) -> None:
        """MarketDataError unless some product has a decision time after `start` and before `end`."""
        if self.has_decisions(start, end):
            return
        spans = "; ".join(
            f"{item.product_id} from {item.first_decision:%Y-%m-%d %H:%M} to {item.last_decision:%Y-%m-%d %H:%M}"
            for item in self.products.values()
        )
        raise MarketDataError(
            f"market {self.name} has no candle from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC.",
            remedy=f"It spans {spans} (with holes). Choose a date in there.",
        )
