"""Chart of the strategies: what each agent's Sharpe ratio was, and what is left of it once luck is drawn off."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter

from memory.records import StrategyMemory
from memory.reporting import theme, wording
from memory.reporting.sections import ALL_REGIMES, sorted_strategies
from memory.reporting.svg import COLUMN, axes_of, inline_svg

STRATEGIES_DRAWN = 20
"""Agents that fit one chart; the table below it has all of them."""

_ROW_HEIGHT = 30
_LINEAR = 1.0
"""Sharpe ratios up to it are drawn to scale, larger ones by their logarithm: a day's raw ones reach 50."""
_TICKS = (-100.0, -30.0, -10.0, -3.0, -1.0, 0.0, 1.0, 3.0, 10.0, 30.0, 100.0)


def sharpe_ratios(strategies: Sequence[StrategyMemory], limit: float) -> Markup | None:
    """Raw and shrunk Sharpe ratio of each agent over all regimes, beside the limit of pruning; None without any.

    Parameters
    ----------
    limit
        Annualised net Sharpe ratio that a strategy must exceed to be kept for it.
    """
    rows = [
        (memory.agent_id, figures.sharpe_ratio, figures.shrunk_sharpe_ratio)
        for memory in sorted_strategies(strategies)
        if (figures := memory.performance.get(ALL_REGIMES)) is not None and figures.sharpe_ratio is not None
    ][:STRATEGIES_DRAWN]
    if not rows:
        return None
    figure, axes = axes_of(COLUMN, 66 + _ROW_HEIGHT * len(rows), left=14, right=14, top=26, bottom=40)
    axes.set_xscale("symlog", linthresh=_LINEAR)
    for y, (agent, raw, shrunk) in enumerate(rows):
        if shrunk is not None:
            axes.plot([raw, shrunk], [y, y], color=theme.MUTED, linewidth=1.2, alpha=0.7, zorder=2)
            axes.plot(shrunk, y, "o", ms=8, mfc=theme.BLUE, mec=theme.PAPER, mew=0.8, zorder=4)
        axes.plot(raw, y, "D", ms=6, mfc="none", mec=theme.MUTED, mew=1.4, zorder=3)
        axes.text(0.0, y - 0.25, agent, transform=axes.get_yaxis_transform(), ha="left", va="bottom", fontsize=10)
    axes.axvline(0, color=theme.GRID, linewidth=1, zorder=0)
    axes.axvline(limit, color=theme.ORANGE, linewidth=2, linestyle="--", zorder=1)
    low, high = axes.get_xlim()
    low, high = min(low, -3 * _LINEAR), max(high, 3 * _LINEAR, 2 * limit)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [wording.number(tick, 0) for tick in ticks])
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda _, __: ""))
    axes.set_xticks([], minor=True)
    axes.set_ylim(len(rows) - 0.5, -0.9)
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.set_title("annualised net Sharpe ratio, all regimes")
    label = f"Raw and shrunk Sharpe ratio of {wording.plural(len(rows), 'agent')}, beside the limit of {limit:g}"
    return inline_svg(figure, name="strategies", label=label)
