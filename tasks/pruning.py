"""Pruning: what the fold let go or would let go, and which experiences, recorded and shared, are past their retention.

What is removed is planned in the ledger first, with its rule, then carried out, then noted as done: a run that dies
between leaves an open plan, which the next one completes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from memory import MemoryConnection
from memory.errors import WindowError
from memory.learning.context import ProjectionContext
from memory.learning.knowledge import FoldState
from memory.learning.pruning import PruneOutlook, preview_pruning
from memory.learning.strategy_pruning import decide_strategy_pruning
from memory.ledger import Ledger, LineRecord, PruneDecision
from memory.records import SemanticType, to_ms
from memory.typed import convert_to
from memory.window import Window
from tasks.consolidation import PATTERNS, accesses_before
from tasks.lateness import ArchivedSpan, archived_spans, fed_lines, held_beyond_archive
from tasks.projections import prune_rows
from tasks.retry import retried
from tasks.runs import TaskContext
from tasks.sequence_folds import STRATEGY_FOLD, RunningFold
from tasks.workspace import Workspace

EPISODIC, SHARED = "EPISODIC", "SHARED"


# --- patterns and strategies -----------------------------------------------------------------------------------


@retried()
def list_pruned(context: TaskContext) -> dict[str, Any]:
    """Decisions of the fold after the run's window: how many memories were looked at, which ones went, and why."""
    window = context.as_window()
    with context.open() as workspace:
        ledger = workspace.ledger
        found = {
            record.line: ledger.projections.prune_decisions(record.line, window)
            for record in ledger.lines.list(context.namespace)
            if ledger.windows.current_generation(record.line, window, kinds=()) is not None
        }
        random = {line: _outlook(ledger, line, window) for line in found}
    return _shown(found, random, decided=True)


@retried()
def preview_pruned(context: TaskContext) -> dict[str, Any]:
    """What the fold would let go at the end of the run's window, by the same code, without letting it go.

    Of a line that has folded the window, the fold's decisions, which stand. Of another, decisions about what was known
    before the window, with the accesses counted so far: clusters that the window itself brings may still keep a
    pattern.

    Raises
    ------
    WindowError
        Nothing was folded before the window's end.
    """
    window = context.as_window()
    with context.open() as workspace:
        ledger = workspace.ledger
        found: dict[str, Sequence[PruneDecision]] = {}
        random: dict[str, PruneOutlook | None] = {}
        decided = True
        for record in fed_lines(ledger, context.namespace):
            folded = [
                point.window for point in ledger.folds.checkpoints(record.line, PATTERNS) if point.window <= window
            ]
            if not folded:
                continue
            if folded[-1] == window:
                found[record.line] = ledger.projections.prune_decisions(record.line, window)
            else:
                decided = False
                found[record.line] = _preview(context, workspace, record, window, folded[-1])
            random[record.line] = _outlook(ledger, record.line, folded[-1])
    if not found:
        raise WindowError(
            f"nothing was learned in namespace '{context.namespace}' before {window.name} ended.",
            remedy="Choose a later date, or run 'coinswarm run consolidate_memories' first.",
        )
    return _shown(found, random, decided=decided)


def _preview(
    context: TaskContext, workspace: Workspace, record: LineRecord, window: Window, last: Window
) -> list[PruneDecision]:
    ledger, settings = workspace.ledger, context.settings().patterns
    access = accesses_before(workspace, window, settings.access_days)
    state = FoldState.from_items(ledger.folds.load_state(record.line, PATTERNS, before=window).items)
    patterns = preview_pruning(state, to_ms(window.end), access, settings, _outlook(ledger, record.line, last))
    decisions = prune_rows(SemanticType.PATTERN, patterns.decisions)
    for source, agents in RunningFold.before(ledger, record.line, STRATEGY_FOLD, window).by_source():
        of = ProjectionContext(record.encoder_id, source, record.line, window.end)
        decided = decide_strategy_pruning(agents, window, access, of, settings)
        decisions += prune_rows(SemanticType.STRATEGY, decided)
    return decisions


def _outlook(ledger: Ledger, line: str, window: Window) -> PruneOutlook | None:
    """How much the Sharpe rule said in a window that was folded."""
    for point in ledger.folds.checkpoints(line, PATTERNS):
        if point.window == window and "outlook" in point.counts:
            return convert_to(PruneOutlook, point.counts["outlook"])
    return None


def _shown(
    found: dict[str, Sequence[PruneDecision]], outlooks: dict[str, PruneOutlook | None], *, decided: bool
) -> dict[str, Any]:
    """Decisions as a run's result shows them: what goes, beside the share of random sets that would stay."""
    gone = [decision for decisions in found.values() for decision in decisions if not decision.kept]
    return {
        "decisions": sum(len(decisions) for decisions in found.values()),
        "pruned": [decision.memory_id for decision in gone],
        "pruned_strategies": [
            decision.memory_id for decision in gone if decision.memory_type == SemanticType.STRATEGY.value
        ],
        "decided_by_the_fold": decided,
        "random_share": {
            line: None if outlook is None else outlook.random_pass for line, outlook in sorted(outlooks.items())
        },
    }


# --- experiences -----------------------------------------------------------------------------------------------


@retried()
def forget_experiences(context: TaskContext, dry_run: bool) -> dict[str, Any]:
    """Remove the experiences of windows past their retention, up to the first that is not archived.

    Ages count from the end of the run's window. The dry run is the same without the last step.
    """
    with context.open() as workspace:
        days = workspace.settings.episodic_retention_days
        oldest = context.as_window().end - timedelta(days=days)
        archived = archived_spans(workspace.ledger, workspace.namespace, oldest)
        before = workspace.with_memory(lambda mem: _archived_until(mem, archived))

        async def forget(mem: MemoryConnection, until: datetime, count_only: bool) -> int:
            report = await mem.episodic.forget(before=until, token=context.token, dry_run=count_only)
            return report.experiences

        removed = 0
        if before is not None:
            rule = f"older than {days} days and archived"
            removed = _remove(context, workspace, EPISODIC, before, rule, forget, dry_run=dry_run)
    return {"forgotten_experiences": removed, "retention_until": oldest.isoformat()}


@retried()
def forget_shared(context: TaskContext, dry_run: bool) -> dict[str, Any]:
    """Remove the shared experiences past their retention, counted from the end of the run's window.

    They are copies: what they were made of is archived with its own window. The dry run is the same without the last
    step.
    """
    with context.open() as workspace:
        days = workspace.settings.shared_retention_days
        age = timedelta(days=days)
        before = context.as_window().end - age

        async def forget(mem: MemoryConnection, until: datetime, count_only: bool) -> int:
            report = await mem.shared.forget(until=until + age, token=context.token, dry_run=count_only)
            return report.experiences

        removed = _remove(context, workspace, SHARED, before, f"older than {days} days", forget, dry_run=dry_run)
    return {"forgotten_shared": removed}


Forget = Callable[[MemoryConnection, datetime, bool], Awaitable[int]]
"""Removes, or counts only, what was decided before a time."""


def _remove(
    context: TaskContext,
    workspace: Workspace,
    memory_type: str,
    before: datetime,
    rule: str,
    forget: Forget,
    *,
    dry_run: bool,
) -> int:
    """Plan, carry out, note; what a run that died had planned comes first. Returns how much this run removes."""
    removals, token = workspace.ledger.removals, context.fencing_token

    async def counted(mem: MemoryConnection) -> int:
        return await forget(mem, before, True)

    def carry_out(until: datetime) -> int:
        async def delete(mem: MemoryConnection) -> int:
            gone = await forget(mem, until, False)
            # Noted as done only once no restart brings anything back.
            await mem.link.on_disk()
            return gone

        return workspace.with_memory(delete)

    if dry_run:
        return workspace.with_memory(counted)
    removed = 0
    for plan in removals.open(workspace.namespace):
        # A plan that reaches into what is no longer archived in full waits until it is again.
        if plan.memory_type == memory_type and plan.before is not None and plan.before <= before:
            removed += carry_out(plan.before)
            removals.done(token, plan.removal_id)
    count = workspace.with_memory(counted)
    if count:
        plan = removals.plan(
            token, memory_type=memory_type, window=context.as_window(), before=before, rule=rule, count=count
        )
        removed += carry_out(before)
        removals.done(token, plan.removal_id)
    return removed


async def _archived_until(mem: MemoryConnection, archived: Sequence[ArchivedSpan]) -> datetime | None:
    """End of the last window up to which all that Redis holds is archived; None where nothing is."""
    encoders = await mem.encoders.ids()
    until, seen = None, 0
    for window, spans in groupby(archived, key=lambda span: span.window):
        found = [await held_beyond_archive(mem, span) for span in spans]
        seen += sum(held for held, _ in found)
        # By encoder, as the archives are: what one of them lacks must not be made up for by what another has.
        there = [await mem.episodic.count(until=window.end, encoder_id=encoder_id) for encoder_id in encoders]
        if any(beyond for _, beyond in found) or sum(there) > seen:
            break
        until = window.end
    return until
