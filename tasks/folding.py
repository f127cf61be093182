"""Folding a line's windows in order, and publishing what came out: the driver around the pure folds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from agents.catalogue import FEATURES
from memory.errors import WindowError
from memory.learning import serial
from memory.learning.context import ProjectionContext
from memory.learning.correlation_memory import project_correlations
from memory.learning.correlations import CorrelationSummary, fold_correlations
from memory.learning.fold import FoldStep, fold_window
from memory.learning.knowledge import FoldState
from memory.learning.patterns import aliases_after_refold
from memory.learning.projection import build_predictions, project_patterns
from memory.learning.pruning import PruneDecision as Decision
from memory.learning.regime_memory import RegimeSummary, fold_regimes, project_regimes
from memory.learning.scorecard import remembered_states, score_window
from memory.learning.scores import Scorecard
from memory.learning.settings import LearningSettings
from memory.learning.strategies import StrategySummary, fold_strategies, project_strategies
from memory.learning.strategy_pruning import decide_strategy_pruning, kept_strategies
from memory.learning.summaries import PartitionSummary
from memory.learning.transitions import TransitionSummary, fold_transitions
from memory.ledger import (
    AliasRow,
    Checkpoint,
    CurrentGeneration,
    FencingToken,
    Ledger,
    Projection,
    StrategyRow,
)
from memory.records import SemanticType, StrategyMemory
from memory.tables import StateTable
from memory.window import Window
from tasks import projections
from tasks.consolidation import (
    CORRELATIONS,
    PATTERNS,
    REGIME_STATES,
    STRATEGIES,
    TRANSITIONS,
    learning_settings,
    read_archived,
)
from tasks.publishing import DYNAMICS, KNOWLEDGE, PUBLISHED, generation_of, known_times
from tasks.retry import retried
from tasks.runs import TaskContext
from tasks.workspace import Workspace, open_workspace

REMEMBERED_WINDOWS = 5
"""Windows whose states stand for remembered neighbours in the scorecard: enough of them, and a bounded cost."""

TEXTS = {spec.name: spec for spec in FEATURES}

Summary = TransitionSummary | RegimeSummary | StrategySummary | CorrelationSummary


@dataclass(frozen=True, slots=True)
class SequenceFold:
    """A fold whose state is one summary a source."""

    kind: str
    summary: type[Summary]
    fold: Callable[[Any, Any], Any]


STRATEGY_FOLD = SequenceFold(STRATEGIES, StrategySummary, fold_strategies)
CORRELATION_FOLD = SequenceFold(CORRELATIONS, CorrelationSummary, fold_correlations)
TRANSITION_FOLD = SequenceFold(TRANSITIONS, TransitionSummary, fold_transitions)
REGIME_FOLD = SequenceFold(REGIME_STATES, RegimeSummary, fold_regimes)


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
            if workspace.ledger.windows.current_generation(record.line, window) is not None
        ]
    if not lines:
        raise WindowError(
            f"window {window.name} of namespace '{context.namespace}' was not consolidated.",
            remedy=f"Run 'coinswarm run consolidate_memories --date {window.name}' first.",
        )
    return lines


@retried()
def fold_knowledge(context: TaskContext, line: str, refold: bool = False) -> dict[str, Any]:
    """Fold patterns, strategies and correlations of all windows that changed; counts of the run's window."""
    with open_workspace(context.namespace) as workspace:
        ledger, token = workspace.ledger, context.fencing_token
        settings = learning_settings(workspace)
        kinds = (PATTERNS, STRATEGIES, CORRELATIONS)
        times = known_times(workspace, line)
        before_refold = _known_before_refold(ledger, line, kinds, refold)
        for window, generation in _stale_windows(ledger, line, kinds, refold):
            loaded = ledger.folds.load_state(line, PATTERNS, before=window)
            before = FoldState.from_items(loaded.items)
            cards = _score(workspace, line, window, before, settings)
            access = _access(workspace, token, line, window, before, settings)
            summaries = [serial.decode(item.payload, PartitionSummary) for item in generation.of_kind(PATTERNS)]
            step = fold_window(
                before,
                window,
                summaries,
                settings=settings,
                access=access,
                gains=[gain for card in cards.values() for gain in card.gains],
            )
            cards = {
                source: card.with_confirmation(step.counts.confirmation_rate, step.counts.null_confirmation_rate)
                for source, card in cards.items()
            }
            context_of = _projection_context(line, times[window])
            with ledger.transaction(token):
                ledger.folds.truncate_from(token, line, window, PUBLISHED[KNOWLEDGE][0])
                _save_patterns(ledger, token, line, window, generation, loaded.checkpoint, step, summaries)
                for fold in (STRATEGY_FOLD, CORRELATION_FOLD):
                    _fold_sequence(ledger, token, line, window, generation, fold)
                ledger.scorecards.save(token, line, window, serial.encode(cards), projections.scorecard_metrics(cards))
                strategies: list[StrategyMemory] = []
                strategy_decisions: list[Decision] = []
                for source, agents in _sequence_states(ledger, line, STRATEGY_FOLD, window):
                    decided = decide_strategy_pruning(agents, window, access, context_of(source), settings)
                    strategies += kept_strategies(project_strategies(agents, context_of(source), settings), decided)
                    strategy_decisions += decided
                ledger.projections.save(
                    token,
                    line,
                    window,
                    Projection(
                        patterns=projections.pattern_rows(
                            project_patterns(
                                step.state,
                                valid_from=times[window],
                                line=line,
                                settings=settings,
                                texts=TEXTS,
                            )
                        ),
                        strategies=projections.strategy_rows(strategies),
                        correlations=projections.correlation_rows(
                            memory
                            for source, state in _sequence_states(ledger, line, CORRELATION_FOLD, window)
                            for memory in project_correlations(state, context_of(source))
                        ),
                        aliases=projections.alias_rows(step.new_aliases),
                        prune_decisions=[
                            *projections.prune_rows(SemanticType.PATTERN, step.prune_decisions),
                            *projections.prune_rows(SemanticType.STRATEGY, strategy_decisions),
                        ],
                    ),
                )
        if before_refold is not None:
            _keep_old_names(ledger, token, line, *before_refold)
        return _counts_of(ledger, line, context.as_window())


@retried()
def fold_dynamics(context: TaskContext, line: str, refold: bool = False) -> int:
    """Fold transitions and regimes of all windows that changed; returns the jumps counted in the run's window."""
    with open_workspace(context.namespace) as workspace:
        ledger, token = workspace.ledger, context.fencing_token
        times = known_times(workspace, line)
        for window, generation in _stale_windows(ledger, line, (TRANSITIONS, REGIME_STATES), refold):
            context_of = _projection_context(line, times[window])
            with ledger.transaction(token):
                ledger.folds.truncate_from(token, line, window, PUBLISHED[DYNAMICS][0])
                for fold in (TRANSITION_FOLD, REGIME_FOLD):
                    _fold_sequence(ledger, token, line, window, generation, fold)
                transitions = dict(_sequence_states(ledger, line, TRANSITION_FOLD, window))
                regimes = [
                    memory
                    for source, state in _sequence_states(ledger, line, REGIME_FOLD, window)
                    for memory in project_regimes(state, transitions[source], context_of(source))
                ]
                ledger.projections.save(
                    token,
                    line,
                    window,
                    Projection(
                        regimes=projections.regime_rows(regimes),
                        transitions=projections.transition_rows(transitions),
                    ),
                )
        generation = generation_of(ledger, line, context.as_window())
        return sum(
            int(product.jumps.sum())
            for item in generation.of_kind(TRANSITIONS)
            for product in serial.decode(item.payload, TransitionSummary).products
        )


def _stale_windows(
    ledger: Ledger, line: str, kinds: Sequence[str], refold: bool
) -> Iterator[tuple[Window, CurrentGeneration]]:
    windows = [window for window, _ in ledger.windows.with_current(line)]
    first = windows[0] if refold and windows else ledger.folds.first_stale(line, kinds)
    for window in windows:
        if first is not None and window >= first:
            yield window, generation_of(ledger, line, window)


def _known_before_refold(
    ledger: Ledger, line: str, kinds: Sequence[str], refold: bool
) -> tuple[Window, FoldState] | None:
    """The last window folded and what was known after it, where it is about to be folded again."""
    first = next((window for window, _ in _stale_windows(ledger, line, kinds, refold)), None)
    loaded = ledger.folds.load_state(line, PATTERNS)
    if first is None or loaded.checkpoint is None or loaded.checkpoint.window < first:
        return None
    return loaded.checkpoint.window, FoldState.from_items(loaded.items)


def _keep_old_names(ledger: Ledger, token: FencingToken, line: str, window: Window, before: FoldState) -> None:
    """Let ids that folding again no longer founds lead to the patterns that now stand for them: agents may hold them.

    A run that dies before this leaves them without an alias; no knowledge depends on them.
    """
    after = FoldState.from_items(ledger.folds.load_state(line, PATTERNS, before=Window.containing(window.end)).items)
    successors = aliases_after_refold(before, after)
    rows = [AliasRow(alias_id=old, pattern_id=now) for old, now in sorted(successors.items())]
    ledger.projections.add_aliases(token, line, window, rows)


def _projection_context(line: str, valid_from: datetime) -> Callable[[str], ProjectionContext]:
    encoder_id = line.split("/")[1]
    return lambda source: ProjectionContext(encoder_id, source, line, valid_from)


def _fold_sequence(
    ledger: Ledger, token: FencingToken, line: str, window: Window, generation: CurrentGeneration, fold: SequenceFold
) -> None:
    loaded = ledger.folds.load_state(line, fold.kind, before=window)
    changed = {}
    for item in generation.of_kind(fold.kind):
        known = loaded.items.get(item.partition_key)
        state = None if known is None else serial.decode(known, fold.summary)
        changed[item.partition_key] = serial.encode(fold.fold(state, serial.decode(item.payload, fold.summary)))
    ledger.folds.save_checkpoint(
        token,
        line,
        fold.kind,
        window,
        input_digest=generation.generation.manifest_digest,
        base=loaded.checkpoint,
        changed=changed,
    )


def _sequence_states(ledger: Ledger, line: str, fold: SequenceFold, window: Window) -> Iterator[tuple[str, Any]]:
    loaded = ledger.folds.load_state(line, fold.kind, before=Window.containing(window.end))
    for source, data in sorted(loaded.items.items()):
        yield source, serial.decode(data, fold.summary)


def _save_patterns(
    ledger: Ledger,
    token: FencingToken,
    line: str,
    window: Window,
    generation: CurrentGeneration,
    base: Checkpoint | None,
    step: FoldStep,
    summaries: Sequence[PartitionSummary],
) -> None:
    states = sum(summary.states for summary in summaries)
    ledger.folds.save_checkpoint(
        token,
        line,
        PATTERNS,
        window,
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
        },
    )


def _score(
    workspace: Workspace,
    line: str,
    window: Window,
    before: FoldState,
    settings: LearningSettings,
) -> dict[str, Scorecard]:
    """Score what was known before a window on the window's states, by source."""
    encoder_id = line.split("/")[1]
    today = read_archived(workspace.archive, workspace.ledger, workspace.namespace, window, encoder_id)
    earlier = [known for known, _ in workspace.ledger.windows.with_current(line) if known < window]
    remembered: dict[str, list[StateTable]] = {}
    for known in earlier[-REMEMBERED_WINDOWS:]:
        found = read_archived(workspace.archive, workspace.ledger, workspace.namespace, known, encoder_id)
        for source, data in found.items():
            remembered.setdefault(source, []).append(data.states)
    return {
        source: score_window(
            build_predictions(before, source=source),
            data.states,
            remembered_states(remembered.get(source, [])),
            window,
            learning=settings,
        )
        for source, data in sorted(today.items())
    }


def _access(
    workspace: Workspace,
    token: FencingToken,
    line: str,
    window: Window,
    before: FoldState,
    settings: LearningSettings,
) -> dict[str, int]:
    """Accesses of patterns and strategies before a window's end.

    They are read once a window and kept, so that folding again decides the same.
    """
    kept = workspace.ledger.access.get(line, window)
    if kept is not None:
        return kept
    ids = [pattern.pattern_id for pattern in before.live_patterns()]
    ids += [row.item_id for row in workspace.ledger.projections.as_of(StrategyRow, line, window)]

    async def read(mem: Any) -> Any:
        return await mem.semantic.access_counts(ids, window.end, settings.access_days)

    counts = workspace.with_memory(read) if ids else {}
    return workspace.ledger.access.save(token, line, window, {key: count.count for key, count in counts.items()})


def _counts_of(ledger: Ledger, line: str, window: Window) -> dict[str, Any]:
    for checkpoint in ledger.folds.checkpoints(line, PATTERNS):
        if checkpoint.window == window:
            return {**checkpoint.counts, "line": line}
    raise RuntimeError(f"{window.name} was not folded in {line}")
