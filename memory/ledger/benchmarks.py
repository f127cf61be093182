"""Results of benchmarks over time, by metric and machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from memory.errors import InvalidRecordError
from memory.ledger.database import Database
from memory.ledger.models import BenchmarkResult
from memory.ledger.rows import BenchmarkMetric, BenchmarkRecord


class BenchmarkRepository:
    """Figures that `benchmark_memory` measured."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, namespace: str, run_id: str, machine: str, metrics: Sequence[BenchmarkMetric]) -> None:
        """Keeps the figures of one run, in one transaction; a figure that is not finite is refused."""
        for metric in metrics:
            if not math.isfinite(metric.value):
                raise InvalidRecordError(
                    f"benchmark {metric.metric} is {metric.value}.",
                    remedy="Leave out what could not be measured.",
                    field=metric.metric,
                )
        if not metrics:
            return
        with self._database.transaction() as session:
            session.execute(
                sa.insert(BenchmarkResult),
                [
                    {
                        "namespace": namespace,
                        "run_id": run_id,
                        "machine": machine,
                        "metric": metric.metric,
                        "value": metric.value,
                        "unit": metric.unit,
                        "lower_is_better": metric.lower_is_better,
                        "details": dict(metric.details),
                    }
                    for metric in metrics
                ],
            )

    def history(
        self, metric: str, machine: str, *, namespace: str | None = None, limit: int = 100
    ) -> Sequence[BenchmarkRecord]:
        """Latest figures of one metric on one machine, oldest first."""
        query = sa.select(BenchmarkResult).where(BenchmarkResult.metric == metric, BenchmarkResult.machine == machine)
        if namespace is not None:
            query = query.where(BenchmarkResult.namespace == namespace)
        return self._records(query.order_by(BenchmarkResult.recorded_at.desc(), BenchmarkResult.id.desc()).limit(limit))

    def recent(
        self,
        namespace: str,
        *,
        machine: str | None = None,
        units: Sequence[str] | None = None,
        until: datetime | None = None,
        runs: int = 100,
    ) -> Sequence[BenchmarkRecord]:
        """All figures of the latest runs of a namespace, oldest first.

        Parameters
        ----------
        machine
            Only those measured on it.
        units
            Only figures in these units; a run counts where it has one.
        until
            Only what was recorded by then.
        runs
            Runs at most.

        Notes
        -----
        Cost: one pass over the table, some ten rows a run.
        """
        chosen = [BenchmarkResult.namespace == namespace]
        chosen += [] if machine is None else [BenchmarkResult.machine == machine]
        chosen += [] if units is None else [BenchmarkResult.unit.in_(units)]
        chosen += [] if until is None else [BenchmarkResult.recorded_at <= until]
        newest = sa.func.max(BenchmarkResult.id)
        latest = sa.select(BenchmarkResult.run_id).where(*chosen).group_by(BenchmarkResult.run_id)
        latest = latest.order_by(newest.desc()).limit(runs)
        query = sa.select(BenchmarkResult).where(*chosen, BenchmarkResult.run_id.in_(latest))
        return self._records(query.order_by(BenchmarkResult.id.desc()))

    def of_run(self, run_id: str) -> Sequence[BenchmarkRecord]:
        """All figures of one run, in the order in which they were recorded."""
        return self._records(
            sa.select(BenchmarkResult).where(BenchmarkResult.run_id == run_id).order_by(BenchmarkResult.id.desc())
        )

    def _records(self, newest_first: sa.Select[tuple[BenchmarkResult]]) -> Sequence[BenchmarkRecord]:
        with self._database.transaction() as session:
            rows = session.scalars(newest_first).all()
        return [
            BenchmarkRecord(
                run_id=row.run_id,
                machine=row.machine,
                metric=row.metric,
                value=row.value,
                unit=row.unit,
                lower_is_better=row.lower_is_better,
                details=row.details,
                recorded_at=row.recorded_at,
            )
            for row in reversed(rows)
        ]
