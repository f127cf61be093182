"""The process of one run: forked from a server that has everything imported, it watches itself and runs a flow."""

from __future__ import annotations

import datetime as dt
import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import fault_disk
import fault_moments
import fault_removals
from prefect import Task

import flows.backup_memory
import flows.consolidate_memories
import flows.janitor
import flows.nightly
import flows.prune_memories
import flows.record_experiences
import flows.restore_drill
import flows.restore_memory
import flows.start_line
import flows.train_agents
import flows.update_transitions

FLOWS: dict[str, Any] = {
    "consolidate": flows.consolidate_memories,
    "transitions": flows.update_transitions,
    "prune": flows.prune_memories,
    "record": flows.record_experiences,
    "line": flows.start_line,
    "nightly": flows.nightly,
    "train": flows.train_agents,
    "janitor": flows.janitor,
    "backup": flows.backup_memory,
    "restore": flows.restore_memory,
    "drill": flows.restore_drill,
}
NAMES = {
    "consolidate": "consolidate_memories",
    "transitions": "update_transitions",
    "prune": "prune_memories",
    "record": "record_experiences",
    "line": "start_line",
    "nightly": "nightly",
    "train": "train_agents",
    "janitor": "janitor",
    "backup": "backup_memory",
    "restore": "restore_memory",
    "drill": "restore_drill",
}
WINDOWLESS = ("line", "janitor", "backup", "restore", "drill")
"""Flows that are given no date."""
TASK_MODULES = tuple(
    import_module(f"tasks.{name}")
    for name in (
        "consolidation",
        "folding",
        "janitor",
        "publishing",
        "lateness",
        "lines",
        "pruning",
        "recording",
        "reporting",
        "taking_over",
        "backing_up",
        "restoring",
        "training",
    )
)
"""Imported here, since a flow may import its tasks late, and a run that is forked should find them."""
RETRY_DELAYS_S = [0.5, 2.0, 5.0]
"""Between attempts of a task: servers of a test are back within a second or two."""
LOADED_BY = os.getpid()
"""The process that imported all this; a run that has another pid was forked."""


@dataclass(frozen=True)
class Job:
    """A run.

    Attributes
    ----------
    flow, namespace, date
        What to run, and on what.
    moment, action
        When to do what to itself: `kill`, `stop`, or `meet` (tell the parent, and wait for its word).
    removed
        Safeguards to run without.
    environment
        Variables to set before.
    log
        File for what it prints.
    parameters
        More parameters of the flow.
    algorithm
        Version of the algorithm that it takes its own for; its software's where None.
    disk
        Process whose small disk (`fault_disk`) it works on; None for the disks that everybody sees.
    """

    flow: str
    namespace: str
    date: dt.date
    environment: dict[str, str]
    log: str
    moment: fault_moments.Moment | None = None
    action: str = "kill"
    removed: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    algorithm: str | None = None
    disk: int | None = None


def main(job: Job, line: Connection) -> None:
    """Run a job to its end, and tell how it ended; the process is gone afterwards."""
    if threading.active_count() != 1 or os.getpid() == LOADED_BY:
        raise RuntimeError("a run must be forked from a server of one thread that has everything imported")
    descriptor = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable()
    if job.disk is not None:
        fault_disk.join(job.disk)
    os.environ.update(job.environment)
    fault_removals.remove(job.removed)
    _retry_soon()
    if job.algorithm is not None:
        for name, module in list(sys.modules.items()):
            if name.startswith("tasks.") and hasattr(module, "ALGORITHM_VERSION"):
                module.ALGORITHM_VERSION = job.algorithm
    watch = fault_moments.Watch(job.moment, _action(job.action, line))
    fault_moments.install(watch, every_command=job.flow == "record")
    flow = FLOWS[job.flow]
    date = {} if job.flow in WINDOWLESS else {"date": job.date}
    parameters = flow.Parameters(namespace=job.namespace, **date, **job.parameters)
    line.send(("begun",))
    try:
        result = getattr(flow, NAMES[job.flow])(parameters)
    except Exception as error:  # noqa: BLE001 - whoever started the run judges it
        line.send(("failed", type(error).__name__, str(error)))
    else:
        line.send(("done", result, watch.events, dict(watch.names)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Prefect's threads and their queues are of no interest to anybody.


def _action(name: str, line: Connection) -> Callable[[], None]:
    def meet() -> None:
        line.send(("met",))
        line.recv()

    return meet if name == "meet" else fault_moments.ACTIONS[name]


def _retry_soon() -> None:
    for module in TASK_MODULES:
        for each in vars(module).values():
            if isinstance(each, Task):
                each.retry_delay_seconds = RETRY_DELAYS_S
