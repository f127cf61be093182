"""Charts of figures over past runs: what a benchmark measured, its usual value and the limit of a regression."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from memory.reporting import theme
from memory.reporting.measured_data import Trend, TrendPoint
from memory.reporting.svg import axes_of, inline_svg

RUNS_DRAWN = 60
"""The latest runs that fit one panel; older ones stay in the ledger."""

LEAST_RUNS = 2
"""A single figure is no trend: it is said, and not drawn."""

VALUE = theme.Series("measured", theme.BLUE, "o", "-", 1.8)
USUAL = theme.Series("median of the runs before", theme.MUTED, "", "--", 1.2)
LIMIT = theme.Series("limit of a regression", theme.ORANGE, "", ":", 1.8)
REGRESSION = theme.Series("regression", theme.VERMILLION, "X", "", 0.0)
TAIL = theme.Series("p95", theme.ORANGE, "s", "--", 1.4)

SHARE, SHARE_TOP = "share", 1.004
"""Shares end at 1; a little above it leaves room for the mark."""

_WIDTH, _HEIGHT = 300, 190


def trend_panel(trend: Trend, number: int) -> Markup | None:
    """One judged figure over the runs, with its usual value, its limit and its regressions; None for a single run."""
    points = trend.points[-RUNS_DRAWN:]
    if len(points) < LEAST_RUNS:
        return None
    figure, axes = axes_of(_WIDTH, _HEIGHT, left=46, right=8, top=40, bottom=36)
    for look, values in ((USUAL, [p.usual for p in points]), (LIMIT, [p.limit for p in points])):
        # Where past runs scatter widely, the limit of a rate lies below zero: nothing would be a regression.
        known = [(x, value) for x, value in enumerate(values) if value is not None and value > 0]
        if known:
            axes.plot(*zip(*known, strict=True), color=look.colour, linestyle=look.dash, linewidth=look.width)
    _line(axes, VALUE, [point.value for point in points])
    _regressions(axes, points)
    _frame(axes, points)
    if trend.unit == SHARE:
        axes.set_ylim(top=SHARE_TOP)
    else:
        # An early limit, from runs that scattered widely, may lie far above all that was measured.
        last = points[-1]
        heights = (*(point.value for point in points), *(point.usual or 0.0 for point in points), last.limit or 0.0)
        axes.set_ylim(0, 1.2 * max(heights) or 1.0)
    axes.set_title(_title(trend))
    label = f"{trend.metric}, in {trend.unit}, over {len(points)} runs; {_count(points)} of them regressions"
    return inline_svg(figure, name=f"trend-{number}", label=label)


def latency_panel(kind: str, median: Trend, tail: Trend | None, number: int) -> Markup | None:
    """Median and 95th percentile of one kind of query over the runs, in milliseconds; None for a single run."""
    points = median.points[-RUNS_DRAWN:]
    if len(points) < LEAST_RUNS:
        return None
    figure, axes = axes_of(_WIDTH, _HEIGHT, left=46, right=8, top=40, bottom=36)
    if tail is not None:
        _line(axes, TAIL, [point.value for point in tail.points[-RUNS_DRAWN:]])
    _line(axes, VALUE, [point.value for point in points])
    _frame(axes, points)
    axes.set_ylim(bottom=0)
    axes.set_title(f"{kind}\nmilliseconds")
    label = f"Latency of queries by {kind} over {len(points)} runs: median and 95th percentile, in milliseconds"
    return inline_svg(figure, name=f"latency-trend-{number}", label=label)


def _line(axes: Axes, look: theme.Series, values: Sequence[float]) -> None:
    axes.plot(
        range(len(values)),
        values,
        marker=look.marker,
        linestyle=look.dash,
        color=look.colour,
        linewidth=look.width,
        ms=5,
        mec=theme.PAPER,
        mew=0.7,
    )


def _regressions(axes: Axes, points: Sequence[TrendPoint]) -> None:
    """A cross over each regression, and its value in figures beside the latest one."""
    marked = [(x, point.value) for x, point in enumerate(points) if point.regressed]
    if not marked:
        return
    axes.plot(
        *zip(*marked, strict=True), marker=REGRESSION.marker, ls="", color=REGRESSION.colour, ms=11, mec=theme.PAPER
    )
    x, value = marked[-1]
    side = "right" if x > len(points) / 2 else "left"
    axes.annotate(f"{value:.3g}", (x, value), (0, 8), textcoords="offset points", ha=side, va="bottom")


def _frame(axes: Axes, points: Sequence[TrendPoint]) -> None:
    axes.grid(axis="y")
    axes.margins(y=0.18)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    step = max(1, -(-len(points) // 4))
    ticks = list(range(len(points) - 1, -1, -step))[::-1]
    axes.set_xticks(ticks, [points[tick].window_name[5:] for tick in ticks])
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_xlabel("window of the run, month-day")


def _title(trend: Trend) -> str:
    return f"{trend.metric.replace(' beside a round trip', '')}\n{trend.unit}"


def _count(points: Sequence[TrendPoint]) -> int:
    return sum(point.regressed for point in points)
