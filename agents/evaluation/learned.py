"""Policies that learn: one network in five uses of memory, trained on a fold's past, tested on its span.

Needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from agents.candles import FloatArray, IntArray
from agents.evaluation.booking import LONG, POSITIONS, SHORT, first_of_products, roll
from agents.evaluation.experience import (
    estimate_scale,
    interval_volatility,
    layout_of,
    live_through,
    memory_columns,
    policy_inputs,
)
from agents.evaluation.learner_settings import GAMMA, MEMORY_USES, learner_settings
from agents.evaluation.material import Material
from agents.evaluation.rules import track_positions
from agents.evaluation.settings import PERMUTED, WITH_ESTIMATES, Cell
from agents.evaluation.tracks import Track
from agents.policy.inputs import PolicyInputs
from agents.policy.layout import InputLayout
from agents.policy.network import greedy_actions
from agents.training.hindsight import hindsight_values
from agents.training.learner import Batch, DoubleDQN
from agents.training.replay import PrioritisedReplay

_ROWS_AT_ONCE = 8_192
_FLAT = POSITIONS.index(0.0)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Transitions of a fold's past for one use of memory, and the test states.

    Attributes
    ----------
    inputs
        Of training states and those that follow them; `first` and `second` are the positions in it, (n,).
    move, cost, ratio
        In volatilities of the interval, (n,), as `agents.training.learner.Batch` has them.
    optimal
        Action values of hindsight, (n, 3, 4), where memory regularises.
    test
        Inputs of the test states.
    """

    layout: InputLayout
    inputs: PolicyInputs
    first: IntArray
    second: IntArray
    move: FloatArray
    cost: FloatArray
    ratio: FloatArray
    optimal: FloatArray | None
    test: PolicyInputs

    def batch(self, rows: IntArray, weight: FloatArray) -> Batch:
        """Some transitions."""
        return Batch(
            inputs=self.inputs.take(self.first[rows]),
            next_inputs=self.inputs.take(self.second[rows]),
            move=self.move[rows],
            cost=self.cost[rows],
            volatility_ratio=self.ratio[rows],
            terminal=np.zeros(len(rows), np.bool_),
            weight=weight,
            optimal=None if self.optimal is None else self.optimal[rows],
        )


class TrainingRoom:
    """Training data of one fold and cell for all uses of memory; what they share is made once.

    Parameters
    ----------
    material
        The fold at the cell's interval.
    cell
        Where the contestants meet.
    """

    def __init__(self, material: Material, cell: Cell) -> None:
        self.material, self.cell = material, cell
        self.layout = layout_of(material, cell.cost_bp)
        grid, starts = material.grid, material.rows.starts
        after = grid.following[starts]
        self._rows = np.unique(np.concatenate([starts, after]))
        self._first, self._second = np.searchsorted(self._rows, starts), np.searchsorted(self._rows, after)
        volatility = interval_volatility(grid, starts)
        rate = cell.cost_bp / 1e4 + grid.half_spread()[starts]
        self._move, self._cost = grid.move[starts] / volatility, rate / volatility
        self._ratio = interval_volatility(grid, after) / volatility
        self._lived = live_through(material)
        self._inputs: dict[str, tuple[PolicyInputs, PolicyInputs]] = {}

    def data(self, contestant: str) -> TrainingData:
        """What a contestant learns from and is tested on."""
        retrieves = MEMORY_USES[contestant].retrieves
        sort = contestant if retrieves else ""
        if sort not in self._inputs:
            # One use at a time: tokens of a fold take some hundred megabytes.
            self._inputs.clear()
            material, lived = self.material, self._lived
            columns = None
            if retrieves:
                columns = memory_columns(material, lived, self.layout, permuted=contestant == PERMUTED)
            scale = estimate_scale(material, self._rows) if contestant == WITH_ESTIMATES else None
            self._inputs[sort] = (
                policy_inputs(material, self._rows, self.layout, lived, columns, scale),
                policy_inputs(material, material.rows.test, self.layout, lived, columns, scale),
            )
        inputs, test = self._inputs[sort]
        regularises = MEMORY_USES[contestant].regularises
        return TrainingData(
            layout=self.layout,
            inputs=inputs,
            first=self._first,
            second=self._second,
            move=self._move,
            cost=self._cost,
            ratio=self._ratio,
            optimal=self._hindsight() if regularises else None,
            test=test,
        )

    def _hindsight(self) -> FloatArray:
        """Action values of one who knows all prices of the past, and none after it, (n, 3, 4)."""
        material, grid = self.material, self.material.grid
        last_ms = material.fold.last_training_ms(grid.interval_minutes)
        past = grid.between(int(grid.timestamp_ms.min()), last_ms + 1)
        after = np.where(grid.linked[past], grid.following[past], -1)
        place = np.searchsorted(past, after)
        following = np.where((after >= 0) & (after <= past[-1]) & np.isin(after, past), place, -1)
        volatility = interval_volatility(grid, past)
        next_volatility = interval_volatility(grid, past[np.maximum(following, 0)])
        rate = self.cell.cost_bp / 1e4 + grid.half_spread()[past]
        values = hindsight_values(
            np.where(following >= 0, grid.move[past], 0.0) / volatility,
            rate / volatility,
            np.where(following >= 0, GAMMA * next_volatility / volatility, 0.0),
            following,
        )
        wanted: FloatArray = values[np.searchsorted(past, material.rows.starts)]
        return wanted


def train(data: TrainingData, contestant: str, seed: int, *, steps: int, batch: int) -> DoubleDQN:
    """Train one policy; the same arguments give the same weights on one machine."""
    settings = learner_settings(contestant, batch)
    learner = DoubleDQN(data.layout, settings, seed=seed, device="cpu")
    # Uses of memory are paired: a seed begins with the same weights, and draws alike until priorities differ.
    replay = PrioritisedReplay(len(data.first), alpha=settings.alpha, beta=settings.beta, steps=steps, seed=seed)
    for _ in range(steps):
        rows, weight = replay.sample(batch)
        losses = learner.learn(data.batch(rows, weight))
        replay.update(rows, losses.td_errors)
    return learner


def test_values(data: TrainingData, learner: DoubleDQN) -> FloatArray:
    """Action values of the test states at each position, (n, 3, 4)."""
    count = len(data.test)
    pieces = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, count, _ROWS_AT_ONCE)]
    parts = [learner.q_values(data.test.take(piece)) for piece in pieces]
    values: FloatArray = np.concatenate(parts)
    return values


def judge(room: TrainingRoom, contestant: str, seed: int, values: FloatArray) -> Track:
    """The track record of a policy's greedy actions on the test span."""
    material, rows = room.material, room.material.rows.test
    starts = first_of_products(material.grid.product[rows])
    after = roll(greedy_actions(values), starts)
    signal = values[:, _FLAT, LONG] - values[:, _FLAT, SHORT]
    return track_positions(contestant, material.fold.name, room.cell, seed, material.grid, rows, after, signal=signal)


def policies(
    material: Material, cell: Cell, contestant: str, held: Mapping[int, Track | None]
) -> Iterator[tuple[Track, bool]]:
    """Train and test a contestant with each seed, in order; tracks that are held are not made again.

    Parameters
    ----------
    held
        By seed the track that is known, None where the seed has yet to be trained.

    Returns
    -------
    Tracks, each with whether it was trained just now.
    """
    settings = material.settings
    data: TrainingData | None = None
    for seed, known in held.items():
        if known is not None:
            yield known, False
            continue
        if data is None:
            room = TrainingRoom(material, cell)
            data = room.data(contestant)
        learner = train(data, contestant, seed, steps=settings.steps, batch=settings.batch)
        yield judge(room, contestant, seed, test_values(data, learner)), True
