"""Where tasks run: bounded threads, or the worker processes of a Dask cluster, with the same knowledge in the end."""

from __future__ import annotations

import datetime as dt
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prefect import Task, flow, task
from prefect.context import FlowRunContext

from memory.errors import EmbeddedServerError
from memory.settings import Settings
from memory.window import Window
from tasks.backfilling import backfill_window
from tasks.consolidation import Part, summarise_patterns
from tasks.dask_address import TaskRunnerError
from tasks.learning import learning_of
from tasks.runner import configured_task_runner, task_runner
from tasks.runs import TaskContext

DAY = dt.date(2021, 6, 17)


def elsewhere(namespace: str) -> TaskContext:
    """The context of a task whose flow runs on another machine."""
    window = Window.of_date(DAY).name
    return TaskContext(namespace, "run", 1, window, "some-other-machine", learning_of(Settings()).to_text())


PART = Part("ns/enc/2", DAY.isoformat(), "enc", "replay", "0" * 64, 0, 0, 1, 1, ("MIXED",))


@pytest.mark.parametrize(
    ("work", "arguments"),
    [(backfill_window, (Window.of_date(DAY), None)), (summarise_patterns, (PART, "MIXED"))],
    ids=["a window", "a partition"],
)
def test_a_worker_elsewhere_starts_no_servers_of_its_own(
    work: Task[..., Any], arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COINSWARM_HOME", str(tmp_path / "home"))
    for variable in ("COINSWARM_REDIS_URL", "COINSWARM_DATABASE_URL", "COINSWARM_ARCHIVE_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(EmbeddedServerError, match="embedded servers serve one machine") as refused:
        work.fn(elsewhere("ns"), *arguments)
    assert "COINSWARM_REDIS_URL and COINSWARM_DATABASE_URL" in refused.value.remedy
    assert "some-other-machine" in refused.value.message
    assert not (tmp_path / "home").exists()


def test_a_worker_elsewhere_does_not_look_for_the_archive_in_its_own_home(configured: str) -> None:
    context = elsewhere(configured)
    with pytest.raises(EmbeddedServerError, match="COINSWARM_ARCHIVE_URL"):
        backfill_window.fn(context, context.as_window(), None)


def test_a_worker_elsewhere_with_servers_and_archive_that_all_reach_may_work(
    configured: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COINSWARM_ARCHIVE_URL", f"file://{tmp_path / 'shared'}")
    with elsewhere(configured).open() as workspace:
        assert workspace.namespace == configured


@pytest.mark.usefixtures("prefect_server")
def test_as_many_tasks_run_at_once_as_the_settings_said_when_the_flow_began(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, most = threading.Lock(), [0], [0]

    @task
    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.1)
        with lock:
            running[0] -= 1

    configured_runner = configured_task_runner()
    monkeypatch.setenv("COINSWARM_TASK_WORKERS", "3")
    with configured_runner.duplicate() as runner:
        for future in [runner.submit(work, {}) for _ in range(9)]:
            future.result()
    assert most[0] == 3


@pytest.mark.usefixtures("prefect_server")
def test_flows_that_a_flow_calls_share_its_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSWARM_TASK_RUNNER", "dask")
    monkeypatch.setenv("COINSWARM_TASK_WORKERS", "1")

    @flow(task_runner=configured_task_runner())
    def step() -> int:
        return int(process_of_the_task.submit().result())

    @flow(task_runner=configured_task_runner())
    def night() -> list[int]:
        return [step(), step(), int(process_of_the_task.submit().result())]

    first, second, own = night()
    assert first == second == own != os.getpid()


@pytest.mark.usefixtures("prefect_server")
def test_a_night_whose_flows_submit_nothing_starts_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSWARM_TASK_RUNNER", "dask")

    @flow(task_runner=configured_task_runner())
    def night() -> Any:
        runner = FlowRunContext.get().task_runner  # type: ignore[union-attr]
        return (type(runner).__name__, runner._cluster)

    assert night() == ("LocalDaskRunner", None)


@task
def process_of_the_task() -> int:
    return os.getpid()


def test_dask_that_is_not_installed_is_refused_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    monkeypatch.delitem(sys.modules, "tasks.dask_runner", raising=False)
    with pytest.raises(TaskRunnerError, match="Install the extra 'scale'"):
        task_runner(Settings(task_runner="dask"))


def test_a_running_cluster_is_used_where_its_address_is_set() -> None:
    from prefect_dask.task_runners import DaskTaskRunner

    with socket.create_server(("127.0.0.1", 0)) as scheduler:
        address = f"tls://127.0.0.1:{scheduler.getsockname()[1]}"
        runner = task_runner(Settings(task_runner="dask", dask_address=address))
    assert isinstance(runner, DaskTaskRunner)
    assert (runner.address, runner.cluster_kwargs) == (address, {})
