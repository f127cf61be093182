"""What the nightly job may be told."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from flows.parameters import REPLAY, MarketParameters, Source, WindowParameters


class Parameters(WindowParameters, MarketParameters):
    """Which night to run, and what to record first."""

    source: Source = Field(
        default="inbox", description="What to record first: what waits in the inboxes, or a replay of the market."
    )
    queries: int = Field(default=300, ge=20, le=100_000, description="Queries of each kind in the benchmark.")

    def check(self) -> None:
        """Raises WindowError as `window` does, and ReplayWithoutMarketError."""
        super().check()
        if self.source != "market":
            self.refuse_market(REPLAY)

    def check_inputs(self) -> None:
        """Of a replay, raises as `check_market` does; what inboxes hold is not known before Redis is asked."""
        if self.source == "market":
            self.check_market(self.window_at(dt.datetime.now(dt.UTC)))
