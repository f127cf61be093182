"""Positions and costs over arrays: the bookkeeping of `agents.simulation` for many decisions at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray, IntArray
from memory.errors import InvalidRecordError

SHORT, FLAT, LONG, HOLD = range(4)
"""Discrete actions, as `memory.records.Action.index`."""
POSITIONS = (-1.0, 0.0, 1.0)
"""Exposures that discrete actions lead to."""


@dataclass(frozen=True, slots=True, eq=False)
class Book:
    """What positions brought; all arrays of shape (n,), fractions of a constant notional.

    Attributes
    ----------
    before, after
        Exposure before and after each decision.
    gross, cost, net
        Over the time until the next decision; net = gross - cost. What closing costs at the end is in the last cost.
    """

    before: FloatArray
    after: FloatArray
    gross: FloatArray
    cost: FloatArray
    net: FloatArray


def book(
    after: FloatArray,
    move: FloatArray,
    rate: FloatArray,
    starts: npt.NDArray[np.bool_],
    *,
    close: npt.NDArray[np.bool_] | None = None,
) -> Book:
    """Account for positions, in time order of one product or several after one another.

    Parameters
    ----------
    after
        Exposure after each decision, -1 to 1 of notional, (n,).
    move
        Return of the price until the next decision, (n,).
    rate
        Cost of trading one notional at each decision, a fraction, (n,).
    starts
        Decisions before which the position is flat: the first of each product, or of each episode.
    close
        Decisions at which what is held is sold at once, such as the last of a span; at cost, and with no move after.

    Notes
    -----
    The notional stays constant, so returns add up. Cost: O(n).
    """
    if not len(after) == len(move) == len(rate) == len(starts):
        raise InvalidRecordError(
            f"{len(after)} positions, {len(move)} moves, {len(rate)} rates and {len(starts)} starts do not match.",
            remedy="Give one of each for every decision.",
            field="after",
        )
    if len(after) and not starts[0]:
        raise InvalidRecordError("the first decision does not start flat.", remedy="Mark it.", field="starts")
    held = np.asarray(after, dtype=np.float64)
    if close is not None:
        held = np.where(close, 0.0, held)
    # Zero has one sign, so that equal records are equal bit for bit.
    held = held + 0.0
    before = np.where(starts, 0.0, np.concatenate([[0.0], held[:-1]])[: len(held)]) + 0.0
    gross = held * move + 0.0
    cost = np.abs(held - before) * rate
    return Book(before, held, gross, cost, gross - cost)


def roll(actions: npt.NDArray[np.integer], starts: npt.NDArray[np.bool_]) -> FloatArray:
    """Exposure after each decision of a policy whose action depends on the position that it holds.

    Parameters
    ----------
    actions
        Action that is taken from each of `POSITIONS`, shape (n, 3).
    starts
        As for `book`.
    """
    target = np.array([-1, 0, 1, 9])
    leads = target[actions]
    leads = np.where(leads == 9, np.array([-1, 0, 1])[None, :], leads) + 1
    position, out = 1, []
    for row, start in zip(leads.tolist(), starts.tolist(), strict=True):
        position = row[1] if start else row[position]
        out.append(position)
    return np.array(out, dtype=np.float64) - 1.0


def follow(signal: FloatArray, threshold: float, starts: npt.NDArray[np.bool_]) -> FloatArray:
    """Exposure of a rule: taken where the signal exceeds the threshold, given up where the signal turns against it.

    Parameters
    ----------
    signal
        Forecast return, (n,); NaN says nothing, and what is held is kept.
    threshold
        Least absolute signal that opens a position; infinite never trades.
    """
    position, out = 0.0, []
    for value, start in zip(signal.tolist(), starts.tolist(), strict=True):
        if start:
            position = 0.0
        if value > threshold:
            position = 1.0
        elif value < -threshold:
            position = -1.0
        elif value * position < 0:
            position = 0.0
        out.append(position)
    return np.array(out, dtype=np.float64)


def banded(target: FloatArray, band: float, starts: npt.NDArray[np.bool_]) -> FloatArray:
    """Exposure that follows a target only where it is off by more than a share `band` of the target; (n,)."""
    position, out = 0.0, []
    for value, start in zip(target.tolist(), starts.tolist(), strict=True):
        if start or abs(value - position) > band * max(abs(value), 1e-12):
            position = value
        out.append(position)
    return np.array(out, dtype=np.float64)


def first_of_products(product: IntArray) -> npt.NDArray[np.bool_]:
    """Mask of the first row of each product, rows sorted by product; (n,)."""
    return np.append(True, product[1:] != product[:-1])[: len(product)]


def last_of_products(product: IntArray) -> npt.NDArray[np.bool_]:
    """Mask of the last row of each product, rows sorted by product; (n,)."""
    return np.append(product[1:] != product[:-1], True)[-len(product) :] if len(product) else np.empty(0, np.bool_)
