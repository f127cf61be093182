"""Parameters of the flows: which window is meant, and what is refused."""

from __future__ import annotations

import datetime as dt

import pytest
from pydantic import ValidationError

from flows.parameters import WindowParameters
from memory.errors import WindowError

DAY = dt.datetime(2021, 6, 17, tzinfo=dt.UTC)


def test_a_date_means_that_utc_day() -> None:
    window = WindowParameters(date=dt.date(2021, 6, 17)).window()
    assert (window.start, window.end) == (DAY, DAY + dt.timedelta(days=1))


def test_an_empty_window_means_the_last_full_day() -> None:
    window = WindowParameters().window()
    now = dt.datetime.now(dt.UTC)
    assert window.end <= now < window.end + dt.timedelta(days=1)


def test_a_span_on_the_grid_is_taken() -> None:
    assert WindowParameters(start=DAY, end=DAY + dt.timedelta(days=1)).window().name == "2021-06-17"


@pytest.mark.parametrize("hours", [0, 1, 23, 25, 48])
def test_a_span_off_the_grid_is_refused_with_a_span_on_it(hours: int) -> None:
    with pytest.raises(WindowError, match="Windows are UTC days, such as 2021-06-17T00:00:00"):
        WindowParameters(start=DAY, end=DAY + dt.timedelta(hours=hours)).window()


def test_half_a_span_is_refused() -> None:
    with pytest.raises(WindowError, match="Give start and end"):
        WindowParameters(start=DAY).window()


def test_a_date_beside_a_span_is_refused() -> None:
    with pytest.raises(WindowError, match="Give one of them"):
        WindowParameters(date=DAY.date(), start=DAY, end=DAY + dt.timedelta(days=1)).window()


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValidationError, match="windows"):
        WindowParameters.model_validate({"windows": 3})


def test_a_namespace_that_keys_cannot_hold_is_refused() -> None:
    with pytest.raises(ValidationError):
        WindowParameters(namespace="No:Colons")
