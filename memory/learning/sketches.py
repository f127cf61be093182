"""Quantiles that merge exactly: counts in bins that are fixed once and for all.

Bins grow geometrically on both sides of zero, as in C. Masson, J. E. Rim and H. K. Lee, "DDSketch: A Fast and
Fully-Mergeable Quantile Sketch with Relative-Error Guarantees" (VLDB 2019): a quantile is off by at most
`RELATIVE_ERROR` of its value, whatever the scale of the feature. Counts are integers, so the order in which sketches
are merged cannot matter, not even in the last bit.
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from memory.tables import Floats, Ints

RELATIVE_ERROR = 0.04
"""Largest relative error of a quantile: sentences name ranges to two digits."""
LEAST = 1e-6
"""Magnitudes below this are one bin around zero."""
MOST = 1e6
"""Magnitudes above this share the outermost bins."""

_LOG_BASE = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
BINS_A_SIDE = math.ceil(math.log(MOST / LEAST) / _LOG_BASE)
BINS = 2 * BINS_A_SIDE + 1


def bin_numbers(values: npt.ArrayLike) -> Ints:
    """Bin of each value, 0 to `BINS` - 1, ascending with the value; -1 for NaN. Shape as the input."""
    v = np.asarray(values, dtype=np.float64)
    magnitude = np.abs(v)
    missing = np.isnan(v)
    scaled = np.log(np.clip(np.where(missing, LEAST, magnitude), LEAST, MOST) / LEAST) / _LOG_BASE
    step = np.where(magnitude < LEAST, 0, np.clip(np.ceil(scaled), 1, BINS_A_SIDE)).astype(np.int64)
    numbers: Ints = BINS_A_SIDE + np.where(v < 0, -step, step)
    return np.where(missing, -1, numbers)


def _bin_values() -> Floats:
    step = np.arange(1, BINS_A_SIDE + 1)
    # The value that is off by the same share at both ends of its bin.
    positive = LEAST * np.exp(_LOG_BASE * step) * (1 - RELATIVE_ERROR)
    return np.concatenate([-positive[::-1], [0.0], positive])


BIN_VALUES: Floats = _bin_values()
"""Value that stands for each bin."""


class FeatureSketch(msgspec.Struct, frozen=True, eq=False):
    """Distribution of each of several named features.

    Attributes
    ----------
    features
        Names, sorted.
    cells
        int32, sorted: feature position * BINS + bin, for bins that hold any value.
    counts
        int64: values in each cell.
    """

    features: tuple[str, ...]
    cells: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]

    def merged_with(self, other: FeatureSketch) -> FeatureSketch:
        """Distribution of both samples together; features of either, exact."""
        names = self.features
        left, right = self.cells.astype(np.int64), other.cells.astype(np.int64)
        if other.features != names:
            names = tuple(sorted({*self.features, *other.features}))
            left, right = _moved(left, self.features, names), _moved(right, other.features, names)
        cells, inverse = np.unique(np.concatenate([left, right]), return_inverse=True)
        counts = np.zeros(len(cells), dtype=np.int64)
        np.add.at(counts, inverse, np.concatenate([self.counts, other.counts]))
        return FeatureSketch(names, cells.astype(np.int32), counts)

    def dense(self, features: tuple[str, ...] | None = None) -> Ints:
        """Counts as an array (features, BINS), for the given features or the sketch's own."""
        names = self.features if features is None else features
        table = np.zeros((len(self.features), BINS), dtype=np.int64)
        table.reshape(-1)[self.cells] = self.counts
        if names == self.features:
            return table
        chosen = np.zeros((len(names), BINS), dtype=np.int64)
        for row, name in enumerate(names):
            if name in self.features:
                chosen[row] = table[self.features.index(name)]
        return chosen

    def quantiles(self, shares: npt.ArrayLike) -> Floats:
        """Quantiles of every feature: (features, shares), NaN for a feature without values."""
        return quantiles_of(self.dense(), shares)

    @classmethod
    def empty(cls, features: tuple[str, ...] = ()) -> FeatureSketch:
        """Sketch of no value."""
        return cls(tuple(sorted(features)), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64))


def grouped_sketches(
    values: npt.ArrayLike, features: tuple[str, ...], groups: npt.ArrayLike, n_groups: int
) -> list[FeatureSketch]:
    """Sketches of many groups of rows at once.

    Parameters
    ----------
    values
        (n, features); NaN is left out.
    features
        Names of the columns, in any order.
    groups
        (n,) group of each row, 0 to `n_groups` - 1; negative ones are left out.
    n_groups
        Number of groups.

    Returns
    -------
    One `FeatureSketch` a group. Cost: O(n features).
    """
    order = sorted(range(len(features)), key=features.__getitem__)
    names = tuple(features[position] for position in order)
    if not names:
        return [FeatureSketch.empty() for _ in range(n_groups)]
    rows = np.flatnonzero(np.asarray(groups) >= 0)
    bins = bin_numbers(np.asarray(values, dtype=np.float64)[rows][:, order])
    width = len(names) * BINS
    cells = np.arange(len(names))[None, :] * BINS + bins
    keys = np.asarray(groups, dtype=np.int64)[rows][:, None] * width + cells
    held, counts = np.unique(keys[bins >= 0], return_counts=True)
    bounds = np.searchsorted(held, np.arange(n_groups + 1) * width)
    return [
        FeatureSketch(names, (held[start:end] - group * width).astype(np.int32), counts[start:end].astype(np.int64))
        for group, (start, end) in enumerate(pairwise(bounds))
    ]


def quantiles_of(counts: npt.ArrayLike, shares: npt.ArrayLike) -> Floats:
    """Quantiles of dense bin counts (..., BINS): shape (..., shares), within `RELATIVE_ERROR` of the sample's.

    A share q names the value of rank floor(q (n - 1)), counted from 0 (numpy's ``lower`` method).
    """
    table = np.asarray(counts, dtype=np.int64)
    wanted = np.atleast_1d(np.asarray(shares, dtype=np.float64))
    cumulative = np.cumsum(table, axis=-1)
    total = cumulative[..., -1]
    result = np.full((*total.shape, len(wanted)), np.nan)
    for position, share in enumerate(wanted):
        # A hair above, because q (n - 1) of a whole rank may come out just below it.
        rank = np.floor(share * (total - 1) + 1e-9)
        found = (cumulative <= rank[..., None]).sum(axis=-1)
        result[..., position] = np.where(total > 0, BIN_VALUES[np.minimum(found, BINS - 1)], np.nan)
    return result


def _moved(cells: Ints, old: tuple[str, ...], new: tuple[str, ...]) -> Ints:
    positions = np.array([new.index(name) for name in old], dtype=np.int64)
    if not len(cells):
        return cells
    return positions[cells // BINS] * BINS + cells % BINS
