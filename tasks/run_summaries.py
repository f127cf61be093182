"""What the runs of each flow came to, in a form that people read: from what a flow returns to `RunSummary`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory.learning import lineage
from memory.ledger import EventRow, TransitionRow
from memory.records import REGIMES
from memory.reporting import wording
from memory.reporting.artifacts import Link, RunSummary, Table, Value, artifact_link
from memory.window import Window
from tasks.report_lineage import HAPPENED
from tasks.runs import TaskContext
from tasks.workspace import open_workspace

Result = Mapping[str, Any]


def recording_summary(result: Result) -> RunSummary:
    """What a recording stored and refused."""
    source = "the market" if result["source"] == "market" else "the agents' inboxes"
    reasons = [
        {"refused because of": field, "records": count}
        for field, count in sorted(result["dead_letter_reasons"].items(), key=lambda row: (-row[1], row[0]))
    ]
    decisions = [{"agent": agent, "decision": found} for agent, found in result.get("last_decisions", {}).items()]
    return RunSummary(
        title=f"Recorded from {source}" + (f", {result['window']}" if result["window"] else ""),
        read=_figures(result, "experiences", "states", "unrewarded_states", "gaps"),
        learned=_figures(result, "stored", "encoder"),
        dropped=_figures(result, "duplicates", "dead_letters", "below_quality", "cold_states"),
        notes=_problem(result["dead_letters"], "record was refused", "records were refused", "see the reasons"),
        tables=(
            Table("refused", "Records that went to the dead letters, by the field at fault", reasons),
            Table("decisions", "Each agent's last traced decision, for coinswarm explain", decisions),
        ),
    )


def consolidation_summary(context: TaskContext, result: Result) -> RunSummary:
    """What a consolidation read and found, line by line, and what happened to each pattern."""
    lines = result["lines"]
    names = ("clusters", "matched", "patterns_new", "patterns_confirmed", "patterns_faded", "patterns", "pruned")
    rows = [{"line": line, **{_words(name): counts[name] for name in names}} for line, counts in lines.items()]
    totals = {name: sum(counts[name] for counts in lines.values()) for name in names if lines}
    more = ("patterns_returned", "patterns_merged", "patterns_split", "patterns_demoted")
    totals |= {name: sum(counts[name] for counts in lines.values()) for name in more if lines}
    again = {_words(name): ", ".join(result[name]) for name in ("windows_again", "windows_waiting") if result[name]}
    return RunSummary(
        title=f"Learned from {result['window']}",
        read={**_figures(result, "window", "experiences", "states"), **again},
        learned=_figures(
            {**result, **totals}, "clusters", "patterns_new", "patterns_confirmed", "patterns_returned", "patterns"
        ),
        changed=_figures(totals, "patterns_merged", "patterns_split", "patterns_demoted"),
        dropped={
            **_figures(totals, "patterns_faded", "pruned"),
            "share of states in no cluster": float(result["noise_share"]),
        },
        notes=[f"Sealed, since its input is gone: {name}." for name in result["windows_sealed"]],
        tables=(
            Table("lines", "Patterns by knowledge line", rows),
            Table("changes", "What happened to patterns", _changes(context, list(lines))),
        ),
    )


def transitions_summary(context: TaskContext, lines: Sequence[str], result: Result) -> RunSummary:
    """How regimes follow one another, product by product."""
    with open_workspace(context.namespace) as workspace:
        found = [
            row
            for line in lines
            for row in workspace.ledger.projections.as_of(TransitionRow, line, context.as_window())
        ]
    cells: dict[tuple[str, str], dict[str, Value]] = {}
    for row in found:
        own = cells.setdefault(
            (row.product_id, row.from_regime), {"product": row.product_id, "from": wording.regime_name(row.from_regime)}
        )
        own[wording.regime_name(row.to_regime)] = None if row.probability is None else round(row.probability, 3)
    columns = [wording.regime_name(regime) for regime in REGIMES]
    rows: list[Mapping[str, Value]] = []
    for key in sorted(cells, key=lambda key: (key[0], REGIMES.index(key[1]))):
        given = cells[key]
        rows.append({"product": given["product"], "from": given["from"], **{name: given.get(name) for name in columns}})
    return RunSummary(
        title=f"Transitions of regimes, {result['window']}",
        read=_figures(result, "window", "transitions"),
        learned={"rows of probabilities": len(rows)},
        tables=(Table("probabilities", "Next regime once the present one ends", rows),),
    )


def pruning_summary(result: Result) -> RunSummary:
    """What was pruned, or would be."""
    strategies = set(result["pruned_strategies"])
    rows = [{"memory": name, "kind": "strategy" if name in strategies else "pattern"} for name in result["pruned"]]
    shares = {f"random sets that would pass, {line}": share for line, share in result["random_share"].items()}
    return RunSummary(
        title=f"{'What would be pruned' if result['dry_run'] else 'Pruned'}, {result['window']}",
        read={"memories judged": result["decisions"], **shares},
        dropped={
            "patterns and strategies": len(result["pruned"]),
            "experiences past their retention": result["forgotten_experiences"],
            "shared experiences past theirs": result["forgotten_shared"],
        },
        notes=["A dry run: nothing was removed."] if result["dry_run"] else [],
        tables=(Table("memories", "Memories that no rule keeps", rows),),
    )


def verification_summary(title: str, result: Result, changed: Mapping[str, Value] | None = None) -> RunSummary:
    """What was compared, what differs, and what runs that died left behind."""
    leftovers = [
        {
            "what": item["means"],
            "number": item["number"],
            "bytes": item.get("bytes"),
            "where": item["where"],
            "what to do": item["remedy"],
        }
        for item in result.get("leftovers", ())
    ]
    return RunSummary(
        title=title,
        read=dict(result["checked"]),
        learned={f"differences: {sort}": number for sort, number in result["by_sort"].items()},
        changed=changed or {},
        notes=_problem(result["differences"], "difference", "differences", "see the table"),
        tables=(
            Table("differences", "The first differences", [_plain(row) for row in result["listed"]]),
            Table("leftovers", "Left behind by runs that died, which is no difference", leftovers),
        ),
    )


def rebuilding_summary(result: Result) -> RunSummary:
    """What was published again, and whether it equals the ledger."""
    names = ("added", "closed", "removed", "unchanged", "restored", "successions")
    changed = {"into": str(result["into"]), **_figures(result, *names)}
    return verification_summary(f"Memory was rebuilt and is {result['status']}", result, changed)


def line_summary(result: Result) -> RunSummary:
    """What a new line learned, and whether it is read now."""
    rows = [{"window": window, "because": reason} for window, reason in sorted(result["windows_left_out"].items())]
    return RunSummary(
        title=f"{'Took over' if result.get('took_over') else 'Learned'}: line {result['line']}",
        read=_figures(result, "windows_learned", "states_without_features"),
        learned=_figures(result, "patterns"),
        changed={"read now": bool(result.get("took_over")), "line before": str(result["before"] or "none")},
        dropped={"windows left out": len(rows)},
        tables=(Table("left-out", "Windows that the line could not learn", rows),),
    )


def backfill_summary(result: Result) -> RunSummary:
    """What a back-fill did, or would do, window by window."""
    from tasks.backfilling import OUTCOMES  # Loads the clustering, which most flows do without.

    span = f"{result['first']} to {result['last']}"
    counts = [name for name in OUTCOMES if name in result]
    return RunSummary(
        title=f"{'What is planned' if result['dry_run'] else 'Back-filled'}, {span}",
        read=_figures(result, "to_consolidate", "recorded", "experiences", "states"),
        learned=_figures(result, "clusters", "patterns", "windows_folded"),
        changed={_words(name): result[name] for name in counts},
        notes=_problem(result.get("failed", 0), "window failed", "windows failed", "see the table"),
        tables=(Table("windows", "Window by window", [_plain(row) for row in result["windows"]]),),
    )


def reindexing_summary(result: Result) -> RunSummary:
    """What was indexed anew, and what could not be."""
    rows = [
        {
            "of": change["of"],
            "change": change["change"],
            "experiences": change["experiences"],
            "given a vector": change["converted"],
            "refused": sum(change["refused"].values()),
            "old index removed": change["removed_old"],
            "knowledge": change["knowledge"],
        }
        for change in result["changes"]
    ]
    refused = [
        {"because": reason, "experiences": count}
        for change in result["changes"]
        for reason, count in sorted(change["refused"].items())
    ]
    return RunSummary(
        title="Indexed anew" if rows else "No index was changed",
        read={"experiences": sum(change["experiences"] for change in result["changes"])} if rows else {},
        changed=_figures(result, "indexed_anew", "given_a_vector"),
        dropped={**_figures(result, "refused"), **{f"abandoned: {name}": True for name in result["abandoned"]}},
        tables=(
            Table("changes", "What was indexed anew", rows),
            Table("refused", "What could not be encoded anew", refused),
        ),
    )


def benchmark_summary(result: Result) -> RunSummary:
    """What was measured, and how it compares with past runs."""
    latencies = [
        {"query": name, **{f"{key}, ms": value for key, value in taken.items()}}
        for name, taken in result["latencies_ms"].items()
    ]
    compared = [
        {
            "figure": item["metric"],
            "unit": item["unit"],
            "measured": item["value"],
            "median of past runs": item["median"],
            "limit": item["limit"],
            "runs": item["runs"],
            "verdict": "regression" if item["regressed"] else "as usual",
        }
        for item in result["compared"]
    ]
    sizes = [
        {"what": name, "megabytes": round(size / 1e6, 3)}
        for name, size in sorted(result["sizes"].items(), key=lambda row: -row[1])
    ]
    notes = [f"Regression: {text}." for text in result["regressions"]]
    if not compared:
        notes.append("Too few comparable runs on this machine yet: nothing was judged.")
    return RunSummary(
        title=f"Retrieval, {result['window']}",
        read=_figures(result, "documents"),
        learned=_figures(result, "recall", "queries_per_s", "round_trip_ms"),
        notes=notes,
        tables=(
            Table("latencies", "Latency by kind of query", latencies),
            Table("compared", "Beside past runs on this machine", compared),
            Table("sizes", "Room that the memory takes", sizes),
        ),
    )


def training_summary(namespace: str, result: Result) -> RunSummary:
    """What a policy was trained on, and how its figures went."""
    return RunSummary(
        title=f"Trained a policy for {result['agent']}",
        read=_figures(result, "from", "to", "states", "experiences", "memory_use"),
        learned={
            **_figures(result, "checkpoint", "steps", "trained_until"),
            **{_words(name): value for name, value in result["figures"].items()},
        },
        changed={"experiences shared": result["published"]["shared"]},
        links=(artifact_link("Losses and returns by step", f"training-curve-{namespace}"),),
        tables=(Table("curve", "Losses and greedy returns by step", [_plain(row) for row in result["curve"]]),),
    )


def janitor_summary(result: Result, dropped: Mapping[str, int]) -> RunSummary:
    """What expired, and what of it went; `dropped` says how much of each sort there still was."""
    return RunSummary(
        title="What would go" if result["dry_run"] else "What went",
        read={expired["what"]: expired["number"] for expired in result["expired"]},
        dropped=dropped,
        notes=("A dry run: nothing was removed.",) if result["dry_run"] else (),
        tables=(Table("expired", "What expired, and by which rule", result["expired"]),),
    )


def _figures(result: Result, *names: str) -> dict[str, Value]:
    """Those of a result's figures that it has, under their names in words."""
    return {_words(name): result[name] for name in names if result.get(name) is not None}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _problem(number: int, one: str, many: str, where: str) -> list[str]:
    return [f"{number:,} {one if number == 1 else many}: {where}."] if number else []


def _plain(row: Mapping[str, Any]) -> dict[str, Value]:
    """A row of a table with values that a cell can hold."""
    return {
        _words(name): value if isinstance(value, str | int | float | bool | Link | None) else str(value)
        for name, value in row.items()
    }


def _changes(context: TaskContext, lines: Sequence[str]) -> list[dict[str, Value]]:
    """What the ledger noted of patterns in a window, those that were merely seen again last."""
    window: Window = context.as_window()
    with open_workspace(context.namespace) as workspace:
        found = [(line, event) for line in lines for _, event in workspace.ledger.events.of(line, window=window)]
    order = {kind: place for place, kind in enumerate(HAPPENED) if kind != lineage.CONFIRMED}
    found.sort(key=lambda row: (row[0], order.get(row[1].kind, len(order))))
    return [_change(line, event) for line, event in found]


def _change(line: str, event: EventRow) -> dict[str, Value]:
    return {
        "pattern": event.pattern_id,
        "what": HAPPENED.get(event.kind, event.kind.lower()),
        "other": event.other_id,
        "states": event.states,
        "cosine": event.cosine,
        "had to exceed": event.threshold,
        "line": line,
    }
