"""A figure beside its past: what is usual, what is a regression, and which runs compare at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.ledger import BenchmarkMetric, BenchmarkRecord
from memory.ledger.benchmark_history import CONFIRMED_BY, JUDGED, SHARE, Comparison, Rules, compare

RULES = Rules(factor=1.5, drop=0.01, min_runs=5, most_runs=20, size_factor=2.0)
DETAILS: dict[str, Any] = {JUDGED: True, "documents": 100_000, "top_k": 10}
NOW = datetime(2021, 6, 21, tzinfo=UTC)


def figure(value: float, **changes: Any) -> BenchmarkMetric:
    return replace(BenchmarkMetric(metric="p50", value=value, unit="round trips", details=DETAILS), **changes)


def past(*values: float, **changes: Any) -> list[BenchmarkRecord]:
    """Runs of one figure, oldest first."""
    return [
        replace(
            BenchmarkRecord(
                run_id=f"run-{run}",
                machine="m",
                metric="p50",
                value=value,
                unit="round trips",
                lower_is_better=True,
                details=DETAILS,
                recorded_at=NOW + timedelta(days=run),
            ),
            **changes,
        )
        for run, value in enumerate(values)
    ]


def compared(value: BenchmarkMetric, records: list[BenchmarkRecord], rules: Rules = RULES) -> Comparison | None:
    found = compare([value], records, rules)
    return found[0] if found else None


def test_a_figure_far_above_the_median_is_a_regression_and_says_all_of_it() -> None:
    found = compared(figure(3.2), past(2.0, 2.0, 2.1, 2.0, 1.9))
    assert found is not None
    assert (found.median, found.runs, found.regressed) == (2.0, 5, True)
    assert found.worse == pytest.approx(1.6)
    assert found.text() == "p50 is 3.2 round trips, 1.60 times worse than the median 2 of 5 runs (limit: above 3)"


def test_what_the_scatter_of_past_runs_explains_is_none() -> None:
    noisy = past(1.0, 3.0, 2.0, 1.2, 2.8)
    assert not compared(figure(3.2), noisy).regressed  # type: ignore[union-attr]
    assert compared(figure(9.0), noisy).regressed  # type: ignore[union-attr]


def test_one_odd_run_does_not_move_what_is_usual() -> None:
    found = compared(figure(3.2), past(2.0, 2.0, 50.0, 2.0, 2.0))
    assert found is not None
    assert (found.median, found.regressed) == (2.0, True)


@pytest.mark.parametrize(("value", "regressed"), [(60.0, True), (70.0, False), (500.0, False)])
def test_a_rate_is_worse_where_it_is_lower(value: float, regressed: bool) -> None:
    found = compared(figure(value, lower_is_better=False), past(100, 101, 99, 100, 100, lower_is_better=False))
    assert found is not None
    assert found.regressed is regressed


def test_a_rate_that_scatters_widely_can_be_a_regression_all_the_same() -> None:
    rates = past(100, 150, 50, 130, 60, lower_is_better=False)
    assert not compared(figure(40.0, lower_is_better=False), rates).regressed  # type: ignore[union-attr]
    assert compared(figure(1.0, lower_is_better=False), rates).regressed  # type: ignore[union-attr]


@pytest.mark.parametrize(("recall", "regressed"), [(0.995, False), (0.98, True)])
def test_a_share_is_compared_by_difference(recall: float, regressed: bool) -> None:
    share = {"unit": SHARE, "lower_is_better": False}
    found = compared(figure(recall, **share), past(1.0, 1.0, 1.0, 1.0, 1.0, **share))
    assert found is not None
    assert found.regressed is regressed
    assert found.worse == pytest.approx(1.0 - recall)


@pytest.mark.parametrize(("milliseconds", "regressed"), [(0.4, False), (0.9, True)])
def test_a_time_beside_a_round_trip_is_a_regression_only_where_the_milliseconds_say_so_too(
    milliseconds: float, regressed: bool
) -> None:
    ratio = figure(4.0, details={**DETAILS, CONFIRMED_BY: "ms"})
    ms = figure(milliseconds, metric="ms", unit="ms", details={**DETAILS, JUDGED: False})
    history = [*past(*[2.0] * 5), *past(*[0.4] * 5, metric="ms", unit="ms")]
    (found,) = compare([ratio, ms], history, RULES)
    assert found.regressed is regressed
    assert found.text().endswith(f"; {milliseconds} ms against 0.4")


def test_too_few_runs_judge_nothing() -> None:
    assert compared(figure(99.0), past(2.0, 2.0, 2.0, 2.0)) is None


def test_what_is_only_shown_is_not_judged() -> None:
    assert compared(figure(99.0, details={**DETAILS, JUDGED: False}), past(*[2.0] * 9)) is None


@pytest.mark.parametrize("other", [{"documents": 210_000}, {"documents": 40_000}, {"top_k": 5}, {"agents": 10}])
def test_runs_over_other_sizes_or_of_other_questions_do_not_compare(other: dict[str, int]) -> None:
    assert compared(figure(99.0), past(*[2.0] * 9, details={**DETAILS, **other})) is None


def test_only_the_latest_runs_count_so_that_a_lasting_change_becomes_usual() -> None:
    rules = replace(RULES, most_runs=6)
    found = compared(figure(4.0), past(*[2.0] * 10, *[4.0] * 6), rules)
    assert found is not None
    assert (found.median, found.runs, found.regressed) == (4.0, 6, False)


def test_a_run_that_measured_twice_counts_once_by_the_later_figure() -> None:
    again = past(2.0, 2.0, 2.0, 2.0, 2.0, 8.0)
    again[-1] = replace(again[-1], run_id="run-0")
    found = compared(figure(2.0), again)
    assert found is not None
    assert found.runs == 5


@given(
    values=st.lists(st.floats(0.1, 10), min_size=5, max_size=20),
    value=st.floats(0.1, 100),
    scale=st.sampled_from([0.5, 2.0, 1024.0]),
)
def test_the_unit_of_a_ratio_does_not_matter(values: list[float], value: float, scale: float) -> None:
    one = compared(figure(value), past(*values))
    other = compared(figure(value * scale), past(*(scale * item for item in values)))
    assert one is not None
    assert other is not None
    assert one.regressed == other.regressed
    assert one.regressed <= (value > one.median)
