"""Chart of the market: price over the window with the regime behind it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from markupsafe import Markup
from matplotlib.collections import PolyCollection
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from memory.reporting import theme, wording
from memory.reporting.data import Floats, Ints, PricePath
from memory.reporting.svg import COLUMN, axes_of, inline_svg

GAP_MINUTES = 5
"""A longer pause between states ends an episode: neither the line nor the regime runs on across it."""

_MINUTE_MS = 60_000
_RIBBON = 0.055
"""Height of the solid regime ribbon, as a share of the panel."""


def spells(path: PricePath) -> list[tuple[str, int, int]]:
    """Spans of one regime each as (regime, first ms, end ms), ended by a change or by a gap."""
    found: list[tuple[str, int, int]] = []
    for regime, moment in zip(path.regimes, path.timestamp_ms.tolist(), strict=True):
        if found and moment - found[-1][2] <= (GAP_MINUTES - 1) * _MINUTE_MS and moment >= found[-1][2]:
            if found[-1][0] == regime:
                found[-1] = (regime, found[-1][1], moment + _MINUTE_MS)
                continue
            found[-1] = (found[-1][0], found[-1][1], moment)
        found.append((regime, moment, moment + _MINUTE_MS))
    return found


def regime_timeline(path: PricePath, index: int, *, wide: bool) -> Markup:
    """Price of one product over the window; the background and the ribbon below show the regime."""
    width, height = (960, 202) if wide else (COLUMN, 202)
    figure, axes = axes_of(width, height, left=52, right=10, top=24, bottom=36)
    times, prices = _with_breaks(path)
    axes.plot(times, prices, color=theme.INK, linewidth=1.1, zorder=3)
    by_regime: dict[str, list[tuple[int, int]]] = {}
    for regime, start, end in spells(path):
        by_regime.setdefault(regime, []).append((start, end))
    for regime, spans in by_regime.items():
        colour = theme.regime_colour(regime)
        for top, alpha in ((1.0, 0.2), (_RIBBON, 1.0)):
            boxes = [[(a, 0.0), (b, 0.0), (b, top), (a, top)] for a, b in spans]
            axes.add_collection(
                PolyCollection(
                    boxes, transform=axes.get_xaxis_transform(), facecolor=colour, alpha=alpha, linewidth=0, zorder=1
                ),
                autolim=False,
            )
    first, last = int(path.timestamp_ms[0]), int(path.timestamp_ms[-1]) + _MINUTE_MS
    axes.set_xlim(first, last)
    finite = path.price[np.isfinite(path.price)]
    if len(finite):
        low, high = float(finite.min()), float(finite.max())
        room = (high - low) or max(abs(high), 1.0) * 0.01
        axes.set_ylim(low - room * (0.08 + _RIBBON), high + room * 0.05)
        change = finite[-1] / finite[0] - 1
        axes.set_title(f"{path.product_id}   {wording.number(100 * change, 1, signed=True)} %")
    else:
        axes.set_title(path.product_id)
    axes.xaxis.set_major_locator(_ticks(first, last, 8 if wide else 4))
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(_price))
    axes.grid(axis="y", alpha=0.6)
    axes.set_xlabel(f"UTC; price in {path.product_id.rpartition('-')[2] or 'quote currency'}")
    name = f"timeline-{index}-{'wide' if wide else 'narrow'}"
    return inline_svg(figure, name=name, label=f"Price and regime of {path.product_id} over the window")


def _with_breaks(path: PricePath) -> tuple[Floats, Floats]:
    """Times and prices with a NaN after each gap, so that the line breaks there."""
    times: Ints = path.timestamp_ms
    after = np.flatnonzero(np.diff(times) > GAP_MINUTES * _MINUTE_MS) + 1
    return np.insert(times.astype(np.float64), after, times[after - 1] + 1.0), np.insert(path.price, after, np.nan)


def _ticks(first: int, last: int, most: int) -> FixedLocator:
    """At most `most` ticks or so, on whole multiples of a round step since midnight UTC."""
    steps = [minutes * _MINUTE_MS for minutes in (5, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 2880, 10080)]
    step = next((step for step in steps if (last - first) / step <= most), steps[-1])
    return FixedLocator(range(-(-first // step) * step, last + 1, step))


def _clock(value: float, _position: int | None = None) -> str:
    moment = datetime.fromtimestamp(value / 1000, UTC)
    return f"{moment:%H:%M}" if moment.hour or moment.minute else f"{moment.day} {moment:%b}"


def _price(value: float, _position: int | None = None) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
