"""What the nightly job may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import Source, SourceParameters


class Parameters(SourceParameters):
    """Which night to run, and what to record first."""

    source: Source = Field(
        default="inbox", description="What to record first: what waits in the inboxes, or a replay of the market."
    )
    queries: int = Field(default=300, ge=20, le=100_000, description="Queries of each kind in the benchmark.")
