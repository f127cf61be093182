"""Support of a pattern: how often it occurred, in clock time.

A hundred neighbouring minutes, or three products in one minute, are one occurrence of a market's mood, not a hundred or
three. Occurrences are counted over all products together, as runs of the state that at least an hour without it sets
apart; the effective number counts occurrences whose features share no look-back.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError

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
        Largest number of its states such that any two are at least `look_back_min` apart. After `merged_with` it may
        fall short of that largest number by one for each merge, never exceed it.
    first_ms, last_ms
        First and last time of the state; None where there is none.
    last_effective_ms
        Last time counted in `effective`; what a later window needs to go on counting.
    """

    count: int
    effective: int
    first_ms: int | None
    last_ms: int | None
    last_effective_ms: int | None

    def merged_with(
        self,
        later: Occurrences,
        *,
        separation_min: float = SEPARATION_MINUTES,
        look_back_min: float = LOOK_BACK_MINUTES,
    ) -> Occurrences:
        """Occurrences of both, where all of `later` comes after all of these (the next window).

        `count` equals that of all times counted at once: a run that crosses midnight is one.

        Raises
        ------
        InvalidRecordError
            If `later` begins before these end.
        """
        if self.first_ms is None or self.last_ms is None or self.last_effective_ms is None:
            return later
        if later.first_ms is None or later.last_ms is None or later.last_effective_ms is None:
            return self
        if later.first_ms < self.last_ms:
            raise InvalidRecordError(
                f"the later occurrences begin at {later.first_ms}, before the earlier ones end at {self.last_ms}.",
                remedy="Merge windows in time order.",
                field="later",
            )
        joined = later.first_ms - self.last_ms < separation_min * _MS_PER_MINUTE
        shared = later.first_ms - self.last_effective_ms < look_back_min * _MS_PER_MINUTE
        # With a shared look-back one of the later picks is given up; where it was the only one, nothing is gained.
        gained = later.effective - int(shared)
        return Occurrences(
            count=self.count + later.count - int(joined),
            effective=self.effective + gained,
            first_ms=self.first_ms,
            last_ms=later.last_ms,
            last_effective_ms=later.last_effective_ms if gained else self.last_effective_ms,
        )


NO_OCCURRENCES = Occurrences(count=0, effective=0, first_ms=None, last_ms=None, last_effective_ms=None)


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
    times = np.unique(np.asarray(timestamps_ms, dtype=np.int64))
    if not len(times):
        return NO_OCCURRENCES
    count = 1 + int(np.count_nonzero(np.diff(times) >= separation_min * _MS_PER_MINUTE))
    look_back_ms = look_back_min * _MS_PER_MINUTE
    effective = 0
    taken = position = 0
    while position < len(times):
        effective += 1
        taken = position
        # At least one further, so that a look-back of zero counts every distinct time and ends.
        position = max(int(np.searchsorted(times, times[taken] + look_back_ms, side="left")), taken + 1)
    return Occurrences(
        count=count,
        effective=effective,
        first_ms=int(times[0]),
        last_ms=int(times[-1]),
        last_effective_ms=int(times[taken]),
    )


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
