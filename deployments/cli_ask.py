"""Commands that look and change nothing: `status`, `doctor`, `patterns`, `explain`, `report`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from deployments import patterns as known
from deployments import reports
from deployments import status as looking
from deployments.console import Console, ExitCode
from deployments.options import Json, Namespace, parsed_date

app = typer.Typer()


@app.command()
def status(namespace: Namespace = None, as_json: Json = False) -> None:
    """What the memory holds, which servers run, how the last runs ended."""
    console = Console(as_json=as_json)
    console.result(looking.status(namespace), looking.show_status)


@app.command()
def doctor(namespace: Namespace = None, as_json: Json = False) -> None:
    """Check servers, memory, ledger and archive, and say what to do; exit code 1 where a check fails."""
    from deployments.doctor import doctor as examine
    from deployments.doctor import show_checks

    console = Console(as_json=as_json)
    result = examine(namespace, console)
    console.result(result, show_checks)
    if result["status"] == "fail":
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def patterns(
    namespace: Namespace = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(help="Patterns as they were known at this UTC time.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Patterns to show in the table.")] = 20,
    as_json: Json = False,
) -> None:
    """The current patterns, strongest first; with --json all of them in full."""
    console = Console(as_json=as_json)
    found = known.patterns(namespace, as_of)
    console.result(found, lambda rows, out: known.show_patterns(rows, out, limit))


@app.command()
def explain(
    memory_id: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN|DECISION",
            help="Id of a pattern (one that it had before leads to it too), or of a decision: of the experience that "
            "it became.",
        ),
    ],
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """What happened to a pattern night by night, or what a decision rested on; the decision is taken again.

    Exit code 1 where a decision, taken again, comes out otherwise.
    """
    from deployments.explain import explain as look_up
    from deployments.explain import show_explanation
    from deployments.explain_decision import DIFFERENT

    console = Console(as_json=as_json)
    result = look_up(namespace, memory_id)
    console.result(result, show_explanation)
    if result.get("replay", {}).get("status") == DIFFERENT:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def report(
    day: Annotated[str | None, typer.Option("--date", help="Window of the report; the newest where empty.")] = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Write the HTML report of a consolidated window again, and print its path."""
    console = Console(as_json=as_json)
    console.result(reports.report(namespace, parsed_date(day, "--date")), reports.show_path)
