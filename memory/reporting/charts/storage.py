"""Charts of the room that the memory takes, night by night."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from memory.reporting import theme, wording
from memory.reporting.charts.nights import NIGHTS_DRAWN, name_nights
from memory.reporting.measured_data import NightSizes
from memory.reporting.svg import COLUMN, axes_of, inline_svg

LEAST_NIGHTS = 2
"""A single night is no growth: it is said, and not drawn."""

KINDS_DRAWN = 4
"""Kinds of keys that have a layer of their own; the smaller ones are drawn as one."""

REST = "all other kinds"
MEGABYTE = 1e6
LAYERS: tuple[tuple[str, str], ...] = (
    (theme.BLUE, ""),
    (theme.ORANGE, "////"),
    (theme.GREEN, "---"),
    (theme.PURPLE, "\\\\\\\\"),
    (theme.MUTED, ""),
)
"""Hue and hatching of each layer, from below; the last is that of the rest."""


def kinds_of(sizes: Sequence[NightSizes]) -> list[str]:
    """Kinds with a layer of their own, the largest of the last night first, and the rest where there is one."""
    last = sizes[-1].redis_bytes if sizes else {}
    known = sorted({kind for night in sizes for kind in night.redis_bytes}, key=lambda kind: (-last.get(kind, 0), kind))
    return known if len(known) <= KINDS_DRAWN + 1 else [*known[:KINDS_DRAWN], REST]


def bytes_of(night: NightSizes, kind: str, kinds: Sequence[str]) -> int:
    """Bytes of one layer."""
    if kind == REST:
        return sum(size for name, size in night.redis_bytes.items() if name not in kinds)
    return night.redis_bytes.get(kind, 0)


def redis_growth(sizes: Sequence[NightSizes]) -> Markup | None:
    """Megabytes in Redis by kind, stacked, a bar a night; None before there are two nights."""
    shown = sizes[-NIGHTS_DRAWN:]
    if len(shown) < LEAST_NIGHTS:
        return None
    kinds = kinds_of(shown)
    figure, axes = axes_of(COLUMN, 220, left=48, bottom=40)
    position, floor = np.arange(len(shown)), np.zeros(len(shown))
    for kind, (colour, hatch) in zip(kinds, LAYERS, strict=False):
        heights = np.array([bytes_of(night, kind, kinds) / MEGABYTE for night in shown])
        axes.bar(position, heights, 0.72, bottom=floor, color=colour, hatch=hatch, edgecolor=theme.PAPER, linewidth=0)
        floor += heights
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.compact(value)))
    name_nights(axes, [night.window_name for night in shown])
    axes.set_title("Redis by kind, megabytes")
    label = f"Megabytes in Redis over {len(shown)} nights: {wording.listing(kinds, 6)}"
    return inline_svg(figure, name="redis-growth", label=label)


def growth_panel(
    sizes: Sequence[NightSizes], value: Callable[[NightSizes], float | None], *, title: str, name: str
) -> Markup | None:
    """One size over the nights as a line; None before there are two nights of it."""
    shown = sizes[-NIGHTS_DRAWN:]
    points = [(x, found) for x, night in enumerate(shown) if (found := value(night)) is not None]
    if len(points) < LEAST_NIGHTS:
        return None
    figure, axes = axes_of(300, 170, left=48, right=8, bottom=36)
    axes.plot(*zip(*points, strict=True), "o-", color=theme.BLUE, linewidth=1.8, ms=5, mec=theme.PAPER, mew=0.7)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-6))
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.compact(value)))
    name_nights(axes, [night.window_name for night in shown], most=4)
    axes.set_title(title)
    return inline_svg(figure, name=f"growth-{name}", label=f"{title}, over {len(points)} nights")
