"""What a report shows of past runs: figures of benchmarks on one machine, and how the memory grew night by night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory.ledger import BenchmarkRecord
from memory.ledger.benchmark_history import DOCUMENTS, JUDGED, Comparison, Rules, compare
from memory.reporting.data import NightSizes, Trend, TrendPoint
from memory.window import Window
from tasks.benchmark import BYTES, PIECES, REDIS, SIZE, machine_name, rules_of
from tasks.workspace import Workspace

RUNS = 60
"""Runs whose figures a report shows."""

_SHOWN_IN_MS = (": p50", ": p95")


@dataclass(frozen=True, slots=True)
class Measured:
    """Past figures, as far as a report of a run may know them: the machine, and trends oldest run first."""

    machine: str
    trends: tuple[Trend, ...]


def measured_before(workspace: Workspace, run: Mapping[str, Any]) -> Measured:
    """Figures of benchmarks on the machine of a nightly run, up to that run; on this machine where it measured nothing.

    Parameters
    ----------
    run
        What the nightly run found, as its ledger row holds it.
    """
    benchmarks = workspace.ledger.benchmarks
    own = benchmarks.of_run(str((run.get("benchmark") or {}).get("run_id", "")))
    machine = own[-1].machine if own else machine_name(workspace.settings)
    until: datetime | None = max((record.recorded_at for record in own), default=None)
    records = benchmarks.recent(workspace.namespace, machine=machine, until=until, runs=RUNS)
    return Measured(machine, tuple(trends_of(records, rules_of(workspace.settings))))


def trends_of(records: Sequence[BenchmarkRecord], rules: Rules) -> list[Trend]:
    """Judged figures, and medians and 95th percentiles in milliseconds, each run judged by those before it."""
    by_metric: dict[str, dict[str, BenchmarkRecord]] = {}
    for record in records:
        if not record.metric.startswith(SIZE):
            by_metric.setdefault(record.metric, {}).pop(record.run_id, None)
            by_metric[record.metric][record.run_id] = record
    verdicts = _verdicts(records, rules)
    trends = []
    for metric, by_run in by_metric.items():
        runs = list(by_run.values())
        judged = bool(runs[-1].details.get(JUDGED))
        if judged or (runs[-1].unit == "ms" and metric.endswith(_SHOWN_IN_MS)):
            points = tuple(_point(record, verdicts.get(record.run_id, {}).get(metric)) for record in runs)
            trends.append(
                Trend(
                    metric=metric,
                    unit=runs[-1].unit,
                    points=points,
                    lower_is_better=runs[-1].lower_is_better,
                    judged=judged,
                )
            )
    return trends


def _verdicts(records: Sequence[BenchmarkRecord], rules: Rules) -> dict[str, dict[str, Comparison]]:
    """Comparison of each judged figure with those of the runs before, by run and metric."""
    runs: dict[str, list[BenchmarkRecord]] = {}
    for record in records:
        runs.setdefault(record.run_id, []).append(record)
    found: dict[str, dict[str, Comparison]] = {}
    before: list[BenchmarkRecord] = []
    for run_id, own in runs.items():
        found[run_id] = {item.metric: item for item in compare(own, before, rules)}
        before += own
    return found


def _point(record: BenchmarkRecord, found: Comparison | None) -> TrendPoint:
    return TrendPoint(
        measured_at=record.recorded_at,
        window_name=str(record.details.get("window") or record.recorded_at.date().isoformat()),
        value=record.value,
        documents=int(record.details.get(DOCUMENTS, 0)),
        usual=found.median if found else None,
        limit=found.limit if found else None,
        regressed=bool(found and found.regressed),
    )


def sizes_until(workspace: Workspace, window: Window) -> tuple[NightSizes, ...]:
    """Room that the memory took after each night up to a window, oldest first; a night measured twice counts once.

    The first measurement of a night stands: a later one saw later nights too.
    """
    records = workspace.ledger.benchmarks.recent(workspace.namespace, units=(BYTES, PIECES), runs=2 * RUNS)
    runs: dict[str, dict[str, list[BenchmarkRecord]]] = {}
    for record in records:
        name = str(record.details.get("window", ""))
        if name and name <= window.name:
            runs.setdefault(name, {}).setdefault(record.run_id, []).append(record)
    return tuple(_night(name, next(iter(runs[name].values()))) for name in sorted(runs)[-RUNS:])


def _night(name: str, records: Sequence[BenchmarkRecord]) -> NightSizes:
    sizes = {
        (record.unit, record.metric.removeprefix(SIZE)): round(record.value)
        for record in records
        if record.metric.startswith(SIZE)
    }
    return NightSizes(
        window_name=name,
        redis_bytes={
            what.removeprefix(REDIS): size
            for (unit, what), size in sizes.items()
            if unit == BYTES and what.startswith(REDIS)
        },
        documents={what: number for (unit, what), number in sizes.items() if unit == PIECES},
        archive_bytes=sizes.get((BYTES, "archive")),
        ledger_bytes=sizes.get((BYTES, "ledger")),
    )
