"""Support of a pattern: how often it occurred, in clock time.

A hundred neighbouring minutes, or three products in one minute, are one occurrence of a market's mood, not a hundred or
three. Occurrences are counted over all products together, as runs of the state that at least an hour without it sets
apart; the effective number counts sights of it whose features share no look-back: a long occurrence may hold several.

All is counted in whole clock minutes, of which a window keeps the set (a bit a minute): windows that are merged one
after the other thus give exactly the numbers that all their times at once would give.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError
from memory.tables import Ints

SEPARATION_MINUTES = 60.0
"""Time without the state that makes the next sight of it a new occurrence."""
LOOK_BACK_MINUTES = 240.0
"""Longest look-back of the features: states closer than this share data."""
MIN_OCCURRENCES = 3
"""Occurrences below which a cluster is no pattern by default."""

_MS_PER_MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class Occurrences:
    """How often a kind of state occurred. Times are milliseconds since 1970.

    Attributes
    ----------
    count
        Runs of the state, two runs being at least `separation_min` apart (last of one to first of the next).
    effective
        Largest number of its minutes such that any two are at least `look_back_min` apart.
    first_ms, last_ms
        First and last time of the state; None where there is none.
    last_effective_ms
        Begin of the last minute counted in `effective`; what a later window needs to go on counting.
    minutes
        Clock minutes that hold the state: a bit each, the most significant of the first byte being the minute of
        `first_ms`. Kept for one window (180 bytes a day at most); empty for what was merged of several.
    """

    count: int
    effective: int
    first_ms: int | None
    last_ms: int | None
    last_effective_ms: int | None
    minutes: bytes = b""

    def merged_with(
        self,
        later: Occurrences,
        *,
        separation_min: float = SEPARATION_MINUTES,
        look_back_min: float = LOOK_BACK_MINUTES,
    ) -> Occurrences:
        """Occurrences of both, where all of `later` comes after all of these (the next window).

        Exact: `count` and `effective` equal those of all times counted at once. A run that crosses midnight is one, and
        the choice of independent minutes goes on where it stopped.

        Parameters
        ----------
        later
            Occurrences of one window, as `occurrences` counts them, with the same separation and look-back.

        Raises
        ------
        InvalidRecordError
            If `later` begins before these end, or was merged of several windows itself.
        """
        if self.first_ms is None or self.last_ms is None or self.last_effective_ms is None:
            return later
        if later.first_ms is None or later.last_ms is None:
            return self
        if later.first_ms < self.last_ms:
            raise InvalidRecordError(
                f"the later occurrences begin at {later.first_ms}, before the earlier ones end at {self.last_ms}.",
                remedy="Merge windows in time order.",
                field="later",
            )
        if not later.minutes:
            raise InvalidRecordError(
                f"the later occurrences, from {later.first_ms}, do not say in which minutes they were.",
                remedy="Merge windows one after the other: what was merged can only come first.",
                field="later",
            )
        joined = _minute(later.first_ms) - _minute(self.last_ms) < separation_min
        taken = _independent(_held_minutes(later), look_back_min, after=_minute(self.last_effective_ms))
        return Occurrences(
            count=self.count + later.count - int(joined),
            effective=self.effective + len(taken),
            first_ms=self.first_ms,
            last_ms=later.last_ms,
            last_effective_ms=taken[-1] * _MS_PER_MINUTE if taken else self.last_effective_ms,
        )


NO_OCCURRENCES = Occurrences(count=0, effective=0, first_ms=None, last_ms=None, last_effective_ms=None)


def merged_occurrences(
    windows: Iterable[Occurrences],
    *,
    separation_min: float = SEPARATION_MINUTES,
    look_back_min: float = LOOK_BACK_MINUTES,
) -> Occurrences:
    """Occurrences over windows in time order, each as `occurrences` counted it; see `Occurrences.merged_with`."""
    merged = NO_OCCURRENCES
    for later in windows:
        merged = merged.merged_with(later, separation_min=separation_min, look_back_min=look_back_min)
    return merged


def occurrences(
    timestamps_ms: npt.ArrayLike,
    *,
    separation_min: float = SEPARATION_MINUTES,
    look_back_min: float = LOOK_BACK_MINUTES,
) -> Occurrences:
    """Count the occurrences of one kind of state.

    Parameters
    ----------
    timestamps_ms
        Decision times of its states, all products together, in any order, repeats allowed; milliseconds since 1970.
        Times within one clock minute are one time.
    separation_min
        Minutes without the state between two occurrences.
    look_back_min
        Minutes between two effectively independent states.

    Returns
    -------
    `Occurrences`; all zero and None without timestamps. Cost: O(n log n).

    Notes
    -----
    The effective number is the classic interval-scheduling optimum: taking the earliest time that is far enough from
    the last one taken is never worse than any other choice.
    """
    times = np.asarray(timestamps_ms, dtype=np.int64)
    if not times.size:
        return NO_OCCURRENCES
    minutes = np.unique(times // _MS_PER_MINUTE)
    taken = _independent(minutes, look_back_min)
    held = np.zeros(int(minutes[-1] - minutes[0]) + 1, dtype=np.bool_)
    held[minutes - minutes[0]] = True
    return Occurrences(
        count=1 + int(np.count_nonzero(np.diff(minutes) >= separation_min)),
        effective=len(taken),
        first_ms=int(times.min()),
        last_ms=int(times.max()),
        last_effective_ms=taken[-1] * _MS_PER_MINUTE,
        minutes=np.packbits(held).tobytes(),
    )


def _minute(time_ms: int) -> int:
    return time_ms // _MS_PER_MINUTE


def _held_minutes(window: Occurrences) -> Ints:
    """Clock minutes since 1970 of one window's occurrences, ascending."""
    bits = np.unpackbits(np.frombuffer(window.minutes, dtype=np.uint8))
    first = 0 if window.first_ms is None else _minute(window.first_ms)
    return first + np.flatnonzero(bits).astype(np.int64)


def _independent(minutes: Ints, look_back_min: float, *, after: int | None = None) -> list[int]:
    """The earliest minutes, one by one, that lie at least a look-back after the one taken before (`after` at first)."""
    position = 0 if after is None else int(np.searchsorted(minutes, after + look_back_min, side="left"))
    taken: list[int] = []
    while position < len(minutes):
        taken.append(int(minutes[position]))
        # At least one further, so that a look-back of zero counts every distinct minute and ends.
        position = max(int(np.searchsorted(minutes, taken[-1] + look_back_min, side="left")), position + 1)
    return taken


def occurrences_by_label(
    timestamps_ms: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    n_labels: int,
    separation_min: float = SEPARATION_MINUTES,
    look_back_min: float = LOOK_BACK_MINUTES,
) -> list[Occurrences]:
    """Count the occurrences of each cluster.

    Parameters
    ----------
    timestamps_ms, labels
        (states,) decision times and cluster labels; negative labels are noise and left out.
    n_labels
        Number of clusters, labelled 0 to `n_labels` - 1.

    Returns
    -------
    One `Occurrences` a cluster, in order of labels. Cost: O(n log n).
    """
    times = np.asarray(timestamps_ms, dtype=np.int64)
    groups = np.asarray(labels, dtype=np.int64)
    if times.shape != groups.shape or times.ndim != 1:
        raise InvalidRecordError(
            f"timestamps have the shape {times.shape}, labels {groups.shape}.",
            remedy="Give one label for each timestamp.",
            field="labels",
        )
    if len(groups) and groups.max() >= n_labels:
        raise InvalidRecordError(
            f"label {int(groups.max())} is not below n_labels {n_labels}.",
            remedy="Give the number of clusters that the labels come from.",
            field="n_labels",
        )
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(n_labels + 1))
    return [
        occurrences(times[order[start:end]], separation_min=separation_min, look_back_min=look_back_min)
        for start, end in itertools.pairwise(bounds)
    ]
