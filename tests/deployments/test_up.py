"""`coinswarm up` without its servers: what it looks at first, whom it ends, what it tells, how signals reach it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import rich.console

from deployments.console import Console
from deployments.up_checks import LEAST_FREE_BYTES, UpError, check_room, check_same, first_up
from deployments.up_prefect import RunFacts, in_words, lost
from deployments.up_shown import show_up
from deployments.up_signals import Stopping
from deployments.up_state import UpState, forget_up, read_up, up_file, up_lock, write_up
from deployments.up_worker import MARK, RUN_ID, Worker, WorkerOrder, end_runs, run_processes, worker_name
from memory.embedded.home import Home, read_json, write_json
from memory.settings import Settings

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
WAITING = "import time; time.sleep(60)"
OBEDIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print("told", flush=True), sys.exit(0)))
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    place = Home.at(tmp_path / "home")
    place.create()
    return place


@pytest.fixture
def settings(home: Home) -> Settings:
    return Settings(home=home.directory, namespace="mine", start_timeout_s=0.5)


@pytest.fixture
def state(home: Home) -> UpState:
    return UpState(
        pid=os.getpid(),
        state="ready",
        namespace="mine",
        ui_url="http://127.0.0.1:4200",
        api_url="http://127.0.0.1:4200/api",
        login_file=str(home.prefect_data / "auth-string"),
        metrics_url="http://127.0.0.1:9464/metrics",
        pool="coinswarm",
        worker="up-here",
        logs=str(home.logs),
        started_at=NOW,
    )


@pytest.fixture
def start(home: Home) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that carries out a run of the home's worker."""
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, run: str, of: Home = home) -> subprocess.Popen[str]:
        environment = {**os.environ, MARK: str(of.directory), RUN_ID: run}
        process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def order(**changes: object) -> WorkerOrder:
    given = WorkerOrder("coinswarm", 3, {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_API_AUTH_STRING": "s3"})
    return replace(given, **changes)  # type: ignore[arg-type]


# --- before anything starts ------------------------------------------------------------------------------------


def test_a_disk_that_is_nearly_full_is_refused_with_what_is_free_and_what_is_needed(home: Home) -> None:
    check_room(home, LEAST_FREE_BYTES)
    with pytest.raises(UpError, match=r"^3 MiB are free under .*; the servers need 256\. Make room") as caught:
        check_room(home, 3 * 2**20)
    assert str(home.directory) in caught.value.message


def test_the_lock_of_a_home_without_an_up_is_taken(home: Home, settings: Settings) -> None:
    with closing(up_lock(home.directory)) as lock:
        assert first_up(lock, settings, Console(as_json=True)) is None
        with closing(up_lock(home.directory)) as other:
            assert not other.try_exclusive()


def test_an_up_that_is_ready_is_found(home: Home, settings: Settings, state: UpState) -> None:
    with closing(up_lock(home.directory)) as held, closing(up_lock(home.directory)) as lock:
        assert held.try_exclusive()
        write_up(home.directory, state)
        assert first_up(lock, settings, Console(as_json=True)) == state


def test_an_up_that_neither_gets_ready_nor_ends_is_waited_for_and_named(
    home: Home, settings: Settings, state: UpState
) -> None:
    with closing(up_lock(home.directory)) as held, closing(up_lock(home.directory)) as lock:
        assert held.try_exclusive()
        write_up(home.directory, replace(state, state="starting"))
        with pytest.raises(UpError, match=rf"waited 0.5 s .*the one with pid {os.getpid()} is starting") as caught:
            first_up(lock, settings, Console(as_json=True))
    assert str(home.log("up")) in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "port", "said"),
    [
        ({"namespace": "other"}, None, "'other'"),
        ({}, 4300, "4200"),
        ({"metrics_url": "http://127.0.0.1:9465/metrics"}, None, "with metrics on port 9465, not 9464"),
        ({"worker": ""}, None, "with --no-worker"),
    ],
)
def test_an_up_that_serves_something_else_is_not_taken_for_the_one_asked_for(
    change: dict[str, str], port: int | None, said: str, settings: Settings, state: UpState
) -> None:
    check_same(state, settings, None, with_worker=True)
    settings = settings.model_copy(update={"metrics_port": 9464})
    check_same(state, settings, None, with_worker=True)
    check_same(replace(state, worker=""), settings.model_copy(update={"metrics_port": 0}), 4200, with_worker=False)
    check_same(replace(state, worker=""), settings, 4200, with_worker=False)
    with pytest.raises(UpError, match=said) as caught:
        check_same(replace(state, **change), settings, port, with_worker=True)  # type: ignore[arg-type]
    assert str(os.getpid()) in caught.value.message


# --- what is written down --------------------------------------------------------------------------------------


def test_what_an_up_wrote_down_is_read_as_long_as_it_lives(home: Home, state: UpState) -> None:
    write_up(home.directory, state)
    assert read_up(home.directory) == state
    forget_up(home.directory)
    assert read_up(home.directory) is None


def test_an_up_that_was_killed_is_none_although_its_pid_is_given_out_again(home: Home, state: UpState) -> None:
    write_up(home.directory, state)
    content = read_json(up_file(home.directory))
    assert content is not None
    write_json(up_file(home.directory), content | {"start_ticks": content["start_ticks"] - 1})
    assert read_up(home.directory) is None


# --- the worker and its runs -----------------------------------------------------------------------------------


def test_the_worker_gets_the_password_in_its_environment_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    worker = Worker(home, order(inherited=(7,)))
    assert worker.environment()["PREFECT_API_AUTH_STRING"] == "s3"
    assert not any("s3" in str(word) for word in worker.command())
    assert "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL" not in worker.environment()
    assert worker.inherited() == (7,)


def test_each_home_has_a_worker_of_its_own_and_the_same_each_time(home: Home, tmp_path: Path) -> None:
    assert worker_name(home) == Worker(home, order()).worker_name
    assert worker_name(home) != worker_name(Home.at(tmp_path / "elsewhere"))
    assert not set("/%") & set(worker_name(home))  # Prefect refuses these


def test_why_a_worker_was_given_up_is_one_line(home: Home) -> None:
    worker = Worker(home, order())
    worker.error = "worker ended with status 1; its log /l ends with:\n  first\n\n  Work pool 'x' not found\n"
    assert worker.why() == "worker ended with status 1; its log /l ends with: Work pool 'x' not found"


def test_only_processes_of_the_homes_own_runs_are_found(
    home: Home, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    mine = start(WAITING, "r1")
    start(WAITING, "r2", Home.at(tmp_path / "elsewhere"))
    assert run_processes(home) == {mine.pid: "r1"}


def test_a_run_is_told_once_to_end_and_may_finish_what_it_does_for_it(
    home: Home, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(OBEDIENT, "r1")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    end_runs(home, hurried=lambda: False, patience_s=20)
    assert process.wait() == 0
    assert process.stdout.readline() == "told\n"


def test_a_run_that_does_not_end_is_killed_when_it_was_waited_for_or_at_once_in_a_hurry(
    home: Home, start: Callable[..., subprocess.Popen[str]]
) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True);" + WAITING
    for hurried, patience_s in ((True, 60.0), (False, 0.2)):
        process = start(deaf, "r1")
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        begun = time.monotonic()
        end_runs(home, hurried=lambda hurried=hurried: hurried, patience_s=patience_s)
        assert process.wait() == -signal.SIGKILL
        assert time.monotonic() - begun < 30


def run(worker: str | None, *, age_s: float = 100.0) -> RunFacts:
    return RunFacts(uuid4(), "nightly-mine", "Running", False, NOW - timedelta(seconds=age_s), worker)


def test_runs_are_lost_whose_worker_was_ours_and_that_have_no_process() -> None:
    dead, alive, others, young = run("w"), run("w"), run("another"), run("w", age_s=1)
    unclaimed = run(None)
    runs, before = [dead, alive, others, young, unclaimed], NOW - timedelta(seconds=60)
    assert lost(runs, {str(alive.id)}, "w", alone=False, before=before) == [dead]
    # On a server of this home's own nobody else can have taken one.
    assert lost(runs, {str(alive.id)}, "w", alone=True, before=before) == [dead, unclaimed]


# --- signals ---------------------------------------------------------------------------------------------------


def test_a_signal_raises_while_something_starts_and_only_asks_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert (stopping.asked, stopping.hurried) == (True, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.hurried
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_came_before_interrupts_what_may_be_interrupted() -> None:
    with Stopping() as stopping:
        stopping.raises = False
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked
        with pytest.raises(KeyboardInterrupt), stopping.interruptible():
            pytest.fail("it was asked to end already")


def test_who_ignores_the_end_of_the_terminal_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping.asked
    finally:
        signal.signal(signal.SIGHUP, before)


# --- words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(seconds=-5), "due"),
        (timedelta(seconds=20), "in 1 min"),
        (timedelta(minutes=89), "in 89 min"),
        (timedelta(hours=21, minutes=10), "in 21 h"),
        (timedelta(days=6), "in 6 days"),
    ],
)
def test_when_something_runs_next_is_said_in_words(left: timedelta, words: str) -> None:
    assert in_words(NOW + left, NOW) == words
    assert in_words(None, NOW) == ""


def test_what_is_up_is_shown_with_the_next_runs_in_their_order_and_where_to_find_the_login() -> None:
    def deployment(name: str, next_run: datetime | None) -> dict[str, object]:
        at = next_run.isoformat() if next_run else None
        return {"name": name, "status": "READY", "scheduled": next_run is not None, "next_run": at}

    far = datetime.now(UTC) + timedelta(days=3)
    result = {
        "ui": "http://127.0.0.1:4200",
        "login_file": "/h/prefect/auth-string",
        "metrics": None,
        "logs": "/h/logs",
        "deployments": [
            deployment("nightly/mine", far),
            deployment("backfill/mine", None),
            deployment("record_experiences/mine.drain", far - timedelta(days=1)),
        ],
        "summary": "All is ready.",
        "already_running": False,
    }
    out = rich.console.Console(file=io.StringIO(), width=120)
    show_up(result, out)
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert "with the line in /h/prefect/auth-string" in text
    assert text.index("record_experiences/mine.drain") < text.index("nightly/mine")
    assert "By hand: 1 more" in text
    assert "Ctrl-C ends all of it" in text
