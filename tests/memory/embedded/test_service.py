"""The watch over one server: how often and how soon it is started again, what it inherits, how large its log grows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from memory.embedded import process
from memory.embedded.home import Home
from memory.embedded.options import EmbeddedOptions
from memory.embedded.process import keep_log_small, processes_with, variable_of
from memory.embedded.service import Service, State, Step


class Shell(Service):
    """A shell that does what it is told."""

    name: ClassVar[str] = "shell"
    restarts_allowed: ClassVar[int] = 3
    restart_delay_s: ClassVar[float] = 0.1
    orphan_patience_s: ClassVar[float] = 0.1
    script = "exit 3"
    kept_open: Sequence[int] = ()

    @property
    def url(self) -> str:
        return ""

    def prepare(self) -> Iterator[Step]:
        return iter(())

    def command(self) -> Sequence[str | Path]:
        return ["/bin/sh", "-c", self.script]

    def version(self) -> str:
        return ""

    def is_ready(self) -> bool:
        return True

    def data_directory(self) -> Path:
        return self.home.directory

    def inherited(self) -> Sequence[int]:
        return self.kept_open


@pytest.fixture
def place(tmp_path: Path) -> Home:
    made = Home.at(tmp_path / "home")
    made.create()
    return made


def poll_until(service: Service, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, (service.state, service.error)
        service.poll()
        time.sleep(0.005)


def test_a_server_that_keeps_dying_is_started_later_each_time_and_then_given_up(place: Home) -> None:
    server = Shell(place, place.directory, EmbeddedOptions())
    server.script = "until [ -e die ]; do sleep 0.02; done; rm die; exit 3"
    killed: set[int] = set()

    def is_given_up() -> bool:
        # One that dies before it is ready is given up at once, so each is left alone until then.
        if server.state is State.READY and server.pid is not None and server.pid not in killed:
            killed.add(server.pid)
            (place.directory / "die").touch()
        return server.state is State.FAILED

    begun = time.monotonic()
    server.request()
    poll_until(server, is_given_up)
    # At once, after 0.1 s, after 0.2 s.
    assert time.monotonic() - begun > 0.3
    assert len(killed) == 4
    assert server.error.startswith("shell ended with status 3")


def test_another_process_at_the_data_is_waited_for_as_long_after_a_pause_as_without(place: Home) -> None:
    server = Shell(place, place.directory, EmbeddedOptions())
    with closing(place.lock("shell")) as held:
        assert held.try_exclusive()
        begun = time.monotonic()
        server._begin(0.5)
        poll_until(server, lambda: server.state is State.FAILED)
    assert time.monotonic() - begun > 0.5 + 2 * Shell.orphan_patience_s
    assert "in use by another process" in server.error


def test_a_server_that_was_given_up_is_started_again_at_once_when_it_is_asked_for(place: Home) -> None:
    server = Shell(place, place.directory, EmbeddedOptions())
    server.request()
    poll_until(server, lambda: server.state is State.FAILED)
    server.script = "sleep 60"
    server.request()
    poll_until(server, lambda: server.state is State.READY)
    server.stop()
    poll_until(server, lambda: server.state is State.STOPPED)


def test_a_server_keeps_what_it_inherits_open(place: Home) -> None:
    lock = place.lock("users")
    assert lock.try_shared()
    server = Shell(place, place.directory, EmbeddedOptions())
    server.script = "sleep 60"
    server.kept_open = (lock.descriptor,)
    server.request()
    poll_until(server, lambda: server.state is State.READY)
    lock.close()  # as if this process had been killed
    other = place.lock("users")
    assert not other.try_exclusive()
    server.stop()
    poll_until(server, lambda: server.state is State.STOPPED)
    assert other.try_exclusive()
    other.close()


def test_the_log_of_a_server_that_runs_is_put_aside_without_losing_its_place(
    place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_LIMIT_BYTES", 10)
    log = place.log("shell")
    with log.open("ab", buffering=0) as written:
        written.write(b"short")
        keep_log_small(log)
        assert log.read_bytes() == b"short"
        written.write(b" and then too long")
        keep_log_small(log)
        written.write(b"new")
    assert log.read_bytes() == b"new"
    assert log.with_suffix(".log.1").read_bytes() == b"short and then too long"


def test_processes_are_found_by_what_their_environment_holds() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "T_MARK": "/a b", "T_MARKED": "/a"},
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert processes_with("T_MARK", "/a b") == [child.pid]
    assert processes_with("T_MARK", "/a") == []
    assert variable_of(child.pid, "T_MARKED") == "/a"
    child.communicate()
    assert variable_of(child.pid, "T_MARK") is None
