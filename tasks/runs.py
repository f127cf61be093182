"""One run of a flow as the ledger sees it: a row, a heartbeat, the right to write, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from prefect.runtime import flow_run
from pydantic import BaseModel
from threadpoolctl import threadpool_limits

from memory.errors import NamespaceBusyError
from memory.ledger import FencingToken, KeepAlive
from memory.window import Window
from tasks.progress import Steps, announce
from tasks.workspace import Workspace, open_workspace


@dataclass(slots=True)
class LedgerRun:
    """A run that is under way. What `result` holds at the end goes to the ledger.

    Attributes
    ----------
    token
        The right to write to the namespace; None for a run that only reads or records.
    """

    workspace: Workspace
    run_id: str
    window: Window | None
    token: FencingToken | None
    steps: Steps = field(default_factory=Steps)
    result: dict[str, Any] = field(default_factory=dict)
    report_path: str | None = None

    @property
    def fencing_token(self) -> FencingToken:
        """The token of a run that was started with `writes=True`."""
        if self.token is None:
            raise RuntimeError("this run was started without the right to write; start it with writes=True")
        return self.token

    def finished(self) -> dict[str, Any]:
        """What the flow returns: the result, seconds a step, and the run's id."""
        return {**self.result, "seconds": self.steps.seconds, "run_id": self.run_id}


@contextmanager
def ledger_run(
    flow: str,
    parameters: BaseModel,
    namespace: str,
    *,
    window: Window | None = None,
    writes: bool = False,
    lock: str | None = None,
) -> Iterator[LedgerRun]:
    """Open a run: servers up, row in the ledger, heartbeat, and the namespace where the run writes knowledge.

    Runs that died are noticed first. A run that waits for another longer than the setting `lock_wait_s` fails,
    naming the holder; `lock` names a part of the namespace to hold instead of all knowledge. An exception ends the row
    as failed and goes on.

    Raises
    ------
    NamespaceBusyError
        Another run holds the namespace.
    """
    # The last bits of sums depend on the number of threads of BLAS: knowledge is computed with one.
    with open_workspace(namespace) as workspace, threadpool_limits(1), ExitStack() as stack:
        settings, ledger = workspace.settings, workspace.ledger
        ledger.runs.reconcile(namespace)
        prefect_id = flow_run.id
        run_id = ledger.runs.start(
            flow,
            namespace,
            parameters.model_dump(mode="json"),
            window=window,
            lease_s=settings.lease_s,
            flow_run_id=str(prefect_id) if prefect_id else None,
        )
        try:
            # A Redis that is not there ends the run at once, instead of after all the retries of its first task.
            workspace.check_redis()
            token = None
            if writes or lock is not None:
                held = namespace if lock is None else f"{namespace}/{lock}"
                # It waits alive: another run that starts meanwhile must not take it for dead.
                with ledger.keep_alive(run_id, settings.lease_s):
                    token = _acquired(workspace, held, run_id, flow)
                stack.callback(ledger.fence.release, token)
                # Whom it waited for may have died meanwhile.
                ledger.runs.reconcile(namespace)
            stack.enter_context(KeepAlive(ledger.runs, ledger.fence, run_id, settings.lease_s, token))
            run = LedgerRun(workspace, run_id, window, token)
            yield run
        except BaseException as error:
            ledger.runs.fail(run_id, f"{type(error).__name__}: {error}")
            raise
        ledger.runs.finish(run_id, {**run.result, "seconds": run.steps.seconds}, run.report_path)


def _acquired(workspace: Workspace, held: str, run_id: str, flow: str) -> FencingToken:
    """The right to write; where somebody else has it, the wait for it is announced with their name."""
    fence, settings = workspace.ledger.fence, workspace.settings
    try:
        return fence.acquire(held, run_id, flow=flow, lease_s=settings.lease_s)
    except NamespaceBusyError as error:
        if not settings.lock_wait_s:
            raise
        announce(f"waiting up to {settings.lock_wait_s:g} s: {error.message}")
    return fence.acquire(held, run_id, flow=flow, lease_s=settings.lease_s, wait_s=settings.lock_wait_s)


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a task must know of its run: small plain values that can go to another process."""

    namespace: str
    run_id: str
    token: int
    window: str

    @classmethod
    def of(cls, run: LedgerRun) -> TaskContext:
        """The context of a writing run with a window."""
        if run.window is None:
            raise RuntimeError("this run has no window")
        return cls(run.workspace.namespace, run.run_id, run.fencing_token.value, run.window.name)

    @property
    def fencing_token(self) -> FencingToken:
        """The right to write that the run holds."""
        return FencingToken(self.namespace, self.token, self.run_id)

    def as_window(self) -> Window:
        """The window of the run."""
        return Window.of_date(date.fromisoformat(self.window))
