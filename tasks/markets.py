"""Which market and which encoder a parameter means."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agents.encoder import StateEncoder
from agents.evaluation.folds import FINAL_END, FINAL_START, HISTORY_START
from agents.fitting import default_encoder
from agents.market import SAMPLES, Market
from memory.errors import EncoderError, MarketDataError
from memory.records import IDENTIFIER_PATTERN
from memory.roots import checked_path
from memory.settings import Settings
from memory.window import Window

HISTORY_PREFIX = "history:"
HISTORY_MARKET = f"{HISTORY_PREFIX}bitfinex"
"""What policies are evaluated on where it is configured."""
SAMPLE_MARKET = "binance"
FIRST_TEST_MONTH = datetime(2018, 6, 1, tzinfo=UTC)
"""First month that an evaluation on history tests in."""


def open_market(market: str, products: Sequence[str] | None = None) -> Market:
    """The market of a parameter: a sample's name, ``history:NAME`` (or ``history:NAME:5m``), or a path.

    Raises
    ------
    MarketDataError
        No such market, or files that cannot be used.
    PathOutsideRootsError
        A path that leads out of the folders that flows may read.
    """
    if market in SAMPLES:
        return Market.sample(market, products)
    if market.startswith(HISTORY_PREFIX):
        exchange, _, bar = market.removeprefix(HISTORY_PREFIX).partition(":")
        return Market.history(exchange, products, bar=bar or "1m")
    unknown = MarketDataError(
        f"there is no market {market!r}.",
        remedy=f"Use {' or '.join(SAMPLES)}, history:NAME, or the path of a folder or file of Parquet candles.",
    )
    if IDENTIFIER_PATTERN.fullmatch(market) and not Path(market).exists():
        raise unknown  # A name, rather than a path.
    settings = Settings()
    path = checked_path(market, settings, what="the market", pattern=True)
    for found in glob.glob(str(path)):  # noqa: PTH207 - the glob is absolute
        checked_path(found, settings, what="the market")  # A link may lead elsewhere.
    if not glob.has_magic(market) and not path.exists():
        raise unknown
    return Market.from_path(path, products)


def check_replay(market: str, products: Sequence[str] | None, encoder: str | None, windows: Sequence[Window]) -> None:
    """Look that one of some windows, in order, can be replayed.

    Raises
    ------
    MarketDataError, PathOutsideRootsError
        As `open_market`, and where no window has a candle.
    EncoderError
        As `open_encoder`, and where the encoder was fitted on data later than the start of each window with candles.
    """
    opened = open_market(market, products)
    fitted = open_encoder(encoder, market, Settings())
    replayed = [window for window in windows if opened.has_decisions(window.start, window.end)]
    if not replayed:
        opened.check_span(windows[0].start, windows[-1].end)
    # Windows before its time may be consolidated already, and are then left alone.
    fitted.check_as_of((replayed or windows)[-1].start)


def open_evaluated(
    settings: Settings, market: str | None, products: Sequence[str] | None, *, short: bool, final: bool
) -> tuple[str, Market, bool]:
    """The market of an evaluation, its name, and whether it holds the months of history that are tested in.

    Where none is named: larger history where it is configured and holds Bitfinex, else the sample, as always for the
    short version.

    Raises
    ------
    MarketDataError, PathOutsideRootsError
        As `open_market`, and where the held-out span is asked for and not there.
    """
    if market is None:
        is_there = settings.history is not None and any(settings.history.glob("bitfinex_*_1m.parquet"))
        market = HISTORY_MARKET if is_there and not short else SAMPLE_MARKET
    opened = open_market(market, products)
    historic = opened.span[0] <= HISTORY_START + timedelta(days=7) and opened.span[1] >= FIRST_TEST_MONTH
    if final and not historic:
        raise MarketDataError(
            f"market {market} does not hold the held-out span, {FINAL_START:%Y-%m-%d} to {FINAL_END:%Y-%m-%d}.",
            remedy="Set COINSWARM_HISTORY to the folder of larger history.",
        )
    return market, opened, historic


def encoder_folder(settings: Settings) -> Path:
    """Where fitted encoders of a home lie."""
    return settings.home / "encoders"


def open_encoder(encoder: str | None, market: str, settings: Settings) -> StateEncoder:
    """The encoder of a parameter: a file, the id of one in the home, or, where empty, the one shipped for the market.

    Raises
    ------
    EncoderError
        No such encoder.
    PathOutsideRootsError
        A file that lies out of the folders that flows may read.
    """
    if encoder is None:
        return default_encoder(market if market in SAMPLES else "binance")
    shipped = {default_encoder(name).id_: default_encoder(name) for name in SAMPLES}
    if encoder in shipped:
        return shipped[encoder]
    fitted = encoder_folder(settings) / f"{encoder}.json"
    if IDENTIFIER_PATTERN.fullmatch(encoder) and fitted.is_file():
        return StateEncoder.load(fitted)
    if Path(encoder).is_file():
        return StateEncoder.load(checked_path(encoder, settings, what="the encoder"))
    raise EncoderError(
        f"there is no encoder {encoder!r}: no such file, and none of that id in {encoder_folder(settings)}.",
        remedy="Fit one with 'coinswarm fit-encoder', or leave the parameter empty for the shipped one.",
    )
