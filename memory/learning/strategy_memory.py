"""STRATEGY memories: how each agent does in each regime, made of the sums of `strategies`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from memory.learning.context import ProjectionContext
from memory.learning.settings import DEFAULT_SETTINGS, LearningSettings
from memory.learning.statistics import sharpe, wilson_interval
from memory.learning.strategies import ALL_REGIMES, StrategyCell, StrategyState
from memory.learning.strategy_figures import StrategyFigures, periods_per_year, strategy_figures
from memory.records import REGIMES, Interval, PerformanceMetrics, StrategyMemory, from_ms
from memory.tables import Floats

_MINUTES_PER_DAY = 1440


def project_strategies(
    state: StrategyState, context: ProjectionContext, settings: LearningSettings = DEFAULT_SETTINGS
) -> list[StrategyMemory]:
    """STRATEGY memories, one an agent, by name.

    Notes
    -----
    A regime is *applicable* where the agent was active in at least `min_blocks` blocks, the annualised net Sharpe ratio
    of its shrunk mean block return exceeds `prune_sharpe`, and that it is the best of so many agents and regimes does
    not explain it: the probability that its true Sharpe ratio exceeds what luck would show (Bailey & Lopez de Prado
    2014) is at least `confidence`. `strategy_figures` gives both.
    """
    figures = strategy_figures(state, settings)
    by_agent: dict[str, list[StrategyCell]] = {}
    for cell in state.cells:
        by_agent.setdefault(cell.agent, []).append(cell)
    return [_memory(agent, cells, figures, context, settings) for agent, cells in sorted(by_agent.items())]


def performance_of(
    cell: StrategyCell, figures: StrategyFigures, settings: LearningSettings = DEFAULT_SETTINGS
) -> PerformanceMetrics:
    """One agent in one regime, as it is published.

    Sharpe ratios are annualised as if the agent acted in such blocks all year; `win_rate` and its Wilson interval count
    blocks in which it was active, 0 without any; `turnover` is the traded notional a day of decisions one minute apart.
    """
    periods = periods_per_year(settings)
    turnover = cell.turnover / cell.turnover_decisions * _MINUTES_PER_DAY if cell.turnover_decisions else None
    return PerformanceMetrics(
        n=cell.experiences,
        blocks=int(cell.net.count),
        block_minutes=settings.block_minutes,
        periods_per_year=periods,
        mean_return=float(cell.net.mean),
        total_return=float(cell.drawdown.total),
        win_rate=cell.wins / cell.active if cell.active else 0.0,
        win_rate_interval=_interval(cell, settings),
        sharpe_ratio=_finite(sharpe(cell.net, periods)),
        gross_sharpe_ratio=_finite(sharpe(cell.gross, periods)),
        max_drawdown=float(cell.drawdown.worst),
        turnover=turnover,
        shrunk_mean_return=_finite(np.asarray(figures.mean)),
        shrunk_sharpe_ratio=_finite(np.asarray(figures.sharpe)),
    )


def _memory(
    agent: str,
    cells: list[StrategyCell],
    figures: Mapping[tuple[str, str], StrategyFigures],
    context: ProjectionContext,
    settings: LearningSettings,
) -> StrategyMemory:
    performance = {cell.regime: performance_of(cell, figures[agent, cell.regime], settings) for cell in cells}
    applicable = tuple(
        cell.regime
        for cell in sorted(cells, key=_by_regime)
        if cell.regime != ALL_REGIMES and _applies(figures[agent, cell.regime], settings)
    )
    return StrategyMemory(
        memory_id=context.memory_id("s", agent),
        description=_sentence(agent, applicable, performance),
        encoder_id=context.encoder_id,
        line=context.line,
        created_at=from_ms(min(cell.known_ms for cell in cells)),
        valid_from=context.valid_from,
        strategy_name=agent,
        agent_id=agent,
        source=context.source,
        applicable_regimes=applicable,
        success_rate_by_regime={
            cell.regime: performance[cell.regime].win_rate for cell in cells if cell.regime != ALL_REGIMES
        },
        performance=performance,
    )


def _applies(figures: StrategyFigures, settings: LearningSettings) -> bool:
    return figures.judged and figures.sharpe > settings.prune_sharpe and figures.deflated >= settings.confidence


def _sentence(agent: str, applicable: tuple[str, ...], performance: dict[str, PerformanceMetrics]) -> str:
    overall = performance[ALL_REGIMES]
    ratio = "no Sharpe ratio yet" if overall.sharpe_ratio is None else f"Sharpe {overall.sharpe_ratio:.1f} net of costs"
    where = f"works in {', '.join(applicable)}" if applicable else "has worked in no regime so far"
    return f"{agent} {where}; over all {overall.n:,} experiences {ratio}, in total {overall.total_return:+.2%}."


def _interval(cell: StrategyCell, settings: LearningSettings) -> Interval | None:
    return wilson_interval(cell.wins, cell.active, confidence=settings.confidence)


def _finite(value: Floats) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


def _by_regime(cell: StrategyCell) -> int:
    return -1 if cell.regime == ALL_REGIMES else REGIMES.index(cell.regime)
