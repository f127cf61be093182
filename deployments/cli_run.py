"""Commands that run something: `demo`, `run`, `fit-encoder`, `leakcheck`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deployments import reports, running
from deployments.console import Console, ExitCode
from deployments.options import Json, Namespace, NamespaceOption, Verbose, parsed_date
from flows import FLOWS

FLOW_HELP = "One of: " + ", ".join(FLOWS)


app = typer.Typer()


@app.command()
def demo(
    nights: Annotated[int, typer.Option(min=1, max=23, help="Sample nights, from 2021-06-17.")] = 5,
    namespace: Annotated[str, NamespaceOption(help="Name of the memory.")] = "demo",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Replay sample days of real market history and run each night's job; prints where the report is."""
    console = Console(as_json=as_json, verbose=verbose)
    console.result(running.demo(nights, namespace, console), running.show_demo)


@app.command()
def run(
    flow: Annotated[str, typer.Argument(help=FLOW_HELP, metavar="FLOW")],
    day: Annotated[str | None, typer.Option("--date", help="UTC date of the window, such as 2021-06-17.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="First date of a range.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last date of a range.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A parameter of the flow, as name=value.")
    ] = None,
    namespace: Namespace = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a flow now, for one date or a range; the last full UTC day where no date is given."""
    console = Console(as_json=as_json, verbose=verbose)
    dates = (parsed_date(day, "--date"), parsed_date(first, "--from"), parsed_date(last, "--to"))
    result = running.run_flow(flow, *dates, parameters or [], namespace, console)
    console.result(result, running.show_flow_result)
    if running.differs(result):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def leakcheck(
    as_of: Annotated[
        datetime | None,
        typer.Option("--t", help="UTC time after which all is changed.", formats=["%Y-%m-%dT%H:%M", "%Y-%m-%d"]),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the changes.")] = 0,
    as_json: Json = False,
) -> None:
    """Change everything after a time, and see that nothing known as of it changes; on servers of its own.

    Exit code 1 where something does, or where a check could not have seen it.
    """
    from deployments.leakcheck import leakcheck as check
    from deployments.leakcheck import show_leaks

    console = Console(as_json=as_json)
    result = check(None if as_of is None else as_of.replace(tzinfo=UTC), seed, console)
    console.result(result, show_leaks)
    if result["status"] != "ok":
        raise typer.Exit(ExitCode.FAILED)


@app.command(name="fit-encoder")
def fit_encoder(
    market: Annotated[str, typer.Option(help="binance, coinbase, a path, or history:NAME.")],
    until: Annotated[str, typer.Option(help="Fit on candles before this UTC date; earlier replays refuse it.")],
    since: Annotated[str | None, typer.Option(help="Fit on candles from this UTC date on.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; the home's encoders folder where not given.")] = None,
    as_json: Json = False,
) -> None:
    """Fit an encoder and regime thresholds on a market's past, for replays that the shipped ones are too new for."""
    console = Console(as_json=as_json)
    until_date = parsed_date(until, "--until")
    if until_date is None:
        raise typer.BadParameter("a date is needed, such as 2018-04-01.", param_hint="--until")
    console.result(reports.fit_encoder(market, until_date, parsed_date(since, "--since"), out), reports.show_path)
