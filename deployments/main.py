"""Entry point of the command line: looks that the rooms are ours before anything is imported from them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("memory", "agents", "tasks", "flows")


def shadowing_problem(rooms: Sequence[str] = ROOMS, root: Path = ROOT) -> str | None:
    """What stands in the way where another package of the same name comes first on the path, else None."""
    for room in rooms:
        spec = importlib.util.find_spec(room)
        locations = [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []
        if spec is not None and spec.origin is not None:
            locations.append(Path(spec.origin).resolve().parent)
        if root / room not in locations or (spec is not None and spec.origin is None):
            found = ", ".join(sorted({str(place) for place in locations})) or "nothing"
            return (
                f"Python finds {found} under the name '{room}', not this project's {root / room}. Uninstall the other "
                f"package, remove its folder from PYTHONPATH, or install coinswarm-memory in an environment of its own."
            )
    return None


def main() -> None:
    """Run the command line; exit code 3 where another package shadows one of the rooms."""
    problem = shadowing_problem()
    if problem is not None:
        print(f"coinswarm: {problem}", file=sys.stderr)
        sys.exit(3)
    from deployments.cli import run_cli

    run_cli()
