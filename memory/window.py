"""The grid of windows: half-open spans of decision time, one UTC day each, that one consolidation covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from memory.errors import WindowError

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A UTC day of decision time: start <= timestamp < end."""

    start: datetime
    end: datetime

    @classmethod
    def of_date(cls, day: date) -> Window:
        """The window of a UTC date."""
        start = datetime.combine(day, time(), tzinfo=UTC)
        return cls(start, start + DAY)

    @classmethod
    def containing(cls, timestamp: datetime) -> Window:
        """The window that an aware timestamp falls into."""
        return cls.of_date(timestamp.astimezone(UTC).date())

    @classmethod
    def last_full_before(cls, timestamp: datetime) -> Window:
        """The latest window that has ended at an aware timestamp."""
        return cls.of_date(timestamp.astimezone(UTC).date() - DAY)

    @classmethod
    def of_span(cls, start: datetime, end: datetime) -> Window:
        """The window with exactly this span, or WindowError where the span is off the grid."""
        if start.tzinfo is None or end.tzinfo is None:
            raise WindowError(f"the span {start} to {end} has no time zone.", remedy="Use aware UTC timestamps.")
        window = cls.containing(start)
        if (window.start, window.end) != (start, end):
            raise WindowError(
                f"the span {start.isoformat()} to {end.isoformat()} is not on the grid of windows.",
                remedy=f"Windows are UTC days, such as {window.start.isoformat()} to {window.end.isoformat()}.",
            )
        return window

    @property
    def name(self) -> str:
        """ISO date of the day."""
        return self.start.date().isoformat()

    def contains(self, timestamp: datetime) -> bool:
        """Whether a timestamp lies in the window."""
        return self.start <= timestamp < self.end


def windows_between(first: date, last: date) -> Iterator[Window]:
    """The windows of all UTC dates from first to last, both included."""
    if last < first:
        raise WindowError(f"the range {first} to {last} runs backwards.", remedy="Give the earlier date first.")
    day = first
    while day <= last:
        yield Window.of_date(day)
        day += DAY
