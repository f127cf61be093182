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
from memory.learning.partitions import partition_seed
from memory.learning.settings import DEFAULT_SETTINGS, LearningSettings
from memory.learning.statistics import Drawdown, Moments
from memory.records import REGIMES, to_ms
from memory.tables import ExperienceTable, Floats, Ints
from memory.window import Window

ALL_REGIMES = "ALL"
"""Regime of figures over all regimes."""
RANDOM_AGENTS = 100
"""Agents without a direction that go beside each agent: shares of them are known to a hundredth."""


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
    random_total, random_squares
        float64 (RANDOM_AGENTS,): sums over blocks of the net block return, and of its square, of agents with this one's
        positions and costs whose direction is tossed in each block: one toss a block and random agent in all regimes.
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
    random_total: Floats
    random_squares: Floats


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
        tosses = _tosses(agent, window, settings)
        cells.append(_cell(agent, ALL_REGIMES, own, window, tosses, settings))
        for code in np.unique(own.regime).tolist():
            cells.append(_cell(agent, REGIMES[code], own.take(own.regime == code), window, tosses, settings))
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


def _tosses(agent: str, window: Window, settings: LearningSettings) -> Floats:
    """Directions of an agent's random agents: +1 or -1, (blocks of the window, RANDOM_AGENTS)."""
    first, last = block_ids([to_ms(window.start), to_ms(window.end) - 1], settings.block_minutes).tolist()
    generator = np.random.default_rng(partition_seed(window.name, f"random agents beside {agent}"))
    return np.where(generator.random((last - first + 1, RANDOM_AGENTS)) < 0.5, -1.0, 1.0)


def _cell(
    agent: str, regime: str, own: ExperienceTable, window: Window, tosses: Floats, settings: LearningSettings
) -> StrategyCell:
    times, place = np.unique(own.timestamp_ms, return_inverse=True)
    net = _means(own.reward, place, len(times))
    gross = _means(own.gross_return, place, len(times))
    traded = _means(np.abs(own.position_after - own.position_before), place, len(times))
    exposed = (np.nan_to_num(own.position_after) != 0) | (np.nan_to_num(own.position_before) != 0) | (own.reward != 0)

    blocks, block = np.unique(block_ids(times, settings.block_minutes), return_inverse=True)
    net_of_block = np.bincount(block, weights=net, minlength=len(blocks)).astype(np.float64)
    gross_of_block = np.bincount(block, weights=gross, minlength=len(blocks)).astype(np.float64)
    # A block with an unknown reward is neither won nor lost.
    active = (np.bincount(block[place], weights=exposed, minlength=len(blocks)) > 0) & ~np.isnan(net_of_block)
    known = ~np.isnan(traded)
    first_block = int(block_ids(to_ms(window.start), settings.block_minutes))
    random = _random_returns(net_of_block, gross_of_block, tosses[blocks - first_block])
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
        random_total=random.sum(axis=0),
        random_squares=(random**2).sum(axis=0),
    )


def _random_returns(net: Floats, gross: Floats, tosses: Floats) -> Floats:
    """Net block returns with the direction tossed: (blocks, RANDOM_AGENTS), 0 where the net return is unknown.

    What comes before costs changes its sign with the direction, costs do not; where only the net return is known, all
    of it does.
    """
    before_costs = np.where(np.isnan(gross), net, gross)
    tossed = tosses * before_costs[:, None] - (before_costs - net)[:, None]
    return np.nan_to_num(tossed, nan=0.0)


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
        random_total=left.random_total + right.random_total,
        random_squares=left.random_squares + right.random_squares,
    )


def _key(cell: StrategyCell) -> tuple[str, str]:
    return cell.agent, cell.regime
