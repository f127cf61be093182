"""What the commands do: plain functions that return plain data, and functions that show it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import rich.console
from pydantic import ValidationError
from rich.padding import Padding
from rich.table import Table

from deployments.console import Console, format_number
from deployments.local import load_settings, local_stack
from flows import FLOWS, parameters_of
from flows.parameters import NamespaceParameters
from memory import embedded
from memory.errors import CoinswarmError, InvalidQueryError, WindowError
from memory.window import Window, windows_between

FIRST_SAMPLE_NIGHT = date(2021, 6, 17)
"""The day after the shipped encoder was fitted."""


class UnknownFlowError(CoinswarmError):
    """A flow that does not exist."""


class FlowParameterError(CoinswarmError):
    """A parameter that a flow does not take, or takes otherwise."""


# --- running flows ---------------------------------------------------------------------------------------------


def demo(nights: int, namespace: str, console: Console) -> dict[str, Any]:
    """Replay sample days and run each night's job."""
    days = [FIRST_SAMPLE_NIGHT + timedelta(days=night) for night in range(nights)]
    results = _run("nightly", days, {"namespace": namespace, "source": "market"}, console, each="Night of")
    return {"namespace": namespace, "nights": [_brief(result) for result in results], "report": results[-1]["report"]}


def run_flow(
    flow: str,
    day: date | None,
    first: date | None,
    last: date | None,
    parameters: Sequence[str],
    namespace: str | None,
    console: Console,
) -> dict[str, Any]:
    """Run a flow for a date or each date of a range; one result, or a list of them under `runs`."""
    if flow not in FLOWS:
        raise UnknownFlowError(f"there is no flow {flow!r}.", remedy=f"Choose one of {', '.join(FLOWS)}.")
    if (first is None) != (last is None) or (day is not None and first is not None):
        raise WindowError("the dates do not say which windows.", remedy="Give --date, or --from and --to, or none.")
    values = _parsed(parameters)
    if namespace is not None:
        values["namespace"] = namespace
    if {"first", "last"} <= set(parameters_of(flow).model_fields):
        # One run for all of the range.
        span = {"first": first or day, "last": last or day}
        values |= {name: chosen.isoformat() for name, chosen in span.items() if chosen is not None}
        return _brief(_run(flow, [None], values, console, each=flow)[0])
    if first is not None and last is not None:
        days: list[date | None] = [window.start.date() for window in windows_between(first, last)]
        return {"flow": flow, "runs": [_brief(item) for item in _run(flow, days, values, console, each=f"{flow} of")]}
    return _brief(_run(flow, [day], values, console, each=flow)[0])


def _run(
    flow: str, days: Sequence[date | None], values: Mapping[str, Any], console: Console, *, each: str
) -> list[dict[str, Any]]:
    """Run a flow for each of some dates, one after the other; what is wrong with any is said before anything starts."""
    settings = load_settings(values.get("namespace"))
    given = [_checked(flow, {**values, **({} if day is None else {"date": day.isoformat()})}) for day in days]
    results: list[dict[str, Any]] = []
    with console.steps("Starting Redis, Postgres and Prefect"), local_stack(settings, verbose=console.verbose):
        from flows import load

        call, _ = load(flow)
        for day, parameters in zip(days, given, strict=True):
            console.say(f"{each} {day}" if day is not None else each)
            result: dict[str, Any] = call(parameters)
            results.append(result)
    return results


def _checked(flow: str, values: Mapping[str, Any]) -> NamespaceParameters:
    """The parameters of a run, found to be good; neither Prefect nor a server is needed for it."""
    model = parameters_of(flow)
    try:
        parameters = model.model_validate(values)
    except ValidationError as error:
        raise _parameter_error(flow, model.model_fields, error) from None
    parameters.check()
    return parameters


def _parsed(parameters: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in parameters:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise FlowParameterError(f"{text!r} is not a parameter.", remedy="Write it as name=value.")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def _parameter_error(flow: str, fields: Mapping[str, Any], error: ValidationError) -> FlowParameterError:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "parameters"
    if first["type"] == "extra_forbidden":
        known = "; ".join(f"{field} ({info.description.rstrip('.')})" for field, info in fields.items())
        return FlowParameterError(f"{flow} takes no parameter {name!r}.", remedy=f"It takes {known}.")
    described = fields[name].description if name in fields else f"It takes {', '.join(fields)}."
    if first["type"] == "missing":
        return FlowParameterError(f"{flow} needs the parameter {name!r}.", remedy=f"{name}: {described}")
    problem = f"{flow}: {name}={first['input']}: {first['msg'].removeprefix('Value error, ')}."
    return FlowParameterError(problem, remedy=f"{name}: {described}")


def _brief(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the single latencies, which only the report needs."""
    benchmark = result.get("benchmark", result)
    if isinstance(benchmark, dict):
        benchmark.pop("samples_ms", None)
    return result


def show_demo(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What grew over the nights, and where the report is."""
    table = Table(title="What the nights brought", title_justify="left", box=None, padding=(0, 1, 0, 0))
    columns = {
        "window": "night",
        "experiences": "experiences",
        "clusters": "clusters",
        "patterns_new": "new",
        "patterns_confirmed": "confirmed",
        "patterns_faded": "faded",
        "patterns": "known",
        "confirmation_rate": "matched",
        "null_confirmation_rate": "chance",
    }
    for title in columns.values():
        table.add_column(title, justify="right")
    for night in result["nights"]:
        table.add_row(*(_cell(name, night[name]) for name in columns))
    out.print(table)
    out.print("matched: share of clusters nearer to a known pattern than chance; chance: of random sets, the same")
    program, namespace = Path(sys.argv[0]), result["namespace"]
    out.print(f"Look closer: {program} patterns -n {namespace}, {program} status -n {namespace}", soft_wrap=True)
    out.print(f"Report: {result['report']}", highlight=False, soft_wrap=True)


def _cell(name: str, value: Any) -> str:
    if name.endswith("_rate") and value is not None:
        return f"{value:.0%}"
    return format_number(value)


def show_flow_result(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """Figures of one run, or of each of a range."""
    for run in result.get("runs", [result]):
        table = Table(show_header=False, box=None)
        for name, value in run.items():
            if isinstance(value, int | float | str) and name != "report":
                table.add_row(name.replace("_", " "), format_number(value))
        out.print(table)
        apart = ("part", "what", "seen", "means")
        for difference in run.get("listed", ()):
            where = " ".join(str(value) for name, value in difference.items() if name not in apart)
            seen = f": {difference['means']}{'; ' + difference['seen'] if 'seen' in difference else ''}"
            out.print(
                f"{difference['part']} {difference['what']}  {where}{seen}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        for item in run.get("leftovers", ()):
            text = f"left behind  {item['number']:,} {item['means']} ({item['where']}): {item['remedy']}"
            out.print(text, markup=False, highlight=False, soft_wrap=True)
        for finding in run.get("findings", ()):
            out.print(f"{finding['heading']}: {finding['text']}", markup=False, highlight=False, soft_wrap=True)
        if "report" in run:
            out.print(f"Report: {run['report']}", highlight=False, soft_wrap=True)


def differs(result: Mapping[str, Any]) -> bool:
    """Whether a flow that compared found a difference."""
    from tasks.verification import DIFFERENT

    return result.get("status") == DIFFERENT


def show_path(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """A path, alone on its line."""
    out.print(result["path"], highlight=False, soft_wrap=True)


# --- looking ---------------------------------------------------------------------------------------------------


def status(namespace: str | None) -> dict[str, Any]:
    """Servers, counts and last runs of a namespace."""
    from memory.records import SemanticType
    from tasks.workspace import open_workspace

    settings = load_settings(namespace)
    before = embedded.home_status(settings.home)
    with open_workspace(settings.namespace) as workspace:
        ledger = workspace.ledger

        async def held(mem: Any) -> dict[str, Any]:
            encoder = await mem.encoders.current()
            counts = [await mem.semantic.counts(line=line) for line in await mem.semantic.current_lines()]
            digests = [await mem.semantic.digest(line=line) for line in await mem.semantic.current_lines()]
            return {
                "experiences": await mem.episodic.count(),
                "semantic": {kind.value: sum(count[kind.value] for count in counts) for kind in SemanticType},
                "inbox": sum((await mem.inbox.length()).values()),
                "dead_letters": await mem.dead_letters.count(),
                "encoder": encoder,
                "digest": digests[0] if len(digests) == 1 else sha256("\n".join(digests).encode()).hexdigest(),
            }

        lines = ledger.lines.list(settings.namespace)
        windows = sorted({window for line in lines for window, _ in ledger.windows.with_current(line.line)})
        runs = [ledger.runs.last(settings.namespace, flow) for flow in FLOWS]
        return {
            "namespace": settings.namespace,
            "home": str(settings.home),
            "servers": [{"name": server.name, "state": server.state, "pid": server.pid} for server in before.servers],
            **workspace.with_memory(held),
            "lines": [line.line for line in lines],
            "ledger_digest": ledger.digest(settings.namespace).digest,
            "windows": len(windows),
            "newest_window": windows[-1].name if windows else None,
            "runs": [
                {
                    "flow": run.flow,
                    "status": run.status,
                    "window": run.window.name if run.window else None,
                    "started_at": run.started_at.isoformat(),
                    "error": run.error,
                    "run_id": run.run_id,
                }
                for run in runs
                if run is not None
            ],
        }


def show_status(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What the memory holds, and how the last runs ended."""
    servers = ", ".join(f"{server['name']} {server['state']}" for server in result["servers"]) or "none was running"
    out.print(f"Namespace {result['namespace']} in {result['home']}; servers: {servers}", highlight=False)
    held = Table(show_header=False, box=None)
    for name in ("experiences", "inbox", "dead_letters", "windows", "newest_window", "encoder"):
        held.add_row(name.replace("_", " "), format_number(result[name]))
    for kind, count in result["semantic"].items():
        held.add_row(f"{kind.lower()} memories", format_number(count))
    out.print(held)
    if result["runs"]:
        table = Table(title="Last runs", title_justify="left")
        for title in ("flow", "status", "window", "started", "error"):
            table.add_column(title)
        for run in result["runs"]:
            table.add_row(run["flow"], run["status"], run["window"], run["started_at"][:19], run["error"] or "")
        out.print(table)


def patterns(namespace: str | None, as_of: datetime | None) -> list[dict[str, Any]]:
    """All current patterns in full, in the order of the report: by the shrunk net mean of the best trade."""
    from memory.learning.settings import DEFAULT_SETTINGS
    from memory.records import PatternMemory, SemanticType
    from memory.reporting.ranking import FADED, strongest
    from tasks.workspace import open_workspace

    settings = load_settings(namespace)
    with open_workspace(settings.namespace) as workspace:

        async def read(mem: Any) -> list[Any]:
            semantic = mem.semantic if as_of is None else mem.at(as_of.replace(tzinfo=UTC)).semantic
            lines = await mem.semantic.current_lines()
            return [memory for line in lines for memory in await semantic.current(SemanticType.PATTERN, line=line)]

        found = [memory for memory in workspace.with_memory(read) if isinstance(memory, PatternMemory)]
    faded = sorted((memory for memory in found if memory.status == FADED), key=lambda memory: memory.pattern_id)
    ranked = [*strongest(found, DEFAULT_SETTINGS.reference_horizon_minutes), *faded]
    return [_plain(memory) for memory in ranked]


def _plain(memory: Any) -> dict[str, Any]:
    def hook(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} has no JSON form")

    plain: dict[str, Any] = msgspec.to_builtins(memory, enc_hook=hook)
    return plain


def show_patterns(found: Sequence[Mapping[str, Any]], out: rich.console.Console, limit: int) -> None:
    """The strongest patterns in a table."""
    if not found:
        out.print("No patterns yet: run 'coinswarm demo', or 'coinswarm run nightly' after recording.")
        return
    from memory.learning.settings import DEFAULT_SETTINGS

    horizon = DEFAULT_SETTINGS.reference_horizon_minutes
    out.print(f"{len(found)} patterns, strongest first", style="bold", highlight=False)
    for pattern in found[:limit]:
        best = max(
            (item for item in pattern["outcomes"] if item["horizon_minutes"] == horizon and item["action"] != "FLAT"),
            key=lambda item: item["shrunk_net_mean"],
            default=None,
        )
        trade = (
            "no trade was possible"
            if best is None
            else f"best trade {best['action']}, {horizon} min: {1e4 * best['shrunk_net_mean']:+.1f} bp net, shrunk"
        )
        out.print(
            f"[bold]{pattern['pattern_id']}[/bold]  {pattern['regime']}, {pattern['status']}, "
            f"{pattern['support']} occurrences; {trade}",
            highlight=False,
        )
        out.print(Padding(pattern["description"], (0, 0, 1, 4)), highlight=False)
    if len(found) > limit:
        out.print(f"{len(found) - limit} more: --limit {len(found)}, or --json for all of them in full.")


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
    fitted = fit(open_market(market), midnight(until), since=None if since is None else midnight(since))
    path = out if out is not None else encoder_folder(load_settings()) / f"{fitted.id_}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fitted.save(path)
    return {"encoder": fitted.id_, "fitted_until": fitted.fitted_until_.isoformat(), "path": str(path)}
