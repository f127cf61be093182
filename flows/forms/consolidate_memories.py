"""What a consolidation may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import WindowParameters


class Parameters(WindowParameters):
    """What to consolidate."""

    refold: bool = Field(
        default=False, description="Fold all windows again, although nothing changed since the last fold."
    )
