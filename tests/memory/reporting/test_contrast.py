"""Text can be read: at least 4.5 to 1 against what lies behind it, in light and in dark (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import pytest

STYLE = (files("memory.reporting") / "templates" / "style.css").read_text(encoding="utf-8")
LEAST = 4.5
TINTS = {
    "strip": (0.45, ("sky", "green", "blue", "vermillion", "purple", "muted")),
    "heat": (0.62, ("blue", "vermillion")),
}
"""Deepest tint behind text, and its hues: of patterns by night, and of the tables of regimes, agents, correlations."""

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def variables(theme: str) -> dict[str, str]:
    """Colours of a theme: those of the dark one stand over the light ones."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)[:2]
    found = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light))
    return found | dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", dark)) if theme == "dark" else found


def linear(colour: str) -> np.ndarray:
    """Linear light of a colour, by sRGB's transfer function."""
    value = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def mixed(first: str, second: str, share: float) -> np.ndarray:
    """`color-mix(in oklab, first share, second)` in linear light (Ottosson, "A perceptual color space", 2020)."""
    labs = [_TO_LAB @ np.cbrt(_TO_LMS @ linear(colour)) for colour in (first, second)]
    lab = share * labs[0] + (1 - share) * labs[1]
    return np.clip(np.linalg.inv(_TO_LMS) @ (np.linalg.inv(_TO_LAB) @ lab) ** 3, 0, 1)


def contrast(text: np.ndarray, behind: np.ndarray) -> float:
    """Contrast ratio of two colours in linear light."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    high, low = sorted((float(weights @ text), float(weights @ behind)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_it_is_written_on(theme: str) -> None:
    colours = variables(theme)
    for text in ("ink", "muted", "accent"):
        for behind in ("paper", "page", "band"):
            assert contrast(linear(colours[text]), linear(colours[behind])) >= LEAST, (text, behind)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("table", sorted(TINTS))
def test_figures_stand_out_from_the_deepest_tint_of_their_cells(theme: str, table: str) -> None:
    colours = variables(theme)
    deepest, hues = TINTS[table]
    depth = dict(zip(("light", "dark"), re.findall(r"--depth: ([\d.]+);", STYLE), strict=True))[theme]
    for hue in hues:
        behind = mixed(colours[hue], colours["band"], deepest * float(depth))
        assert contrast(linear(colours["ink"]), behind) >= LEAST, hue
