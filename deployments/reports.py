"""`coinswarm report` and `coinswarm fit-encoder`: files that a person asks for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import rich.console

from deployments.local import load_settings
from memory.errors import InvalidQueryError, WindowError
from memory.roots import trust
from memory.window import Window


def report(namespace: str | None, day: date | None) -> dict[str, Any]:
    """Write the report of a consolidated window again."""
    from memory.reporting import write_report
    from tasks.report_data import collect
    from tasks.workspace import open_workspace

    settings = load_settings(namespace)
    with open_workspace(settings.namespace) as workspace:
        ledger = workspace.ledger
        windows = sorted(
            {
                window
                for line in ledger.lines.list(settings.namespace)
                for window, _ in ledger.windows.with_current(line.line)
            }
        )
        if not windows:
            raise WindowError(
                f"namespace '{settings.namespace}' has no consolidated window.",
                remedy="Run 'coinswarm demo --namespace NAME', or 'coinswarm run nightly' first.",
            )
        window = windows[-1] if day is None else Window.of_date(day)
        nightly = [
            run
            for run in ledger.runs.list(settings.namespace, flow="nightly")
            if run.window == window and run.result is not None
        ]
        newest = max(nightly, key=lambda run: run.started_at, default=None)
        result = newest.result if newest is not None and newest.result is not None else {}
        data = collect(workspace, window, result, newest.run_id if newest is not None else "none")
        return {"window": window.name, "path": str(write_report(data, settings.reports_path))}


def fit_encoder(market: str, until: date, since: date | None, out: Path | None) -> dict[str, Any]:
    """Fit an encoder to a market's past and write it down."""
    from agents.fitting import fit_encoder as fit
    from tasks.markets import encoder_folder, open_market

    def midnight(day: date) -> datetime:
        return datetime(day.year, day.month, day.day, tzinfo=UTC)

    if since is not None and since >= until:
        raise InvalidQueryError(
            f"since {since} does not lie before until {until}.", remedy="Swap the dates.", argument="since"
        )
    trust(market)
    fitted = fit(open_market(market), midnight(until), since=None if since is None else midnight(since))
    path = out if out is not None else encoder_folder(load_settings()) / f"{fitted.id_}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fitted.save(path)
    return {"encoder": fitted.id_, "fitted_until": fitted.fitted_until_.isoformat(), "path": str(path)}


def show_path(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """A path, alone on its line."""
    out.print(result["path"], highlight=False, soft_wrap=True)
