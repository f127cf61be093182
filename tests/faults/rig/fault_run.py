"""A run of a flow in a process of its own, as a test holds it: how far it is, how it ended, what it said."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

RUN_TIMEOUT_S = 90.0
"""Longest time for a run of a tiny night, which takes some seconds."""
SERVER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `done`, `failed` (with the error's type and text), or `killed`."""

    how: str
    error: str = ""
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    events: int = 0
    names: dict[str, int] = field(default_factory=dict)


class Run:
    """A run under way."""

    def __init__(self, process: BaseProcess, line: Connection, log: Path) -> None:
        self._process = process
        self._line = line
        self._log = log
        self._said: Outcome | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process.pid is not None
        return self._process.pid

    def until_begun(self) -> None:
        """Wait until it is about to call its flow."""
        assert self._next() == ("begun",)

    def until_met(self) -> None:
        """Wait until its moment has come, at which it stays until `go`."""
        assert self._next() == ("met",), self.story()

    def has_met(self, within_s: float) -> bool:
        """Whether its moment comes within a time."""
        return self._line.poll(within_s) and self._next() == ("met",)

    def go(self) -> None:
        """Let it go on."""
        self._line.send("go")

    def until_stopped(self) -> None:
        """Wait until it has stopped itself."""
        self._until(lambda: self._state() in "tT", "stop")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, timeout_s: float = RUN_TIMEOUT_S) -> Outcome:
        """Wait for its end."""
        said: tuple[Any, ...] | None = None
        with suppress(EOFError):
            said = self._next(timeout_s)
        self._process.join(timeout_s)
        if self._process.exitcode == -signal.SIGKILL:
            return Outcome("killed")
        assert said is not None, f"it ended with {self._process.exitcode}\n{self.story()}"
        if said[0] == "done":
            return Outcome("done", result=said[1], events=said[2], names=said[3])
        assert said[0] == "failed", said
        return Outcome("failed", said[1], said[2])

    def close(self) -> None:
        """End it, however it stands."""
        self._process.kill()
        self.signal(signal.SIGCONT)
        self._process.join(SERVER_TIMEOUT_S)
        self._line.close()

    def story(self) -> str:
        """What it printed, without the packages that a crash lists."""
        if not self._log.exists():
            return ""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return "\n".join(line[:300] for line in lines[-120:])

    def _next(self, timeout_s: float = RUN_TIMEOUT_S) -> tuple[Any, ...]:
        if not self._line.poll(timeout_s):
            raise AssertionError(f"the run said nothing for {timeout_s:g} s\n{self.story()}")
        message: tuple[Any, ...] = self._line.recv()
        return message

    def _state(self) -> str:
        assert self._process.is_alive(), f"the run has ended before its moment\n{self.story()}"
        return Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        wait_for(holds, f"the run to {what}\n{self.story()}", RUN_TIMEOUT_S)


def wait_for(holds: Callable[[], bool], what: str, timeout_s: float = SERVER_TIMEOUT_S) -> None:
    """Wait until something holds; AssertionError where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.01)
