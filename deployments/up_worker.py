"""Prefect's own process worker as a child that is watched, and the processes of the runs that it starts."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from memory.embedded.home import Home
from memory.embedded.options import EmbeddedOptions
from memory.embedded.process import ProcessIdentity, processes_with, variable_of
from memory.embedded.service import Service, Step

MARK = "COINSWARM_UP"
"""Variable that all processes of the worker of a home carry, with the home as its value."""
RUN_ID = "PREFECT__FLOW_RUN_ID"
"""Variable in which Prefect names the run to the process that carries it out."""
QUERY_S = 5
"""Seconds between two questions for work: how long a person waits at most after Custom run."""
RUN_PATIENCE_S = 40.0
"""A run that was told to end is killed after this long: Prefect gives one that is cancelled 30 seconds."""
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """What a worker is to do.

    Attributes
    ----------
    pool
        Work pool whose runs it carries out.
    at_once
        Runs at once; others wait.
    environment
        Variables for Prefect. They hold a password.
    inherited
        Descriptors that it keeps open, and with them the servers up, should `up` be killed.
    """

    pool: str
    at_once: int
    environment: Mapping[str, str]
    inherited: Sequence[int] = ()


class Worker(Service):
    """`prefect worker start` as production has it. One a home: its lock is held by itself, whoever started it."""

    name: ClassVar[str] = "worker"
    restart_period_s: ClassVar[float] = 300.0
    restart_delay_s: ClassVar[float] = 2.0

    def __init__(self, home: Home, order: WorkerOrder) -> None:
        super().__init__(home, home.directory, EmbeddedOptions())
        self.order = order
        self.worker_name = worker_name(home)

    @property
    def url(self) -> str:
        return self.order.environment["PREFECT_API_URL"]

    def data_directory(self) -> Path:
        return self.home.directory / "worker"

    def prepare(self) -> Iterator[Step]:
        self.data_directory().mkdir(mode=0o700, exist_ok=True)
        return iter(())

    def command(self) -> Sequence[str | Path]:
        words = ["worker", "start", "--type", "process", "--pool", self.order.pool, "--name", self.worker_name]
        words += ["--limit", str(self.order.at_once), "--install-policy", "never", "--no-create-pool-if-not-found"]
        return [sys.executable, "-P", "-m", "prefect", *words]

    def environment(self) -> Mapping[str, str]:
        # Flows see what their user has set: namespace, servers, settings of learning.
        quiet = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
        kept = {name: value for name, value in os.environ.items() if name != quiet}
        own = {
            MARK: str(self.home.directory),
            "PREFECT_WORKER_QUERY_SECONDS": str(QUERY_S),
            "PREFECT_LOGGING_COLORS": "false",
            "PYTHONUNBUFFERED": "1",
        }
        return {**kept, **{name: value for name, value in self.order.environment.items() if name != quiet}, **own}

    def inherited(self) -> Sequence[int]:
        return self.order.inherited

    def version(self) -> str:
        return importlib.metadata.version("prefect")

    def is_ready(self) -> bool:
        # That it lives; whether Prefect hears of it is asked there.
        return True

    def why(self) -> str:
        """In one line, how it ended when it was given up."""
        lines = [line.strip() for line in self.error.splitlines() if line.strip()]
        return " ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else ""


def worker_name(home: Home) -> str:
    """The worker's name in Prefect: the same each time, and no other home's."""
    digest = hashlib.sha256(os.fsencode(home.directory)).hexdigest()[:8]
    return f"up-{socket.gethostname()}-{digest}"


def run_processes(home: Home) -> dict[int, str]:
    """Processes that carry out a run of this home's worker, or of one before it: the run's id by pid."""
    found = {pid: variable_of(pid, RUN_ID) for pid in processes_with(MARK, str(home.directory))}
    return {pid: run for pid, run in found.items() if run}


def end_runs(home: Home, *, hurried: Callable[[], bool], patience_s: float = RUN_PATIENCE_S) -> None:
    """End all runs of this home's worker; returns when none has a process any more.

    Each is told once, and tells Prefect and the ledger that it was ended. So this comes before the end of the worker,
    which ends its runs by SIGKILL, and they tell nobody.

    Parameters
    ----------
    home
        Whose runs.
    hurried
        Whether they are to be killed at once; asked again and again.
    patience_s
        How long they may take.
    """
    told: set[ProcessIdentity] = set()
    begun = time.monotonic()
    while processes := run_processes(home):
        late = hurried() or time.monotonic() - begun > patience_s
        for pid in processes:
            identity = ProcessIdentity.of(pid)
            if identity is not None and (late or identity not in told):
                # A second SIGTERM would end a run while it tells Prefect of the first.
                told.add(identity)
                identity.wake_and_signal(signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(_PAUSE_S)
