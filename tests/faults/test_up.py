"""`coinswarm up` as a person has it: found by a second one, mended where its parts are killed, ended in order."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fault_disk import refusal
from fault_rig import wait_for

from deployments.up_prefect import prefect_client, run_of
from deployments.up_state import read_up
from deployments.up_worker import MARK, run_processes
from memory import embedded
from memory.embedded.home import Home
from memory.embedded.process import ProcessIdentity, processes_with

pytestmark = pytest.mark.faults

COINSWARM = Path(sys.executable).parent / "coinswarm"
TIMEOUT_S = 240.0
NIGHT = {"source": "market", "date": "2021-06-17", "products": ["BTC-USDT"]}


class Up:
    """A home, and the `up` in it."""

    def __init__(self, directory: Path) -> None:
        self.home = Home.at(directory)
        self.folder = directory.parent
        self.process: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """That of a user who has set nothing but the home."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COINSWARM_", "PREFECT_"))}
        return {**kept, "COINSWARM_HOME": str(self.home.directory)}

    def coinswarm(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COINSWARM, *words], env=self.environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )

    def start(self) -> dict[str, Any]:
        """Start it; what it printed once all was well."""
        with (self.folder / "stderr").open("a") as errors:
            self.process = subprocess.Popen(
                [COINSWARM, "up", "--json"],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "stderr").read_text()
        printed: dict[str, Any] = json.loads(line)
        return printed

    def end(self, number: int = signal.SIGTERM) -> int:
        """Have it end; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == ""  # with --json it says one thing
        self.process.stdout.close()
        return code

    def worker(self) -> ProcessIdentity | None:
        identity = ProcessIdentity.read(self.home.process_record("worker"))
        return identity if identity is not None and identity.is_alive() else None

    def processes(self) -> set[int]:
        """All that work for the home."""
        found = set(processes_with(MARK, str(self.home.directory)))
        status = embedded.home_status(self.home.directory)
        return found | {pid for pid in (status.supervisor_pid, *(server.pid for server in status.servers)) if pid}

    @contextmanager
    def prefect(self) -> Iterator[Any]:
        """A client of its Prefect server."""
        from prefect.settings import temporary_settings

        state = read_up(self.home.directory)
        assert state is not None
        endpoints = embedded.Endpoints(None, None, state.api_url)
        environment: dict[Any, Any] = dict(embedded.prefect_environment(self.home.directory, endpoints))
        with temporary_settings(environment), prefect_client(state.api_url) as client:
            yield client

    def begin(self, client: Any, deployment: str, **parameters: Any) -> Any:
        """Ask for a run, as Custom run does; its id, once a process carries it out."""
        found = client.read_deployment_by_name(deployment)
        given = {**found.parameters, "parameters": {**found.parameters.get("parameters", {}), **parameters}}
        run = client.create_flow_run_from_deployment(found.id, parameters=given).id
        wait_for(lambda: run_of(client, run).state == "Running", "the run to begin", TIMEOUT_S)
        return run


@pytest.fixture(scope="module")
def idle() -> Iterator[Up]:
    """A home of its own, and the `up` in it, once it is started."""
    folder = Path(tempfile.mkdtemp(prefix="coinswarm-up-"))
    made = Up(folder / "home")
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
        wait_for(lambda: not made.processes(), "all of it to end", TIMEOUT_S)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def up(idle: Up) -> Up:
    """It, running."""
    if idle.process is None or idle.process.poll() is not None:
        idle.start()
    return idle


def test_what_a_killed_up_leaves_ends_by_itself_and_the_next_one_is_whole(idle: Up) -> None:
    if idle.process is not None and idle.process.poll() is None:
        idle.end()
    printed = idle.start()
    assert printed["state"] == "ready"
    assert {server["name"] for server in printed["servers"]} == {"redis", "postgres", "prefect", "worker"}
    assert len(idle.processes()) >= 5
    assert idle.process is not None
    idle.process.kill()
    idle.process.wait()
    assert idle.process.stdout is not None
    idle.process.stdout.close()
    wait_for(lambda: not idle.processes(), "worker and servers to hear of it", TIMEOUT_S)
    assert read_up(idle.home.directory) is None
    again = idle.start()
    assert (again["state"], again["already_running"], again["ui"]) == ("ready", False, printed["ui"])


def test_everything_is_ready_and_planned_and_nothing_runs_in_an_empty_home(up: Up) -> None:
    found = up.coinswarm("up", "--json")
    assert found.returncode == 0, found.stderr
    printed = json.loads(found.stdout)
    deployments = {item["name"]: item for item in printed["deployments"]}
    assert all(item["status"] == "READY" for item in deployments.values())
    planned = {name for name, item in deployments.items() if item["next_run"] is not None}
    assert planned == {name for name, item in deployments.items() if item["scheduled"]}
    assert "nightly/default" in planned
    secret = (up.home.prefect_data / "auth-string").read_text()
    said = found.stdout + found.stderr + (up.folder / "stderr").read_text() + up.home.log("up").read_text()
    assert secret.partition(":")[2] not in said
    assert printed["login_file"] == str(up.home.prefect_data / "auth-string")
    with up.prefect() as client:
        # By their deployment: a run has another name until its flow begins.
        begun = {run.deployment_id for run in client.read_flow_runs() if run.start_time is not None}
        drain = client.read_deployment_by_name("record_experiences/default.drain").id
    assert begun <= {drain}, "nothing but the drain of every few minutes may have come due"


def test_a_second_up_finds_the_first_and_starts_nothing(up: Up) -> None:
    before = up.processes()
    found = up.coinswarm("up")
    assert found.returncode == 0, found.stderr
    state = read_up(up.home.directory)
    assert state is not None
    assert state.ui_url in found.stdout
    assert f"up already, since {state.started_at:%Y-%m-%dT%H:%M} (pid {state.pid})" in found.stdout
    assert up.processes() - set(run_processes(up.home)) <= before
    refused = up.coinswarm("up", "--namespace", "other")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "for the namespace 'default'" in refused.stderr


def test_a_worker_and_a_supervisor_that_are_killed_come_back_and_no_second_worker_does(up: Up) -> None:
    worker = up.worker()
    assert worker is not None
    servers = {server.name: server.pid for server in embedded.home_status(up.home.directory).servers}
    os.kill(worker.pid, signal.SIGKILL)
    supervisor = embedded.home_status(up.home.directory).supervisor_pid
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)

    def are_back() -> bool:
        status = embedded.home_status(up.home.directory)
        new = {server.name: server.pid for server in status.servers if server.state == "ready"}
        found = up.worker()
        return new.keys() == servers.keys() and found is not None and found != worker

    wait_for(are_back, "worker and servers to come back", TIMEOUT_S)
    now = {server.name: server.pid for server in embedded.home_status(up.home.directory).servers}
    assert not set(now.values()) & set(servers.values())
    runs = run_processes(up.home)
    started = up.worker()
    assert started is not None
    assert set(processes_with(MARK, str(up.home.directory))) - set(runs) == {started.pid}


def test_a_run_under_way_is_ended_in_order_and_told_and_nothing_is_left(up: Up) -> None:
    with up.prefect() as client:
        run = up.begin(client, "record_experiences/default", **NIGHT)
        assert str(run) in run_processes(up.home).values()
    assert up.end() == 0
    wait_for(lambda: not up.processes(), "nothing to be left", TIMEOUT_S)
    assert read_up(up.home.directory) is None
    said = up.home.log("up").read_text()
    assert "record-default-market: crashed." in said
    order = [said.rindex(text) for text in ("Ending the worker", "Stopping redis, postgres, prefect", "Stopped.")]
    assert order == sorted(order)
    with closing(sqlite3.connect(f"file:{up.home.prefect_data / 'prefect.db'}?mode=ro", uri=True)) as prefect:
        states = "SELECT s.name, s.message FROM flow_run r JOIN flow_run_state s ON s.id = r.state_id WHERE r.id = ?"
        (ended,) = prefect.execute(states, (str(run),)).fetchall()
        assert ended == ("Crashed", "Execution was aborted by a termination signal.")
        alive = "SELECT name FROM flow_run WHERE state_type IN ('RUNNING', 'PENDING', 'CANCELLING')"
        assert prefect.execute(alive).fetchall() == []
        assert prefect.execute("SELECT DISTINCT paused FROM deployment").fetchall() == [(0,)]
        assert prefect.execute("SELECT DISTINCT active FROM deployment_schedule").fetchall() == [(1,)]


def test_a_disk_without_room_is_one_line_that_says_so(tmp_path: Path) -> None:
    reason = refusal()
    if reason is not None:
        pytest.skip(f"no disk can be mounted here: {reason}")
    small = tmp_path / "disk"
    small.mkdir()
    script = f'mount -t tmpfs -o size=16m none "{small}" && COINSWARM_HOME="{small}/home" exec "{COINSWARM}" up'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("coinswarm: 16 MiB are free under ")
    assert done.stderr.count("\n") == 1
