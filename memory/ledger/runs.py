"""What ran: one row a run, its heartbeat, its result, and the reconciler that finds the dead.

A run whose process has ended without a word cannot say so: its row goes on saying RUNNING until the next run reconciles
it. Whoever reads rows reads them as the reconciler would leave them, and writes nothing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from memory.errors import FencedOutError
from memory.ledger.database import Database
from memory.ledger.fence import FenceRepository
from memory.ledger.host import host_name, is_gone
from memory.ledger.models import Run
from memory.ledger.rows import RunRecord
from memory.window import Window

RUNNING, SUCCEEDED, FAILED, DEAD = "RUNNING", "SUCCEEDED", "FAILED", "DEAD"
GONE = "its process ended without a word"
"""Of a run of this host, whose processes can be looked at."""
SILENT = "no heartbeat within the lease"
"""Of a run of another host, or one that is stopped: its lease by Postgres's clock is all that is known."""

_clock = sa.func.clock_timestamp
_LEASE_OVER = Run.heartbeat_at + Run.lease_s * sa.literal(timedelta(seconds=1), sa.Interval()) < _clock()


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Which runs died, for one statement: expressions over `Run` that Postgres evaluates row by row.

    Attributes
    ----------
    gone
        Ids of runs that were running when they were asked for, and whose process on this host is gone.
    """

    gone: Sequence[str]

    @classmethod
    def of(cls, session: Session, *runs: sa.ColumnElement[bool]) -> _Verdict:
        """Of some runs. One question, and a look at /proc for each of them that runs here."""
        running = sa.select(Run.run_id, Run.host, Run.process_id).where(
            Run.status == RUNNING, Run.host == host_name(), *runs
        )
        return cls([row.run_id for row in session.execute(running) if is_gone(row.host, row.process_id)])

    @property
    def died(self) -> sa.ColumnElement[bool]:
        """Whether a run has died and nobody has noted it; one that has ended since `gone` was read has not."""
        return sa.and_(Run.status == RUNNING, sa.or_(Run.run_id.in_(self.gone), _LEASE_OVER))

    @property
    def reason(self) -> sa.ColumnElement[str]:
        """Why one that died is taken for dead."""
        return sa.case((Run.run_id.in_(self.gone), GONE), else_=SILENT)

    @property
    def status(self) -> sa.ColumnElement[str]:
        """The status of a run as it is now."""
        return sa.case((self.died, DEAD), else_=Run.status)

    @property
    def error(self) -> sa.ColumnElement[str | None]:
        """Why a run came to nothing, as far as is known now."""
        return sa.case((self.died, self.reason), else_=Run.error)

    def select(self) -> sa.Select[tuple[Run, str, str | None]]:
        """Runs, with status and error as they are now."""
        return sa.select(Run, self.status, self.error)


class RunRepository:
    """Rows about runs of flows.

    What is read tells a run that died from one that runs, as `reconcile` does: its status is DEAD, with the reason,
    also where nobody has noted it yet. It has no end then.
    """

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
        here = Run.namespace == namespace
        with self._database.transaction() as session:
            verdict = _Verdict.of(session, here)
            dead = session.scalars(
                sa.update(Run)
                .where(here, verdict.died)
                .values(status=DEAD, finished_at=_clock(), error=verdict.reason)
                .returning(Run)
            ).all()
            found = sorted((_record(run, run.status, run.error) for run in dead), key=lambda run: run.started_at)
        # Revoked for every dead run, so that a reconciler that died right here is made up for by the next one.
        self._fence.revoke_dead(namespace)
        return found

    def get(self, run_id: str) -> RunRecord | None:
        """One run, or None."""
        this = Run.run_id == run_id
        with self._database.transaction() as session:
            return next(iter(_read(session, _Verdict.of(session, this).select().where(this))), None)

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
        here = Run.namespace == namespace
        with self._database.transaction() as session:
            verdict = _Verdict.of(session, here)
            query = verdict.select().where(here)
            if flow is not None:
                query = query.where(Run.flow == flow)
            if status is not None:
                query = query.where(verdict.status == status)
            if window is not None:
                query = query.where(Run.window == window)
            return _read(session, query.order_by(Run.started_at.desc()).limit(limit))

    def namespaces(self) -> Sequence[str]:
        """Namespaces that any run worked in, sorted."""
        with self._database.transaction() as session:
            return sorted(session.scalars(sa.select(Run.namespace).distinct()))

    def last(self, namespace: str, flow: str, status: str | None = None) -> RunRecord | None:
        """The latest run of a flow, or None."""
        return next(iter(self.list(namespace, flow=flow, status=status, limit=1)), None)

    def latest(self, namespace: str, *statuses: str) -> dict[str, RunRecord]:
        """The latest run of each flow that ever ran (of those in one of some statuses, where given), by flow."""
        here = Run.namespace == namespace
        with self._database.transaction() as session:
            verdict = _Verdict.of(session, here)
            query = verdict.select().where(here)
            if statuses:
                query = query.where(verdict.status.in_(statuses))
            found = _read(session, query.distinct(Run.flow).order_by(Run.flow, Run.started_at.desc()))
        return {run.flow: run for run in sorted(found, key=lambda run: run.flow)}

    def counts(self, namespace: str) -> dict[str, dict[str, int]]:
        """How many runs of each flow are in each status, by flow; those that were removed since are not among them."""
        here = Run.namespace == namespace
        found: dict[str, dict[str, int]] = {}
        with self._database.transaction() as session:
            judged = sa.select(Run.flow, _Verdict.of(session, here).status.label("status")).where(here).subquery()
            query = sa.select(judged.c.flow, judged.c.status, sa.func.count()).group_by(*judged.c)
            for flow, status, number in session.execute(query):
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


def _read(session: Session, query: sa.Select[tuple[Run, str, str | None]]) -> Sequence[RunRecord]:
    # A session that was joined may hold rows as they were when it first read them.
    rows = session.execute(query.execution_options(populate_existing=True))
    return [_record(run, status, error) for run, status, error in rows]


def _record(run: Run, status: str, error: str | None) -> RunRecord:
    return RunRecord(
        run_id=run.run_id,
        namespace=run.namespace,
        flow=run.flow,
        window=run.window,
        status=status,
        parameters=run.parameters,
        result=run.result,
        error=error,
        report_path=run.report_path,
        flow_run_id=run.flow_run_id,
        host=run.host,
        process_id=run.process_id,
        lease_s=run.lease_s,
        started_at=run.started_at,
        heartbeat_at=run.heartbeat_at,
        finished_at=run.finished_at,
    )
