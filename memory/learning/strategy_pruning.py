"""Which STRATEGY memories stay: the rules of `pruning`, for agents instead of patterns.

Nothing is carried from night to night: a strategy that is pruned tonight keeps its statistics in the fold and comes
back on the night on which a rule holds for it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory.learning.context import ProjectionContext
from memory.learning.pruning import ACCESSED, GRACE, SHARPE, UNJUDGED, PruneDecision
from memory.learning.settings import DEFAULT_SETTINGS, LearningSettings
from memory.learning.strategies import ALL_REGIMES, StrategyCell, StrategyState, performance_of
from memory.records import StrategyMemory, to_ms
from memory.window import Window

_DAY_MS = 86_400_000


def decide_strategy_pruning(
    state: StrategyState,
    window: Window,
    access: Mapping[str, int],
    context: ProjectionContext,
    settings: LearningSettings = DEFAULT_SETTINGS,
) -> tuple[PruneDecision, ...]:
    """One decision for each agent, by name.

    Parameters
    ----------
    state
        The fold's state after `window`.
    window
        The window folded last, from whose end all ages count.
    access
        Accesses of each memory id within `access_days` before that end; ids that are missing had none.
    context
        What memory ids are made of.
    settings
        The thresholds of the rules.

    Returns
    -------
    Decisions whose `pattern_id` is the memory id of the strategy and whose `action` is the regime that it is judged by:
    the one with the highest net Sharpe ratio over at least `min_blocks` active blocks, or all regimes. Occurrences are
    blocks in which the agent was active.
    """
    by_agent: dict[str, list[StrategyCell]] = {}
    for cell in state.cells:
        by_agent.setdefault(cell.agent, []).append(cell)
    return tuple(
        _decide(context.memory_id("s", agent), cells, window, access, settings)
        for agent, cells in sorted(by_agent.items())
    )


def kept_strategies(memories: Sequence[StrategyMemory], decisions: Sequence[PruneDecision]) -> list[StrategyMemory]:
    """The memories whose decision keeps them, in the given order."""
    kept = {decision.pattern_id for decision in decisions if decision.kept}
    return [memory for memory in memories if memory.memory_id in kept]


def _decide(
    memory_id: str, cells: Sequence[StrategyCell], window: Window, access: Mapping[str, int], settings: LearningSettings
) -> PruneDecision:
    end_ms = to_ms(window.end)
    ratios = {
        cell.regime: ratio
        for cell in cells
        if (ratio := performance_of(cell, settings).sharpe_ratio) is not None
        and (cell.regime == ALL_REGIMES or cell.active >= settings.min_blocks)
    }
    best = max(sorted(ratios), key=lambda regime: ratios[regime], default=ALL_REGIMES)
    (overall,) = [cell for cell in cells if cell.regime == ALL_REGIMES]
    age = (end_ms - overall.known_ms) // (end_ms - to_ms(window.start))
    unseen = (end_ms - overall.seen_ms) // _DAY_MS
    accesses = access.get(memory_id, 0)
    applies = {
        SHARPE: ratios.get(best, 0.0) > settings.prune_sharpe,
        ACCESSED: accesses > settings.prune_accesses,
        GRACE: age < settings.grace_windows,
        UNJUDGED: overall.active < settings.min_judged_occurrences and unseen <= settings.unseen_days,
    }
    rules = tuple(rule for rule, holds in applies.items() if holds)
    return PruneDecision(
        pattern_id=memory_id,
        kept=bool(rules),
        rules=rules,
        action=best,
        sharpe=ratios.get(best),
        raw_sharpe=ratios.get(best),
        sharpe_low=None,
        occurrences=overall.active,
        accesses=accesses,
        age_windows=int(age),
        unseen_days=int(unseen),
    )
