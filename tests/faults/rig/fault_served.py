"""Flows as they are served to whoever asks through Prefect, with a defect that can be switched on and off.

Run as a program, it serves them until it is ended. Prefect starts a process for each run, which finds the flows in this
file, and with them what a folder says (the variable `FAULT_SERVED` names it): which safeguards are removed, which
partition fails, and where to note what was clustered.
"""

from __future__ import annotations

import os
from pathlib import Path

import fault_removals
from strikes import Strikes

from flows.consolidate_memories import consolidate_memories
from flows.nightly import nightly
from memory.learning import clustering

FLOWS = (consolidate_memories, nightly)
NAME = "fault"
"""Name of their deployments."""
VARIABLE = "FAULT_SERVED"
REMOVED = "removed"
"""File of the folder: safeguards that are removed, a line each. The others are those of `tests/rig/strikes.py`."""


def prepare(folder: Path) -> None:
    """Have this process do what the folder says."""
    if (folder / REMOVED).exists():
        fault_removals.remove(tuple((folder / REMOVED).read_text(encoding="utf-8").splitlines()))
    Strikes(folder).strike(clustering)


def main() -> None:
    """Serve the flows."""
    from prefect import serve
    from prefect.deployments.runner import RunnerDeployment

    here = os.path.relpath(__file__)
    serve(
        *(RunnerDeployment.from_entrypoint(f"{here}:{flow.fn.__name__}", name=NAME) for flow in FLOWS),
        pause_on_shutdown=False,
    )


if __name__ == "__main__":
    main()
elif VARIABLE in os.environ:
    prepare(Path(os.environ[VARIABLE]))
