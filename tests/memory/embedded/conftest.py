"""Homes whose servers are gone after each test, and processes that use them and can be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from memory.embedded.home import Home, runtime_directory
from memory.embedded.process import ProcessIdentity, processes_holding

SOURCE = str(Path(__file__).parents[3])

#: Opens a session on argv[1] with the services in argv[2], reports how that went, and keeps it until its input ends.
USER_PROGRAM = """
import dataclasses, json, os, sys
from memory.embedded import home_status, open_session
from memory.errors import CoinswarmError
try:
    with open_session(sys.argv[1], sys.argv[2].split(","), timeout_s=60) as session:
        report = dataclasses.asdict(session.endpoints)
        report["supervisor"] = home_status(sys.argv[1]).supervisor_pid
        report["uid"] = os.geteuid()
        print(json.dumps(report), flush=True)
        sys.stdin.read()
except CoinswarmError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "remedy": error.remedy}), flush=True)
    raise SystemExit(3)
"""


class User:
    """A process of its own that has a session open."""

    def __init__(
        self, home: Path, services: str, prefix: Sequence[str], python: str, environment: dict[str, str]
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, python, "-c", USER_PROGRAM, str(home), services],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        )

    def report(self) -> dict[str, Any]:
        """Wait until the session is open, and return its endpoints (or the error)."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the user ended with status {self.process.wait()} and said nothing"
        content: dict[str, Any] = json.loads(line)
        return content

    def kill(self) -> None:
        """End it as the kernel would: at once, and without a word."""
        self.process.kill()
        self.process.wait()
        self.close_pipes()

    def leave(self) -> int:
        """Let it close its session; returns when it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(timeout=60)
        self.close_pipes()
        return status

    def close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def holders(home: Path) -> set[int]:
    """Return all processes that hold a lock file of the home open: its users, its supervisor, its servers."""
    return {pid for lock in (home / "locks").glob("*.lock") for pid in processes_holding(lock)}


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Return when the condition holds; fail after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for: {what}"
        time.sleep(0.02)


def stop_supervisor(home: Path) -> None:
    """Ask the supervisor of a home to stop, where there is one, and wait for the end of all its servers."""
    identity = ProcessIdentity.read(Home.at(home).run_file)
    if identity is not None:
        identity.signal(signal.SIGTERM)
    wait_until(lambda: not holders(home), f"the servers of {home} to end")
    # The next start would clean up after a supervisor that was killed; here there is none.
    shutil.rmtree(runtime_directory(Home.at(home), os.environ), ignore_errors=True)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A path for a home. Whatever the test leaves running in it is stopped, and must be gone."""
    directory = tmp_path / "home"
    yield directory
    stop_supervisor(directory)


@pytest.fixture
def start_user(home: Path) -> Iterator[Callable[..., User]]:
    """Start a process with a session on ``home`` (or another one); all of them have ended after the test."""
    users: list[User] = []

    def start(
        services: str = "redis",
        *,
        directory: Path = home,
        prefix: Sequence[str] = (),
        python: str = sys.executable,
        **environment: str,
    ) -> User:
        user = User(directory, services, prefix, python, environment)
        users.append(user)
        return user

    yield start
    for user in users:
        if user.process.poll() is None:
            user.kill()


@pytest.fixture
def wait() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def lock_holders() -> Callable[[Path], set[int]]:
    return holders


@pytest.fixture
def stop_servers() -> Callable[[Path], None]:
    return stop_supervisor
