"""What a recording may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import SourceParameters


class Parameters(SourceParameters):
    """What to record."""

    min_quality: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Leave out experiences whose quality is below this; they are counted."
    )
