"""Pruning: which patterns the fold let go, and which experiences are past their retention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from memory import MemoryConnection
from memory.window import Window
from tasks.retry import JITTER, RETRIES, RETRY_DELAYS_S, is_transient
from tasks.runs import TaskContext
from tasks.workspace import Workspace, open_workspace


@task(
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
)
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


@task(
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
)
def forget_experiences(context: TaskContext, dry_run: bool) -> dict[str, Any]:
    """Remove the experiences of windows past their retention, up to the first that is not archived.

    Ages count from the end of the run's window. The dry run is the same without the last step.
    """
    with open_workspace(context.namespace) as workspace:
        oldest = context.as_window().end - timedelta(days=workspace.settings.episodic_retention_days)
        archived = _archived_counts(workspace, oldest)

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


def _archived_counts(workspace: Workspace, until: datetime) -> list[tuple[Window, int]]:
    """Windows that ended at a time or before, with the experiences that are archived of them, in order."""
    counts: dict[Window, int] = {}
    for record in workspace.ledger.lines.list(workspace.namespace):
        for window, _ in workspace.ledger.windows.with_current(record.line):
            if window.end <= until:
                references = workspace.ledger.windows.archives(workspace.namespace, window, record.encoder_id)
                counts[window] = counts.get(window, 0) + sum(item.experiences.rows for item in references)
    return sorted(counts.items())


async def _archived_until(mem: MemoryConnection, archived: Sequence[tuple[Window, int]]) -> datetime | None:
    """End of the last window up to which all that Redis holds is archived; None where nothing is."""
    until, seen = None, 0
    for window, rows in archived:
        held = await mem.episodic.count(since=window.start, until=window.end)
        seen += held
        if held > rows or await mem.episodic.count(until=window.end) > seen:
            break
        until = window.end
    return until
