"""Reports and artifacts: what a run leaves behind for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Completed

from memory.reporting.artifacts import (
    Link,
    RunSummary,
    Table,
    artifact_key,
    artifact_link,
    escaped,
    summary_markdown,
    table_cells,
    table_title,
)
from memory.reporting.ranking import anchor, strongest
from memory.settings import Settings
from memory.window import Window
from tasks.retry import retried
from tasks.runs import LedgerRun
from tasks.workspace import open_workspace

COUNTS = ("patterns_new", "patterns_confirmed", "patterns_faded")


def leave_artifact(run: LedgerRun, name: str, summary: RunSummary) -> None:
    """Show in the Prefect UI what a run came to; called in the body of its flow.

    Parameters
    ----------
    name
        Of the artifact, equal for all runs of the flow: keys are `<name>-<namespace>`, and for each table
        `<name>-<table>-<namespace>`, so that the UI shows the runs as versions of one thing.

    Notes
    -----
    Cost: one request to Prefect's API for the summary, and one for each table; some 10 ms each.
    """
    leave_summary(run.workspace.namespace, name, summary)


def leave_summary(namespace: str, name: str, summary: RunSummary) -> None:
    """The same for a task, which knows the namespace alone."""
    create_markdown_artifact(
        key=artifact_key(name, namespace), markdown=summary_markdown(summary), description=escaped(summary.title)
    )
    for table in summary.tables:
        # An empty one too: the newest version of a key must not be that of an older run.
        create_table_artifact(
            key=artifact_key(name, table.name, namespace), table=table_cells(table), description=table_title(table)
        )


def completed(result: Mapping[str, Any], notes: Sequence[str]) -> Any:
    """What a flow returns that did its work: its result; where there are notes, in a state whose message they are.

    The state's name stays Completed: whoever waits for that waits for the work.
    """
    return Completed(message="; ".join(notes), data=dict(result)) if notes else dict(result)


def nothing_yet(run: LedgerRun, name: str, title: str, then: str) -> Any:
    """End a run of a memory that nothing was ever recorded in: state, artifact and the result's `note` say so.

    Parameters
    ----------
    name, title
        Of its artifact; see `leave_artifact`.
    then
        What is to come first.
    """
    note = f"nothing was recorded here yet; {then}"
    run.result |= {"note": note}
    leave_artifact(run, name, RunSummary(title=f"{title}: nothing to learn from yet", notes=[f"{note}."]))
    return completed(run.finished(), [note])


def report_link(settings: Settings, path: str, text: str, fragment: str = "") -> Link | None:
    """A link to a report where the setting `reports_url` says that reports are served; None where it does not."""
    if settings.reports_url is None:
        return None
    file = path.rsplit("/", 1)[-1]
    return Link(text, f"{settings.reports_url.rstrip('/')}/{file}{'#' + fragment if fragment else ''}")


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
            for name in (
                "documents",
                "recall",
                "queries_per_s",
                "agents",
                "round_trip_ms",
                "latencies_ms",
                "samples_ms",
                "compared",
                "regressions",
                "run_id",
            )
        },
    }


@retried()
def write_nightly_report(namespace: str, run_id: str, window: Window, result: Mapping[str, Any]) -> str:
    """Write the HTML report of a window, and leave its summary and patterns in the Prefect UI; the report's path."""
    # Charts take a second to load; the other flows, of which some run every few minutes, leave artifacts alone.
    from memory.reporting import markdown_summary, pattern_summary, table_rows, write_report
    from memory.reporting.summary import SUMMARY_PATTERNS
    from tasks.report_data import collect

    with open_workspace(namespace) as workspace:
        settings = workspace.settings
        data = collect(workspace, window, result, run_id)
        path = str(write_report(data, settings.reports_path))
    first = strongest(data.patterns, data.reference_horizon_minutes)[:SUMMARY_PATTERNS]
    keys = {pattern.pattern_id: artifact_key("pattern", namespace, pattern.pattern_id) for pattern in first}
    create_markdown_artifact(
        key=artifact_key("nightly", namespace),
        markdown=markdown_summary(
            data,
            report_link(settings, path, "The report, with charts"),
            path,
            {pattern_id: artifact_link(pattern_id, key) for pattern_id, key in keys.items()},
        ),
        description=f"Night of {window.name}",
    )
    for pattern in first:
        there = report_link(settings, path, "In the report", anchor(pattern.pattern_id))
        # Its versions are what the pattern was after each night.
        create_markdown_artifact(
            key=keys[pattern.pattern_id],
            markdown=pattern_summary(data, pattern, there),
            description=f"{pattern.pattern_id} after {window.name}",
        )
    table = Table("patterns", f"Strongest patterns after {window.name}", table_rows(data))
    create_table_artifact(
        key=artifact_key("nightly-patterns", namespace), table=table_cells(table), description=table_title(table)
    )
    return path
