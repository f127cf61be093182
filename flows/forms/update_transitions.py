"""What the count of transitions may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import WindowParameters


class Parameters(WindowParameters):
    """Which window to count."""

    refold: bool = Field(default=False, description="Fold all windows again, although nothing changed.")
