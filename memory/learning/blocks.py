"""Means of minutes that are not independent: sums over clock blocks, mergeable, and intervals that count blocks.

Neighbouring minutes share their market, and so do products in one minute. All states of one clock block are therefore
one cluster in the sense of A. C. Cameron and D. L. Miller, "A Practitioner's Guide to Cluster-Robust Inference",
Journal of Human Resources 50 (2015). With S_b the sum and n_b the number of values in block b, B blocks, N values and
mean m = sum(S_b) / N, the variance of the mean is

    B / (B - 1) * sum((S_b - n_b m)^2) / N^2,   sum((S_b - n_b m)^2) = sum(S_b^2) - 2 m sum(n_b S_b) + m^2 sum(n_b^2).

Six sums are thus enough; a seventh keeps the variance of the values themselves. Windows begin and end at block edges,
so blocks of different windows are different blocks and sums over windows simply add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from memory.errors import InvalidRecordError
from memory.tables import Floats, Ints

MS_PER_MINUTE = 60_000


class BlockSums(msgspec.Struct, frozen=True, eq=False):
    """Sums over blocks; all arrays have one shape, an element of which is one mean (a horizon, an action, ...).

    Attributes
    ----------
    n, blocks, n_squared
        int64: values, blocks that hold any, sum of n_b^2.
    total, total_squared, cross
        float64: sums of S_b, S_b^2 and n_b S_b.
    squares
        float64: sum of the squared values themselves, for their variance.
    """

    n: npt.NDArray[np.int64]
    blocks: npt.NDArray[np.int64]
    n_squared: npt.NDArray[np.int64]
    total: npt.NDArray[np.float64]
    total_squared: npt.NDArray[np.float64]
    cross: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape that all arrays have."""
        return self.n.shape

    def __getitem__(self, index: object) -> BlockSums:
        """The sums of some elements; any numpy index."""
        return BlockSums(*(np.asarray(getattr(self, name)[index]) for name in self.__struct_fields__))

    def merged_with(self, other: BlockSums) -> BlockSums:
        """Sums over both, where no block is in both; exact up to rounding."""
        # asarray, because sums of arrays of shape () are scalars.
        return BlockSums(*(np.asarray(getattr(self, name) + getattr(other, name)) for name in self.__struct_fields__))

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> BlockSums:
        """Sums over nothing."""
        counts, sums = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        return cls(counts, counts, counts, sums, sums, sums, sums)

    @classmethod
    def stack(cls, parts: Sequence[BlockSums]) -> BlockSums:
        """Sums of equal shape along a new first axis."""
        return cls(*(np.stack([getattr(part, name) for part in parts]) for name in cls.__struct_fields__))


def block_ids(timestamps_ms: npt.ArrayLike, block_minutes: int) -> Ints:
    """Number of the clock block, counted from 1970, that each decision time falls into; shape as the input."""
    ids: Ints = np.asarray(timestamps_ms, dtype=np.int64) // (block_minutes * MS_PER_MINUTE)
    return ids


def block_sums(values: npt.ArrayLike, blocks: npt.ArrayLike) -> BlockSums:
    """Sums of one group of values; see `grouped_block_sums`. Shape (columns,), or () for one-dimensional values."""
    columns = np.asarray(values, dtype=np.float64)
    grouped = grouped_block_sums(columns, blocks, np.zeros(len(columns), dtype=np.int64), 1)
    return grouped[0]


def grouped_block_sums(values: npt.ArrayLike, blocks: npt.ArrayLike, groups: npt.ArrayLike, n_groups: int) -> BlockSums:
    """Sums of many groups of values at once.

    Parameters
    ----------
    values
        (n,) or (n, columns); NaN is left out, column by column.
    blocks
        (n,) block of each value, from `block_ids`.
    groups
        (n,) group of each value, 0 to `n_groups` - 1; negative ones are left out.
    n_groups
        Number of groups.

    Returns
    -------
    `BlockSums` of shape (n_groups,) or (n_groups, columns). Values are added in the given order, so the same rows in
    the same order give the same bits. Cost: O(n log n + n columns).
    """
    columns, cells = _cells(values, blocks, groups)
    parts = [_column_sums(column, cells, n_groups) for column in columns.T]
    stacked = BlockSums(
        *(np.stack([getattr(part, name) for part in parts], axis=-1) for name in BlockSums.__struct_fields__)
    )
    return stacked[:, 0] if np.ndim(values) == 1 else stacked


def grouped_block_means(
    values: npt.ArrayLike, blocks: npt.ArrayLike, groups: npt.ArrayLike, n_groups: int
) -> list[Floats]:
    """Mean of the values in each block, in time order: for each group an array (blocks, columns), NaN where none is.

    Parameters as for `grouped_block_sums`. What Sharpe ratios and drawdowns are made of: one occurrence a block.
    """
    columns, cells = _cells(values, blocks, groups)
    means = np.full((cells.n_cells, columns.shape[1]), np.nan)
    for position, column in enumerate(columns.T):
        count, total = _cell_sums(column, cells)
        held = count > 0
        means[held, position] = total[held] / count[held]
    bounds = np.searchsorted(cells.group_of_cell, np.arange(n_groups + 1))
    return [means[start:end] for start, end in pairwise(bounds)]


class _Cells(msgspec.Struct, frozen=True, eq=False):
    """Cells are (group, block) pairs that hold any row, in order of group and block."""

    rows: Ints
    cell_of_row: Ints
    group_of_cell: Ints
    n_cells: int


def _cells(values: npt.ArrayLike, blocks: npt.ArrayLike, groups: npt.ArrayLike) -> tuple[Floats, _Cells]:
    columns = np.asarray(values, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    block, group = np.asarray(blocks, dtype=np.int64), np.asarray(groups, dtype=np.int64)
    if not len(columns) == len(block) == len(group):
        raise InvalidRecordError(
            f"{len(columns)} values, {len(block)} blocks and {len(group)} groups do not belong together.",
            remedy="Give one block and one group for each value.",
            field="blocks",
        )
    rows = np.flatnonzero(group >= 0)
    block, group = block[rows], group[rows]
    first = int(block.min()) if len(block) else 0
    width = int(block.max()) - first + 1 if len(block) else 1
    keys, cell_of_row = np.unique(group * width + (block - first), return_inverse=True)
    cells = _Cells(rows, cell_of_row.astype(np.int64), keys // width, len(keys))
    return columns, cells


def _cell_sums(column: Floats, cells: _Cells) -> tuple[Ints, Floats]:
    values = column[cells.rows]
    known = ~np.isnan(values)
    where = cells.cell_of_row[known]
    count = np.bincount(where, minlength=cells.n_cells).astype(np.int64)
    total = np.bincount(where, weights=values[known], minlength=cells.n_cells).astype(np.float64)
    return count, total


def _column_sums(column: Floats, cells: _Cells, n_groups: int) -> BlockSums:
    count, total = _cell_sums(column, cells)
    _, squares = _cell_sums(column**2, cells)

    def added(cell_values: Ints | Floats | npt.NDArray[np.bool_]) -> Floats:
        return np.bincount(cells.group_of_cell, weights=cell_values, minlength=n_groups).astype(np.float64)

    # Counts are far below 2^53, so their float sums are exact.
    return BlockSums(
        n=added(count).astype(np.int64),
        blocks=added(count > 0).astype(np.int64),
        n_squared=added(count**2).astype(np.int64),
        total=added(total),
        total_squared=added(total**2),
        cross=added(count * total),
        squares=added(squares),
    )


# --- what the sums say ---------------------------------------------------------------------------------------


def block_mean(sums: BlockSums) -> Floats:
    """Mean over values; NaN where there is none. Shape as the sums."""
    mean: Floats = np.divide(sums.total, sums.n, out=np.full(sums.shape, np.nan), where=sums.n > 0)
    return mean


def residual_sum(sums: BlockSums) -> Floats:
    """sum((S_b - n_b m)^2) about the mean m; 0 where there is no value. Shape as the sums."""
    mean = np.nan_to_num(block_mean(sums))
    residual = sums.total_squared - 2 * mean * sums.cross + mean**2 * sums.n_squared
    return np.maximum(residual, 0.0)


def value_variance(sums: BlockSums) -> Floats:
    """Variance of the values themselves, as if they were independent; NaN under 2 values. Shape as the sums."""
    mean = np.nan_to_num(block_mean(sums))
    centred = np.maximum(sums.squares - sums.n * mean**2, 0.0)
    variance: Floats = np.divide(centred, sums.n - 1.0, out=np.full(sums.shape, np.nan), where=sums.n > 1)
    return variance


def block_variance(sums: BlockSums) -> Floats:
    """Cluster-robust variance of the mean; NaN under 2 blocks. Shape as the sums."""
    known = sums.blocks > 1
    scale = np.divide(sums.blocks, sums.blocks - 1.0, out=np.full(sums.shape, np.nan), where=known)
    variance: Floats = scale * residual_sum(sums) / np.maximum(sums.n, 1).astype(np.float64) ** 2
    return variance


def standard_error(sums: BlockSums) -> Floats:
    """Cluster-robust standard error of the mean; NaN under 2 blocks. Shape as the sums."""
    return np.sqrt(block_variance(sums))


def block_interval(sums: BlockSums, *, confidence: float = 0.95, min_blocks: int = 8) -> tuple[Floats, Floats]:
    """Ends of the two-sided interval of the mean: Student's t with blocks - 1 degrees of freedom.

    Parameters
    ----------
    sums
        Sums over blocks.
    confidence
        Coverage of the interval.
    min_blocks
        Fewer blocks give no interval.

    Returns
    -------
    Lower and upper ends, each of the sums' shape; NaN where there is no interval.
    """
    judged = sums.blocks >= max(min_blocks, 2)
    freedom = np.where(judged, sums.blocks - 1, 1)
    reach = np.where(judged, stats.t.ppf(0.5 + confidence / 2, freedom) * standard_error(sums), np.nan)
    mean = block_mean(sums)
    return mean - reach, mean + reach
