"""Charts over the nights: what became of the patterns, and the scorecard against the null."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from memory.reporting import theme, wording
from memory.reporting.data import PREDICTORS, NightCounts, ScorecardEntry, ScorecardNight
from memory.reporting.svg import COLUMN, axes_of, inline_svg

NIGHTS_DRAWN = 60
"""The latest nights that fit one chart; older ones stay in the ledger."""

LEAST_NIGHTS = 2
"""A single night has no history: it is said, and not drawn."""

_DODGE = 0.085
"""Sideways shift between predictors of one night, as a share of the distance between nights."""

STACK = (("patterns_confirmed", "confirmed", theme.BLUE, ""), ("patterns_new", "new", theme.GREEN, "////"))
FADED_COLOUR = theme.MUTED


def pattern_history(nights: Sequence[NightCounts]) -> Markup | None:
    """Confirmed and new patterns stacked upwards, faded ones downwards, and what the null would have confirmed.

    None before there are two nights.
    """
    shown = nights[-NIGHTS_DRAWN:]
    if len(shown) < LEAST_NIGHTS:
        return None
    figure, axes = axes_of(COLUMN, 220, left=40, bottom=40)
    position = np.arange(len(shown))
    floor = np.zeros(len(shown))
    for field, _, colour, hatch in STACK:
        heights = np.array([getattr(night, field) for night in shown], dtype=np.float64)
        axes.bar(position, heights, 0.62, bottom=floor, color=colour, hatch=hatch, edgecolor=theme.PAPER, linewidth=0)
        floor += heights
    faded = np.array([-night.patterns_faded for night in shown], dtype=np.float64)
    axes.bar(position, faded, 0.62, color=FADED_COLOUR, alpha=0.55)
    for x, night in zip(position, shown, strict=True):
        level = night.null_confirmed
        if level is not None:
            axes.plot([x - 0.42, x + 0.42], [level, level], color=theme.ORANGE, linewidth=3, zorder=4)
    axes.axhline(0, color=theme.MUTED, linewidth=1)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):,.0f}"))
    name_nights(axes, [night.window_name for night in shown])
    axes.set_title("patterns each night, number")
    return inline_svg(figure, name="history", label=f"New, confirmed and faded patterns over {len(shown)} nights")


def confirmation_history(nights: Sequence[NightCounts]) -> Markup | None:
    """Confirmation rate over the nights beside what random balls reach; None before there is one."""
    shown = nights[-NIGHTS_DRAWN:]
    rows = [(x, night) for x, night in enumerate(shown) if night.confirmation_rate is not None]
    if not rows:
        return None
    figure, axes = axes_of(COLUMN, 220, left=44, bottom=40)
    x = [position for position, _ in rows]
    null = [(position, night) for position, night in rows if night.null_confirmation_rate is not None]
    axes.plot(
        [position for position, _ in null],
        [100 * (night.null_confirmation_rate or 0.0) for _, night in null],
        "s--",
        color=theme.ORANGE,
        linewidth=1.6,
        ms=6,
    )
    axes.plot(x, [100 * (night.confirmation_rate or 0.0) for _, night in rows], "o-", color=theme.BLUE, ms=7, lw=2.2)
    axes.set_ylim(0, max(10.0, axes.get_ylim()[1] * 1.1))
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    name_nights(axes, [night.window_name for night in shown])
    axes.set_title("clusters that match what is known, %")
    return inline_svg(
        figure, name="confirmation", label="Confirmation rate of patterns and of the null over the nights"
    )


def predictors_of(cards: Sequence[ScorecardNight]) -> list[str]:
    """Predictors that occur in the scorecards, in the order of legends."""
    present = {entry.predictor for card in cards for entry in card.entries}
    return [*(name for name in PREDICTORS if name in present), *sorted(present.difference(PREDICTORS))]


def scorecard_panel(cards: Sequence[ScorecardNight], outcome: str, horizon_minutes: int) -> Markup | None:
    """Rank correlation of predicted and realised over the nights, one line a predictor; None without any figure."""
    shown = cards[-NIGHTS_DRAWN:]
    names = predictors_of(cards)
    looks = theme.predictor_series(names)
    figure, axes = axes_of(244, 200, left=40, right=6, bottom=38)
    drawn = 0
    # The patterns come last, on top of what they are compared with.
    for order, name in reversed(list(enumerate(names))):
        look = looks[name]
        points = [
            (x + (order - (len(names) - 1) / 2) * _DODGE, entry.ic, entry.interval)
            for x, card in enumerate(shown)
            for entry in card.entries
            if _is(entry, name, outcome, horizon_minutes) and entry.ic is not None
        ]
        if not points:
            continue
        drawn += len(points)
        colour = look.colour
        for x, _, interval in points:
            if interval is not None:
                ends = [interval.low, interval.high]
                axes.plot([x, x], ends, color=colour, linewidth=look.width, alpha=0.55)
        axes.plot(
            [x for x, _, _ in points],
            [ic for _, ic, _ in points],
            marker=look.marker,
            linestyle=look.dash,
            color=colour,
            ms=6.5 if name == "patterns" else 5,
            mec=theme.PAPER,
            mew=0.7,
            linewidth=look.width,
        )
    if not drawn:
        return None
    axes.axhline(0, color=theme.MUTED, linewidth=1, zorder=0)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value, 2)))
    name_nights(axes, [card.window_name for card in shown], most=4)
    axes.set_title(f"IC of {outcome}, {wording.horizon(horizon_minutes)}")
    return inline_svg(figure, name=f"score-{outcome}-{horizon_minutes}", label=_score_label(outcome, horizon_minutes))


def _score_label(outcome: str, horizon_minutes: int) -> str:
    return f"Rank correlation of predicted and realised {outcome} after {horizon_minutes} minutes, by night"


def _is(entry: ScorecardEntry, predictor: str, outcome: str, horizon_minutes: int) -> bool:
    return (entry.predictor, entry.outcome, entry.horizon_minutes) == (predictor, outcome, horizon_minutes)


def name_nights(axes: Axes, names: Sequence[str], most: int = 7) -> None:
    """Tick labels of month and day under evenly spaced nights, the last always named."""
    step = max(1, -(-len(names) // most))
    ticks = list(range(len(names) - 1, -1, -step))[::-1]
    axes.set_xticks(ticks, [names[tick][5:] for tick in ticks])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("night, month-day")
