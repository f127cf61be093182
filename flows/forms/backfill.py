"""What a back-fill may be told."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from flows.parameters import MarketParameters, NamespaceParameters
from memory.window import Window, windows_between


class Parameters(NamespaceParameters, MarketParameters):
    """Which dates to consolidate, and what to record of them first."""

    first: dt.date = Field(description="First UTC date, such as 2021-06-17 (--from).")
    last: dt.date = Field(description="Last UTC date (--to).")
    record: bool = Field(
        default=False,
        description="Replay the market first, in windows that are not consolidated yet and of which it has candles.",
    )
    parallel: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Windows at once, each in the memory of one; COINSWARM_TASK_WORKERS, which they are never more "
        "than, where empty.",
    )
    dry_run: bool = Field(default=False, description="Only say what would be done in each window, and why.")

    def windows(self) -> list[Window]:
        """The windows of all dates, in order.

        Raises
        ------
        WindowError
            The range runs backwards.
        """
        return list(windows_between(self.first, self.last))

    def check(self) -> None:
        """Raises WindowError as `windows` does, and ReplayWithoutMarketError."""
        self.windows()
        if not self.record:
            remedy = "Add record=true (--param record=true) to replay a market first, or leave it out."
            self.refuse_market(remedy, also=("encoder",))

    def check_inputs(self) -> None:
        """Where the market is replayed, raises as `check_market` does."""
        if self.record:
            self.check_market(*self.windows())
