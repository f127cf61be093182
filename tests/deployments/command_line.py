"""The command line in a process of its own, and in a home whose servers stay up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memory import embedded

COINSWARM = Path(sys.executable).parent / "coinswarm"
NIGHT = "2021-06-17"

COMMAND_TIMEOUT_S = 240


def surroundings(home: Path, **environment: str) -> dict[str, str]:
    """The environment of a user who has set nothing but the home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COINSWARM_", "PREFECT_"))}
    return {**kept, "COINSWARM_HOME": str(home), **environment}


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The one line on stdout."""
        assert self.code == 0, self.stderr
        assert self.stdout.count("\n") == 1
        return json.loads(self.stdout)


def coinswarm(home: Path, *arguments: str, **environment: str) -> Ended:
    """A command in a process of its own."""
    done = subprocess.run(
        [COINSWARM, *arguments],
        env=surroundings(home, **environment),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def processes_naming(home: Path) -> dict[int, str]:
    """Processes whose command line names a home."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        if str(home) in words:
            found[int(path.parent.name)] = words
    return found


@dataclass(frozen=True)
class Used:
    """A home after its first recording; its servers stay up, so that the commands that follow find them."""

    home: Path
    recorded: Ended
    left_running: dict[int, str]
    endpoints: embedded.Endpoints
    typed: Any

    def run(self, *arguments: str, **environment: str) -> Ended:
        """Run a command in a process of its own, as a user does."""
        return coinswarm(self.home, *arguments, **environment)

    def type(self, *words: str, **environment: str) -> Any:
        """Run a command in this process, which is sooner; its flows talk to the home's Prefect."""
        return self.typed(*words, **{"COINSWARM_HOME": str(self.home), **environment})


@contextmanager
def flows_here(home: Path, endpoints: embedded.Endpoints) -> Iterator[None]:
    """Flows of this process talk to a home's Prefect server, whose address they would find in the environment."""
    from prefect.logging.configuration import setup_logging
    from prefect.settings import temporary_settings

    from deployments.local import QUIET, send_what_waits

    @contextmanager
    def running_already(*_: Any, **__: Any) -> Iterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch, temporary_settings(embedded.prefect_environment(home, endpoints)):
        for name in os.environ:
            if name.startswith("COINSWARM_"):
                patch.delenv(name)
        patch.setattr("deployments.running.local_stack", running_already)
        # Prefect sets logging up when a flow is first run, which would be while a command's stderr is looked at; a
        # console that is there already hears of its level by the same call.
        for name, value in QUIET.items():
            patch.setenv(name, value)
        setup_logging()
        yield
        send_what_waits()
