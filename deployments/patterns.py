"""`coinswarm patterns`: what was learned, chosen and sorted, in a list, a table of values, or whole."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import rich.console
from rich.padding import Padding
from rich.text import Text

from deployments.console import printable
from deployments.local import load_settings
from deployments.pattern_choice import Choice, Sort, Status
from memory.learning.settings import DEFAULT_SETTINGS
from memory.records import Outcome, PatternMemory, SemanticType
from memory.reporting import wording
from memory.reporting.ranking import FADED, leading_outcome, strongest
from memory.retrieval.query import check_pattern_scope

HORIZON = DEFAULT_SETTINGS.reference_horizon_minutes
"""Minutes over which patterns are ranked by what their best trade brought."""
CSV_COLUMNS = (
    *("pattern_id", "regime", "status", "products", "support", "effective_support", "states", "windows_seen"),
    *("first_seen", "last_seen", "action", "horizon_minutes", "net_mean", "shrunk_net_mean", "gross_mean", "low"),
    *("high", "win_rate", "net_sharpe", "max_drawdown", "q_value", "description"),
)


def patterns(namespace: str | None, as_of: datetime | None, choice: Choice) -> dict[str, Any]:
    """The ``patterns`` that are wanted, in full; `leading` is the outcome of the best trade, by which they are ranked.

    Beside them the ``namespace``, and the time ``as_of`` which they are; None for now.

    Raises
    ------
    InvalidQueryError
        No such regime, or a product that cannot be one.
    """
    from tasks.workspace import open_workspace

    check_pattern_scope(choice.product_id, choice.regime)
    settings = load_settings(namespace)
    with open_workspace(settings.namespace) as workspace:

        async def read(mem: Any) -> list[Any]:
            semantic = mem.semantic if as_of is None else mem.at(as_of).semantic
            lines = await mem.semantic.current_lines()
            return [memory for line in lines for memory in await semantic.current(SemanticType.PATTERN, line=line)]

        found = [memory for memory in workspace.with_memory(read) if isinstance(memory, PatternMemory)]
    wanted = [pattern for pattern in found if choice.admits(pattern)]
    return {
        "namespace": settings.namespace,
        "as_of": None if as_of is None else as_of.isoformat(),
        "patterns": [in_full(pattern) for pattern in in_order(wanted, choice.sort)],
    }


def in_order(found: Iterable[PatternMemory], sort: Sort) -> list[PatternMemory]:
    """Patterns in order; those that lack the figure come last, ties by id."""
    found = sorted(found, key=lambda pattern: pattern.pattern_id)
    if sort is Sort.NET:
        return [*strongest(found, HORIZON), *(pattern for pattern in found if pattern.status == FADED)]
    if sort is Sort.SUPPORT:
        return sorted(found, key=lambda pattern: -pattern.support)
    if sort is Sort.NEWEST:
        return sorted(found, key=lambda pattern: (pattern.created_at, pattern.last_seen), reverse=True)

    def figure(pattern: PatternMemory) -> float | None:
        trade = leading_outcome(pattern, HORIZON)
        if trade is None:
            return None
        if sort is Sort.CONFIDENCE:
            return trade.q_value
        return None if trade.net_sharpe is None else -trade.net_sharpe

    keyed = [(figure(pattern), pattern) for pattern in found]
    return [pattern for _, pattern in sorted(keyed, key=lambda item: (item[0] is None, item[0] or 0.0))]


# --- as plain values -------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A record as plain values."""

    def hook(item: Any) -> Any:
        if hasattr(item, "tolist"):
            return item.tolist()
        raise TypeError(f"{type(item).__name__} has no JSON form")

    return msgspec.to_builtins(value, enc_hook=hook)


def in_full(pattern: PatternMemory) -> dict[str, Any]:
    """A pattern as plain values, and under `leading` the outcome that it is ranked by."""
    return {**plain(pattern), "leading": _leading(pattern)}


def outline(pattern: PatternMemory) -> dict[str, Any]:
    """What a table says of a pattern."""
    names = ("pattern_id", "regime", "status", "demoted", "support", "states", "description")
    return {**{name: getattr(pattern, name) for name in names}, "leading": _leading(pattern)}


def _leading(pattern: PatternMemory) -> dict[str, Any] | None:
    trade: Outcome | None = leading_outcome(pattern, HORIZON)
    return None if trade is None else plain(trade)


def status_of(pattern: Mapping[str, Any]) -> str:
    """Status of a pattern in a word; that it failed goes before how often it was seen."""
    return Status.DEMOTED.value if pattern["demoted"] else str(pattern["status"])


def trade(leading: Mapping[str, Any] | None) -> str:
    """What the best trade brought, in a few words."""
    if leading is None:
        return "no trade was possible"
    return (
        f"{leading['action']}, {wording.horizon(leading['horizon_minutes'])}: "
        f"{wording.basis_points(leading['shrunk_net_mean'])} bp net, shrunk"
    )


# --- showing ---------------------------------------------------------------------------------------------------


def show_patterns(found: Sequence[Mapping[str, Any]], out: rich.console.Console, limit: int, choice: Choice) -> None:
    """The first patterns of a list, with what they are."""
    if not found:
        narrowed = choice != Choice(sort=choice.sort)
        out.print(
            "No pattern is like that: leave out a filter, or look at them all with 'coinswarm patterns'."
            if narrowed
            else "No patterns in this memory yet, or by the time of --as-of: name another memory with --namespace (of "
            "'coinswarm demo': demo), or run 'coinswarm run nightly' after recording.",
            highlight=False,
            soft_wrap=True,
        )
        return
    out.print(f"{wording.plural(len(found), 'pattern')}, {_ORDERS[choice.sort]}", style="bold", highlight=False)
    for pattern in found[:limit]:
        told = (
            f"  {pattern['regime']}, {status_of(pattern)}, {pattern['support']} occurrences; "
            f"{_best(pattern, choice.sort)}"
        )
        out.print(Text.assemble((pattern["pattern_id"], "bold"), told), soft_wrap=True)
        out.print(Padding(Text(printable(pattern["description"])), (0, 0, 1, 4)), highlight=False)
    if len(found) > limit:
        out.print(f"{len(found) - limit} more: --limit {len(found)}, or --json for all of them in full.")


_ORDERS: Mapping[Sort, str] = {
    Sort.NET: "strongest first",
    Sort.SUPPORT: "most occurrences first",
    Sort.SHARPE: "best Sharpe ratio of the best trade first",
    Sort.CONFIDENCE: "smallest q-value of the best trade first",
    Sort.NEWEST: "newest first",
}


def _best(pattern: Mapping[str, Any], sort: Sort) -> str:
    """The best trade of a pattern, with the figure that the list is sorted by where it is another one."""
    leading = pattern["leading"]
    if leading is None:
        return trade(None)
    further: Mapping[Sort, Callable[[], str]] = {
        Sort.SHARPE: lambda: f", Sharpe ratio {wording.number(leading['net_sharpe'], 1)}",
        Sort.CONFIDENCE: lambda: f", q {wording.p_value(leading['q_value'])}",
        Sort.NEWEST: lambda: f"; founded {str(pattern['created_at'])[:10]}",
    }
    return f"best trade {trade(leading)}{further[sort]() if sort in further else ''}"


def write_csv(found: Sequence[Mapping[str, Any]]) -> None:
    """Patterns as comma-separated values on stdout: a row each, returns as fractions of notional."""
    writer = csv.DictWriter(sys.stdout, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for pattern in found:
        leading = pattern["leading"] or {}
        interval = leading.get("interval") or {}
        writer.writerow(
            {
                **pattern,
                **leading,
                **interval,
                "status": status_of(pattern),
                "products": " ".join(pattern["product_ids"]),
            }
        )
