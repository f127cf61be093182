"""Action values of hindsight: what the best actions would have brought, had the span's prices been known.

Dynamic programming backwards over the bars, M. Qin et al., "EarnHFT: Efficient Hierarchical Reinforcement Learning for
High Frequency Trading", AAAI 2024; MacroHFT supervises its learner by them. They look into the future: they belong to
training spans only, and never to what an agent sees.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_POSITIONS = np.array([-1.0, 0.0, 1.0])
_AFTER = np.array([[0, 1, 2, held] for held in range(3)])
"""Index of the position after each action (columns) at each position (rows); as in `agents.training.learner`."""


def hindsight_values(move: Floats, cost: Floats, carried: Floats, following: Ints) -> Floats:
    """Action values (n, 3, 4) at the positions -1, 0 and 1, in the states' own units.

    Parameters
    ----------
    move, cost
        Return of the market over the next bar, and cost of trading one notional, (n,).
    carried
        What one unit of the next state is worth here: discount times the ratio of the units, (n,).
    following
        Row of the next state, later than the own row; -1 where nothing follows.
    """
    after = _POSITIONS[_AFTER]
    traded = np.abs(after - _POSITIONS[:, None])
    values = np.asarray(move[:, None, None] * after - cost[:, None, None] * traded)
    best = np.zeros((len(move), 3))
    for row in range(len(move) - 1, -1, -1):
        next_row = following[row]
        if next_row >= 0:
            values[row] += carried[row] * best[next_row][_AFTER]
        best[row] = values[row].max(axis=1)
    return values
