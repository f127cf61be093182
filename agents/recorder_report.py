"""What became of what was recorded in the background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FULL = "the buffer was full"
TOO_OLD = "it waited for too long"
CLOSED = "the recorder was closed"
NOT_WRITTEN = "Redis was away when the recorder was closed"


@dataclass(frozen=True, slots=True)
class RecorderReport:
    """What became of what was recorded; everything recorded is in exactly one of the first five.

    Attributes
    ----------
    waiting
        Not yet written.
    written
        In the inbox, or new in episodic memory.
    duplicates
        In episodic memory before, with the same content.
    refused
        In the dead letters, with the reason.
    dropped
        Lost, by reason.
    traces_written, traces_refused
        Traces of decisions that were stored, and those that were not, by reason.
    away_s
        Seconds since Redis answered last; 0 while it does.
    last_error
        The last failure to write; empty where there was none.
    """

    waiting: int
    written: int
    duplicates: int
    refused: int
    dropped: Mapping[str, int]
    traces_written: int
    traces_refused: Mapping[str, int]
    away_s: float
    last_error: str

    @property
    def recorded(self) -> int:
        """Everything that was handed to the recorder."""
        return self.waiting + self.written + self.duplicates + self.refused + sum(self.dropped.values())
