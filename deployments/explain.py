"""`coinswarm explain`: what happened to a pattern, night by night and why, or what a decision rested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import rich.console
from rich.table import Table
from rich.text import Text

from deployments.console import print_table
from deployments.decision_shown import show_decision
from deployments.explain_decision import explain_decision, is_decision_id
from deployments.local import load_settings
from memory.errors import InvalidQueryError
from memory.ledger import EventRow, Ledger
from memory.store.access import uncounted
from memory.window import Window


def explain(namespace: str | None, memory_id: str) -> dict[str, Any]:
    """What a decision rested on (`explain_decision`), or the lineage of a pattern in each line that has it.

    An id that a pattern had before leads to it too.

    Raises
    ------
    InvalidQueryError
        No decision, and in no line a pattern, has ever had that id.
    """
    from tasks.workspace import open_workspace

    settings = load_settings(namespace)
    with open_workspace(settings.namespace) as workspace, uncounted():
        if is_decision_id(memory_id) and (decision := explain_decision(workspace, memory_id)) is not None:
            return decision
        found = [
            lineage
            for record in workspace.ledger.lines.list(settings.namespace)
            if (lineage := lineage_of(workspace.ledger, record.line, memory_id)) is not None
        ]
    if not found:
        raise InvalidQueryError(
            f"namespace '{settings.namespace}' has never had a pattern '{memory_id}', and keeps no trace of such a "
            "decision.",
            remedy="'coinswarm patterns' lists the ids of patterns that stand; a decision has the id of its "
            "experience, where its agent recorded a trace.",
            argument="memory_id",
        )
    return {"asked": memory_id, "lines": found}


def show_explanation(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """A decision, or the lineage of a pattern."""
    if "decision" in result:
        show_decision(result, out)
    else:
        show_lineage(result, out)


def lineage_of(ledger: Ledger, line: str, pattern: str) -> dict[str, Any] | None:
    """What happened to a pattern in a line, under each of its names, as plain values; None where it was never there."""
    from memory.ledger import PatternRow

    own = ledger.projections.resolve(line, pattern)
    leads = {alias.alias_id for alias in ledger.projections.aliases(line)}
    before = sorted(name for name in leads if name != own and ledger.projections.resolve(line, name) == own)
    history = ledger.projections.history(PatternRow, line, own)
    events = _events(ledger, line, [own, *before])
    if not history and not events:
        return None
    now = history[-1][1] if history else None
    return {
        "line": line,
        "pattern": own,
        "names_before": before,
        "status": "not published" if not history else "gone" if now is None else now.status,
        "support": None if now is None else now.support,
        "windows_seen": None if now is None else now.windows_seen,
        "description": None if now is None else now.description,
        "events": [_event(ledger, line, window, event) for window, event in events],
    }


def _events(ledger: Ledger, line: str, names: Sequence[str]) -> list[tuple[Window, EventRow]]:
    """Events that any of some names is part of, in order; each once."""
    found: list[tuple[Window, EventRow]] = []
    for name in names:
        found += [event for event in ledger.events.of(line, name) if event not in found]
    return sorted(found, key=lambda item: item[0])


def _event(ledger: Ledger, line: str, window: Window, event: EventRow) -> dict[str, Any]:
    from memory.learning.lineage import EVENTS, PRUNED

    plain = {name: value for name, value in asdict(event).items() if value not in (None, {})}
    shown = {"window": window.name, **plain, "says": EVENTS.get(event.kind, "")}
    if event.kind == PRUNED:
        decisions = ledger.projections.prune_decisions(line, window)
        shown["decision"] = next((item.details for item in decisions if item.memory_id == event.pattern_id), {})
    return shown


def show_lineage(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """A pattern's nights as a table, for each line that has it."""
    for line in result["lines"]:
        known_as = f", before: {', '.join(line['names_before'])}" if line["names_before"] else ""
        heading = Text.assemble((line["pattern"], "bold"), f" in {line['line']}{known_as}")
        out.print(heading, soft_wrap=True)
        seen = f", {line['support']} occurrences in {line['windows_seen']} windows" if line["support"] else ""
        out.print(f"{line['status']}{seen}", highlight=False)
        show_nights(line["events"], out)


def show_nights(events: Sequence[Mapping[str, Any]], out: rich.console.Console) -> None:
    """Events of a lineage as a table, and what their kinds mean."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in ("window", "what", "pattern", "other", "states"):
        table.add_column(title)
    for title in ("cosine", "threshold"):
        table.add_column(title, justify="right")
    table.add_column("rule")
    for event in events:
        table.add_row(
            event["window"],
            event["kind"],
            event["pattern_id"],
            event.get("other_id", ""),
            str(event.get("states", "")),
            _cosine(event.get("cosine")),
            _cosine(event.get("threshold")),
            event.get("rule", ""),
        )
    print_table(out, table)
    kinds = {event["kind"]: event["says"] for event in events}
    for kind, says in sorted(kinds.items()):
        out.print(f"{kind}: {says}", highlight=False, soft_wrap=True)


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
