"""Charts of an evaluation: equity curves, gains with intervals, reliability of forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from memory.reporting import theme, wording
from memory.reporting.evaluation_data import Curve, Figure, GainRow, ReliabilityCurve
from memory.reporting.svg import COLUMN, axes_of, inline_svg

_WIDE, _HEIGHT = 880, 330
DAY_MS = 86_400_000

LOOKS: tuple[theme.Series, ...] = (
    theme.Series("", theme.BLUE, "o", "-", 2.4),
    theme.Series("", theme.ORANGE, "s", "--", 2.0),
    theme.Series("", theme.PURPLE, "^", ":", 2.0),
    theme.Series("", theme.GREEN, "D", "-.", 1.8),
    theme.Series("", theme.VERMILLION, "v", "--", 1.4),
    theme.Series("", theme.SKY, "P", "-", 1.6),
    theme.Series("", theme.INK, "X", "--", 1.4),
    theme.Series("", theme.MUTED, "o", ":", 1.4),
    theme.Series("", theme.YELLOW, "s", "-", 1.4),
)
"""Hue and dash of each line: either tells lines apart by itself."""


def looks_of(names: Sequence[str]) -> dict[str, theme.Series]:
    """Look of each name, in order; more names than looks begin anew."""
    return {name: LOOKS[place % len(LOOKS)] for place, name in enumerate(names)}


def equity_chart(curves: Sequence[Curve], breaks_ms: Sequence[int], *, name: str) -> Markup:
    """Cumulative net returns; bands reach from the worst seed to the best, vertical lines part the folds."""
    figure, axes = axes_of(_WIDE, _HEIGHT, left=58, right=150, bottom=34)
    looks = looks_of([curve.name for curve in curves])
    ends = []
    for curve in curves:
        look = looks[curve.name]
        time = [ms / DAY_MS for ms in curve.time_ms]
        value = 100 * np.array(curve.value)
        if curve.low:
            axes.fill_between(
                time, 100 * np.array(curve.low), 100 * np.array(curve.high), color=look.colour, alpha=0.13, linewidth=0
            )
        axes.plot(time, value, color=look.colour, linestyle=look.dash, linewidth=look.width)
        if len(value):
            ends.append((float(value[-1]), curve.name, look.colour))
    for moment in breaks_ms:
        axes.axvline(moment / DAY_MS, color=theme.GRID, linewidth=1, zorder=0)
    axes.axhline(0, color=theme.MUTED, linewidth=1, zorder=0)
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0f} %"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda day, _: f"{datetime.fromtimestamp(day * 86_400, UTC):%d %b}"))
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.margins(x=0.005)
    low, high = axes.get_ylim()
    for level, (_, label, colour) in zip(
        _apart([end[0] for end in ends], (high - low) * 0.05), sorted(ends), strict=True
    ):
        axes.annotate(
            label, (1.008, level), xycoords=("axes fraction", "data"), color=colour, va="center", annotation_clip=False
        )
    axes.set_title("net return, share of a constant notional")
    return inline_svg(figure, name=name, label=f"Equity curves of {len(curves)} contestants")


def _apart(levels: Sequence[float], least: float) -> list[float]:
    """Levels in rising order, moved up where they would be nearer than `least`."""
    out: list[float] = []
    for level in sorted(levels):
        out.append(max(level, out[-1] + least) if out else level)
    return out


def gain_chart(rows: Sequence[GainRow], metric: str, *, name: str, percent: bool) -> Markup | None:
    """Differences with their intervals, one row a comparison; filled where the interval leaves out 0."""
    known = [
        (row, row.figures[metric]) for row in rows if metric in row.figures and row.figures[metric].value is not None
    ]
    if not known:
        return None
    scale = 100.0 if percent else 1.0
    figure, axes = axes_of(_WIDE, 46 + 26 * len(known), left=330, top=26, bottom=28)
    for place, (_, found) in enumerate(known):
        _interval(axes, found, len(known) - 1 - place, scale)
    axes.axvline(0, color=theme.MUTED, linewidth=1, zorder=0)
    axes.set_yticks(range(len(known)), [f"{row.ours} − {row.theirs}, {row.cell}" for row, _ in reversed(known)])
    axes.set_ylim(-0.7, len(known) - 0.3)
    axes.grid(axis="x")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.4g}{' %' if percent else ''}"))
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_title(f"difference in {metric}, 95 % intervals")
    return inline_svg(figure, name=name, label=f"Differences in {metric} with intervals")


def _interval(axes: object, found: Figure, level: int, scale: float) -> None:
    colour = {1: theme.BLUE, 0: theme.MUTED, -1: theme.VERMILLION}[found.decided]
    value = scale * (found.value or 0.0)
    if found.interval is not None:
        ends = [scale * found.interval.low, scale * found.interval.high]
        axes.plot(ends, [level, level], color=colour, linewidth=2.4)  # type: ignore[attr-defined]
    axes.plot(  # type: ignore[attr-defined]
        [value],
        [level],
        "o" if found.decided else "D",
        color=colour,
        ms=7,
        mfc=colour if found.decided else theme.PAPER,
    )


def reliability_chart(curves: Sequence[ReliabilityCurve], *, name: str) -> Markup | None:
    """Mean outcome over mean forecast by fifths of forecasts; on the diagonal a forecast is what comes."""
    if not curves:
        return None
    figure, axes = axes_of(COLUMN, 240, left=52, bottom=44)
    looks = looks_of([curve.name for curve in curves])
    values = [point for curve in curves for point in curve.points]
    low, high = min(min(point) for point in values), max(max(point) for point in values)
    axes.plot([low, high], [low, high], color=theme.GRID, linewidth=1.4, zorder=0)
    for curve in curves:
        look = looks[curve.name]
        x, y = zip(*curve.points, strict=True)
        axes.plot(
            x, y, marker=look.marker, linestyle=look.dash, color=look.colour, ms=6, mec=theme.PAPER, linewidth=1.6
        )
    axes.grid()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value, 2)))
    axes.set_xlabel("forecast")
    axes.set_ylabel("came")
    first = curves[0]
    axes.set_title(f"{first.outcome}, {wording.horizon(first.horizon_minutes)}")
    return inline_svg(figure, name=name, label=f"Reliability of forecasts of {first.outcome}")
