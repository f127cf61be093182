"""Pruning: which patterns the fold let go, and which experiences, recorded and shared, are past their retention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from memory import MemoryConnection
from tasks.lateness import ArchivedSpan, archived_spans, held_beyond_archive
from tasks.retry import retried
from tasks.runs import TaskContext
from tasks.workspace import open_workspace


@retried()
def list_pruned(context: TaskContext) -> dict[str, Any]:
    """Decisions of the fold after the run's window: how many patterns were looked at, which ones went."""
    window = context.as_window()
    with open_workspace(context.namespace) as workspace:
        decisions = [
            decision
            for record in workspace.ledger.lines.list(context.namespace)
            for decision in workspace.ledger.projections.prune_decisions(record.line, window)
        ]
    return {
        "decisions": len(decisions),
        "pruned": [decision.memory_id for decision in decisions if not decision.kept],
    }


@retried()
def forget_experiences(context: TaskContext, dry_run: bool) -> dict[str, Any]:
    """Remove the experiences of windows past their retention, up to the first that is not archived.

    Ages count from the end of the run's window. The dry run is the same without the last step.
    """
    with open_workspace(context.namespace) as workspace:
        oldest = context.as_window().end - timedelta(days=workspace.settings.episodic_retention_days)
        archived = archived_spans(workspace.ledger, workspace.namespace, oldest)

        async def forget(mem: MemoryConnection) -> int:
            before = await _archived_until(mem, archived)
            if before is None:
                return 0
            report = await mem.episodic.forget(before=before, token=context.token, dry_run=dry_run)
            return report.experiences

        removed = workspace.with_memory(forget)
        if removed and not dry_run:
            workspace.ledger.runs.record_removal(
                context.namespace,
                context.run_id,
                memory_type="EPISODIC",
                window=context.as_window(),
                rule=f"older than {workspace.settings.episodic_retention_days} days and archived",
                count=removed,
            )
    return {"forgotten_experiences": removed, "retention_until": oldest.isoformat()}


@retried()
def forget_shared(context: TaskContext, dry_run: bool) -> dict[str, Any]:
    """Remove the shared experiences past their retention, counted from the end of the run's window.

    They are copies: what they were made of is archived with its own window. The dry run is the same without the last
    step.
    """
    with open_workspace(context.namespace) as workspace:
        window = context.as_window()

        async def forget(mem: MemoryConnection) -> int:
            return (await mem.shared.forget(until=window.end, token=context.token, dry_run=dry_run)).experiences

        removed = workspace.with_memory(forget)
        if removed and not dry_run:
            workspace.ledger.runs.record_removal(
                context.namespace,
                context.run_id,
                memory_type="SHARED",
                window=window,
                rule=f"older than {workspace.settings.shared_retention_days} days",
                count=removed,
            )
    return {"forgotten_shared": removed}


async def _archived_until(mem: MemoryConnection, archived: Sequence[ArchivedSpan]) -> datetime | None:
    """End of the last window up to which all that Redis holds is archived; None where nothing is."""
    until, seen = None, 0
    for window, spans in groupby(archived, key=lambda span: span.window):
        found = [await held_beyond_archive(mem, span) for span in spans]
        seen += sum(held for held, _ in found)
        if any(beyond for _, beyond in found) or await mem.episodic.count(until=window.end) > seen:
            break
        until = window.end
    return until
