"""What a benchmark asks and with how many agents."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import WindowParameters


class Parameters(WindowParameters):
    """What to measure with."""

    queries: int = Field(default=300, ge=20, le=100_000, description="Queries of each kind.")
    agents: int = Field(default=10, ge=1, le=500, description="Agents that ask at the same time.")
