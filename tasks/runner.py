"""Where the tasks of a flow run: threads of its own process, or a Dask cluster; the settings say which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from prefect.task_runners import ThreadPoolTaskRunner

from memory.settings import Settings
from tasks.dask_address import TaskRunnerError, check_scheduler

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """The task runner that the settings name, for one run of a flow.

    `threads` runs at most `task_workers` tasks at once in the flow's own process: clustering leaves Python's lock for
    most of its time. `dask` hands them to the cluster at `dask_address`, or starts one on this machine with as many
    worker processes as `task_workers`, one task at a time each, which talk over TLS with credentials of their own; its
    start takes some seconds of every run that submits a task, whose flows share it (`LocalDaskRunner`). A task finds
    its servers by the environment of the process that it runs in, and refuses to work for a flow elsewhere with what
    only its own machine can reach (`open_workspace`).

    Raises
    ------
    TaskRunnerError
        Dask is asked for and not installed, or its scheduler is not there.
    """
    if settings.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=settings.task_workers)
    try:
        from prefect_dask.task_runners import DaskTaskRunner

        from tasks.dask_runner import LocalDaskRunner
    except ImportError as error:
        raise TaskRunnerError(
            f"COINSWARM_TASK_RUNNER=dask needs prefect-dask, which cannot be imported: {error}.",
            remedy="Install the extra 'scale', or set COINSWARM_TASK_RUNNER=threads.",
        ) from error
    if settings.dask_address is not None:
        check_scheduler(settings)
        return DaskTaskRunner(address=settings.dask_address)
    return LocalDaskRunner(
        cluster_kwargs={
            "n_workers": settings.task_workers,
            "threads_per_worker": 1,
            "processes": True,
            # Any user of the machine reaches its ports, and a scheduler runs what it is told.
            "security": True,
            "dashboard_address": None,
            # Dask would end a worker at its share of the memory, in the middle of a partition that fits.
            "memory_limit": 0,
        }
    )


def configured_task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """The task runner of a flow's definition: each run of the flow gets that of the settings as they are then."""
    return cast("TaskRunner[PrefectFuture[Any]]", _Configured())


class _Configured(ThreadPoolTaskRunner[Any]):
    """A flow starts a duplicate of its task runner for each run: this one's is made by the settings.

    Prefect makes it before the flow's own context, within that of the flow that called it.
    """

    def duplicate(self) -> Any:
        """The task runner of the settings."""
        return task_runner(Settings())
