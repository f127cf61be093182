"""Baseline agents at the decision times of a grid: contestants on test spans, and those who lived through the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from agents.baselines import Agent, baseline_agents
from agents.candles import FloatArray, IntArray
from agents.evaluation.booking import first_of_products
from agents.evaluation.grid import Grid

HELD = "hold"
"""The baseline agent that is buy and hold."""


def positions_of(
    grid: Grid, rows: IntArray, agents: Sequence[Agent], starts: npt.NDArray[np.bool_] | None = None
) -> dict[str, FloatArray]:
    """Exposure after each decision of some agents, by agent id, each (len(rows),).

    Parameters
    ----------
    grid
        The states; agents do not see their vectors.
    rows
        Consecutive rows, sorted by product, then time.
    agents
        Those who act, independently of each other.
    starts
        Decisions before which all are flat; the first of each product where None.

    Notes
    -----
    Cost: about 8 microseconds a state and 1 an agent.
    """
    begins = (first_of_products(grid.product[rows]) if starts is None else starts).tolist()
    held = {agent.agent_id: 0.0 for agent in agents}
    after: dict[str, list[float]] = {agent.agent_id: [] for agent in agents}
    for row, start in zip(rows.tolist(), begins, strict=True):
        state = grid.state(row)
        for agent in agents:
            name = agent.agent_id
            before = 0.0 if start else held[name]
            held[name] = agent.decide(state, before).action.target(before)
            after[name].append(held[name])
    return {name: np.array(values, dtype=np.float64) for name, values in after.items()}


def all_positions(grid: Grid, rows: IntArray) -> Mapping[str, FloatArray]:
    """Exposure of the five baseline agents on consecutive rows."""
    return positions_of(grid, rows, baseline_agents())
