"""Windows are UTC days, and nothing else is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import WindowError
from memory.window import Window, windows_between

TIMES = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(TIMES)
def test_every_time_lies_in_the_window_that_contains_it(timestamp: datetime) -> None:
    window = Window.containing(timestamp)
    assert window.contains(timestamp)
    assert window.start <= timestamp < window.end
    assert Window.of_span(window.start, window.end) == window


@given(TIMES)
def test_the_last_full_window_has_ended(timestamp: datetime) -> None:
    window = Window.last_full_before(timestamp)
    assert window.end <= timestamp < window.end + timedelta(days=1)


def test_times_of_other_zones_fall_into_utc_days() -> None:
    zone = timezone(timedelta(hours=9))
    assert Window.containing(datetime(2021, 6, 17, 8, tzinfo=zone)).name == "2021-06-16"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (datetime(2021, 6, 17, 1, tzinfo=UTC), datetime(2021, 6, 18, 1, tzinfo=UTC)),
        (datetime(2021, 6, 17, tzinfo=UTC), datetime(2021, 6, 19, tzinfo=UTC)),
        (datetime(2021, 6, 17, tzinfo=UTC), datetime(2021, 6, 17, tzinfo=UTC)),
        (datetime(2021, 6, 17), datetime(2021, 6, 18)),
    ],
)
def test_spans_off_the_grid_are_refused(start: datetime, end: datetime) -> None:
    with pytest.raises(WindowError):
        Window.of_span(start, end)


def test_a_range_of_dates_includes_both_ends() -> None:
    names = [window.name for window in windows_between(date(2021, 6, 29), date(2021, 7, 1))]
    assert names == ["2021-06-29", "2021-06-30", "2021-07-01"]


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(WindowError, match="earlier date first"):
        list(windows_between(date(2021, 6, 18), date(2021, 6, 17)))
