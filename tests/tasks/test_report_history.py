"""What a report shows of past runs: trends of one machine, judged as they were then, and sizes a night."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from memory.ledger import BenchmarkMetric, Ledger
from memory.ledger.archive import Archive
from memory.ledger.benchmark_history import CONFIRMED_BY, JUDGED
from memory.settings import Settings
from memory.window import Window
from tasks.benchmark import machine_name
from tasks.report_history import measured_before, sizes_until
from tasks.workspace import Workspace

MS, RATIO = "agent alone: p50", "agent alone: p50 beside a round trip"


@pytest.fixture
def workspace(ledger: Ledger, namespace: str, tmp_path: Path) -> Workspace:
    """A namespace with nothing in it; no question here needs Redis."""
    settings = Settings(namespace=namespace, home=tmp_path, benchmark_machine="here", benchmark_min_runs=3)
    return Workspace(settings, "redis://nowhere", ledger, Archive(settings.archive_location))


def measured(workspace: Workspace, run: int, ms: float, ratio: float, machine: str = "here") -> str:
    """The figures of one run; its id."""
    details: dict[str, Any] = {"documents": 1000, "window": f"2021-06-{17 + run}"}
    run_id = f"{workspace.namespace}-{run}"
    metrics = [
        BenchmarkMetric(metric=MS, value=ms, unit="ms", details=details),
        BenchmarkMetric(
            metric=RATIO, value=ratio, unit="round trips", details=details | {JUDGED: True, CONFIRMED_BY: MS}
        ),
        BenchmarkMetric(metric="agent alone: p99", value=9.0, unit="ms", details=details),
    ]
    workspace.ledger.benchmarks.record(workspace.namespace, run_id, machine, metrics)
    return run_id


def test_each_run_is_judged_by_the_runs_before_it(workspace: Workspace) -> None:
    for run, ms in enumerate((0.4, 0.4, 0.4, 2.0, 0.4)):
        last = measured(workspace, run, ms, 5 * ms)
    found = measured_before(workspace, {"benchmark": {"run_id": last}})
    assert found.machine == "here"
    trends = {trend.metric: trend for trend in found.trends}
    assert set(trends) == {MS, RATIO}  # the p99 is neither judged nor drawn
    assert [point.regressed for point in trends[RATIO].points] == [False, False, False, True, False]
    assert [point.usual for point in trends[RATIO].points] == [None, None, None, 2.0, 2.0]
    assert [point.window_name for point in trends[RATIO].points][-1] == "2021-06-21"
    assert (trends[RATIO].judged, trends[MS].judged) == (True, False)


def test_a_report_of_an_earlier_run_knows_no_later_one_and_no_other_machine(workspace: Workspace) -> None:
    first = measured(workspace, 0, 0.4, 2.0)
    measured(workspace, 1, 0.4, 2.0)
    other = measured(workspace, 2, 0.4, 2.0, machine="there")
    assert [len(trend.points) for trend in measured_before(workspace, {"benchmark": {"run_id": first}}).trends] == [
        1,
        1,
    ]
    there = measured_before(workspace, {"benchmark": {"run_id": other}})
    assert (there.machine, {len(trend.points) for trend in there.trends}) == ("there", {1})
    assert {len(trend.points) for trend in measured_before(workspace, {}).trends} == {2}


def test_sizes_are_those_of_the_first_measurement_of_each_night(workspace: Workspace) -> None:
    for run, (window, size) in enumerate(
        (("2021-06-18", 20), ("2021-06-17", 10), ("2021-06-17", 99), ("2021-06-19", 30))
    ):
        metrics = [
            BenchmarkMetric(metric=f"size: {name}", value=value, unit=unit, details={"window": window})
            for name, value, unit in (
                ("redis, experiences", size, "bytes"),
                ("archive", 2 * size, "bytes"),
                ("ledger", 5, "bytes"),
                ("experiences", size, "documents"),
            )
        ]
        workspace.ledger.benchmarks.record(workspace.namespace, f"{workspace.namespace}-{run}", "here", metrics)
    nights = sizes_until(workspace, Window.of_date(date(2021, 6, 18)))
    assert [(n.window_name, dict(n.redis_bytes), n.archive_bytes, dict(n.documents)) for n in nights] == [
        ("2021-06-17", {"experiences": 10}, 20, {"experiences": 10}),
        ("2021-06-18", {"experiences": 20}, 40, {"experiences": 20}),
    ]


def test_a_machine_is_told_by_host_processor_and_cores_or_by_its_setting(workspace: Workspace) -> None:
    assert machine_name(workspace.settings) == "here"
    own = machine_name(Settings(namespace="n"))
    assert "cores" in own
    assert own == machine_name(Settings(namespace="other"))
