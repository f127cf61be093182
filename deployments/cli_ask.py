"""Commands that look and change nothing: `status`, `doctor`, `search`, `patterns`, `explain`, `report`."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments import reports
from deployments.console import Console, ExitCode
from deployments.options import Json, Namespace, parsed_date, parsed_time
from deployments.pattern_choice import Choice, Sort, Status

app = typer.Typer()


@app.command()
def status(
    namespace: Namespace = None,
    watch: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Look again every so many seconds, until interrupted; with --json, one object a line.",
            show_default=False,
        ),
    ] = None,
    digest: Annotated[
        bool, typer.Option("--digest", help="Add the digests of all knowledge in Redis and in the ledger.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Servers, what the memory holds, last and next run of each flow, and what failed with what does it again."""
    from deployments.status import kept_running, show_status
    from deployments.status import status as look
    from deployments.watching import watched

    console = Console(as_json=as_json)
    if watch is None:
        console.result(look(namespace, digest=digest), show_status)
    else:
        with kept_running(namespace):
            watched(console, lambda: look(namespace, digest=digest), show_status, every_s=watch)


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
def search(
    memory_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Id of an experience or pattern, whose state is searched with.")
    ] = None,
    market: Annotated[str, typer.Option(help="binance, coinbase, a path, or history:NAME.")] = "binance",
    product: Annotated[str | None, typer.Option(help="Product of the market, such as BTC-USDT.")] = None,
    at: Annotated[str | None, typer.Option(help="Time of the state, UTC, such as 2021-06-18T12:34.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only experiences of this agent.")] = None,
    regime: Annotated[str | None, typer.Option(help="Only experiences in this regime.")] = None,
    phase: Annotated[str | None, typer.Option(help="Only experiences in this third of the day.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Experiences wanted.")] = 10,
    as_of: Annotated[
        str | None, typer.Option(help="Only what was known then; the time of the state where not given. 'now' for all.")
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="Ask the shared pool.")] = False,
    with_patterns: Annotated[bool, typer.Option("--patterns/--no-patterns", help="Look for patterns too.")] = True,
    horizon: Annotated[int, typer.Option(help="Minutes over which actions are estimated: 1, 5, 15 or 60.")] = 15,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """When did we see this before? Similar experiences and patterns of a state, and what to expect of it.

    As of the time of the state, so that nothing is told that was not known then; the first line says so.
    """
    from deployments.search_shown import show_search
    from deployments.searching import NOW, Limits, Wanted
    from deployments.searching import search as ask

    console = Console(as_json=as_json)
    limits = Limits(
        agent_id=agent,
        regime=None if regime is None else regime.upper(),
        market_phase=None if phase is None else phase.upper(),
        top=top,
        as_of=NOW if as_of == NOW else parsed_time(as_of, "--as-of"),
        shared=shared,
        patterns=with_patterns,
        horizon=horizon,
    )
    console.result(ask(namespace, Wanted(memory_id, market, product, parsed_time(at, "--at")), limits), show_search)


@app.command()
def patterns(
    pattern_id: Annotated[
        str | None, typer.Argument(metavar="[PATTERN_ID]", help="One pattern in full, with where it comes from.")
    ] = None,
    namespace: Namespace = None,
    as_of: Annotated[str | None, typer.Option(help="Patterns as they were known at this UTC time.")] = None,
    regime: Annotated[str | None, typer.Option(help="Only patterns of this regime; MIXED is one too.")] = None,
    product: Annotated[str | None, typer.Option(help="Only patterns seen in this product.")] = None,
    status: Annotated[Status | None, typer.Option(case_sensitive=False, help="Only these.")] = None,
    min_support: Annotated[int, typer.Option(min=0, help="Least occurrences.")] = 0,
    text: Annotated[str, typer.Option("--search", help="Words in description, features or id.")] = "",
    sort: Annotated[Sort, typer.Option(case_sensitive=False, help="What comes first.")] = Sort.NET,
    limit: Annotated[
        int, typer.Option(min=1, help="Patterns to show in the list; --csv and --json have them all.")
    ] = 20,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a row of values for each pattern.")] = False,
    as_json: Json = False,
) -> None:
    """The current patterns, strongest first, or one of them in full; --json has all of each."""
    console = Console(as_json=as_json)
    time = parsed_time(as_of, "--as-of")
    choice = Choice(None if regime is None else regime.upper(), product, status, min_support, text, sort)
    if as_csv and (as_json or pattern_id is not None):
        raise typer.BadParameter("it is for a list, and excludes --json.", param_hint="--csv")
    if pattern_id is not None:
        from deployments.one_pattern import pattern, show_pattern

        console.result(pattern(namespace, pattern_id, time), show_pattern)
        return
    from deployments.patterns import patterns as read
    from deployments.patterns import show_patterns, write_csv

    found = read(namespace, time, choice)
    if as_csv:
        write_csv(found["patterns"])
    else:
        console.result(found, lambda result, out: show_patterns(result["patterns"], out, limit, choice))


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
    day: Annotated[str | None, typer.Option("--date", help="Window of the report; the newest where not given.")] = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Write the HTML report of a consolidated window again, and print its path."""
    console = Console(as_json=as_json)
    console.result(reports.report(namespace, parsed_date(day, "--date")), reports.show_path)
