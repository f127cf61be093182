"""The janitor as a flow: its dry run, and what it removes from Prefect's own database."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.janitor import Parameters, janitor
from tasks import janitor_prefect

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

SOON = timedelta(days=1)


def ended(namespace: str, flows: tuple[str, ...] = ("janitor",), default: str = "elsewhere") -> list[str]:
    return janitor_prefect.ended_runs(namespace, flows, datetime.now(UTC) + SOON, default)


def test_a_dry_run_changes_nothing_and_old_flow_runs_go_with_their_artifacts(
    configured: str,
) -> None:
    for dry_run in (True, False):
        result: dict[str, Any] = janitor(Parameters(namespace=configured, dry_run=dry_run))
        assert (result["number"], result["dropped"], result["expired"]) == (0, 0, [])
    runs = ended(configured)
    assert len(runs) == 2
    # Those of other flows and namespaces stay, and so do runs that said of no namespace which.
    assert ended(configured, ("nightly",)) == ended(f"{configured}-b") == []
    artifacts = janitor_prefect.artifacts_of(runs)
    assert len(artifacts) == 4
    assert janitor_prefect.drop_artifacts(artifacts) == 4
    assert janitor_prefect.drop_runs(runs) == 2
    assert (ended(configured), janitor_prefect.artifacts_of(runs)) == ([], [])
    # A run that was killed on the way had removed them: the next one passes them over.
    assert janitor_prefect.drop_artifacts(artifacts) == janitor_prefect.drop_runs(runs) == 0


def test_what_a_dry_run_lists_is_what_goes(configured: str, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "logs"
    folder.mkdir(parents=True)
    for name in ("redis.log", "redis.log.1"):
        (folder / name).write_text("line")
    for name in ("redis.log", "redis.log.1"):
        os.utime(folder / name, (0, 0))
    listed = janitor(Parameters(namespace=configured, dry_run=True))
    assert [(row["what"], row["number"], row["bytes"], row["dropped"]) for row in listed["expired"]] == [
        ("logs", 1, 4, 0)
    ]
    assert len(list(folder.iterdir())) == 2
    done = janitor(Parameters(namespace=configured))
    assert done["dropped"] == 1
    assert [path.name for path in folder.iterdir()] == ["redis.log"]
    assert janitor(Parameters(namespace=configured))["expired"] == []
