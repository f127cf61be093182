"""Commands as they are typed, run in this process: what they print, and the exit code they end with."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable

import pytest

from deployments.cli import run_cli
from tests.deployments.command_line import Ended

Typed = Callable[..., Ended]


@pytest.fixture(scope="session")
def typed() -> Typed:
    """Runs a command line in this process; a Python of its own would take longer to start than the command takes."""

    def run(*words: str, **environment: str) -> Ended:
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            # Commands trust the paths that they are given, by this variable: it is put back when they end.
            for name, value in {"COINSWARM_DATA_ROOTS": "", **environment}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["coinswarm", *words])
            with (
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(stderr),
                pytest.raises(SystemExit) as ended,
            ):
                run_cli()
        return Ended(int(ended.value.code or 0), stdout.getvalue(), stderr.getvalue())

    return run
