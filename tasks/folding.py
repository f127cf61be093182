"""Folding a line's windows in order: the driver around the pure folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from agents.catalogue import FEATURES
from memory.errors import WindowError
from memory.learning import serial
from memory.learning.context import ProjectionContext
from memory.learning.correlation_memory import project_correlations
from memory.learning.fold import FoldStep, fold_window
from memory.learning.knowledge import FoldState
from memory.learning.patterns import aliases_after_refold
from memory.learning.projection import project_patterns
from memory.learning.pruning import PruneDecision as Decision
from memory.learning.regime_memory import project_regimes
from memory.learning.scores import Scorecard
from memory.learning.settings import LearningSettings
from memory.learning.strategy_memory import project_strategies
from memory.learning.strategy_pruning import decide_strategy_pruning, kept_strategies
from memory.learning.summaries import PartitionSummary
from memory.learning.transitions import TransitionSummary
from memory.ledger import AliasRow, Checkpoint, CurrentGeneration, FencingToken, Ledger, Projection
from memory.records import SemanticType, StrategyMemory
from memory.window import Window
from tasks import projections
from tasks.consolidation import (
    CORRELATIONS,
    PATTERNS,
    REGIME_STATES,
    STRATEGIES,
    TRANSITIONS,
    accesses_before,
)
from tasks.fold_plan import SEALED, FoldPlan, Scorer, plan_fold
from tasks.groups import DYNAMICS, FOLDS, KNOWLEDGE
from tasks.known_names import KnownNames
from tasks.policy_pointers import with_policies
from tasks.publishing import generation_of, known_times
from tasks.retry import retried
from tasks.runs import TaskContext
from tasks.sequence_folds import CORRELATION_FOLD, REGIME_FOLD, STRATEGY_FOLD, TRANSITION_FOLD, RunningFold
from tasks.workspace import open_workspace

TEXTS = {spec.name: spec for spec in FEATURES}


def lines_of(context: TaskContext) -> list[str]:
    """Knowledge lines that have consolidated the run's window.

    Raises
    ------
    WindowError
        None has.
    """
    with open_workspace(context.namespace) as workspace:
        window = context.as_window()
        lines = [
            record.line
            for record in workspace.ledger.lines.list(context.namespace)
            if workspace.ledger.windows.current_generation(record.line, window, kinds=()) is not None
        ]
    if not lines:
        raise WindowError(
            f"window {window.name} of namespace '{context.namespace}' was not consolidated.",
            remedy=f"Run 'coinswarm run consolidate_memories --date {window.name}' first.",
        )
    return lines


@retried()
def fold_knowledge(context: TaskContext, line: str, refold: bool = False) -> dict[str, Any]:
    """Fold patterns, strategies and correlations of all windows that are stale.

    The state is read once, and carried from window to window; each window is kept in a transaction of its own, so that
    a fold that was killed goes on where it stopped.

    Returns
    -------
    Counts of the run's window, or of the last one folded where the line has not consolidated it; `windows_folded`, and
    under `left_out` the names of windows that could not be part of it.

    Raises
    ------
    LostArchiveError
        An archive that is needed is lost: consolidate its window again, which writes it again or seals the window, and
        fold again. `window_steps.fold_lines` does so.
    """
    with context.open() as workspace:
        ledger, token, learning = workspace.ledger, context.fencing_token, context.settings()
        plan = plan_fold(ledger, line, FOLDS[KNOWLEDGE], learning.digest, refold=refold)
        if plan.first is not None:
            times = known_times(workspace, line)
            before = ledger.folds.load_state(line, PATTERNS, before=plan.first)
            state, base = FoldState.from_items(before.items), before.checkpoint
            with ledger.transaction(token):
                if plan.is_refold:
                    _remember_names(ledger, token, line, plan)
                if plan.dropped:
                    ledger.truncate_from(token, line, plan.first)
            strategies = RunningFold.before(ledger, line, STRATEGY_FOLD, plan.first)
            correlations = RunningFold.before(ledger, line, CORRELATION_FOLD, plan.first)
            scorer = Scorer(workspace, line, learning.patterns)
            for window in plan.to_fold:
                generation = generation_of(ledger, line, window, (PATTERNS, STRATEGIES, CORRELATIONS))
                cards, inputs = scorer.score(plan, window, state, base.state_digest if base else "")
                access = ledger.access.get(line, window)
                if access is None:
                    access = accesses_before(workspace, window, learning.patterns.access_days)
                    access = ledger.access.save(token, line, window, access)
                summaries = [serial.decode(item.payload, PartitionSummary) for item in generation.of_kind(PATTERNS)]
                step = fold_window(
                    state,
                    window,
                    summaries,
                    settings=learning.patterns,
                    access=access,
                    gains=[gain for card in cards.values() for gain in card.gains],
                )
                cards = _with_confirmation(cards, step)
                patterns = project_patterns(
                    step.state, valid_from=times[window], line=line, settings=learning.patterns, texts=TEXTS
                )
                with ledger.transaction(token):
                    base = _save_patterns(ledger, token, line, generation, base, step, summaries, window in plan.sealed)
                    strategies.add(ledger, token, line, generation)
                    correlations.add(ledger, token, line, generation)
                    metrics = projections.scorecard_metrics(cards)
                    ledger.scorecards.save(token, line, window, serial.encode(cards), metrics, input_digest=inputs)
                    ledger.events.save(token, line, window, projections.event_rows(step.events))
                    context_of = _projection_context(line, times[window])
                    kept, decided = _judged_strategies(strategies, window, access, context_of, learning.patterns)
                    kept = with_policies(ledger, token.namespace, window, kept)
                    ledger.projections.save(
                        token,
                        line,
                        window,
                        Projection(
                            patterns=projections.pattern_rows(patterns),
                            strategies=projections.strategy_rows(kept),
                            correlations=projections.correlation_rows(
                                memory
                                for source, found in correlations.by_source()
                                for memory in project_correlations(found, context_of(source), learning.correlations)
                            ),
                            aliases=projections.alias_rows(step.new_aliases),
                            prune_decisions=[
                                *projections.prune_rows(SemanticType.PATTERN, step.prune_decisions),
                                *projections.prune_rows(SemanticType.STRATEGY, decided),
                            ],
                        ),
                    )
                state = step.state
        _keep_old_names(ledger, token, line)
        return {
            **_counts_of(ledger, line, context.as_window()),
            "windows_folded": len(plan.to_fold),
            "left_out": [window.name for window in plan.left_out],
        }


@retried()
def fold_dynamics(context: TaskContext, line: str, refold: bool = False) -> int:
    """Fold transitions and regimes of all windows that are stale; returns the jumps counted in the run's window."""
    with context.open() as workspace:
        ledger, token, learning = workspace.ledger, context.fencing_token, context.settings()
        plan = plan_fold(ledger, line, FOLDS[DYNAMICS], learning.digest, refold=refold)
        if plan.first is not None:
            times = known_times(workspace, line)
            if plan.dropped:
                ledger.truncate_from(token, line, plan.first)
            transitions = RunningFold.before(ledger, line, TRANSITION_FOLD, plan.first)
            regimes = RunningFold.before(ledger, line, REGIME_FOLD, plan.first)
            for window in plan.to_fold:
                generation = generation_of(ledger, line, window, (TRANSITIONS, REGIME_STATES))
                context_of = _projection_context(line, times[window])
                with ledger.transaction(token):
                    transitions.add(ledger, token, line, generation)
                    regimes.add(ledger, token, line, generation)
                    memories = [
                        memory
                        for source, found in regimes.by_source()
                        for memory in project_regimes(
                            found,
                            transitions.states[source],
                            context_of(source),
                            learning.transitions,
                            learning.patterns,
                        )
                    ]
                    ledger.projections.save(
                        token,
                        line,
                        window,
                        Projection(
                            regimes=projections.regime_rows(memories),
                            transitions=projections.transition_rows(transitions.states, learning.transitions),
                        ),
                    )
        return _jumps(ledger, line, context.as_window())


def _jumps(ledger: Ledger, line: str, window: Window) -> int:
    generation = ledger.windows.current_generation(line, window, kinds=(TRANSITIONS,))
    if generation is None:
        return 0
    return sum(
        int(product.jumps.sum())
        for item in generation.of_kind(TRANSITIONS)
        for product in serial.decode(item.payload, TransitionSummary).products
    )


def _remember_names(ledger: Ledger, token: FencingToken, line: str, plan: FoldPlan) -> None:
    """Keep the names that agents may hold, in the step that begins to overwrite what they stood for."""
    loaded = ledger.folds.load_state(line, PATTERNS)
    if loaded.checkpoint is None or plan.first is None:
        return
    ledger.refolds.begin(
        token,
        line,
        first=plan.first,
        last=loaded.checkpoint.window,
        payload=KnownNames.of(FoldState.from_items(loaded.items)).to_bytes(),
    )


def _keep_old_names(ledger: Ledger, token: FencingToken, line: str) -> None:
    """Let ids that folding again no longer founds lead to the patterns that now stand for them.

    Of a fold that was killed before it came here, the next one keeps the names.
    """
    refold = ledger.refolds.open(line)
    if refold is None:
        return
    following = Window.containing(refold.last.end)
    after = FoldState.from_items(ledger.folds.load_state(line, PATTERNS, before=following).items)
    successors = aliases_after_refold(KnownNames.from_bytes(refold.payload), after)
    with ledger.transaction(token):
        ledger.projections.add_aliases(
            token,
            line,
            refold.last,
            [AliasRow(alias_id=old, pattern_id=now) for old, now in sorted(successors.items())],
        )
        ledger.refolds.finish(token, line)


def _projection_context(line: str, valid_from: datetime) -> Callable[[str], ProjectionContext]:
    encoder_id = line.split("/")[1]
    return lambda source: ProjectionContext(encoder_id, source, line, valid_from)


def _judged_strategies(
    folded: RunningFold,
    window: Window,
    access: dict[str, int],
    context_of: Callable[[str], ProjectionContext],
    settings: LearningSettings,
) -> tuple[list[StrategyMemory], list[Decision]]:
    """Strategies that pruning leaves, and all decisions about them."""
    kept: list[StrategyMemory] = []
    decisions: list[Decision] = []
    for source, agents in folded.by_source():
        decided = decide_strategy_pruning(agents, window, access, context_of(source), settings)
        kept += kept_strategies(project_strategies(agents, context_of(source), settings), decided)
        decisions += decided
    return kept, decisions


def _with_confirmation(cards: dict[str, Scorecard], step: FoldStep) -> dict[str, Scorecard]:
    counts = step.counts
    unmistakable = counts.matched_unmistakable / counts.matched if counts.matched else None
    return {
        source: card.with_confirmation(counts.confirmation_rate, counts.null_confirmation_rate, unmistakable)
        for source, card in cards.items()
    }


def _save_patterns(
    ledger: Ledger,
    token: FencingToken,
    line: str,
    generation: CurrentGeneration,
    base: Checkpoint | None,
    step: FoldStep,
    summaries: Sequence[PartitionSummary],
    sealed: bool,
) -> Checkpoint:
    states = sum(summary.states for summary in summaries)
    return ledger.folds.save_checkpoint(
        token,
        line,
        PATTERNS,
        generation.generation.window,
        input_digest=generation.generation.manifest_digest,
        base=base,
        changed=step.changes.changed,
        removed=step.changes.removed,
        counts={
            **msgspec.to_builtins(step.counts),
            "states": states,
            "noise_share": sum(summary.noise for summary in summaries) / max(states, 1),
            "known": sum(matching.known for matching in step.matchings),
            "outlook": msgspec.to_builtins(step.prune_outlook),
            "experiences": generation.generation.counts.get("experiences", 0),
            SEALED: sealed,
        },
    )


def _counts_of(ledger: Ledger, line: str, window: Window) -> dict[str, Any]:
    checkpoints = ledger.folds.checkpoints(line, PATTERNS)
    if not checkpoints:
        raise RuntimeError(f"no window of {line} was folded")
    found = next((checkpoint for checkpoint in checkpoints if checkpoint.window == window), checkpoints[-1])
    return {**found.counts, "line": line}
