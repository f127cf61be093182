"""Charts of what was learned: the pattern map, and the forest plots of returns and of volatility."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from memory.records import Interval, PatternMemory
from memory.reporting import theme, wording
from memory.reporting.data import BaseRate, Floats, StateCloud
from memory.reporting.ranking import FADED, leading_outcome, outcome_of, row_label, volatility_of
from memory.reporting.svg import COLUMN, Marks, axes_of, inline_svg

MAP_STATES = 700
"""States drawn behind the patterns: enough to show the shape, few enough to keep the file small."""

MAP_PATTERNS = 400
"""Patterns drawn on the map, those with most support first: a pattern costs some 400 bytes in each drawing."""

_LARGEST_DOT = 320.0
_SMALLEST_DOT = 48.0
_ROW_HEIGHT = 36
_BASIS_POINTS = 1e4
_STATUS_MARKERS = {"new": "D", "confirmed": "o", FADED: "X"}


def projected(patterns: Sequence[PatternMemory], cloud: StateCloud | None) -> tuple[Floats, Floats, Floats]:
    """Patterns and (thinned) states on the first two principal components of both together.

    Returns
    -------
    tuple
        Positions of the patterns, shape (p, 2); positions of the states, shape (s, 2); shares of the variance along
        the two axes, shape (2,). Signs are fixed, so that the same data give the same map.
    """
    vectors = np.array([pattern.concept_vector for pattern in patterns], dtype=np.float64)
    states = np.empty((0, vectors.shape[1] if len(vectors) else 0))
    if cloud is not None and len(cloud.vectors):
        states = np.asarray(cloud.vectors[thinned(len(cloud.vectors))], dtype=np.float64)
    both = np.concatenate([part for part in (vectors, states) if len(part)])
    centred = both - both.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    leading = axes[:, ::-1][:, :2]
    leading *= np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])])
    total = max(float(values.sum()), np.finfo(np.float64).tiny)
    positions = centred @ leading
    return positions[: len(vectors)], positions[len(vectors) :], np.clip(values[::-1][:2] / total, 0.0, 1.0)


def thinned(n: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Evenly spaced rows, at most `MAP_STATES` of them."""
    return np.unique(np.linspace(0, n - 1, min(n, MAP_STATES)).astype(np.intp))


def pattern_map(
    patterns: Sequence[PatternMemory],
    cloud: StateCloud | None,
    links: Mapping[str, str],
    horizon_minutes: int,
    *,
    wide: bool,
) -> Markup:
    """Patterns in two dimensions over the states of the window: colour is regime, area support, mark status."""
    chosen = sorted(patterns, key=lambda pattern: (-pattern.support, pattern.pattern_id))[:MAP_PATTERNS]
    points, states, shares = projected(chosen, cloud)
    width, height = (960, 500) if wide else (COLUMN, 360)
    figure, axes = axes_of(width, height, left=22, right=8, top=8, bottom=26)
    if cloud is not None and len(states):
        regimes = np.array(cloud.regimes)[thinned(len(cloud.regimes))]
        for regime in sorted(set(regimes.tolist())):
            rows = regimes == regime
            axes.scatter(
                states[rows, 0], states[rows, 1], s=11, color=theme.regime_colour(regime), alpha=0.36, linewidth=0
            )
    largest = max((pattern.support for pattern in chosen), default=1)
    marks = []
    for status, marker in _STATUS_MARKERS.items():
        rows = [i for i, pattern in enumerate(chosen) if pattern.status == status]
        if not rows:
            continue
        area = [_SMALLEST_DOT + (_LARGEST_DOT - _SMALLEST_DOT) * chosen[i].support / largest for i in rows]
        colours = [theme.regime_colour(chosen[i].regime) for i in rows]
        axes.scatter(
            points[rows, 0],
            points[rows, 1],
            s=np.array(area) * (0.6 if marker == "D" else 1.0) * (1.0 if wide else 0.6),
            marker=marker,
            c=colours if status != FADED else theme.MUTED,
            alpha=0.92 if status != FADED else 0.6,
            edgecolor=theme.PAPER,
            linewidth=1.0 if status != FADED else 0.0,
            gid=f"map-{status}",
            zorder=2 if status == FADED else 3,
        )
        titles = [_map_title(chosen[i], horizon_minutes) for i in rows]
        marks.append(Marks(f"map-{status}", titles, [links.get(chosen[i].pattern_id) for i in rows]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"first principal component, {wording.percent(float(shares[0]))} of the variance →")
    axes.set_ylabel(f"second, {wording.percent(float(shares[1]))} →")
    axes.spines["bottom"].set_visible(False)
    axes.margins(0.03)
    label = f"Map of {len(chosen)} patterns over {len(states)} states of the window, coloured by regime"
    return inline_svg(figure, name=f"map-{'wide' if wide else 'narrow'}", label=label, marks=marks)


def _map_title(pattern: PatternMemory, horizon_minutes: int) -> str:
    outcome = leading_outcome(pattern, horizon_minutes)
    gain = (
        ""
        if outcome is None
        else (
            f" · {outcome.action.lower()} {wording.horizon(outcome.horizon_minutes)}: "
            f"{wording.basis_points(outcome.shrunk_net_mean)} bp shrunk net"
        )
    )
    seen = wording.plural(pattern.support, "occurrence")
    return f"{pattern.pattern_id} · {pattern.status} · {wording.regime_name(pattern.regime)} · {seen}{gain}"


def return_forest(
    ranked: Sequence[tuple[int, PatternMemory]],
    base_of: Callable[[PatternMemory, str, int], BaseRate | None],
    horizon_minutes: int,
) -> Markup | None:
    """Gross mean of LONG with its interval, beside the regime's base rate and the band that costs eat.

    Right of the band LONG pays, left of it SHORT does, inside it only FLAT. None where no pattern has an outcome.

    Parameters
    ----------
    ranked
        Patterns with their ranks, in the order of the rows.
    base_of
        Base rate of a pattern's partition by action and horizon.
    """
    rows = [(rank, p, o) for rank, p in ranked if (o := outcome_of(p, "LONG", horizon_minutes))]
    if not rows:
        return None
    figure, axes = _forest_axes(len(rows))
    for y, (rank, pattern, outcome) in enumerate(rows):
        cost = max(outcome.gross_mean - outcome.net_mean, 0.0) * _BASIS_POINTS
        axes.barh(y, 2 * cost, left=-cost, height=0.62, color=theme.BAND, linewidth=0)
        base = base_of(pattern, "LONG", horizon_minutes)
        if base is not None:
            mean = base.gross_mean * _BASIS_POINTS
            axes.plot(mean, y, "D", ms=6, mfc="none", mec=theme.MUTED, mew=1.4, zorder=3)
        action = "LONG" if outcome.net_mean > 0 else "SHORT" if outcome.gross_mean * _BASIS_POINTS < -cost else "FLAT"
        _estimate(axes, y, outcome.gross_mean, outcome.interval, _BASIS_POINTS, action)
        _row_label(axes, y, row_label(rank, pattern))
    axes.axvline(0, color=theme.GRID, linewidth=1, zorder=0)
    _widen(axes, 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value, 0, signed=True)))
    _sides(axes, "← short pays", "gross mean of long, bp", "long pays →")
    axes.set_title(f"after {wording.horizon(horizon_minutes)}")
    label = f"Mean return after {wording.horizon(horizon_minutes)} with intervals, for {len(rows)} patterns"
    return inline_svg(figure, name=f"returns-{horizon_minutes}", label=label)


def volatility_forest(ranked: Sequence[tuple[int, PatternMemory]], horizon_minutes: int) -> Markup | None:
    """How much more or less than its regime the market moved after each pattern, as a factor with its interval."""
    rows = [(rank, p, v) for rank, p in ranked if (v := volatility_of(p, horizon_minutes))]
    if not rows:
        return None
    figure, axes = _forest_axes(len(rows))
    for y, (rank, pattern, outcome) in enumerate(rows):
        ratio = exp(outcome.mean - outcome.base_mean)
        interval = outcome.interval
        sure = interval is not None and not interval.low <= outcome.base_mean <= interval.high
        colour = theme.MUTED if not sure else theme.ORANGE if ratio > 1 else theme.SKY
        if interval is not None:
            ends = [exp(end - outcome.base_mean) for end in (interval.low, interval.high)]
            axes.plot(ends, [y, y], color=colour, linewidth=2.2)
        axes.plot(ratio, y, "o", ms=8, mfc=colour if sure else theme.PAPER, mec=colour, mew=1.6, zorder=4)
        _row_label(axes, y, row_label(rank, pattern))
    axes.set_xscale("log")
    axes.axvline(1, color=theme.MUTED, linewidth=1, zorder=0)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.7), max(high, 1.4))
    low, high = axes.get_xlim()
    ticks = [tick for tick in (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0) if low <= tick <= high]
    axes.set_xticks(ticks, [f"×{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    _sides(axes, "← calmer", "times the regime's usual", "wilder →")
    axes.set_title(f"after {wording.horizon(horizon_minutes)}")
    label = f"Volatility after {wording.horizon(horizon_minutes)} against the base rate, for {len(rows)} patterns"
    return inline_svg(figure, name=f"volatility-{horizon_minutes}", label=label)


def _forest_axes(rows: int) -> tuple[Figure, Axes]:
    figure, axes = axes_of(COLUMN, 66 + _ROW_HEIGHT * rows, left=14, right=14, top=26, bottom=40)
    # Strongest at the top; the label of a row stands above its line.
    axes.set_ylim(rows - 0.55, -0.75)
    axes.set_yticks([])
    axes.grid(axis="x")
    return figure, axes


def _estimate(axes: Axes, y: int, mean: float, interval: Interval | None, scale: float, action: str) -> None:
    colour = theme.ACTION_COLOURS[action]
    if interval is not None:
        axes.plot([interval.low * scale, interval.high * scale], [y, y], color=colour, linewidth=2.2, zorder=2)
    marker = {"LONG": ">", "SHORT": "<", "FLAT": "s"}[action]
    filled = colour if interval is not None else theme.PAPER
    axes.plot(mean * scale, y, marker, ms=8, mfc=filled, mec=colour, mew=1.4, zorder=4)


def _row_label(axes: Axes, y: int, text: str) -> None:
    axes.text(0.0, y - 0.33, text, transform=axes.get_yaxis_transform(), ha="left", va="bottom", fontsize=10)


def _sides(axes: Axes, left: str, middle: str, right: str) -> None:
    """What the two directions and the values of the horizontal axis mean, below its ticks."""
    for x, text, align in ((0.0, left, "left"), (0.5, middle, "center"), (1.0, right, "right")):
        axes.annotate(text, (x, 0), (0, -22), "axes fraction", "offset points", color=theme.MUTED, ha=align, va="top")


def _widen(axes: Axes, least: float) -> None:
    """Limits that lie evenly about zero, at least `least` away from it."""
    reach = max(*(abs(limit) for limit in axes.get_xlim()), least)
    axes.set_xlim(-reach, reach)
