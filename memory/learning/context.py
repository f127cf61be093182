"""What the semantic memories of one projection have in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ProjectionContext:
    """Where the memories of one projection come from, and from when on they are known.

    Attributes
    ----------
    encoder_id, source
        Encoder of the states, and source (live, replay, backtest) of the experiences.
    line
        Knowledge line.
    valid_from
        When the knowledge counts as known.
    """

    encoder_id: str
    source: str
    line: str
    valid_from: datetime

    def memory_id(self, prefix: str, *parts: str) -> str:
        """Id of what `parts` name: the same every night, so that tonight's memory is a version of last night's.

        Parameters
        ----------
        prefix
            One letter for the kind of memory.
        parts
            What tells it from others of its kind, encoder and source. The line is no part of it: a new line carries
            on the memories of the line before where encoder and source are the same.
        """
        text = "\x1f".join((self.encoder_id, self.source, *parts))
        return f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
