"""The example with three agents in three processes, on some minutes of its day."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "three_agents.py"


def test_three_processes_share_one_memory() -> None:
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), "--minutes", "20", "--bars-a-second", "50"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "momentum: 20 experiences in memory" in run.stdout
    assert "careful: 20 experiences in memory" in run.stdout
    assert "analyst: AnalysisReport(states=20" in run.stdout
    assert "careful at 00:19" in run.stdout
