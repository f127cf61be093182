"""A flow whose install breaks: its first process dies while it runs, and every later one while it starts.

Prefect imports it in a process for each run. The install is broken once the file is there that `FAULT_LOOP` names.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from prefect import flow

VARIABLE = "FAULT_LOOP"

if VARIABLE in os.environ and Path(os.environ[VARIABLE]).exists():
    import a_package_that_is_not_installed  # type: ignore[import-not-found]  # noqa: F401


@flow
def verify_memory(parameters: dict[str, Any]) -> None:
    """Stands for the flow of that name."""
    Path(os.environ[VARIABLE]).touch()
    os.kill(os.getpid(), signal.SIGKILL)
