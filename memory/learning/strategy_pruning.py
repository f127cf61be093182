"""Which STRATEGY memories stay: the rules of `pruning`, for agents instead of patterns.

Nothing is carried from night to night: a strategy that is pruned tonight keeps its statistics in the fold and comes
back on the night on which a rule holds for it again. Deciding is all there is to a dry run; `kept_strategies` is the
last step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memory.learning.context import ProjectionContext
from memory.learning.pruning import ACCESSED, GRACE, SHARPE, UNJUDGED, PruneDecision
from memory.learning.settings import DEFAULT_SETTINGS, LearningSettings
from memory.learning.strategies import ALL_REGIMES, StrategyCell, StrategyState
from memory.learning.strategy_figures import StrategyFigures, best_figures, random_pass_share, strategy_figures
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
    """One decision for each agent, by name; pure, so that it serves as its own preview.

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
    the one with the highest net Sharpe ratio, from the shrunk mean, over at least `min_blocks` active blocks, or all
    regimes. `raw_sharpe` is the highest without shrinkage, `random_share` the share of the agent's random agents
    (`strategy_figures`) whose best regime passes as well. Occurrences are blocks in which the agent was active.
    """
    figures = strategy_figures(state, settings)
    by_agent: dict[str, list[StrategyCell]] = {}
    for cell in state.cells:
        by_agent.setdefault(cell.agent, []).append(cell)
    return tuple(
        _decide(
            context.memory_id("s", agent),
            next(cell for cell in cells if cell.regime == ALL_REGIMES),
            [figures[agent, cell.regime] for cell in cells],
            window,
            access,
            settings,
        )
        for agent, cells in sorted(by_agent.items())
    )


def kept_strategies(memories: Sequence[StrategyMemory], decisions: Sequence[PruneDecision]) -> list[StrategyMemory]:
    """The memories whose decision keeps them, in the given order."""
    kept = {decision.pattern_id for decision in decisions if decision.kept}
    return [memory for memory in memories if memory.memory_id in kept]


def _decide(
    memory_id: str,
    overall: StrategyCell,
    figures: Sequence[StrategyFigures],
    window: Window,
    access: Mapping[str, int],
    settings: LearningSettings,
) -> PruneDecision:
    end_ms = to_ms(window.end)
    best = best_figures(figures)
    raw = [item.raw_sharpe for item in figures if item.judged and not np.isnan(item.raw_sharpe)]
    age = (end_ms - overall.known_ms) // (end_ms - to_ms(window.start))
    unseen = (end_ms - overall.seen_ms) // _DAY_MS
    accesses = access.get(memory_id, 0)
    applies = {
        SHARPE: best.sharpe > settings.prune_sharpe,
        ACCESSED: accesses > settings.prune_accesses,
        GRACE: age < settings.grace_windows,
        UNJUDGED: overall.active < settings.min_judged_occurrences and unseen <= settings.unseen_days,
    }
    rules = tuple(rule for rule, holds in applies.items() if holds)
    return PruneDecision(
        pattern_id=memory_id,
        kept=bool(rules),
        rules=rules,
        action=best.regime,
        sharpe=_known(best.sharpe),
        raw_sharpe=max(raw, default=None),
        sharpe_low=_known(best.sharpe_low),
        occurrences=overall.active,
        accesses=accesses,
        age_windows=int(age),
        unseen_days=int(unseen),
        random_share=random_pass_share(figures, settings.prune_sharpe),
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
