"""Flows from the command line: parameters checked before anything starts, one run a date, figures at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import rich.console
from pydantic import ValidationError
from rich.table import Table

from deployments.console import Console, format_number, print_table
from deployments.local import PrefectUnavailableError, load_settings, local_stack, starting
from flows import FLOWS, parameters_of
from flows.parameters import NamespaceParameters
from memory.errors import CoinswarmError, WindowError
from memory.roots import trust
from memory.secrets import mask
from memory.window import windows_between

FIRST_SAMPLE_NIGHT = date(2021, 6, 17)
"""The day after the shipped encoder was fitted."""

EXPLAINED_AGENT = "momentum"
"""Whose last decision a demo names: it acts on what a person sees at once, the drift of the price."""

PATH_PARAMETERS = ("market", "encoder", "path", "target", "snapshot", "out")
"""Parameters of flows that may be paths."""


class UnknownFlowError(CoinswarmError):
    """A flow that does not exist."""


class FlowParameterError(CoinswarmError):
    """A parameter that a flow does not take, or takes otherwise."""


def demo(nights: int, namespace: str, console: Console) -> dict[str, Any]:
    """Replay sample days and run each night's job; `decision` is one that `coinswarm explain` can be asked about."""
    days = [FIRST_SAMPLE_NIGHT + timedelta(days=night) for night in range(nights)]
    results = _run("nightly", days, {"namespace": namespace, "source": "market"}, console, each="Night of")
    decisions: dict[str, str] = results[-1]["recording"]["last_decisions"]
    return {
        "namespace": namespace,
        "nights": [_brief(result) for result in results],
        "decision": decisions.get(EXPLAINED_AGENT, next(iter(decisions.values()), None)),
        "report": results[-1]["report"],
    }


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
    _trust_paths(values)
    settings = load_settings(values.get("namespace") or None)
    given = [_checked(flow, {**values, **({} if day is None else {"date": day.isoformat()})}) for day in days]
    # The dates between the first and the last are looked at when their turn comes: each look reads the market.
    for parameters in (given[0], *given[1:][-1:]):
        parameters.check_inputs()
    results: list[dict[str, Any]] = []
    with console.steps(starting(settings)), local_stack(settings, verbose=console.verbose):
        from flows import load

        call, _ = load(flow)
        for day, parameters in zip(days, given, strict=True):
            console.say(f"{each} {day}" if day is not None else each)
            results.append(outcome(call, parameters))
    return results


def outcome(call: Callable[[Any], dict[str, Any]], parameters: NamespaceParameters) -> dict[str, Any]:
    """Run a flow once. That Prefect's server cannot note how it ended does not hide why it did."""
    import httpx

    try:
        return call(parameters)
    except httpx.HTTPError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, CoinswarmError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
        raise PrefectUnavailableError(
            f"the Prefect server could not note what the run did ({mask(str(error).partition(chr(10))[0])}).",
            remedy="Look into its log, which is logs/prefect.log under the home for the embedded one, and at its disk; "
            "then run again: it is taken up where it stopped.",
        ) from error


def _trust_paths(values: Mapping[str, Any]) -> None:
    """Let the flow use the paths that its owner names on the command line, which whoever is at the UI may not."""
    for name in PATH_PARAMETERS:
        value = values.get(name)
        if isinstance(value, str) and ("/" in value or Path(value).exists()):
            trust(value)


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
    problem = f"{flow}: {name}={mask(str(first['input']))}: {first['msg'].removeprefix('Value error, ')}."
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
    if result["decision"] is not None:
        asked = f"{program} explain {result['decision']} -n {namespace}"
        out.print(f"What a decision rested on: {asked}", highlight=False, soft_wrap=True)
    out.print(f"Report: {result['report']}", highlight=False, soft_wrap=True)


def _cell(name: str, value: Any) -> str:
    if name.endswith("_rate") and value is not None:
        return f"{value:.0%}"
    return format_number(value)


def show_flow_result(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """Figures of one run, or of each of a range."""
    for run in result.get("runs", [result]):
        table = Table(show_header=False, box=None)
        table.add_column()
        # Digests are there to be compared, so that nothing may be cut.
        table.add_column(overflow="fold")
        for name, value in run.items():
            if isinstance(value, int | float | str) and name != "report":
                table.add_row(name.replace("_", " "), format_number(value))
        print_table(out, table)
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
        for text in (run.get("benchmark") or {}).get("regressions", ()):
            out.print(f"Regression: {text}", markup=False, highlight=False, soft_wrap=True)
        if "report" in run:
            out.print(f"Report: {run['report']}", highlight=False, soft_wrap=True)


def differs(result: Mapping[str, Any]) -> bool:
    """Whether a flow that compared found a difference."""
    from tasks.verification import DIFFERENT

    return result.get("status") == DIFFERENT
