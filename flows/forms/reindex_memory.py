"""What a change of index may be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.parameters import NamespaceParameters
from memory.settings import Settings


class Parameters(NamespaceParameters):
    """How experiences are to be indexed: where nothing is chosen, as the settings say; else the rest stays as it is."""

    encoder: str | None = Field(
        default=None,
        description="Encoder id or file to encode all experiences with anew; the encoder stays where empty.",
    )
    layout: Literal["auto", "single", "partitioned"] | None = Field(
        default=None, description="One index, or an HNSW index for each agent and product."
    )
    algorithm: Literal["FLAT", "HNSW"] | None = Field(default=None, description="Of a single index.")
    vector_type: Literal["FLOAT32", "FLOAT16"] | None = Field(
        default=None, description="FLOAT16 halves the memory of the vectors."
    )
    remove_old: bool | None = Field(
        default=None,
        description="Whether the old index goes in the end. Where empty it does, except that of an old encoder: "
        "restart its clients with the new one first, then run again with remove_old=true.",
    )
    grace_s: float = Field(
        default=60.0,
        ge=0,
        description="Seconds that clients of the old index have to end what they do, before it goes and again before "
        "its vectors go.",
    )
    abandon: bool = Field(
        default=False, description="Give up a change that was begun and is not in use yet, instead of going on with it."
    )

    def check_inputs(self) -> None:
        """Raises EncoderError where the new encoder cannot be opened, PathOutsideRootsError where it may not be."""
        if self.encoder is not None:
            from tasks.markets import SAMPLE_MARKET, open_encoder

            open_encoder(self.encoder, SAMPLE_MARKET, Settings())
