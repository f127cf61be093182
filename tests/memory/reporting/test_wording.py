"""Numbers in words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.records import Interval
from memory.reporting import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.25e-4, "+1.2"), (-3.14e-4, "−3.1"), (0.0, "0.0"), (-1e-9, "0.0"), (None, "–"), (math.nan, "–")],
)
def test_basis_points_carry_a_true_sign_and_no_negative_zero(value: float | None, text: str) -> None:
    assert wording.basis_points(value) == text


@given(st.one_of(st.floats(-1e12, 1e12), st.sampled_from([math.nan, math.inf, -math.inf])))
def test_no_number_is_ever_written_as_nan_or_infinity(value: float) -> None:
    for text in (wording.number(value), wording.percent(value), wording.basis_points(value), wording.duration(value)):
        assert "nan" not in text
        assert "inf" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (7.83, "7.8 s"),
        (60, "60 s"),
        (1500, "25 min"),
        (26_000, "7.2 h"),
        (None, "–"),
    ],
)
def test_durations_use_the_unit_that_fits(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")],
)
def test_long_listings_are_counted(names: list[str], text: str) -> None:
    assert wording.listing(names) == text


def test_a_decimal_point_does_not_end_a_sentence() -> None:
    assert wording.first_sentence("Moves 1.5 bp. Then more.") == "Moves 1.5 bp."
    assert wording.first_sentence("") == ""


def test_intervals_read_from_low_to_high() -> None:
    interval = Interval(low=-2e-4, high=7e-4)
    assert wording.basis_points_interval(interval) == "−2.0 to +7.0"
    assert wording.percent_interval(Interval(low=0.4, high=0.55)) == "40\u00a0% to 55\u00a0%"
    assert wording.number_interval(None) == "–"


@pytest.mark.parametrize(("value", "text"), [(0.0002, "< 0.001"), (0.034, "0.034"), (0.31, "0.31"), (None, "–")])
def test_small_q_values_become_bounds(value: float | None, text: str) -> None:
    assert wording.p_value(value) == text


def test_ranges_go_but_remarks_in_brackets_stay() -> None:
    text = "price has fallen (-2 to -0.45), around noon (UTC) (-0.8 to 0.1)."
    assert wording.without_ranges(text) == "price has fallen, around noon (UTC)."
