"""How long ``import memory`` takes, and what opening it adds: the median of some fresh processes (bar 0.5 s)."""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 9
STATEMENTS = {
    "python, nothing imported": "pass",
    "import numpy": "import numpy",
    "import memory": "import memory",
    "import memory; memory.EpisodicMemory": "import memory; memory.EpisodicMemory",
    "import memory; memory.connect": "import memory; memory.connect",
}
FORBIDDEN = ("prefect", "torch", "sqlalchemy", "polars")


def seconds(statement: str) -> float:
    """Median wall time of the statement in a fresh process, without the process's own start."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(RUNS)
    ]
    return statistics.median(runs)


def loaded_by(statement: str) -> list[str]:
    """Which of the packages that the library must not need a statement loads."""
    code = f"import sys; {statement}; print(' '.join(name for name in {FORBIDDEN!r} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    """Run the benchmark; exits with 1 where a package is loaded that must not be."""
    unwanted: set[str] = set()
    for name, statement in STATEMENTS.items():
        loaded = loaded_by(statement)
        unwanted.update(loaded)
        print(f"{name:40} {seconds(statement):6.3f} s{'  loads ' + ', '.join(loaded) if loaded else ''}")
    if unwanted:
        sys.exit(1)


if __name__ == "__main__":
    main()
