"""What a new line may be told."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from flows.parameters import NamespaceParameters
from memory.settings import Settings


class Parameters(NamespaceParameters):
    """Which line to start."""

    encoder: str | None = Field(
        default=None,
        description="Id or file of a new encoder; the encoder stays where empty, and the algorithm is this software's.",
    )
    of: str | None = Field(
        default=None, description="Encoder whose windows are learned again; that of the leading line where empty."
    )
    current_from: dt.datetime | None = Field(
        default=None,
        description="UTC time: questions as of it or later are answered by the new line, earlier ones by the line "
        "before. Where empty, when its newest window became known.",
    )
    take_over: bool = Field(default=True, description="Whether the line takes over once it lacks nothing.")

    def check_inputs(self) -> None:
        """Raises EncoderError where the new encoder cannot be opened, PathOutsideRootsError where it may not be."""
        if self.encoder is not None:
            from tasks.markets import SAMPLE_MARKET, open_encoder

            open_encoder(self.encoder, SAMPLE_MARKET, Settings())
