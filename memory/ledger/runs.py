"""What ran: one row a run, its heartbeat, its result, and the reconciler that finds the dead."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from memory.errors import FencedOutError
from memory.ledger.database import Database
from memory.ledger.fence import FenceRepository
from memory.ledger.host import host_name, is_gone
from memory.ledger.models import Run
from memory.ledger.rows import RunRecord
from memory.window import Window

RUNNING, SUCCEEDED, FAILED, DEAD = "RUNNING", "SUCCEEDED", "FAILED", "DEAD"

_clock = sa.func.clock_timestamp


class RunRepository:
    """Rows about runs of flows."""

    def __init__(self, database: Database, fence: FenceRepository) -> None:
        self._database = database
        self._fence = fence

    def start(
        self,
        flow: str,
        namespace: str,
        parameters: Mapping[str, Any],
        *,
        window: Window | None = None,
        lease_s: float,
        flow_run_id: str | None = None,
    ) -> str:
        """Notes that a run of a flow began, and returns its id.

        Parameters
        ----------
        parameters
            What it was started with; finite JSON values, no secrets.
        lease_s
            Seconds after its last heartbeat when the run is taken for dead.
        flow_run_id
            Prefect's id of the run, where there is one.
        """
        run_id = uuid.uuid4().hex
        with self._database.transaction() as session:
            session.execute(
                sa.insert(Run).values(
                    run_id=run_id,
                    namespace=namespace,
                    flow=flow,
                    window=window,
                    status=RUNNING,
                    parameters=dict(parameters),
                    flow_run_id=flow_run_id,
                    host=host_name(),
                    process_id=os.getpid(),
                    lease_s=lease_s,
                )
            )
        return run_id

    def heartbeat(self, run_id: str) -> None:
        """Says that the run is alive; FencedOutError where it has been taken for dead or has ended."""
        self._update(run_id, heartbeat_at=_clock())

    def finish(self, run_id: str, result: Mapping[str, Any], report_path: str | None = None) -> None:
        """Notes that a run succeeded, with its result (finite JSON values) and its report."""
        self._update(
            run_id,
            status=SUCCEEDED,
            result=dict(result),
            report_path=report_path,
            heartbeat_at=_clock(),
            finished_at=_clock(),
        )

    def fail(self, run_id: str, error: str) -> None:
        """Notes that a run failed, and why; a run that was taken for dead meanwhile stays dead, with the reason."""
        # An error's text may hold anything; what Postgres cannot store must not hide why the run failed.
        error = error.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
        with self._database.transaction() as session:
            session.execute(
                sa.update(Run)
                .where(Run.run_id == run_id, Run.status.in_((RUNNING, DEAD)))
                .values(
                    status=sa.case((Run.status == RUNNING, FAILED), else_=Run.status),
                    error=error,
                    finished_at=sa.func.coalesce(Run.finished_at, _clock()),
                )
            )

    def reconcile(self, namespace: str) -> Sequence[RunRecord]:
        """Marks the namespace's running runs that died as dead, and takes their right to write away.

        Dead is a run whose process has ended, where that was on this host, and any whose lease is over.

        Returns
        -------
        The runs that were found dead, oldest first.
        """
        with self._database.transaction() as session:
            running = session.scalars(
                sa.select(Run).where(Run.namespace == namespace, Run.status == RUNNING, Run.host == host_name())
            ).all()
            gone = [run.run_id for run in running if is_gone(run.host, run.process_id)]
            dead = session.scalars(
                sa.update(Run)
                .where(
                    Run.namespace == namespace,
                    Run.status == RUNNING,
                    sa.or_(
                        Run.run_id.in_(gone),
                        Run.heartbeat_at + Run.lease_s * sa.literal(timedelta(seconds=1), sa.Interval()) < _clock(),
                    ),
                )
                .values(
                    status=DEAD,
                    finished_at=_clock(),
                    error=sa.case(
                        (Run.run_id.in_(gone), "its process ended without a word"),
                        else_="no heartbeat within the lease",
                    ),
                )
                .returning(Run)
            ).all()
            found = sorted((_record(run) for run in dead), key=lambda run: run.started_at)
        # Revoked for every dead run, so that a reconciler that died right here is made up for by the next one.
        self._fence.revoke_dead(namespace)
        return found

    def get(self, run_id: str) -> RunRecord | None:
        """One run, or None."""
        with self._database.transaction() as session:
            run = session.get(Run, run_id, populate_existing=True)
            return None if run is None else _record(run)

    def list(
        self,
        namespace: str,
        *,
        flow: str | None = None,
        status: str | None = None,
        window: Window | None = None,
        limit: int = 50,
    ) -> Sequence[RunRecord]:
        """Runs of a namespace, latest first."""
        query = sa.select(Run).where(Run.namespace == namespace)
        if flow is not None:
            query = query.where(Run.flow == flow)
        if status is not None:
            query = query.where(Run.status == status)
        if window is not None:
            query = query.where(Run.window == window)
        with self._database.transaction() as session:
            return [_record(run) for run in session.scalars(query.order_by(Run.started_at.desc()).limit(limit))]

    def namespaces(self) -> Sequence[str]:
        """Namespaces that any run worked in, sorted."""
        with self._database.transaction() as session:
            return sorted(session.scalars(sa.select(Run.namespace).distinct()))

    def last(self, namespace: str, flow: str, status: str | None = None) -> RunRecord | None:
        """The latest run of a flow, or None."""
        return next(iter(self.list(namespace, flow=flow, status=status, limit=1)), None)

    def latest(self, namespace: str, *statuses: str) -> dict[str, RunRecord]:
        """The latest run of each flow that ever ran (of those in one of some statuses, where given), by flow."""
        query = sa.select(Run).where(Run.namespace == namespace)
        if statuses:
            query = query.where(Run.status.in_(statuses))
        query = query.distinct(Run.flow).order_by(Run.flow, Run.started_at.desc())
        with self._database.transaction() as session:
            found = {run.flow: _record(run) for run in session.scalars(query)}
        return dict(sorted(found.items()))

    def counts(self, namespace: str) -> dict[str, dict[str, int]]:
        """How many runs of each flow are in each status, by flow; those that were removed since are not among them."""
        query = sa.select(Run.flow, Run.status, sa.func.count()).where(Run.namespace == namespace)
        found: dict[str, dict[str, int]] = {}
        with self._database.transaction() as session:
            for flow, status, number in session.execute(query.group_by(Run.flow, Run.status)):
                found.setdefault(flow, {})[status] = number
        return dict(sorted(found.items()))

    def _update(self, run_id: str, **values: Any) -> None:
        with self._database.transaction() as session:
            updated = session.execute(
                sa.update(Run).where(Run.run_id == run_id, Run.status == RUNNING).values(**values).returning(Run.run_id)
            ).one_or_none()
            if updated is None:
                status = session.scalar(sa.select(Run.status).where(Run.run_id == run_id))
                raise FencedOutError(
                    f"run {run_id} is not running any more: it is {status or 'unknown'}.",
                    remedy="Stop this process; start the flow again, and it takes up where this run stopped.",
                )


def _record(run: Run) -> RunRecord:
    return RunRecord(
        run_id=run.run_id,
        namespace=run.namespace,
        flow=run.flow,
        window=run.window,
        status=run.status,
        parameters=run.parameters,
        result=run.result,
        error=run.error,
        report_path=run.report_path,
        flow_run_id=run.flow_run_id,
        host=run.host,
        process_id=run.process_id,
        lease_s=run.lease_s,
        started_at=run.started_at,
        heartbeat_at=run.heartbeat_at,
        finished_at=run.finished_at,
    )
