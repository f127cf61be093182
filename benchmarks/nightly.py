"""How long a night takes: replayed and stored, the nightly flow on running servers, and cold from the command line.

    python -m benchmarks.nightly [--date 2021-06-17] [--repeat 2]

Each figure is wall time of this machine, with the bar beside it; the servers and homes are made for the run and
removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from memory import embedded

BARS_S = {"record": 20.0, "nightly on running servers": 30.0, "nightly, cold": 45.0}


def run(home: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """Run the command line in a home; seconds of wall time, and the object that it prints."""
    command = [str(Path(sys.executable).parent / "coinswarm"), "run", *arguments, "--json"]
    begun = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, "COINSWARM_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return took, result


def measure(day: str) -> dict[str, float]:
    """One round in a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="coinswarm-nightly-"))
    try:
        with embedded.open_session(home, ("redis", "postgres", "prefect"), timeout_s=120):
            _, recorded = run(home, "record_experiences", "--date", day, "--param", "source=market")
            _, warm = run(home, "nightly", "--date", day)
        cold_s, _ = run(home, "nightly", "--date", day)
        steps = dict(warm["seconds"])
        return {
            "record": sum(recorded["seconds"].values()),
            "nightly on running servers": sum(steps.values()),
            "nightly, cold": cold_s,
            **{f"  {name}": seconds for name, seconds in steps.items()},
        }
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    """Print a table of medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", default="2021-06-17", help="sample night")
    parser.add_argument("--repeat", type=int, default=2, help="rounds")
    arguments = parser.parse_args()
    rounds = [measure(arguments.date) for _ in range(arguments.repeat)]
    print(f"{'what':32} {'seconds, each round':28} {'bar':>6}")
    for name in rounds[0]:
        values = "  ".join(f"{taken[name]:6.1f}" for taken in rounds)
        bar = f"{BARS_S[name]:6.0f}" if name in BARS_S else ""
        print(f"{name:32} {values:28} {bar:>6}")


if __name__ == "__main__":
    main()
