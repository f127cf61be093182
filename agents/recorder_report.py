"""What became of what was recorded in the background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from memory.errors import CoinswarmError, ServerUnsuitableError, StoreUnavailableError

FULL = "the buffer was full"
TOO_OLD = "it waited for too long"
CLOSED = "the recorder was closed"
NOT_WRITTEN = "Redis was away when the recorder was closed"
NOT_ALLOWED = "Redis refused them until the recorder was closed"
OTHER_REASONS = "other reasons"

MAX_REASONS = 100
"""Reasons that are counted one by one: they quote what was wrong, which may be something else each time."""


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


@dataclass(slots=True)
class RecorderCounts:
    """The counts of a recorder as they grow; names as in `RecorderReport`."""

    written: int = 0
    duplicates: int = 0
    refused: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    traces_written: int = 0
    traces_refused: Counter[str] = field(default_factory=Counter)

    def refuse_traces(self, reasons: Mapping[str, int]) -> None:
        """Count traces that were not stored, by reason."""
        for reason, number in reasons.items():
            apart = reason in self.traces_refused or len(self.traces_refused) < MAX_REASONS
            self.traces_refused[reason if apart else OTHER_REASONS] += number

    def report(self, *, waiting: int, away_s: float, last_error: str) -> RecorderReport:
        """What became of everything so far; it does not change with the counts."""
        return RecorderReport(
            waiting=waiting,
            written=self.written,
            duplicates=self.duplicates,
            refused=self.refused,
            dropped=dict(self.dropped),
            traces_written=self.traces_written,
            traces_refused=dict(self.traces_refused),
            away_s=away_s,
            last_error=last_error,
        )


def not_written(waiting: int, failure: Exception | None, when: str = "") -> CoinswarmError:
    """The error of what waits, with its cause: of a refusal of the kind that this has, else StoreUnavailableError.

    Parameters
    ----------
    waiting
        Experiences that wait.
    failure
        Why they were not written; None where no attempt has ended yet.
    when
        By when they were to be written, such as `` within 10 s``.
    """
    what = f"{waiting:,} experience{'' if waiting == 1 else 's'} could not be written{when}"
    if not isinstance(failure, CoinswarmError):
        why = "" if failure is None else f": {failure}"
        return StoreUnavailableError(f"{what}{why}.", remedy="They wait for Redis to come back; see report().")
    kind = type(failure) if isinstance(failure, ServerUnsuitableError) else StoreUnavailableError
    return kind(f"{what}: {failure.message}", remedy=failure.remedy)


def reason_lost(failure: Exception | None) -> str:
    """By what reason that is counted which waits when the recorder is closed, given the last failure to write it."""
    return NOT_ALLOWED if isinstance(failure, ServerUnsuitableError) else NOT_WRITTEN
