"""Quality of an experience: how surprising its reward was, as a percentile among what was known before it.

quality = percentile rank, among the trailing 30 days and past only, of |reward - expected reward of that product and
regime so far|. Surprising losses count as much as surprising gains. *Past* is strict: an experience is compared with
rewards that were known before its own, so experiences known at the same time cannot see one another, and neither their
order nor the way they were batched changes anything.

Earlier windows enter as a `QualitySummary` each: the rewards by product and regime, and how often which surprise
occurred, in the bins of `sketches`. A summary's surprises are taken against its own window alone, so that consolidating
a window again touches no other window's summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.learning.sketches import BINS_A_SIDE, bin_numbers
from memory.records import REGIMES, EpisodicMemory, to_ms
from memory.tables import ExperienceTable, Floats, Ints
from memory.window import Window

QUALITY = "quality"
"""Kind of a window's summaries that hold it."""
QUALITY_VERSION = "1"
"""Version of the definition; raise it where the same rewards would get another quality."""

_REGIME_COUNT = len(REGIMES)
_SURPRISE_BINS = BINS_A_SIDE + 1
_GROUPS_AT_ONCE = 2048
"""Distinct times whose counts are held at once: 6 MB."""
_MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class QualitySettings:
    """Settings of the quality.

    Attributes
    ----------
    trailing_days
        Days before an experience whose windows it is compared with.
    """

    trailing_days: int = 30


DEFAULT_SETTINGS = QualitySettings()


@dataclass(frozen=True, slots=True)
class Rewards:
    """Rewards of experiences of one source, in any order.

    Attributes
    ----------
    source
        live, replay or backtest.
    products
        Product ids; `product` holds indices into it.
    product, regime, known_at_ms
        int64 (n,): product, code in REGIMES, time at which the reward was known.
    reward
        float64 (n,), fractions of notional.
    """

    source: str
    products: tuple[str, ...]
    product: Ints
    regime: Ints
    known_at_ms: Ints
    reward: Floats

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def of_table(cls, experiences: ExperienceTable) -> Rewards:
        """Rewards of a table."""
        return cls(
            source=experiences.source,
            products=experiences.products,
            product=experiences.product,
            regime=experiences.regime,
            known_at_ms=experiences.known_at_ms,
            reward=experiences.reward,
        )

    @classmethod
    def of_memories(cls, memories: Sequence[EpisodicMemory]) -> Rewards:
        """Rewards of records of one source.

        Raises
        ------
        InvalidRecordError
            For a record without `known_at`, of another source than the first, or of an unknown regime.
        """
        products = tuple(sorted({memory.product_id for memory in memories}))
        positions = {product: position for position, product in enumerate(products)}
        known, regimes = [], []
        for memory in memories:
            if memory.known_at is None:
                raise InvalidRecordError(
                    f"experience {memory.memory_id or memory.agent_id!r} has no known_at.",
                    remedy="Set the time at which its reward existed; a store sets it to the time of recording.",
                    field="known_at",
                )
            if memory.source != memories[0].source:
                raise InvalidRecordError(
                    f"experiences of {memories[0].source!r} and {memory.source!r} stand in one batch.",
                    remedy="Score each source on its own.",
                    field="source",
                )
            if memory.regime not in REGIMES:
                raise InvalidRecordError(
                    f"regime {memory.regime!r} is not known.",
                    remedy=f"Use one of {', '.join(REGIMES)}.",
                    field="regime",
                )
            known.append(to_ms(memory.known_at))
            regimes.append(REGIMES.index(memory.regime))
        return cls(
            source=memories[0].source if memories else "",
            products=products,
            product=np.array([positions[memory.product_id] for memory in memories], dtype=np.int64),
            regime=np.array(regimes, dtype=np.int64),
            known_at_ms=np.array(known, dtype=np.int64),
            reward=np.array([memory.reward for memory in memories], dtype=np.float64),
        )


class QualitySummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Rewards and surprises of one source in one window.

    Attributes
    ----------
    source, window_start_ms, window_end_ms
        What it covers.
    products
        Product ids, sorted; the rows of `count` and `total`.
    count, total
        int64 and float64 (products, K): experiences and the sum of their rewards, by product and regime.
    surprises
        int64 (bins,): how often a surprise of which size occurred.
    late
        Experiences left out since their reward was known only after the window had ended: to the windows that follow
        they were no past.
    """

    source: str
    window_start_ms: int
    window_end_ms: int
    products: tuple[str, ...]
    count: Ints
    total: Floats
    surprises: Ints
    late: int


def summarise_quality(experiences: ExperienceTable, window: Window) -> QualitySummary:
    """Condense the rewards of one window.

    Parameters
    ----------
    experiences
        All experiences of the window, of one source.
    window
        The window.

    Returns
    -------
    A summary that depends on this window alone. Cost: O(n log n).
    """
    end_ms = to_ms(window.end)
    punctual = experiences.known_at_ms <= end_ms
    rewards = Rewards.of_table(experiences.take(punctual))
    cells, products = _cells([rewards])
    size = len(products) * _REGIME_COUNT
    nothing = np.zeros(size)
    surprise = _surprises(cells[0], rewards.known_at_ms, rewards.reward, nothing, nothing)
    order = _canonical(rewards)
    return QualitySummary(
        source=experiences.source,
        window_start_ms=to_ms(window.start),
        window_end_ms=end_ms,
        products=products,
        count=np.bincount(cells[0], minlength=size).reshape(-1, _REGIME_COUNT).astype(np.int64),
        total=np.bincount(cells[0][order], weights=rewards.reward[order], minlength=size)
        .reshape(-1, _REGIME_COUNT)
        .astype(np.float64),
        surprises=np.bincount(_bins(surprise), minlength=_SURPRISE_BINS).astype(np.int64),
        late=int(len(experiences) - punctual.sum()),
    )


def score_quality(
    batch: Rewards,
    history: Sequence[QualitySummary],
    today: Rewards | None = None,
    settings: QualitySettings = DEFAULT_SETTINGS,
) -> Floats:
    """Quality of each experience of a batch.

    Parameters
    ----------
    batch
        Experiences of one source and one window.
    history
        Summaries of earlier windows, in any order. Those of another source, those that had not ended when the first
        reward of the batch was known, and those older than `trailing_days` are left aside.
    today
        Rewards of the batch's window that were recorded before; None where there are none.

    Returns
    -------
    float64 (n,), strictly between 0 and 1: (smaller + half of those in the same bin + 1/2) / (past + 1), so that an
    experience without a past has 0.5. Cost: 30 ms for 21,600.

    Raises
    ------
    InvalidRecordError
        For a reward that is not finite, or `today` of another source.
    """
    if not len(batch):
        return np.zeros(0)
    earlier = no_rewards(batch.source) if today is None else today
    if len(earlier) and earlier.source != batch.source:
        raise InvalidRecordError(
            f"the batch is of {batch.source!r}, what was recorded before of {earlier.source!r}.",
            remedy="Score each source on its own.",
            field="today",
        )
    first_ms = int(min(batch.known_at_ms.min(), earlier.known_at_ms.min() if len(earlier) else batch.known_at_ms.min()))
    past = [
        summary
        for summary in sorted(history, key=_by_window)
        if summary.source == batch.source
        and first_ms - settings.trailing_days * _MS_PER_DAY < summary.window_end_ms <= first_ms
    ]
    (earlier_cells, batch_cells), products = _cells([earlier, batch])
    known = np.concatenate([earlier.known_at_ms, batch.known_at_ms])
    count, total = _expectations(past, products)
    surprise = _surprises(
        np.concatenate([earlier_cells, batch_cells]),
        known,
        np.concatenate([earlier.reward, batch.reward]),
        count,
        total,
    )
    surprises = sum((summary.surprises for summary in past), np.zeros(_SURPRISE_BINS, dtype=np.int64))
    return _ranks(_bins(surprise), known, surprises)[len(earlier) :]


def score_memories(
    memories: Sequence[EpisodicMemory],
    history: Sequence[QualitySummary],
    today: Rewards | None = None,
    settings: QualitySettings = DEFAULT_SETTINGS,
) -> None:
    """Set `quality` of the records of one source and one window, in place; see `score_quality`."""
    quality = score_quality(Rewards.of_memories(memories), history, today, settings)
    for memory, value in zip(memories, quality.tolist(), strict=True):
        memory.quality = value


def no_rewards(source: str) -> Rewards:
    """No rewards at all."""
    nothing = np.zeros(0, dtype=np.int64)
    return Rewards(source, (), nothing, nothing, nothing, np.zeros(0))


def _by_window(summary: QualitySummary) -> int:
    return summary.window_start_ms


def _canonical(rewards: Rewards) -> Ints:
    return np.lexsort((rewards.reward, rewards.known_at_ms)).astype(np.int64)


def _cells(parts: Sequence[Rewards]) -> tuple[list[Ints], tuple[str, ...]]:
    """Number of the (product, regime) cell of each row, over the products of all parts."""
    products = tuple(sorted({product for part in parts for product in part.products}))
    cells = []
    for part in parts:
        if not np.isfinite(part.reward).all():
            row = int(np.flatnonzero(~np.isfinite(part.reward))[0])
            raise InvalidRecordError(
                f"reward {part.reward[row]} at position {row} is not finite.",
                remedy="Refuse such records before they are scored.",
                field="reward",
            )
        positions = np.array([products.index(product) for product in part.products], dtype=np.int64)
        product = positions[part.product] if len(part) else np.zeros(0, dtype=np.int64)
        cells.append(product * _REGIME_COUNT + part.regime)
    return cells, products


def _expectations(past: Sequence[QualitySummary], products: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Experiences and rewards so far by cell, over past windows in time order."""
    count = np.zeros((len(products), _REGIME_COUNT))
    total = np.zeros((len(products), _REGIME_COUNT))
    for summary in past:
        for row, product in enumerate(summary.products):
            if product in products:
                count[products.index(product)] += summary.count[row]
                total[products.index(product)] += summary.total[row]
    return count.reshape(-1), total.reshape(-1)


def _surprises(cells: Ints, known_ms: Ints, reward: Floats, count: Floats, total: Floats) -> Floats:
    """|reward - mean of the rewards of its cell that were known before|; the mean of nothing is 0."""
    surprise = np.empty(len(reward))
    # Equal times are sorted by reward, so that sums do not depend on the order of arrival, not even in the last bit.
    order = np.lexsort((reward, known_ms, cells))
    bounds = np.searchsorted(cells[order], np.arange(len(count) + 1))
    for cell, (start, end) in enumerate(pairwise(bounds)):
        rows = order[start:end]
        before = np.searchsorted(known_ms[rows], known_ms[rows], side="left")
        running = np.concatenate([[0.0], np.cumsum(reward[rows])])[before]
        expected = (total[cell] + running) / np.maximum(count[cell] + before, 1.0)
        surprise[rows] = np.abs(reward[rows] - expected)
    return surprise


def _bins(surprise: Floats) -> Ints:
    # Surprises are not negative: the upper half of the bins, with the one around zero.
    return bin_numbers(surprise) - BINS_A_SIDE


def _ranks(bins: Ints, known_ms: Ints, past: Ints) -> Floats:
    """Mid-rank of each bin among the past and all rows known strictly before."""
    rank = np.empty(len(bins))
    order = np.argsort(known_ms, kind="stable")
    _, group = np.unique(known_ms[order], return_inverse=True)
    counts = past.astype(np.int64)
    groups = int(group[-1]) + 1 if len(group) else 0
    for first in range(0, groups, _GROUPS_AT_ONCE):
        width = min(_GROUPS_AT_ONCE, groups - first)
        start, end = np.searchsorted(group, (first, first + width))
        rows, local = order[start:end], group[start:end] - first
        table = np.bincount(local * _SURPRISE_BINS + bins[rows], minlength=width * _SURPRISE_BINS)
        table = table.reshape(width, _SURPRISE_BINS)
        seen = counts + np.cumsum(table, axis=0) - table
        counts = counts + table.sum(axis=0)
        up_to = np.cumsum(seen, axis=1)
        same = seen[local, bins[rows]]
        below = up_to[local, bins[rows]] - same
        rank[rows] = (below + same / 2 + 0.5) / (up_to[local, -1] + 1)
    return rank
