"""Walk-forward folds: test spans one after the other, each with all that came before as its past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from agents.features import GAP_MINUTES, MINUTE_MS
from memory.errors import WindowError
from memory.records import to_ms
from memory.validation import validate_timestamp

FINAL_START = datetime(2018, 10, 1, tzinfo=UTC)
FINAL_END = datetime(2019, 1, 1, tzinfo=UTC)
"""The held-out span: looked at once, when nothing is to be chosen any more."""
HISTORY_START = datetime(2017, 12, 1, tzinfo=UTC)
LEAST_FOLDS, LEAST_TEST_DAYS = 4, 30
"""Below either, a report says that it is too short to conclude from."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A test span and the past that it may be prepared with.

    Attributes
    ----------
    name
        Such as "2018-06".
    start
        First time of the past.
    test_start, test_end
        Half-open test span, aware UTC.
    embargo_minutes
        Between the past and the test span: features of the first test states reach back so far.
    purge_minutes
        Longest horizon of an outcome.
    """

    name: str
    start: datetime
    test_start: datetime
    test_end: datetime
    embargo_minutes: int
    purge_minutes: int

    @property
    def known_until(self) -> datetime:
        """Nothing from this time on enters encoder, thresholds, memory or training."""
        return self.test_start - timedelta(minutes=self.embargo_minutes)

    @property
    def known_until_ms(self) -> int:
        """`known_until` in milliseconds."""
        return to_ms(self.known_until)

    def last_training_ms(self, interval_minutes: int) -> int:
        """Latest decision time whose outcomes are all known before `known_until`."""
        reach = interval_minutes + GAP_MINUTES
        return self.known_until_ms - max(self.purge_minutes, reach) * MINUTE_MS - 1

    @property
    def test_days(self) -> float:
        """Days of the test span."""
        return (self.test_end - self.test_start) / timedelta(days=1)


def walk_forward(
    start: datetime, edges: Sequence[datetime], *, embargo_minutes: int, purge_minutes: int
) -> tuple[Fold, ...]:
    """Folds between consecutive edges; each has all from `start` to its own first edge as its past.

    Raises
    ------
    WindowError
        Edges that do not rise, or a first one that leaves no past.
    """
    start = validate_timestamp(start, "start")
    times = [validate_timestamp(edge, "edge") for edge in edges]
    if len(times) < 2 or any(later <= earlier for earlier, later in pairwise(times)):
        raise WindowError(
            f"the edges {', '.join(time.isoformat() for time in times)} do not part a span.",
            remedy="Give at least two times, each later than the one before.",
        )
    if times[0] - start <= timedelta(minutes=embargo_minutes + purge_minutes):
        raise WindowError(
            f"nothing is known between {start.isoformat()} and the first test span, which begins at "
            f"{times[0].isoformat()}.",
            remedy=f"Let the past be longer than embargo and purge, {embargo_minutes + purge_minutes} minutes.",
        )
    monthly = all(time.day == 1 and time.hour == 0 for time in times)
    return tuple(
        Fold(f"{first:%Y-%m}" if monthly else f"{first:%Y-%m-%d}", start, first, last, embargo_minutes, purge_minutes)
        for first, last in pairwise(times)
    )


def months(first: datetime, count: int) -> list[datetime]:
    """The first of `count` + 1 months in a row, from the month of `first` on."""
    zero = first.year * 12 + first.month - 1
    return [datetime((zero + n) // 12, (zero + n) % 12 + 1, 1, tzinfo=UTC) for n in range(count + 1)]


def days(first: datetime, count: int, length: int) -> list[datetime]:
    """Edges of `count` spans of `length` days in a row."""
    return [first + timedelta(days=length * n) for n in range(count + 1)]


def is_conclusive(folds: Sequence[Fold]) -> bool:
    """Whether the folds are many and long enough to conclude from."""
    return len(folds) >= LEAST_FOLDS and all(fold.test_days >= LEAST_TEST_DAYS for fold in folds)
