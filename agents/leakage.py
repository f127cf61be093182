"""Does anything know the future? A market is changed after a time, and whatever was known by then must stay as it was.

Each check computes the same twice, of a market and of one whose candles differ after `as_of`, and compares, value by
value and bit for bit, what belongs to `as_of` or before. What belongs to later times is compared as well: where it did
not change, the check would not have noticed a leak, and says so.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.baselines import baseline_agents
from agents.candles import Candles
from agents.encoder import StateEncoder
from agents.features import GAP_MINUTES, LOOKBACK_MINUTES, MINUTE_MS, compute_features
from agents.fitting import fit_encoder
from agents.market import Market
from agents.replay import MarketReplay
from agents.simulation import simulate
from agents.snapshot import MarketSnapshot
from memory.errors import EncoderError
from memory.records import EpisodicMemory, to_ms
from memory.window import Window

STEP_VOLATILITY = 0.01
"""Standard deviation of a bar's added log return after `as_of`: ten times a usual minute, so that nothing is missed."""
GAP_BEGINS_MINUTES = 2 * GAP_MINUTES
GAP_LASTS_MINUTES = 3 * GAP_MINUTES
"""Bars are missing from so long after `as_of`, for so long."""
AFTER = timedelta(hours=6)
"""How far beyond `as_of` is computed: what looks ahead looks into this."""
AROUND = timedelta(hours=2)
"""How far from `as_of` experiences are compared."""
FIT_DAYS = 1
_LENGTH = ".length"
BY_THE_CLOCK = ("recorded_at",)
"""Fields that the machine's clock fills in when a record is written; no question goes by them."""
ACTING = ("momentum", "random")
"""Agents that act: one by the market, one by chance."""


@dataclass(frozen=True, slots=True)
class LeakCheck:
    """What one comparison found.

    Attributes
    ----------
    name
        What was compared.
    values
        Values that were known as of the time, and compared.
    later
        Values of later times that differ, as they should; None where there are none.
    difference
        The first value known as of the time that differs, and how; empty where none does.
    """

    name: str
    values: int
    later: int | None
    difference: str = ""

    @property
    def verdict(self) -> str:
        """``ok``; ``LEAK``; ``blind`` where a leak could not have been seen: nothing to compare, or nothing changed."""
        if self.difference:
            return "LEAK"
        return "blind" if self.values == 0 or self.later == 0 else "ok"


# --- comparing -------------------------------------------------------------------------------------------------


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each number, text, time or whole array within a value, with the way to it; NaN as None."""
    if isinstance(value, np.ndarray):
        yield path, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if field.name not in BY_THE_CLOCK:
                yield from leaves(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from leaves(value[key], f"{path}[{key}]")
    elif isinstance(value, list | tuple):
        yield f"{path}{_LENGTH}", len(value)
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    elif isinstance(value, enum.Enum):
        yield path, value.value
    elif isinstance(value, float | np.floating) and np.isnan(value):
        yield path, None
    elif value is None or isinstance(value, bool | int | float | str | bytes | datetime | np.generic):
        yield path, value
    else:
        raise TypeError(f"{path or 'the value'} is a {type(value).__name__}, which has no values to compare")


def compared(
    name: str,
    one: Any,
    other: Any,
    later_one: Any = None,
    later_other: Any = None,
    *,
    names: tuple[str, str] = ("", ""),
) -> LeakCheck:
    """Compare what was known as of a time (`one`, `other`), and what belongs to later times (`later_...`).

    `names` are those of the two memories: texts that differ by them alone are equal.
    """
    values, _, said = differences(one, other, names)
    later = None if later_one is None else differences(later_one, later_other, names)[1]
    return LeakCheck(name, values, later, said)


def differences(one: Any, other: Any, names: tuple[str, str] = ("", "")) -> tuple[int, int, str]:
    """How many values two things hold together, how many of them differ, and the first that does, in words."""
    ours = dict(leaves(one))
    theirs = {path: _renamed(value, *names) for path, value in leaves(other)}
    values = different = 0
    said = ""
    for path in [*ours, *(path for path in theirs if path not in ours)]:
        where = path or "the value"
        if path not in ours or path not in theirs:
            there = ours.get(path, theirs.get(path))
            found = size = there.size if isinstance(there, np.ndarray) else 1
            text = f"{where} is there only {'before' if path in ours else 'after'} the change"
        else:
            size, found, text = _compared_leaf(where, ours[path], theirs[path])
        if path.endswith(_LENGTH):
            size = 0  # Two empty answers hold nothing that was compared.
        values, different, said = values + size, different + found, said or text
    return values, different, said


def _renamed(value: Any, ours: str, theirs: str) -> Any:
    return value.replace(theirs, ours) if theirs and isinstance(value, str) else value


def _compared_leaf(where: str, one: Any, other: Any) -> tuple[int, int, str]:
    """Values, those that differ, and the first in words, of one leaf."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        same = type(one) is type(other) and one == other
        return 1, int(not same), "" if same else f"{where} is {one!r}, and {other!r} after the change"
    if one.shape != other.shape:
        return one.size, max(one.size, 1), f"{where} has shape {one.shape}, and {other.shape} after the change"
    unlike = one != other
    if one.dtype.kind == "f":
        unlike &= ~(np.isnan(one) & np.isnan(other))
    rows = np.argwhere(unlike)
    if not len(rows):
        return one.size, 0, ""
    at = tuple(rows[0].tolist())
    return one.size, len(rows), f"{where}{list(at)} is {one[at]!r}, and {other[at]!r} after the change"


# --- changing what comes later ---------------------------------------------------------------------------------


def changed_after(market: Market, as_of: datetime, seed: int) -> Market:
    """The market with other prices, volumes and quotes in all bars that end after `as_of`, and with a gap in them.

    The gap begins `GAP_BEGINS_MINUTES` later, so that there are other bars right after `as_of` to look ahead at.
    """
    rng = np.random.default_rng(seed)
    return Market(market.name, [_changed(item, to_ms(as_of), rng) for item in market.products.values()])


def cut_after(market: Market, as_of: datetime) -> Market:
    """The market as it was at a time: without the bars that end later."""
    end_ms = to_ms(as_of) + 1
    return Market(market.name, [item.between(0, end_ms) for item in market.products.values()])


def _changed(candles: Candles, after_ms: int, rng: np.random.Generator) -> Candles:
    first = int(np.searchsorted(candles.decision_ms, after_ms, side="right"))
    later = len(candles) - first
    factor = np.concatenate([np.ones(first), np.exp(np.cumsum(rng.normal(0.0, STEP_VOLATILITY, later)))])
    widened = np.concatenate([np.ones(first), np.exp(np.abs(rng.normal(0.0, STEP_VOLATILITY, later)))])
    amount = np.concatenate([np.ones(first), np.exp(rng.normal(0.0, 1.0, later))])
    columns: dict[str, npt.NDArray[Any]] = {
        "open": candles.open * factor,
        "close": candles.close * factor,
        "high": candles.high * factor * widened,
        "low": candles.low * factor / widened,
        "volume": candles.volume * amount,
        "bid": candles.bid * factor,
        "ask": candles.ask * factor,
        "bid_size": candles.bid_size * amount,
        "ask_size": candles.ask_size * amount,
    }
    age = (candles.decision_ms - after_ms) / MINUTE_MS
    kept = (age <= GAP_BEGINS_MINUTES) | (age > GAP_BEGINS_MINUTES + GAP_LASTS_MINUTES)
    arrays: dict[str, Any] = {name: values[kept] for name, values in columns.items()}
    return replace(candles, decision_ms=candles.decision_ms[kept], **arrays)


# --- the chain from candles to experiences ---------------------------------------------------------------------


def market_checks(market: Market, as_of: datetime, encoder: StateEncoder, *, seed: int = 0) -> list[LeakCheck]:
    """Check all that follows from candles alone: features, encoders, states, regimes, snapshots, experiences.

    Parameters
    ----------
    market
        The candles, with at least `FIT_DAYS` days before `as_of`.
    as_of
        The time; aware UTC, the end of a bar.
    encoder
        The encoder of the states; known on the day before `as_of`.
    seed
        Of the changes.

    Cost: some 2 s for two products.
    """
    changed, cut = changed_after(market, as_of, seed), cut_after(market, as_of)
    names: list[tuple[str, Callable[[Market], tuple[Any, Any]]]] = [
        ("features", lambda of: _features(of, as_of)),
        ("encoders fitted until then", lambda of: _encoders(of, as_of)),
        ("states and regimes", lambda of: _states(of, as_of, encoder)),
        ("live snapshots", lambda of: _snapshots(of, as_of, encoder)),
    ]
    checks = []
    for name, compute in names:
        known, later = compute(market)
        known_changed, later_changed = compute(changed)
        checks.append(compared(name, known, known_changed, later, later_changed))
        if name != "encoders fitted until then":
            checks.append(compared(f"{name}, nothing after", known, compute(cut)[0]))
    known, later = _experiences(market, as_of, encoder)
    known_changed, later_changed = _experiences(changed, as_of, encoder)
    checks.append(compared("experiences and labels", known, known_changed, later, later_changed))
    # Not even that another bar follows may be told, by an episode that ends.
    checks.append(compared("experiences and labels, nothing after", known, _experiences(cut, as_of, encoder)[0]))
    return checks


def _features(market: Market, as_of: datetime) -> tuple[Any, Any]:
    start_ms, at_ms = to_ms(as_of - AFTER), to_ms(as_of)
    known: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for product_id, candles in market.products.items():
        table = compute_features(candles, start_ms, to_ms(as_of + AFTER))
        past = table.decision_ms <= at_ms
        for held, rows in ((known, past), (later, ~past)):
            held[product_id] = {
                "decision_ms": table.decision_ms[rows],
                "warm": table.warm[rows],
                "trailing_volatility": table.trailing_volatility[rows],
                "values": table.values[rows],
            }
    return known, later


def _encoders(market: Market, as_of: datetime) -> tuple[Any, Any]:
    """An encoder fitted until then, and one fitted until later; the former is refused for an earlier state."""

    def fitted(until: datetime) -> dict[str, Any]:
        encoder = fit_encoder(market, until, since=as_of - timedelta(days=FIT_DAYS), name="leakcheck")
        try:
            encoder.check_as_of(until - timedelta(milliseconds=1))
            refused = False
        except EncoderError:
            refused = True
        return {"id": encoder.id_, "definition": encoder.to_json(), "refused before": refused}

    return fitted(as_of), fitted(as_of + AFTER)


def _states(market: Market, as_of: datetime, encoder: StateEncoder) -> tuple[Any, Any]:
    replay = MarketReplay(market, as_of - AFTER, as_of + AFTER, encoder)
    known: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for product_id in market.product_ids:
        table = replay.product(product_id)
        past = table.decision_ms <= to_ms(as_of)
        for held, rows in ((known, past), (later, ~past)):
            held[product_id] = {
                "decision_ms": table.decision_ms[rows],
                "vectors": table.vectors[rows],
                "price": table.price[rows],
                "spread": table.spread[rows],
                "trailing_volatility": table.trailing_volatility[rows],
                "regime": table.regimes.codes[rows],
                "regime_confidence": table.regimes.confidence[rows],
                # Whether a bar follows the last state is known only when it does.
                "has_next": table.has_next[rows][:-1],
            }
    return known, later


def _snapshots(market: Market, as_of: datetime, encoder: StateEncoder) -> tuple[Any, Any]:
    def states(times: list[datetime]) -> list[Any]:
        return [
            MarketSnapshot.of_market(market, product_id, time).state(encoder)
            for product_id in market.product_ids
            for time in times
            if MarketSnapshot.of_market(market, product_id, time).warm
        ]

    ended = market.span[1] <= as_of
    later = [] if ended else [as_of + timedelta(minutes=minutes) for minutes in (1, GAP_BEGINS_MINUTES)]
    return states([as_of - timedelta(minutes=minutes) for minutes in (0, 1, LOOKBACK_MINUTES)]), states(later)


def _experiences(market: Market, as_of: datetime, encoder: StateEncoder) -> tuple[Any, Any]:
    start, end = Window.containing(as_of - timedelta(milliseconds=1)).start, Window.containing(as_of).end
    agents = [agent for agent in baseline_agents(0) if agent.agent_id in ACTING]
    known: list[EpisodicMemory] = []
    later: list[EpisodicMemory] = []
    for item in simulate(market, start, end, agents, encoder).experiences():
        if abs(item.timestamp - as_of) <= AROUND:
            (known if is_known(item, as_of) else later).append(as_known(item, as_of))
    return known, later


def is_known(experience: EpisodicMemory, as_of: datetime) -> bool:
    """Whether an experience was known at a time."""
    return experience.known_at is not None and experience.known_at <= as_of


def as_known(experience: EpisodicMemory, as_of: datetime) -> EpisodicMemory:
    """The experience as it was known at a time: without an end and a return that were known later, and when."""
    known_at = experience.return_known_at
    if known_at is None or known_at <= as_of:
        return experience
    return replace(experience, terminal=False, cumulative_return=None, return_known_at=None)
