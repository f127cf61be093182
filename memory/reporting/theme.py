"""Colours, marks and names that every chart and table shares.

The hues are those of Okabe and Ito ("Color Universal Design", 2008), which people with any common colour vision can
tell apart; where a hue carries meaning, a mark or a word carries it too. Charts are drawn with the hex values below,
and each is turned into a CSS variable afterwards (`memory.reporting.svg`), so that light, dark and print share one
drawing.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory.records import MIXED, Regime

# Stand-ins: no palette uses these values, so each can be told apart in a finished drawing.
INK = "#010101"
MUTED = "#020202"
GRID = "#030303"
PAPER = "#040404"
BAND = "#050505"

ORANGE = "#e69f00"
SKY = "#56b4e9"
GREEN = "#009e73"
YELLOW = "#f0e442"
BLUE = "#0072b2"
VERMILLION = "#d55e00"
PURPLE = "#cc79a7"

CSS_VARIABLES: dict[str, str] = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    BAND: "band",
    ORANGE: "orange",
    SKY: "sky",
    GREEN: "green",
    YELLOW: "yellow",
    BLUE: "blue",
    VERMILLION: "vermillion",
    PURPLE: "purple",
}
"""CSS variable (without the dashes) of every colour that a chart may use."""

REGIME_COLOURS: dict[str, str] = {
    Regime.TRENDING: BLUE,
    Regime.MEAN_REVERTING: GREEN,
    Regime.VOLATILE: ORANGE,
    Regime.QUIET: SKY,
    Regime.CRISIS: VERMILLION,
    MIXED: PURPLE,
}

ACTION_COLOURS: dict[str, str] = {"LONG": BLUE, "SHORT": VERMILLION, "FLAT": MUTED}
ACTION_SIGNS: dict[str, str] = {"LONG": "▲", "SHORT": "▼", "FLAT": "■"}


@dataclass(frozen=True, slots=True)
class Series:
    """How one line of a chart looks: matplotlib's marker and dash names."""

    label: str
    colour: str
    marker: str
    dash: str = "-"
    width: float = 1.4


PREDICTOR_SERIES: dict[str, Series] = {
    "patterns": Series("patterns", BLUE, "o", "-", 2.2),
    "balls": Series("random balls (the null)", MUTED, "s", "--"),
    "neighbours": Series("remembered neighbours", GREEN, "^"),
    "ridge": Series("ridge regression", ORANGE, "D"),
    "base": Series("regime's base rate", PURPLE, "v", ":"),
}
_FURTHER = (SKY, VERMILLION, YELLOW)


def regime_colour(regime: str) -> str:
    """Colour of a regime; unknown ones are drawn like the pooled partition."""
    return REGIME_COLOURS.get(regime, PURPLE)


def predictor_series(names: list[str]) -> dict[str, Series]:
    """Look of each predictor; names that the table above does not know get hues of their own."""
    unknown = [name for name in names if name not in PREDICTOR_SERIES]
    further = {name: Series(name, _FURTHER[i % len(_FURTHER)], "P") for i, name in enumerate(unknown)}
    return {name: PREDICTOR_SERIES.get(name) or further[name] for name in names}


def css_variable(colour: str) -> str:
    """The CSS expression for one of the colours above."""
    return f"var(--{CSS_VARIABLES[colour]})"
