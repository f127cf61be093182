"""Sums over the outcomes of sets of states: what a cluster, a random ball and a whole partition are described by."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from memory.learning.blocks import BlockSums, block_ids, grouped_block_means, grouped_block_sums
from memory.learning.outcomes import LONG_NET, N_MEASURES, SHORT_NET, Outcomes
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.learning.statistics import Drawdown, Moments
from memory.records import Side
from memory.tables import ExperienceTable, Floats, Ints, StateTable

N_RETURNS = SHORT_NET + 1
"""Measures that are returns, and have Sharpe ratios: gross, net long, net short; they come first."""
NET = slice(LONG_NET, SHORT_NET + 1)
"""Columns of the net returns: long, short."""

_SIDES = {1: Side.BUY, -1: Side.SELL, 0: Side.HOLD}


class OutcomeSums(msgspec.Struct, frozen=True, eq=False):
    """Sums over the outcomes of one set of states, mergeable over windows; H horizons (`predictions.HORIZONS`).

    Attributes
    ----------
    blocks
        (H, 5): sums over clock blocks of each of the measures of `outcomes`.
    block_returns
        (H, 3): moments of the mean return in each block, one occurrence a block: gross, net long, net short.
    wins
        int64 (H, 2): states with a net return above 0, long and short.
    """

    blocks: BlockSums
    block_returns: Moments
    wins: npt.NDArray[np.int64]

    def merged_with(self, other: OutcomeSums) -> OutcomeSums:
        """Sums over both sets, which must not share a block: those of two windows."""
        return OutcomeSums(
            self.blocks.merged_with(other.blocks),
            self.block_returns.merged_with(other.block_returns),
            self.wins + other.wins,
        )

    @classmethod
    def empty(cls) -> OutcomeSums:
        """Sums over nothing."""
        return cls(
            BlockSums.empty((len(HORIZONS), N_MEASURES)),
            Moments.empty((len(HORIZONS), N_RETURNS)),
            np.zeros((len(HORIZONS), 2), dtype=np.int64),
        )


class RealisedSums(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent realised with one kind of action in a set of states: rewards, net, fractions of notional."""

    n: int
    total: float
    total_squared: float
    wins: int

    def merged_with(self, other: RealisedSums) -> RealisedSums:
        """Sums over both."""
        return RealisedSums(
            n=self.n + other.n,
            total=self.total + other.total,
            total_squared=self.total_squared + other.total_squared,
            wins=self.wins + other.wins,
        )


def outcome_sums(
    outcomes: Outcomes, timestamps_ms: Ints, groups: Ints, n_groups: int, settings: LearningSettings
) -> tuple[list[OutcomeSums], list[Drawdown]]:
    """Sums over the outcomes of many groups of states of one window.

    Parameters
    ----------
    outcomes, timestamps_ms
        Of n states, in canonical order.
    groups
        (n,) group of each, 0 to `n_groups` - 1; negative ones are left out.
    n_groups
        Number of groups.
    settings
        Block lengths.

    Returns
    -------
    One `OutcomeSums` and one `Drawdown` of shape (H, 2) (net block returns, long and short) a group.
    """
    sums: list[BlockSums] = []
    moments: list[list[Moments]] = []
    drawdowns: list[list[Drawdown]] = []
    wins = np.zeros((n_groups, len(HORIZONS), 2), dtype=np.int64)
    grouped = groups >= 0
    for column, horizon in enumerate(HORIZONS):
        values = outcomes.measures[:, column]
        blocks = block_ids(timestamps_ms, settings.block_minutes_of(horizon))
        sums.append(grouped_block_sums(values, blocks, groups, n_groups))
        means = grouped_block_means(values[:, :N_RETURNS], blocks, groups, n_groups)
        moments.append([Moments.of(group_means) for group_means in means])
        drawdowns.append([Drawdown.of(group_means[:, NET]) for group_means in means])
        np.add.at(wins[:, column], groups[grouped], values[grouped, NET] > 0)
    results = [
        OutcomeSums(
            BlockSums.stack([by_horizon[group] for by_horizon in sums]),
            Moments.stack([by_horizon[group] for by_horizon in moments]),
            wins[group],
        )
        for group in range(n_groups)
    ]
    return results, [Drawdown.stack([by_horizon[group] for by_horizon in drawdowns]) for group in range(n_groups)]


def return_sums(
    outcomes: Outcomes, timestamps_ms: Ints, sets: list[Ints], settings: LearningSettings
) -> tuple[BlockSums, Moments]:
    """Block sums (sets, 3) and moments of block returns (sets, 3) at the reference horizon, for sets that may overlap.

    The three are gross, net long and net short returns.
    """
    column = HORIZONS.index(settings.reference_horizon_minutes)
    rows = np.concatenate([*sets, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    groups = np.repeat(np.arange(len(sets)), [len(members) for members in sets]).astype(np.int64)
    values = outcomes.measures[rows, column, :N_RETURNS]
    blocks = block_ids(timestamps_ms[rows], settings.block_minutes_of(settings.reference_horizon_minutes))
    if not sets:
        return BlockSums.empty((0, N_RETURNS)), Moments.empty((0, N_RETURNS))
    sums = grouped_block_sums(values, blocks, groups, len(sets))
    means = grouped_block_means(values, blocks, groups, len(sets))
    return sums, Moments.stack([Moments.of(set_means) for set_means in means])


def realised_sums(
    states: StateTable, groups: Ints, n_groups: int, experiences: ExperienceTable | None
) -> list[dict[str, RealisedSums]]:
    """What agents realised in the states of each group: "agent/SIDE" -> sums of rewards.

    Experiences are joined to states by product and decision time; those with an unknown reward are left out.
    """
    results: list[dict[str, RealisedSums]] = [{} for _ in range(n_groups)]
    if experiences is None or not len(experiences) or not len(states):
        return results
    code_of = {product: code for code, product in enumerate(states.products)}
    codes = np.array([code_of.get(product, -1) for product in experiences.products], dtype=np.int64)
    product = codes[experiences.product]
    # Products are few: a pair of product and time fits one integer without overflow.
    width = len(states.products) + 1
    state_key = states.timestamp_ms * width + states.product
    order = np.argsort(state_key, kind="stable")
    key = experiences.timestamp_ms * width + product
    position = np.minimum(np.searchsorted(state_key[order], key), len(order) - 1)
    found = (product >= 0) & (state_key[order][position] == key) & ~np.isnan(experiences.reward)
    group = np.where(found, groups[order[position]], -1)
    rows = np.flatnonzero(group >= 0)
    cell = (group[rows] * len(experiences.agents) + experiences.agent[rows]) * 3 + experiences.side[rows] + 1
    size = n_groups * len(experiences.agents) * 3
    reward = experiences.reward[rows]
    n = np.bincount(cell, minlength=size)
    total = np.bincount(cell, weights=reward, minlength=size)
    total_squared = np.bincount(cell, weights=reward**2, minlength=size)
    wins = np.bincount(cell, weights=reward > 0, minlength=size)
    for held in np.flatnonzero(n).tolist():
        pair, side = divmod(held, 3)
        number, agent = divmod(pair, len(experiences.agents))
        results[number][f"{experiences.agents[agent]}/{_SIDES[side - 1]}"] = RealisedSums(
            n=int(n[held]), total=float(total[held]), total_squared=float(total_squared[held]), wins=int(wins[held])
        )
    return results


def rank_correlations(features: Floats, names: tuple[str, ...]) -> Floats:
    """Spearman correlations of the features, in order of their sorted names: shape (features, features).

    Rows with a missing value are left out; a feature that does not vary is correlated with nothing.
    """
    order = sorted(range(len(names)), key=names.__getitem__)
    complete = features[:, order][np.isfinite(features).all(axis=1)]
    if len(complete) < 2:
        return np.zeros((len(names), len(names)))
    ranks = stats.rankdata(complete, axis=0)
    deviation = ranks - ranks.mean(axis=0)
    # Sums of products of half-integers: exact in float64, so the order of rows does not matter.
    cross = deviation.T @ deviation
    scale = np.sqrt(np.diag(cross))
    product = np.outer(scale, scale)
    correlation: Floats = np.divide(cross, product, out=np.zeros_like(cross), where=product > 0)
    return correlation
