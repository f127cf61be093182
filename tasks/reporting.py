"""Reports and artifacts: what a run leaves behind for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from memory.records import REGIMES
from memory.reporting import markdown_summary, table_rows, write_report
from memory.window import Window
from tasks.report_data import collect
from tasks.runs import TaskContext
from tasks.workspace import open_workspace

COUNTS = ("patterns_new", "patterns_confirmed", "patterns_faded")


def nightly_result(
    recorded: Mapping[str, Any],
    consolidated: Mapping[str, Any],
    transitions: Mapping[str, Any],
    pruned: Mapping[str, Any],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """What one night came to, from what its flows returned."""
    lines: Sequence[Mapping[str, Any]] = list(consolidated["lines"].values())
    clusters = sum(line["clusters"] for line in lines)
    return {
        "window": consolidated["window"],
        "experiences": consolidated["experiences"],
        "states": consolidated["states"],
        "clusters": consolidated["clusters"],
        **{name: sum(line[name] for line in lines) for name in COUNTS},
        "patterns": sum(line["patterns"] for line in lines),
        "confirmation_rate": sum(line["matched"] for line in lines) / max(clusters, 1),
        "null_confirmation_rate": sum(line["null_confirmation_rate"] * line["clusters"] for line in lines)
        / max(clusters, 1),
        "noise_share": consolidated["noise_share"],
        "transitions": transitions["transitions"],
        "pruned": len(pruned["pruned"]),
        "forgotten_experiences": pruned["forgotten_experiences"],
        "forgotten_shared": pruned["forgotten_shared"],
        "recording": dict(recorded),
        "benchmark": {
            name: measured[name]
            for name in ("documents", "recall", "queries_per_s", "agents", "latencies_ms", "samples_ms")
        },
    }


@task(cache_policy=NO_CACHE)
def write_nightly_report(namespace: str, run_id: str, window: Window, result: Mapping[str, Any]) -> str:
    """Write the HTML report of a window, and leave its summary in the Prefect UI; returns the report's path."""
    with open_workspace(namespace) as workspace:
        data = collect(workspace, window, result, run_id)
        path = write_report(data, workspace.settings.reports_path)
    create_markdown_artifact(
        key=f"nightly-{namespace}", markdown=markdown_summary(data), description=f"Night of {window.name}"
    )
    create_table_artifact(
        key=f"patterns-{namespace}", table=table_rows(data), description=f"Strongest patterns after {window.name}"
    )
    return str(path)


def leave_recording_artifact(result: Mapping[str, Any]) -> None:
    """What a recording stored and refused."""
    _leave("recording", "What was recorded", result, ("source", "window", "stored", "duplicates", "dead_letters"))
    reasons = result["dead_letter_reasons"].items()
    create_table_artifact(
        key="dead-letters",
        table=[{"refused because of": field, "records": count} for field, count in sorted(reasons)],
        description="Records that went to the dead letters, by the field at fault",
    )


def leave_consolidation_artifact(result: Mapping[str, Any]) -> None:
    """What a consolidation found."""
    _leave("consolidation", "What was learned", result, ("window", "experiences", "states", "clusters", "noise_share"))
    rows = [
        {"line": line, **{name: counts[name] for name in ("clusters", "matched", *COUNTS, "patterns", "pruned")}}
        for line, counts in result["lines"].items()
    ]
    create_table_artifact(key="consolidation-lines", table=rows, description="Patterns by knowledge line")


def leave_pruning_artifact(result: Mapping[str, Any]) -> None:
    """What was pruned."""
    names = ("window", "decisions", "forgotten_experiences", "forgotten_shared", "dry_run")
    _leave("pruning", "What was pruned", result, names)
    create_table_artifact(
        key="pruned-patterns",
        table=[{"pattern": pattern} for pattern in result["pruned"]],
        description="Patterns pruned in the window",
    )


def leave_reindexing_artifact(result: Mapping[str, Any]) -> None:
    """What was indexed anew, and what could not be."""
    rows = [
        {
            "of": change["of"],
            "change": change["change"],
            "experiences": change["experiences"],
            "given a vector": change["converted"],
            "refused": sum(change["refused"].values()),
            "old index removed": change["removed_old"],
        }
        for change in result["changes"]
    ]
    create_table_artifact(key="reindexing", table=rows, description="What was indexed anew")
    refused = [
        {"because": reason, "experiences": count}
        for change in result["changes"]
        for reason, count in sorted(change["refused"].items())
    ]
    create_table_artifact(key="reindexing-refused", table=refused, description="What could not be encoded anew")


def leave_benchmark_artifact(result: Mapping[str, Any]) -> None:
    """What was measured."""
    _leave("benchmark", "Retrieval", result, ("window", "documents", "recall", "queries_per_s"))
    rows = [
        {"query": name, **{key: f"{value} ms" for key, value in taken.items()}}
        for name, taken in result["latencies_ms"].items()
    ]
    create_table_artifact(key="benchmark-latencies", table=rows, description="Latency")


def leave_transition_artifact(context: TaskContext, lines: Sequence[str]) -> None:
    """How regimes follow one another, all products pooled."""
    from memory.ledger import TransitionRow

    with open_workspace(context.namespace) as workspace:
        rows = [
            row
            for line in lines
            for row in workspace.ledger.projections.as_of(TransitionRow, line, context.as_window())
        ]
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        cells = table.setdefault(
            (row.product_id, row.from_regime), {"product": row.product_id, "from": row.from_regime}
        )
        cells[row.to_regime] = None if row.probability is None else round(row.probability, 3)
    ordered = [table[key] for key in sorted(table, key=lambda key: (key[0], REGIMES.index(key[1])))]
    create_table_artifact(key="transitions", table=ordered, description="Next regime once the present one ends")
    create_markdown_artifact(
        key="transitions-summary",
        markdown=f"# Transitions\n\nCounted for window {context.window}: {len(ordered)} rows of probabilities.",
    )


def _leave(key: str, title: str, result: Mapping[str, Any], names: Sequence[str]) -> None:
    lines = [f"* {name.replace('_', ' ')}: {_shown(result.get(name))}" for name in names]
    create_markdown_artifact(key=key, markdown="\n".join([f"# {title}", "", *lines]), description=title)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
