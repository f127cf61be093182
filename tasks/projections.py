"""Between the records that learning projects and the rows that the ledger keeps of them.

A row's payload is the record as the store packs it, without the name of the line (which holds the namespace) and its
validity, so that equal knowledge has equal bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from memory.learning.agreement import Agreement
from memory.learning.lineage import LineageEvent
from memory.learning.pruning import PruneDecision as Decision
from memory.learning.scores import OWN, Scorecard
from memory.learning.settings import TransitionSettings
from memory.learning.strategies import ALL_REGIMES
from memory.learning.transition_matrices import project_transitions
from memory.learning.transitions import TransitionState
from memory.ledger import (
    AliasRow,
    CorrelationRow,
    EventRow,
    Ledger,
    PatternRow,
    ProjectionRow,
    PruneDecision,
    RegimeRow,
    ScorecardMetric,
    StrategyRow,
    TransitionRow,
)
from memory.records import (
    REGIMES,
    CorrelationMemory,
    PatternMemory,
    RegimeMemory,
    SemanticMemory,
    SemanticType,
    StrategyMemory,
)
from memory.store.semantic_codec import pack_semantic, unpack_semantic
from memory.window import Window

Memory = TypeVar("Memory", PatternMemory, RegimeMemory, StrategyMemory, CorrelationMemory)

ROWS: Mapping[SemanticType, type[ProjectionRow]] = {
    SemanticType.PATTERN: PatternRow,
    SemanticType.REGIME: RegimeRow,
    SemanticType.STRATEGY: StrategyRow,
    SemanticType.CORRELATION: CorrelationRow,
}


def to_payload(memory: SemanticMemory) -> bytes:
    """A record as bytes, without line and validity."""
    packed = pack_semantic(replace(memory, line=""))
    return msgspec.msgpack.encode((packed.kind.value, packed.body, packed.vector))


def from_payload(payload: bytes, line: str) -> SemanticMemory:
    """The record that `to_payload` wrote, as one of a line; valid from when it was created, until it is published."""
    kind, body, vector = msgspec.msgpack.decode(payload)
    memory = unpack_semantic(SemanticType(kind), body, vector, 0, None)
    memory.line, memory.valid_from = line, memory.created_at
    return memory


def memories_as_of(
    ledger: Ledger, line: str, window: Window | None, kinds: Collection[SemanticType]
) -> list[SemanticMemory]:
    """All semantic memories of some kinds as they stood after a window (or stand now), by kind and id."""
    return [
        from_payload(row.payload, line)
        for kind in sorted(kinds)
        for row in ledger.projections.as_of(ROWS[kind], line, window)
    ]


def pattern_rows(memories: Iterable[PatternMemory]) -> list[PatternRow]:
    """Rows of patterns."""
    return [
        PatternRow(
            item_id=memory.memory_id,
            payload=to_payload(memory),
            status=memory.status,
            published=True,
            source=memory.source,
            regime=memory.regime,
            product_ids=memory.product_ids,
            support=memory.support,
            states=memory.states,
            windows_seen=memory.windows_seen,
            first_seen=memory.first_seen,
            last_seen=memory.last_seen,
            broad=memory.broad,
            demoted=memory.demoted,
            expected_return=memory.expected_return,
            best_action=memory.best_action,
            description=memory.description,
        )
        for memory in memories
    ]


def strategy_rows(memories: Iterable[StrategyMemory]) -> list[StrategyRow]:
    """Rows of strategies, with the figures over all regimes."""
    rows = []
    for memory in memories:
        overall = memory.performance.get(ALL_REGIMES)
        rows.append(
            StrategyRow(
                item_id=memory.memory_id,
                payload=to_payload(memory),
                agent_id=memory.agent_id,
                source=memory.source,
                applicable_regimes=memory.applicable_regimes,
                sharpe_ratio=overall.sharpe_ratio if overall else None,
                mean_return=overall.mean_return if overall else None,
                win_rate=overall.win_rate if overall else None,
                n=overall.n if overall else 0,
            )
        )
    return rows


def correlation_rows(memories: Iterable[CorrelationMemory]) -> list[CorrelationRow]:
    """Rows of correlations."""
    return [
        CorrelationRow(
            item_id=memory.memory_id,
            payload=to_payload(memory),
            product_a=memory.products[0],
            product_b=memory.products[1],
            regime=memory.regime,
            bar_minutes=memory.bar_minutes,
            lag=memory.lag,
            correlation=memory.correlation,
            low=memory.interval.low if memory.interval else None,
            high=memory.interval.high if memory.interval else None,
            n=memory.n,
            claimed=memory.claimed,
        )
        for memory in memories
    ]


def regime_rows(memories: Iterable[RegimeMemory]) -> list[RegimeRow]:
    """Rows of regimes."""
    return [
        RegimeRow(
            item_id=memory.memory_id,
            payload=to_payload(memory),
            product_id=memory.product_id,
            regime=memory.regime_name,
            states=memory.states,
            share=memory.share,
            typical_duration_s=memory.typical_duration,
            spells=memory.spells,
        )
        for memory in memories
    ]


def transition_rows(states: Mapping[str, TransitionState], settings: TransitionSettings) -> list[TransitionRow]:
    """Rows of transitions, one for each source, product and pair of regimes."""
    rows = []
    for source, state in sorted(states.items()):
        for matrices in project_transitions(state, settings):
            for before, start in enumerate(REGIMES):
                for after, end in enumerate(REGIMES):
                    count = matrices.step_count if before == after else matrices.jump_count
                    rows.append(
                        TransitionRow(
                            item_id=f"{source}/{matrices.product}/{start}/{end}",
                            payload=msgspec.msgpack.encode(
                                (int(matrices.step_count[before, after]), int(matrices.jump_count[before, after]))
                            ),
                            product_id=matrices.product,
                            from_regime=start,
                            to_regime=end,
                            count=float(count[before, after]),
                            probability=float(matrices.transition_probability[before, after]),
                            step_probability=float(matrices.step_probability[before, after]),
                            step_s=matrices.step_s,
                        )
                    )
    return rows


def alias_rows(aliases: Mapping[str, str]) -> list[AliasRow]:
    """Rows of the patterns that became one with another."""
    return [AliasRow(alias_id=old, pattern_id=now) for old, now in sorted(aliases.items())]


def prune_rows(kind: SemanticType, decisions: Sequence[Decision]) -> list[PruneDecision]:
    """Rows of pruning decisions about one kind of memory."""
    rows = []
    for decision in decisions:
        details: dict[str, Any] = msgspec.to_builtins(decision)
        for name in ("pattern_id", "kept", "rules"):
            del details[name]
        rows.append(
            PruneDecision(
                memory_id=decision.pattern_id,
                memory_type=kind.value,
                kept=decision.kept,
                rules=decision.rules,
                details=details,
            )
        )
    return rows


def event_rows(events: Iterable[LineageEvent]) -> list[EventRow]:
    """Rows of what happened to patterns, in the order in which the fold decided it."""
    return [
        EventRow(
            kind=event.kind,
            pattern_id=event.pattern_id,
            other_id=event.other_id,
            label=event.label,
            states=event.states,
            cosine=event.cosine,
            threshold=event.threshold,
            rule=event.rule,
            details={
                name: value
                for name, value in (("partition", event.partition), ("cluster_id", event.cluster_id))
                if value is not None
            },
        )
        for event in events
    ]


def scorecard_metrics(cards: Mapping[str, Scorecard]) -> list[ScorecardMetric]:
    """Searchable figures of a window's scorecards: those of the source with the most states."""
    if not cards:
        return []
    card = max(cards.values(), key=lambda item: (item.states, item.source))
    metrics = []
    for score in card.scores:
        if score.scope != OWN:
            continue
        for metric, value, low, high in _figures(score.agreement):
            metrics.append(
                ScorecardMetric(
                    metric=metric,
                    target=score.outcome,
                    predictor=score.predictor,
                    horizon_minutes=score.horizon_minutes,
                    value=value,
                    low=low,
                    high=high,
                    n=score.agreement.n,
                )
            )
    for metric, predictor, share in (
        ("coverage", "patterns", card.covered),
        ("coverage", "balls", card.covered_by_balls),
        ("confirmation_rate", "patterns", card.confirmation_rate),
        ("confirmation_rate", "null", card.null_confirmation_rate),
        ("unmistakable_share", "patterns", card.unmistakable_share),
    ):
        if share is not None:
            metrics.append(
                ScorecardMetric(metric=metric, target="", predictor=predictor, horizon_minutes=0, value=share)
            )
    return metrics


def _figures(agreement: Agreement) -> list[tuple[str, float, float | None, float | None]]:
    """Name, value and interval of each figure; all figures of no pair are left out."""
    figures: list[tuple[str, float, float | None, float | None]] = []
    for metric, value, interval in (
        ("ic", agreement.rank_correlation, agreement.rank_interval),
        ("slope", agreement.slope, agreement.slope_interval),
        ("bias", agreement.bias, None),
        ("blocks", float(agreement.blocks) if agreement.n else None, None),
    ):
        if value is not None:
            figures.append((metric, value, interval.low if interval else None, interval.high if interval else None))
    return figures
