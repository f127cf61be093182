"""How each agent does in each regime: what STRATEGY memories are made of.

An agent's return at one decision time is the mean reward of its sleeves (products and runs) that act then: equal
notional in each, so that five products are no five-fold bet. In a regime, the sleeves that are in it count. Returns add
up over time (constant notional), over 30-minute clock blocks for Sharpe ratios and success rates, since neighbouring
minutes are not independent.
"""

from __future__ import annotations

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.learning.blocks import block_ids
from memory.learning.context import ProjectionContext
from memory.learning.settings import DEFAULT_SETTINGS, LearningSettings
from memory.learning.statistics import Drawdown, Moments, probabilistic_sharpe, sharpe, wilson_interval
from memory.records import REGIMES, Interval, PerformanceMetrics, StrategyMemory, from_ms, to_ms
from memory.tables import ExperienceTable, Floats, Ints
from memory.window import Window

ALL_REGIMES = "ALL"
"""Regime of figures over all regimes."""

_MINUTES_PER_DAY = 1440


class StrategyCell(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One agent in one regime, or in `ALL_REGIMES`.

    Attributes
    ----------
    agent, regime
        Agent id; a regime's name or `ALL_REGIMES`.
    known_ms, seen_ms
        End of the first and of the last window in which it acted.
    windows
        Windows in which it acted.
    experiences, decisions
        Experiences, and distinct decision times.
    net, gross
        Moments of the block returns; `gross` over blocks whose gross return is known.
    active, wins
        Blocks in which it held a position, traded or earned anything; those of them with a net return above 0.
    drawdown
        Of the running sum of net returns, decision by decision.
    turnover, turnover_decisions
        Traded notional, as multiples of the notional, summed over the decisions where it is known, and their number.
    """

    agent: str
    regime: str
    known_ms: int
    seen_ms: int
    windows: int
    experiences: int
    decisions: int
    net: Moments
    gross: Moments
    active: int
    wins: int
    drawdown: Drawdown
    turnover: float
    turnover_decisions: int


class StrategySummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All cells of one window, or, as the fold's state, of all windows so far; sorted by agent and regime."""

    block_minutes: int
    cells: tuple[StrategyCell, ...]


StrategyState = StrategySummary


def summarise_strategies(
    experiences: ExperienceTable, window: Window, settings: LearningSettings = DEFAULT_SETTINGS
) -> StrategySummary:
    """Condense one window's experiences; depends on that window alone.

    Parameters
    ----------
    experiences
        All experiences of the window, of one source.
    window
        The window that they lie in.
    settings
        `block_minutes`.

    Returns
    -------
    For each agent one cell for all regimes and one for each regime in which it acted. Cost: O(n log n).
    """
    cells = []
    for position, agent in enumerate(experiences.agents):
        rows = np.flatnonzero(experiences.agent == position)
        if not len(rows):
            continue
        own = experiences.take(rows)
        cells.append(_cell(agent, ALL_REGIMES, own, window, settings))
        for code in np.unique(own.regime).tolist():
            cells.append(_cell(agent, REGIMES[code], own.take(own.regime == code), window, settings))
    return StrategySummary(block_minutes=settings.block_minutes, cells=tuple(sorted(cells, key=_key)))


def fold_strategies(state: StrategyState | None, summary: StrategySummary) -> StrategyState:
    """Add a window to the windows before it, in time order (drawdowns depend on it); pure."""
    if state is not None and state.block_minutes != summary.block_minutes:
        raise InvalidRecordError(
            f"blocks of {summary.block_minutes} minutes follow blocks of {state.block_minutes}.",
            remedy="Summaries of different settings are never mixed: consolidate the windows again.",
            field="summary",
        )
    merged = {} if state is None else {_key(cell): cell for cell in state.cells}
    for cell in summary.cells:
        known = merged.get(_key(cell))
        merged[_key(cell)] = cell if known is None else _merge(known, cell)
    return StrategySummary(block_minutes=summary.block_minutes, cells=tuple(merged[key] for key in sorted(merged)))


def project_strategies(
    state: StrategyState, context: ProjectionContext, settings: LearningSettings = DEFAULT_SETTINGS
) -> list[StrategyMemory]:
    """STRATEGY memories, one an agent, by name.

    Notes
    -----
    A regime is *applicable* where the agent was active in at least `min_blocks` blocks, the annualised net Sharpe ratio
    of its block returns exceeds `prune_sharpe`, and that it exceeds 0 at all is no luck: the probability of that
    (Bailey & Lopez de Prado 2012) is at least `confidence`.
    """
    by_agent: dict[str, list[StrategyCell]] = {}
    for cell in state.cells:
        by_agent.setdefault(cell.agent, []).append(cell)
    return [_memory(agent, cells, context, settings) for agent, cells in sorted(by_agent.items())]


def performance_of(cell: StrategyCell, settings: LearningSettings = DEFAULT_SETTINGS) -> PerformanceMetrics:
    """Figures of one agent in one regime.

    Sharpe ratios are annualised as if the agent acted in such blocks all year; `win_rate` and its Wilson interval count
    blocks in which it was active, 0 without any; `turnover` is the traded notional a day of decisions one minute apart.
    """
    periods = settings.trading_days_per_year * _MINUTES_PER_DAY / settings.block_minutes
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
    )


def _memory(
    agent: str, cells: list[StrategyCell], context: ProjectionContext, settings: LearningSettings
) -> StrategyMemory:
    performance = {cell.regime: performance_of(cell, settings) for cell in cells}
    applicable = tuple(
        cell.regime
        for cell in sorted(cells, key=_by_regime)
        if cell.regime != ALL_REGIMES and _applies(cell, performance[cell.regime], settings)
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


def _applies(cell: StrategyCell, performance: PerformanceMetrics, settings: LearningSettings) -> bool:
    ratio = performance.sharpe_ratio
    if ratio is None or cell.active < settings.min_blocks:
        return False
    return ratio > settings.prune_sharpe and float(probabilistic_sharpe(cell.net)) >= settings.confidence


def _sentence(agent: str, applicable: tuple[str, ...], performance: dict[str, PerformanceMetrics]) -> str:
    overall = performance[ALL_REGIMES]
    ratio = "no Sharpe ratio yet" if overall.sharpe_ratio is None else f"Sharpe {overall.sharpe_ratio:.1f} net of costs"
    where = f"works in {', '.join(applicable)}" if applicable else "has worked in no regime so far"
    return f"{agent} {where}; over all {overall.n:,} experiences {ratio}, in total {overall.total_return:+.2%}."


def _cell(agent: str, regime: str, own: ExperienceTable, window: Window, settings: LearningSettings) -> StrategyCell:
    times, place = np.unique(own.timestamp_ms, return_inverse=True)
    net = _means(own.reward, place, len(times))
    gross = _means(own.gross_return, place, len(times))
    traded = _means(np.abs(own.position_after - own.position_before), place, len(times))
    exposed = (np.nan_to_num(own.position_after) != 0) | (np.nan_to_num(own.position_before) != 0) | (own.reward != 0)

    blocks, block = np.unique(block_ids(times, settings.block_minutes), return_inverse=True)
    net_of_block = np.bincount(block, weights=net, minlength=len(blocks))
    gross_of_block = np.bincount(block, weights=gross, minlength=len(blocks))
    active = np.bincount(block[place], weights=exposed, minlength=len(blocks)) > 0
    known = ~np.isnan(traded)
    return StrategyCell(
        agent=agent,
        regime=regime,
        known_ms=to_ms(window.end),
        seen_ms=to_ms(window.end),
        windows=1,
        experiences=len(own),
        decisions=len(times),
        net=Moments.of(net_of_block),
        gross=Moments.of(gross_of_block),
        active=int(active.sum()),
        wins=int((active & (net_of_block > 0)).sum()),
        drawdown=Drawdown.of(net),
        turnover=float(traded[known].sum()),
        turnover_decisions=int(known.sum()),
    )


def _means(values: Floats, place: Ints, count: int) -> Floats:
    """Mean of the values at each of `count` places; NaN where one of them is unknown."""
    total = np.bincount(place, weights=values, minlength=count)
    return total / np.bincount(place, minlength=count)


def _merge(left: StrategyCell, right: StrategyCell) -> StrategyCell:
    return StrategyCell(
        agent=left.agent,
        regime=left.regime,
        known_ms=min(left.known_ms, right.known_ms),
        seen_ms=max(left.seen_ms, right.seen_ms),
        windows=left.windows + right.windows,
        experiences=left.experiences + right.experiences,
        decisions=left.decisions + right.decisions,
        net=left.net.merged_with(right.net),
        gross=left.gross.merged_with(right.gross),
        active=left.active + right.active,
        wins=left.wins + right.wins,
        drawdown=left.drawdown.followed_by(right.drawdown),
        turnover=left.turnover + right.turnover,
        turnover_decisions=left.turnover_decisions + right.turnover_decisions,
    )


def _interval(cell: StrategyCell, settings: LearningSettings) -> Interval | None:
    return wilson_interval(cell.wins, cell.active, confidence=settings.confidence)


def _finite(value: Floats) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


def _by_regime(cell: StrategyCell) -> int:
    return -1 if cell.regime == ALL_REGIMES else REGIMES.index(cell.regime)


def _key(cell: StrategyCell) -> tuple[str, str]:
    return cell.agent, cell.regime
