"""Chart of retrieval latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from memory.reporting import theme, wording
from memory.reporting.data import Floats, LatencySeries
from memory.reporting.svg import COLUMN, axes_of, inline_svg

QUANTILES = (0.5, 0.95, 0.99)
LOOKS = (
    theme.Series("", theme.BLUE, "o", "-", 2.0),
    theme.Series("", theme.ORANGE, "s", "--", 2.0),
    theme.Series("", theme.GREEN, "^", "-.", 2.0),
    theme.Series("", theme.PURPLE, "D", ":", 2.0),
)
"""Look of the first, second, ... kind of query; they repeat after the fourth."""

_CURVE_POINTS = 160
"""Points of a drawn distribution: finer than a pixel."""


def quantiles(series: LatencySeries) -> Floats:
    """Median, 95th and 99th percentile in milliseconds, shape (3,)."""
    return np.quantile(series.samples_ms, QUANTILES)


def latency_distribution(series: Sequence[LatencySeries]) -> Markup:
    """Share of queries answered within a time, one curve a kind of query; p50, p95 and p99 marked."""
    figure, axes = axes_of(COLUMN, 240, left=44, bottom=40)
    shares = np.linspace(0.0, 1.0, _CURVE_POINTS)
    for entry, look in zip(series, LOOKS * (len(series) // len(LOOKS) + 1), strict=False):
        axes.plot(np.quantile(entry.samples_ms, shares), 100 * shares, color=look.colour, ls=look.dash, lw=look.width)
        axes.plot(
            quantiles(entry), 100 * np.array(QUANTILES), look.marker, color=look.colour, mec=theme.PAPER, mew=0.8, ms=7
        )
    axes.set_xscale("log")
    for share in QUANTILES:
        axes.axhline(100 * share, color=theme.GRID, linewidth=0.8, zorder=0)
    axes.set_yticks([0, 50, 95], ["0 %", "50 %", "95 %"])
    axes.set_ylim(0, 102)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("milliseconds, logarithmic")
    axes.set_title("queries answered within")
    names = wording.listing([entry.name for entry in series])
    return inline_svg(figure, name="latency", label=f"Cumulative distribution of latency: {names}")
