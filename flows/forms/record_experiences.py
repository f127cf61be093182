"""What a recording may be told."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from flows.parameters import REPLAY, MarketParameters, Source, WindowParameters


class Parameters(WindowParameters, MarketParameters):
    """What to record."""

    source: Source = Field(
        default="inbox",
        description="inbox: what agents appended to their streams. market: a replay of candles through the agents.",
    )
    min_quality: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Leave out experiences whose quality is below this; they are counted."
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
