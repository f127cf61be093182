"""Numbers and names in words that a person reads: one way to write each, used by pages, tables and artifacts."""

from __future__ import annotations

import math
import re
from datetime import datetime

from memory.records import Interval

MISSING = "–"
_MINUS = "−"
_NO_BREAK = "\u00a0"
"""Space that keeps a figure and its unit on one line."""

_BASIS_POINTS = 1e4
_LONGEST_IDENTIFIER = 12
_RANGE = re.compile(r"\s*\([^()]*\d[^()]*\)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A plain number with a true minus sign; a dash where it is unknown."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", _MINUS)


def count(value: int | None) -> str:
    """A whole number with thousands separated."""
    return MISSING if value is None else f"{value:,}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share, 0 to 1, as a percentage."""
    return MISSING if share is None or not math.isfinite(share) else f"{number(100 * share, digits)}{_NO_BREAK}%"


def basis_points(fraction: float | None, digits: int = 1) -> str:
    """A return, a fraction of notional, in signed basis points (hundredths of a percent)."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return number(fraction * _BASIS_POINTS, digits, signed=True)


def basis_points_interval(interval: Interval | None, digits: int = 1) -> str:
    """An interval of returns in basis points."""
    if interval is None:
        return MISSING
    return f"{basis_points(interval.low, digits)} to {basis_points(interval.high, digits)}"


def number_interval(interval: Interval | None, digits: int = 2) -> str:
    """An interval of plain numbers."""
    if interval is None:
        return MISSING
    return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def percent_interval(interval: Interval | None) -> str:
    """An interval of shares as percentages."""
    return MISSING if interval is None else f"{percent(interval.low)} to {percent(interval.high)}"


def duration(seconds: float | None) -> str:
    """A duration in the unit that fits it."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def milliseconds(value: float | None, digits: int = 3) -> str:
    """A latency in milliseconds, to some significant digits."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.0f} ms" if value >= 100 else f"{value:.{digits}g} ms"


def compact(value: float) -> str:
    """A number of an axis: large ones with thousands separated, small ones to three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def megabytes(size_bytes: float | None) -> str:
    """A size in megabytes (1,000,000 bytes), to what is worth reading."""
    if size_bytes is None:
        return MISSING
    value = size_bytes / 1e6
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{number(value, digits)}{_NO_BREAK}MB"


def horizon(minutes: int) -> str:
    """A horizon of an outcome."""
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:g} h"


def moment(timestamp: datetime) -> str:
    """Day and minute of an aware UTC timestamp."""
    return timestamp.strftime("%Y-%m-%d %H:%M")


def long_date(timestamp: datetime) -> str:
    """A day as a person writes it, such as 21 June 2021."""
    return f"{timestamp.day} {timestamp:%B %Y}"


def regime_name(regime: str) -> str:
    """A regime in lower-case words: MEAN_REVERTING is mean reverting."""
    return regime.replace("_", " ").lower()


def p_value(value: float | None) -> str:
    """A p- or q-value; tiny ones as a bound."""
    if value is None or not math.isfinite(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def plural(amount: int, noun: str, nouns: str | None = None) -> str:
    """An amount with its noun: 1 pattern, 2 patterns."""
    return f"{amount:,} {noun if amount == 1 else nouns or noun + 's'}"


def listing(names: list[str], most: int = 4) -> str:
    """Names in a row; more than `most` are counted."""
    shown = names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]
    if len(shown) <= 1:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def first_sentence(text: str) -> str:
    """The first sentence of a text; a full stop within a number does not end one."""
    return _SENTENCE_END.split(text.strip(), maxsplit=1)[0]


def without_ranges(text: str) -> str:
    """The text without the ranges of figures that stand in brackets, for where the gist is enough."""
    return _RANGE.sub("", text)


def short_id(identifier: str) -> str:
    """The beginning of a long id; enough to find it."""
    return identifier if len(identifier) <= _LONGEST_IDENTIFIER else f"{identifier[:_LONGEST_IDENTIFIER]}…"
