"""`coinswarm patterns PATTERN_ID`: all that is known of one pattern, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import rich.console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deployments.console import print_table, printable
from deployments.explain import lineage_of, show_nights
from deployments.local import load_settings
from deployments.patterns import HORIZON, in_full, status_of, trade
from memory import MemoryConnection
from memory.errors import InvalidQueryError
from memory.learning.knowledge import FoldState, PatternState
from memory.ledger import Ledger
from memory.records import PatternMemory, SemanticType, from_ms
from memory.reporting import wording
from memory.window import Window

SIDES = ("buy", "sell", "hold")


def pattern(namespace: str | None, pattern_id: str, as_of: datetime | None) -> dict[str, Any]:
    """One pattern in full: its version, states by product, a cluster for each night, and its lineage.

    An id that it had before leads to it too. Cost: reads the fold's state, about a second for a thousand patterns.

    Raises
    ------
    InvalidQueryError
        No pattern of that id stands, or did at that time.
    """
    from tasks.workspace import open_workspace

    settings = load_settings(namespace)
    with open_workspace(settings.namespace) as workspace:

        async def read(mem: MemoryConnection) -> PatternMemory | None:
            semantic = mem.semantic if as_of is None else mem.at(as_of).semantic
            for line in await mem.semantic.current_lines():
                memory = await semantic.get(pattern_id, line=line)
                if isinstance(memory, PatternMemory):
                    return memory
            return None

        async def standing(mem: MemoryConnection) -> int:
            semantic = mem.semantic if as_of is None else mem.at(as_of).semantic
            counts = [await semantic.counts(line=line) for line in await mem.semantic.current_lines()]
            return sum(count[SemanticType.PATTERN.value] for count in counts)

        found = workspace.with_memory(read)
        if found is None:
            then = "" if as_of is None else f" as of {wording.moment(as_of)} UTC"
            raise InvalidQueryError(
                f"no pattern '{pattern_id[:80]}' stands in namespace '{settings.namespace}'{then}, where "
                f"{wording.plural(workspace.with_memory(standing), 'pattern')} can be found.",
                remedy="'coinswarm patterns' lists them; 'coinswarm explain ID' tells of one that is gone.",
                argument="pattern_id",
            )
        last = None if as_of is None else _last_window(found)
        return {
            **in_full(found),
            "asked": pattern_id,
            "as_of": None if as_of is None else as_of.isoformat(),
            **_made_of(workspace.ledger, found, last),
            "lineage": _lineage(workspace.ledger, found, last),
        }


def _last_window(found: PatternMemory) -> Window:
    """The last window that a version can rest on: it ended when the version became valid, or before."""
    return Window.last_full_before(found.valid_from)


def _made_of(ledger: Ledger, found: PatternMemory, last: Window | None) -> dict[str, Any]:
    """States by product and a cluster for each night, as the fold has them; empty where it does not know the line."""
    from tasks.consolidation import PATTERNS

    before = None if last is None else Window.containing(last.end)
    items = ledger.folds.load_state(found.line, PATTERNS, before=before).items
    state: PatternState | None = FoldState.from_items(items).patterns.get(found.pattern_id)
    if state is None:
        return {"products": {}, "clusters": []}
    return {
        "products": dict(sorted(state.products.items())),
        "clusters": [
            {
                "window": sighting.window,
                "partition": sighting.partition,
                "label": sighting.label,
                "cluster_id": sighting.cluster_id,
                "states": sighting.states,
                "occurrences": sighting.occurrences.count,
                "first": _time(sighting.occurrences.first_ms),
                "last": _time(sighting.occurrences.last_ms),
                "cosine": _finite(sighting.cosine),
                "threshold": _finite(sighting.threshold),
                "rule": sighting.rule or None,
            }
            for sighting in state.sightings
        ],
    }


def _lineage(ledger: Ledger, found: PatternMemory, last: Window | None) -> list[dict[str, Any]]:
    """What happened to it, up to a window."""
    known = lineage_of(ledger, found.line, found.pattern_id)
    events: list[dict[str, Any]] = [] if known is None else known["events"]
    return events if last is None else [event for event in events if event["window"] <= last.name]


def _time(ms: int | None) -> str | None:
    return None if ms is None else from_ms(ms).isoformat()


def _finite(value: float) -> float | None:
    """A number, or None for what a cluster that founded its pattern has no number for."""
    return value if abs(value) < float("inf") else None


# --- showing ---------------------------------------------------------------------------------------------------


def show_pattern(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """All of a pattern, from what it is to what happened to it."""

    def say(text: str, style: str = "") -> None:
        out.print(Text(printable(text), style=style), soft_wrap=True)

    def heading(text: str) -> None:
        out.print()
        say(text, "bold")

    then = "" if result["as_of"] is None else f", as of {result['as_of'][:16].replace('T', ' ')} UTC"
    say(f"{result['pattern_id']}{then}", "bold")
    if result["aliases"]:
        say(f"known before as {', '.join(result['aliases'])}")
    if result["split_from"]:
        say(f"found as a part of {result['split_from']}")
    say(
        f"{result['regime']}, {status_of(result)}: {wording.plural(result['support'], 'occurrence')} "
        f"({result['effective_support']} that share no look-back), {wording.plural(result['states'], 'state')} in "
        f"{wording.plural(result['windows_seen'], 'night')}, {_minute(result['first_seen'])} to "
        f"{_minute(result['last_seen'])} UTC"
    )
    say(f"best trade {trade(result['leading'])}; in {result['line']} since {_minute(result['valid_from'])} UTC")
    out.print(Padding(Text(printable(result["description"])), (0, 0, 0, 4)), highlight=False)

    heading("What sets it apart (10th to 90th percentile of its states; lift is how far from all others)")
    print_table(out, _condition_table(result))
    heading("What each action brought, in basis points, and over how many half-hours")
    print_table(out, _outcome_table(result))
    heading("How the market moved, log(|return| / what its trailing volatility suggests)")
    print_table(out, _volatility_table(result))
    heading("Where it was seen")
    shares = ", ".join(f"{name} {count:,}" for name, count in result["products"].items())
    say(f"states by product: {shares or ', '.join(result['product_ids'])}")
    if result["realised"]:
        print_table(out, _agent_table(result["realised"]))
    if result["clusters"]:
        heading("Its cluster on each night")
        print_table(out, _cluster_table(result))
    if result["lineage"]:
        heading("What happened to it")
        show_nights(result["lineage"], out)


def _minute(time: str) -> str:
    return str(time)[:16].replace("T", " ")


def _table(*titles: str, figures: int) -> Table:
    """A table whose last `figures` columns are numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for position, title in enumerate(titles):
        table.add_column(title, justify="right" if position >= len(titles) - figures else "left")
    return table


def _condition_table(result: Mapping[str, Any]) -> Table:
    table = _table("what", "feature", "low", "high", "lift", figures=3)
    for item in result["conditions"]:
        low, high, lift = (wording.number(item[name], 3) for name in ("low", "high", "lift"))
        table.add_row(Text(printable(item["phrase"])), item["feature"], low, high, lift)
    return table


def _outcome_table(result: Mapping[str, Any]) -> Table:
    columns = ("n", "half-hours", "gross", "95 %", "net", "net, shrunk", "wins", "Sharpe", "drawdown", "q")
    table = _table("action", "horizon", *columns, figures=len(columns))
    for item in result["outcomes"]:
        table.add_row(
            item["action"],
            wording.horizon(item["horizon_minutes"]),
            wording.count(item["n"]),
            wording.count(item["blocks"]),
            wording.basis_points(item["gross_mean"]),
            _span(item["interval"], wording.basis_points),
            wording.basis_points(item["net_mean"]),
            wording.basis_points(item["shrunk_net_mean"]),
            wording.percent(item["win_rate"]),
            wording.number(item["net_sharpe"], 1),
            wording.percent(item["max_drawdown"], 2),
            wording.p_value(item["q_value"]),
            style="bold" if item["horizon_minutes"] == HORIZON else "",
        )
    return table


def _volatility_table(result: Mapping[str, Any]) -> Table:
    table = _table("horizon", "n", "half-hours", "mean", "95 %", "usual there", figures=5)
    for item in result["volatility"]:
        table.add_row(
            wording.horizon(item["horizon_minutes"]),
            wording.count(item["n"]),
            wording.count(item["blocks"]),
            wording.number(item["mean"]),
            _span(item["interval"], wording.number),
            wording.number(item["base_mean"]),
        )
    return table


def _agent_table(realised: Mapping[str, Mapping[str, float]]) -> Table:
    """What agents did there, and the reward it brought, net, in basis points."""
    titles = [f"{side} {what}" for side in SIDES for what in ("n", "reward bp", "wins")]
    table = _table("agent", *titles, figures=len(titles))
    for agent, figures in realised.items():
        cells = []
        for side in SIDES:
            count = figures.get(f"{side}_n")
            cells += [
                wording.count(None if count is None else int(count)),
                wording.basis_points(figures.get(f"{side}_mean")),
                wording.percent(figures.get(f"{side}_win_rate")),
            ]
        table.add_row(agent, *cells)
    return table


def _cluster_table(result: Mapping[str, Any]) -> Table:
    table = _table("window", "clustered in", "cluster", "states", "occurrences", "cosine", "threshold", figures=5)
    for item in result["clusters"]:
        table.add_row(
            item["window"],
            item["partition"],
            str(item["label"]),
            wording.count(item["states"]),
            wording.count(item["occurrences"]),
            "founded it" if item["cosine"] is None else f"{item['cosine']:.4f}",
            wording.number(item["threshold"], 4),
        )
    return table


def _span(interval: Mapping[str, float] | None, said: Any) -> str:
    return wording.MISSING if interval is None else f"{said(interval['low'])} to {said(interval['high'])}"
