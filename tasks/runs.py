"""One run of a flow as the ledger sees it: a row, a heartbeat, the right to write, and how it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Any

from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from pydantic import BaseModel

from memory.errors import NamespaceBusyError
from memory.ledger import FencingToken, KeepAlive
from memory.ledger.host import host_name
from memory.logs import log_context
from memory.secrets import hide_secrets, mask
from memory.window import Window
from tasks.learning import Learning, learning_of
from tasks.progress import Steps, announce
from tasks.retry import one_thread
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
    with open_workspace(namespace) as workspace, one_thread(), ExitStack() as stack:
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
        stack.enter_context(log_context(**logged_run(flow, namespace, run_id, window)))
        steps = Steps()
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
                if lock is None:
                    workspace.raise_fence(token)
                # Whom it waited for may have died meanwhile.
                ledger.runs.reconcile(namespace)
            alive = stack.enter_context(KeepAlive(ledger.runs, ledger.fence, run_id, settings.lease_s, token))
            steps.check = partial(_check_lease, alive)
            run = LedgerRun(workspace, run_id, window, token, steps=steps)
            yield run
        except BaseException as error:
            hide_secrets(error)
            ledger.runs.fail(run_id, mask(why_it_ended(error, steps.under_way)))
            raise
        ledger.runs.finish(run_id, {**run.result, "seconds": run.steps.seconds}, run.report_path)


def why_it_ended(error: BaseException, step: str = "") -> str:
    """Why a run came to nothing, as the ledger keeps it; of one that was told to end, also how to go on.

    Parameters
    ----------
    step
        What it was doing; empty where that is not known.
    """
    name, text = type(error).__name__, str(error)
    if isinstance(error, TerminationSignal | KeyboardInterrupt):
        number = error.signal if isinstance(error, TerminationSignal) else signal.SIGINT
        during = f" during '{step}'" if step else ""
        return (
            f"{name}: its process was told to end ({signal.Signals(number).name}){during}. Retry in the Prefect UI, "
            "or the same command, takes it up where it stopped."
        )
    return f"{name}: {text}" if text else name


def logged_run(flow: str, namespace: str, run_id: str, window: Window | None) -> dict[str, str | None]:
    """What the log lines of a run are about; nothing of a task around it, where it is a part of another run."""
    name = None if window is None else window.name
    return {"flow": flow, "namespace": namespace, "run_id": run_id, "window": name, "task": None, "partition": None}


@contextmanager
def holding(run: LedgerRun, flow: str) -> Iterator[TaskContext]:
    """The namespace for a while, for a run that holds nothing otherwise; gives the context of the tasks meanwhile.

    A run over many windows takes and gives it back now and then, so that others can pass.

    Raises
    ------
    NamespaceBusyError
        Another run holds the namespace longer than the setting `lock_wait_s`.
    """
    workspace, lease_s = run.workspace, run.workspace.settings.lease_s
    ledger = workspace.ledger
    token = _acquired(workspace, workspace.namespace, run.run_id, flow)
    before = run.steps.check
    try:
        workspace.raise_fence(token)
        ledger.runs.reconcile(workspace.namespace)
        with KeepAlive(ledger.runs, ledger.fence, run.run_id, lease_s, token) as alive:
            run.steps.check = partial(_check_lease, alive)
            yield TaskContext.of(run, token=token)
    finally:
        run.steps.check = before
        ledger.fence.release(token)


@contextmanager
def holding_also(run: LedgerRun, flow: str, held: str) -> Iterator[FencingToken]:
    """Something else beside what a run holds, for a while: a part of its namespace, or another namespace.

    Redis is told nothing of it; raises as `holding` does.
    """
    workspace, lease_s = run.workspace, run.workspace.settings.lease_s
    ledger = workspace.ledger
    token = _acquired(workspace, held, run.run_id, flow)
    before = run.steps.check
    try:
        with KeepAlive(ledger.runs, ledger.fence, run.run_id, lease_s, token) as alive:
            run.steps.check = partial(_check_both, before, alive)
            yield token
    finally:
        run.steps.check = before
        ledger.fence.release(token)


def _check_both(before: Callable[[], None], alive: KeepAlive) -> None:
    before()
    _check_lease(alive)


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


def _check_lease(alive: KeepAlive) -> None:
    """End a run that was overtaken before it begins another step: all that it would still do is refused anyway."""
    if alive.lost is not None:
        raise alive.lost


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a task must know of its run: small plain values that can go to another process.

    Attributes
    ----------
    namespace
        Name of the memory.
    run_id
        The run in the ledger.
    token
        Value of its right to write.
    window
        Name of its window; of a run over several, the last of them.
    host
        Where the flow runs, by `host_name()`.
    learning
        The flow's settings of learning as text. Tasks take these: a worker's own environment may say otherwise.
    """

    namespace: str
    run_id: str
    token: int
    window: str
    host: str
    learning: str

    @classmethod
    def of(cls, run: LedgerRun, *, window: Window | None = None, token: FencingToken | None = None) -> TaskContext:
        """The context of a run; window and right to write are the run's own where none are given."""
        window = window or run.window
        if window is None:
            raise RuntimeError("this run has no window")
        return cls(
            namespace=run.workspace.namespace,
            run_id=run.run_id,
            token=(token or run.fencing_token).value,
            window=window.name,
            host=host_name(),
            learning=learning_of(run.workspace.settings).to_text(),
        )

    @property
    def fencing_token(self) -> FencingToken:
        """The right to write that the run holds."""
        return FencingToken(self.namespace, self.token, self.run_id)

    def log_fields(self) -> dict[str, str]:
        """What the log lines of a task of the run are about."""
        return {"namespace": self.namespace, "run_id": self.run_id, "window": self.window}

    def as_window(self) -> Window:
        """The window of the run."""
        return Window.of_date(date.fromisoformat(self.window))

    def settings(self) -> Learning:
        """The settings of learning."""
        return Learning.from_text(self.learning)

    def open(self) -> AbstractContextManager[Workspace]:
        """The run's workspace: that of its flow, or one that this process opens itself; see `open_workspace`."""
        return open_workspace(self.namespace, self.host)
