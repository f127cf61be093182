"""Parameters that several flows share. Their descriptions are the form in the Prefect UI and the help of the CLI.

Nothing here imports Prefect: it reads its environment when it is imported, and a command chooses a server only after
the parameters were found to be good.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from memory.errors import CoinswarmError, WindowError
from memory.settings import NAMESPACE_PATTERN, Settings
from memory.window import Window


class NamespaceParameters(BaseModel):
    """Which memory to work on."""

    model_config = ConfigDict(extra="forbid")

    namespace: str = Field(
        default_factory=lambda: Settings().namespace,
        pattern=f"^{NAMESPACE_PATTERN.pattern}$",
        description="Name of the memory.",
    )

    def check(self) -> None:
        """Refuse what only the values together can tell: called before anything is started for a run.

        Raises
        ------
        CoinswarmError
            What is wrong, and what to do.
        """

    def check_inputs(self) -> None:
        """Open the files that a run will read, as it will: commands do so before they start a server for it.

        A run itself does not: it tells of a bad file when it opens it, in its own row of the ledger.

        Raises
        ------
        CoinswarmError
            What is wrong, and what to do.
        """


class WindowParameters(NamespaceParameters):
    """Which window to work on: a date, or its start and end; the last full UTC day where all are empty."""

    date: dt.date | None = Field(default=None, description="UTC date of the window, such as 2021-06-17.")
    start: dt.datetime | None = Field(default=None, description="Start of the window, in place of a date.")
    end: dt.datetime | None = Field(default=None, description="End of the window (not included).")

    def window(self) -> Window:
        """The window asked for; the last full one before the run's scheduled time where none is named.

        Raises
        ------
        WindowError
            For a span off the grid, half a span, or a date together with a span.
        """
        named = self.named_window()
        if named is not None:
            return named
        from prefect.runtime import flow_run

        scheduled = flow_run.scheduled_start_time
        return self.window_at(scheduled if scheduled is not None else dt.datetime.now(dt.UTC))

    def window_at(self, time: dt.datetime) -> Window:
        """The window of a run that was due at a time. Raises as `window` does."""
        return self.named_window() or Window.last_full_before(time)

    def named_window(self) -> Window | None:
        """The window that a date or a span names; None where neither is given. Raises as `window` does."""
        if self.date is not None:
            if self.start is not None or self.end is not None:
                raise WindowError("both a date and a span are given.", remedy="Give one of them.")
            return Window.of_date(self.date)
        if (self.start is None) != (self.end is None):
            raise WindowError("only half of a span is given.", remedy="Give start and end, or a date.")
        if self.start is not None and self.end is not None:
            return Window.of_span(self.start, self.end)
        return None

    def check(self) -> None:
        """Raises WindowError as `window` does."""
        self.named_window()


DEFAULT_MARKET = "binance"


class ReplayWithoutMarketError(CoinswarmError, ValueError):
    """Parameters that say what is to be replayed, of a run that replays nothing."""


class MarketParameters(BaseModel):
    """Which market a replay reads."""

    market: str | None = Field(
        default=None,
        description="Sample market (binance, coinbase), a folder or file of Parquet candles, or history:NAME; binance "
        "where empty.",
    )
    products: list[str] | None = Field(default=None, description="Products to replay; all of the market where empty.")
    encoder: str | None = Field(
        default=None, description="Encoder id or file; the market's own shipped encoder where empty."
    )

    @property
    def market_name(self) -> str:
        """The market that is replayed."""
        return DEFAULT_MARKET if self.market is None else self.market

    def check_market(self, *windows: Window) -> None:
        """Open market and encoder, and look that one of some windows, in order, can be replayed.

        Cost: about 0.1 s for half a million candles.

        Raises
        ------
        MarketDataError
            There is no such market or product, its files cannot be used, or no window has a candle.
        EncoderError
            There is no such encoder, or it was fitted on data later than each window with candles.
        PathOutsideRootsError
            A path leads out of the folders that flows may read.
        """
        # Loads what reads candles, which no other command needs.
        from tasks.markets import check_replay

        check_replay(self.market_name, self.products, self.encoder, windows)

    def refuse_market(self, remedy: str, *, also: Sequence[str] = ()) -> None:
        """For a run that replays no market: refuse parameters that only a replay reads, instead of ignoring them.

        Parameters
        ----------
        also
            Parameters that such a run has no use for, beside the market and its products.

        Raises
        ------
        ReplayWithoutMarketError
            One of them is given; it is named, and `remedy` says how to replay.
        """
        for name in ("market", "products", *also):
            if (given := getattr(self, name)) is not None:
                raise ReplayWithoutMarketError(f"{name}={given!r} is given, and no market is replayed.", remedy=remedy)


REPLAY = "Add source=market (--param source=market) to replay one, or leave it out."
"""What a run may do that records from inboxes."""


Source = Literal["inbox", "market"]


class SourceParameters(WindowParameters, MarketParameters):
    """Which window to record, and from where."""

    source: Source = Field(
        default="inbox",
        description="inbox: what agents appended to their streams. market: a replay of candles through the agents.",
    )

    def check(self) -> None:
        """Raises WindowError as `window` does, and ReplayWithoutMarketError."""
        super().check()
        if self.source != "market":
            self.refuse_market(REPLAY)

    def check_inputs(self) -> None:
        """Of a replay, raises as `check_market` does; what inboxes hold is not known before Redis is asked."""
        if self.source == "market":
            self.check_market(self.window_at(dt.datetime.now(dt.UTC)))
