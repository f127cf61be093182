"""Many runs that crash at once: each crash is answered, which Prefect alone on SQLite does not do for all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed, Pending, Running

from memory.embedded import prefect_program
from memory.embedded.prefect_server import free_port

pytestmark = pytest.mark.faults

PATIENCE_S = 120.0
THREADS = 4
RUNS = 10
"""Of each thread."""
WATCHERS = 5
"""Automations that wait for what follows a crash, beside the one that answers it."""
LOCKED = "database is locked"


@flow
def crashing() -> None:
    """A flow whose runs only go through states."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.5)


@contextmanager
def prefect_server(program: str, home: Path) -> Iterator[tuple[str, Path]]:
    """A Prefect server of its own: its address and its log."""
    port, log = free_port(), home / "log"
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    words = [sys.executable, "-m", program, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as stream:
        server = subprocess.Popen(words, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        try:
            yield f"http://127.0.0.1:{port}/api", log
        finally:
            server.kill()
            server.wait(PATIENCE_S)


def automation(number: int, *, answers: bool) -> AutomationCore:
    """One that marks a crashed run as failed, or one that would do so where nothing else followed the crash."""
    crashed, followed = "prefect.flow-run.Crashed", {"prefect.flow-run.Pending", "prefect.flow-run.Running"}
    return AutomationCore(
        name=f"automation {number}",
        trigger=EventTrigger(
            posture=Posture.Reactive if answers else Posture.Proactive,
            after=set() if answers else {crashed, *followed},
            expect={crashed} if answers else {crashed, *followed},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            within=600,
        ),
        actions=[ChangeFlowRunState(state=StateType.FAILED, name="Answered", message="", force=False)],
    )


def crash(url: str, often: int, enough: Callable[[], bool]) -> list[UUID]:
    """Bring runs of the flow to a crash, one after another, until that is enough; their ids."""
    runs = []
    # A request that fails is not tried again.
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), SyncPrefectClient(url) as client:
        while len(runs) < often and not enough():
            runs.append(client.create_flow_run(crashing).id)
            for state in (Pending(), Running(), Crashed()):
                client.set_flow_run_state(runs[-1], state)
    return runs


def crash_many(
    client: SyncPrefectClient, url: str, often: int = RUNS, enough: Callable[[], bool] = lambda: False
) -> Iterator[Future[list[UUID]]]:
    """Crash runs in several threads at once, before the eyes of automations."""
    until(lambda: client.api_healthcheck() is None, "the server")
    for number in range(WATCHERS + 1):
        client.create_automation(automation(number, answers=number == WATCHERS))
    time.sleep(5)  # until the server has read them
    with ThreadPoolExecutor(THREADS) as threads:
        yield from as_completed([threads.submit(crash, url, often, enough) for _ in range(THREADS)])


def test_each_of_many_crashes_at_once_is_answered(tmp_path: Path) -> None:
    with prefect_server(prefect_program.__name__, tmp_path) as (url, log), SyncPrefectClient(url) as client:
        runs = {run for crashed in crash_many(client, url) for run in crashed.result()}
        assert len(runs) == THREADS * RUNS

        def all_answered() -> bool:
            runs.difference_update([run for run in runs if client.read_flow_run(run).state.name == "Answered"])
            return not runs

        until(all_answered, "the crashed runs to be answered")
        assert LOCKED not in log.read_text()


def test_prefect_alone_is_locked(tmp_path: Path) -> None:
    with prefect_server("prefect", tmp_path) as (url, log), SyncPrefectClient(url) as client:
        crashed = crash_many(client, url, 20 * RUNS, lambda: LOCKED in log.read_text())
        # What a request does is answered with 503 where it is locked, and only what follows from it is in the log.
        refused = [thread.exception() for thread in crashed if thread.exception() is not None]
        assert any("503" in str(each) for each in refused) or LOCKED in log.read_text()
