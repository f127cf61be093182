"""The command line: `coinswarm demo | run | status | doctor | patterns | explain | leakcheck | report | ...`."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from deployments import commands
from deployments.console import Console, ExitCode
from flows import FLOWS
from memory.errors import CoinswarmError

app = typer.Typer(
    name="coinswarm",
    help="The memory of multi-agent trading systems: record, consolidate every night, ask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Typer brings a click of its own, or uses the one that is installed: only its subclass has a name that stays.
UsageError: Any = typer.BadParameter.__mro__[1]

FLOW_HELP = "One of: " + ", ".join(FLOWS)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of flows and tasks.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Name of the memory; COINSWARM_NAMESPACE where empty.")
]


def _date(text: str | None, option: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date; write it like 2021-06-17.", param_hint=option) from None


@app.command()
def demo(
    nights: Annotated[int, typer.Option(min=1, max=23, help="Sample nights, from 2021-06-17.")] = 5,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Name of the memory.")] = "demo",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Replay sample days of real market history and run each night's job; prints where the report is."""
    console = Console(as_json=as_json, verbose=verbose)
    console.result(commands.demo(nights, namespace, console), commands.show_demo)


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
    dates = (_date(day, "--date"), _date(first, "--from"), _date(last, "--to"))
    result = commands.run_flow(flow, *dates, parameters or [], namespace, console)
    console.result(result, commands.show_flow_result)
    if commands.differs(result):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def status(namespace: Namespace = None, as_json: Json = False) -> None:
    """What the memory holds, which servers run, how the last runs ended."""
    console = Console(as_json=as_json)
    console.result(commands.status(namespace), commands.show_status)


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
    found = commands.patterns(namespace, as_of)
    console.result(found, lambda rows, out: commands.show_patterns(rows, out, limit))


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


@app.command()
def report(
    day: Annotated[str | None, typer.Option("--date", help="Window of the report; the newest where empty.")] = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Write the HTML report of a consolidated window again, and print its path."""
    console = Console(as_json=as_json)
    console.result(commands.report(namespace, _date(day, "--date")), commands.show_path)


@app.command(name="fit-encoder")
def fit_encoder(
    market: Annotated[str, typer.Option(help="binance, coinbase, a path, or history:NAME.")],
    until: Annotated[str, typer.Option(help="Fit on candles before this UTC date; earlier replays refuse it.")],
    since: Annotated[str | None, typer.Option(help="Fit on candles from this UTC date on.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; the home's encoders folder where empty.")] = None,
    as_json: Json = False,
) -> None:
    """Fit an encoder and regime thresholds on a market's past, for replays that the shipped ones are too new for."""
    console = Console(as_json=as_json)
    until_date = _date(until, "--until")
    if until_date is None:
        raise typer.BadParameter("a date is needed, such as 2018-04-01.", param_hint="--until")
    console.result(commands.fit_encoder(market, until_date, _date(since, "--since"), out), commands.show_path)


def run_cli() -> None:
    """Run the command line; errors end in one line that says what to do, and an exit code that is not 0."""
    try:
        # Not standalone: typer would frame its errors, and end the process itself.
        code = app(standalone_mode=False)
    except UsageError as error:
        _end_with_usage(error)
    except CoinswarmError as error:
        print(f"coinswarm: {error}", file=sys.stderr)
        sys.exit(ExitCode.FAILED)
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"coinswarm: {error.filename}: {error.strerror}. Check the rights on it, or choose another COINSWARM_HOME.",
            file=sys.stderr,
        )
        sys.exit(ExitCode.FAILED)
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    if code == ExitCode.INTERRUPTED:
        print("coinswarm: interrupted; run the same command again to take up where it stopped.", file=sys.stderr)
    sys.exit(code)


def _end_with_usage(error: Any) -> NoReturn:
    """End with what is wrong about the command's words; without any, its help was asked for."""
    message = " ".join(error.format_message().split())
    if message:
        message = message if message.endswith(".") else f"{message}."
        print(
            f"coinswarm: {message} See '{error.ctx.command_path if error.ctx else 'coinswarm'} --help'.",
            file=sys.stderr,
        )
    sys.exit(ExitCode.USAGE)
