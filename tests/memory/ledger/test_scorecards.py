"""Scorecards over time, access snapshots, benchmark results."""

from __future__ import annotations

import math
from datetime import date

import pytest

from memory.errors import InvalidRecordError
from memory.ledger import BenchmarkMetric, FencingToken, Ledger, ScorecardMetric
from memory.window import Window

FIRST, SECOND = Window.of_date(date(2021, 6, 18)), Window.of_date(date(2021, 6, 19))


def ic(value: float, predictor: str = "patterns", horizon: int = 5, target: str = "volatility") -> ScorecardMetric:
    return ScorecardMetric(
        metric="ic",
        target=target,
        predictor=predictor,
        horizon_minutes=horizon,
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        n=48,
    )


def test_a_scorecard_comes_back_with_its_figures(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    coverage = ScorecardMetric(metric="coverage", target="", predictor="patterns", horizon_minutes=0, value=0.45)
    ledger.scorecards.save(token, line, window, b"card", [ic(0.2), coverage])
    assert ledger.scorecards.get(line, window) == b"card"
    assert ledger.scorecards.metrics(line) == [(window, coverage), (window, ic(0.2))]
    assert ledger.scorecards.get(line, FIRST) is None


def test_figures_are_listed_over_the_windows(ledger: Ledger, token: FencingToken, line: str) -> None:
    for window, value in ((SECOND, 0.3), (FIRST, 0.2)):
        ledger.scorecards.save(token, line, window, b"c", [ic(value), ic(0.1, "balls"), ic(0.0, target="return")])
    found = ledger.scorecards.metrics(line, metric="ic", target="volatility")
    assert [(window, row.predictor, row.value) for window, row in found] == [
        (FIRST, "balls", 0.1),
        (FIRST, "patterns", 0.2),
        (SECOND, "balls", 0.1),
        (SECOND, "patterns", 0.3),
    ]
    assert {window for window, _ in ledger.scorecards.metrics(line, first=SECOND)} == {SECOND}
    assert {window for window, _ in ledger.scorecards.metrics(line, last=FIRST)} == {FIRST}


def test_saving_again_replaces_the_scorecard(ledger: Ledger, token: FencingToken, line: str, window: Window) -> None:
    ledger.scorecards.save(token, line, window, b"1", [ic(0.2), ic(0.1, "ridge")])
    ledger.scorecards.save(token, line, window, b"2", [ic(0.4)])
    assert ledger.scorecards.get(line, window) == b"2"
    assert [row.value for _, row in ledger.scorecards.metrics(line)] == [0.4]


def test_a_figure_that_could_not_be_computed_stays_nan(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    ledger.scorecards.save(token, line, window, b"1", [ic(math.nan)])
    ((_, row),) = ledger.scorecards.metrics(line)
    assert math.isnan(row.value)


def test_a_scorecard_is_found_by_just_what_it_was_computed_from(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    ledger.scorecards.save(token, line, window, b"1", [], input_digest="state and archives")
    assert ledger.scorecards.find(line, window, "state and archives") == b"1"
    assert ledger.scorecards.find(line, window, "other") is None
    ledger.scorecards.save(token, line, window, b"2", [])
    assert ledger.scorecards.find(line, window, "state and archives") is None


def test_a_line_that_comes_later_takes_over_what_was_counted_for_the_window(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    """Pruning decides by what was read before the window's end, whenever it is decided."""
    assert ledger.access.of_namespace(token.namespace, window) is None
    ledger.access.save(token, line, window, {"p-1": 101})
    new = ledger.lines.ensure(token, "encoder-1", "2")
    assert ledger.access.save(token, new, window, {"p-1": 7, "p-2": 1}) == {"p-1": 101}
    assert ledger.access.of_namespace(token.namespace, window) == {"p-1": 101}


def test_an_access_snapshot_is_written_once(ledger: Ledger, token: FencingToken, line: str, window: Window) -> None:
    assert ledger.access.get(line, window) is None
    assert ledger.access.save(token, line, window, {"p-1": 101}) == {"p-1": 101}
    assert ledger.access.save(token, line, window, {"p-1": 7, "p-2": 1}) == {"p-1": 101}
    ledger.truncate_from(token, line, window)
    assert ledger.access.get(line, window) == {"p-1": 101}


def test_an_empty_access_snapshot_is_a_snapshot(ledger: Ledger, token: FencingToken, line: str, window: Window) -> None:
    ledger.access.save(token, line, window, {})
    assert ledger.access.get(line, window) == {}


def test_benchmark_figures_are_listed_oldest_first_for_a_machine(ledger: Ledger, namespace: str) -> None:
    machine = f"machine-{namespace}"
    for run, value in enumerate((0.3, 0.2, 0.4)):
        metric = BenchmarkMetric(metric="search_p50_ms", value=value, unit="ms", details={"n": 1000})
        ledger.benchmarks.record(namespace, f"run-{run}", machine, [metric])
    ledger.benchmarks.record(namespace, "run-9", "other", [BenchmarkMetric(metric="search_p50_ms", value=9, unit="ms")])
    history = ledger.benchmarks.history("search_p50_ms", machine, limit=2)
    assert [record.value for record in history] == [0.2, 0.4]
    assert history[0].details == {"n": 1000}


def test_all_figures_of_a_run_are_found(ledger: Ledger, namespace: str) -> None:
    metrics = [BenchmarkMetric(metric=name, value=1.0, unit="ms") for name in ("a", "b")]
    ledger.benchmarks.record(namespace, f"run-{namespace}", "m", metrics)
    assert [record.metric for record in ledger.benchmarks.of_run(f"run-{namespace}")] == ["a", "b"]


def test_a_benchmark_figure_that_is_not_finite_is_refused(ledger: Ledger, namespace: str) -> None:
    metrics = [BenchmarkMetric(metric="recall", value=math.nan, unit="")]
    with pytest.raises(InvalidRecordError, match="recall is nan"):
        ledger.benchmarks.record(namespace, "run", "m", metrics)
