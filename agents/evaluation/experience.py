"""What memory holds for policies: experiences on remembered states, as columns for tokens, and their controls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.baselines import baseline_agents
from agents.candles import FloatArray, IntArray
from agents.evaluation.baseline_runs import HELD, positions_of
from agents.evaluation.booking import first_of_products
from agents.evaluation.forecasts import neighbour_means
from agents.evaluation.grid import Grid
from agents.evaluation.material import Material
from agents.policy.inputs import MemoryColumns, PolicyInputs, StateColumns, state_inputs, tokens_of_rows
from agents.policy.knowledge import no_knowledge
from agents.policy.layout import OUTCOME_CLIP, InputLayout

_ROWS_AT_ONCE = 8_192
EXPLORER_SEED = 11
"""Of the explorer's sides."""
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Experiences:
    """Who held what on the remembered states, (m,): exposure before and after.

    Every second state was lived through by an explorer, whose experiences are the policy's own: at each decision it
    opens a position on a random side, and closes it at the next, so that each tells how the market moved. The others
    were shared by the baseline agents in turn, with the positions that these held.
    """

    own: npt.NDArray[np.bool_]
    before: FloatArray
    after: FloatArray


def live_through(material: Material) -> Experiences:
    """Let explorer and baseline agents live through the past of a fold; deterministic."""
    grid, memory = material.grid, material.rows.memory
    count = len(memory)
    own = np.arange(count) % 2 == 0
    generator = np.random.Generator(np.random.PCG64(EXPLORER_SEED))
    sides = np.where(generator.random(count) < 0.5, -1.0, 1.0)
    before, after = np.zeros(count), np.where(own, sides, 0.0)
    past = _reached(grid, memory)
    agents = [agent for agent in baseline_agents() if agent.agent_id != HELD]
    starts = first_of_products(grid.product[past])
    place = np.searchsorted(past, memory)
    for number, positions in enumerate(positions_of(grid, past, agents).values()):
        earlier = np.where(starts, 0.0, np.concatenate([[0.0], positions[:-1]]))
        chosen = ~own & (np.arange(count) // 2 % len(agents) == number)
        before[chosen], after[chosen] = earlier[place[chosen]], positions[place[chosen]]
    return Experiences(own, before, after)


def _reached(grid: Grid, memory: IntArray) -> IntArray:
    """All rows from the first to the last remembered state of each product."""
    spans = []
    for product in np.unique(grid.product[memory]).tolist():
        own = memory[grid.product[memory] == product]
        spans.append(np.arange(own.min(), own.max() + 1))
    return np.concatenate(spans)


def memory_columns(
    material: Material, lived: Experiences, layout: InputLayout, *, permuted: bool = False
) -> MemoryColumns:
    """The experiences as columns for tokens.

    Parameters
    ----------
    permuted
        Whether what came of each state is that of another of the same product and regime: the market's move in trailing
        volatilities, and how the state changed. States, actions and costs stay.

    Notes
    -----
    Volatilities are those of the decision interval, so that a return of one such volatility is 1 at every interval.
    """
    grid, memory = material.grid, material.rows.memory
    linked = grid.linked[memory]
    scale = interval_volatility(grid, memory)
    move = np.where(linked, grid.move[memory], 0.0) / scale
    compressed = layout.compress(material.memory_vectors)
    following = np.where(linked, grid.following[memory], memory)
    change = layout.compress(grid.vectors(material.encoder, following)) - compressed
    if permuted:
        order = material.permutation
        move, change, linked = move[order], change[order], linked[order]
    rate = layout.cost_bp / 1e4 + (grid.half_spread()[memory] if layout.half_spread else 0.0)
    gross = lived.after * move * scale
    cost = np.abs(lived.after - lived.before) * rate
    return MemoryColumns(
        timestamp_ms=grid.timestamp_ms[memory],
        product=grid.product[memory],
        regime=grid.regime[memory],
        position_before=lived.before,
        position_after=lived.after,
        reward=gross - cost,
        gross_return=gross,
        cost=cost,
        trailing_volatility=scale,
        compressed=compressed,
        compressed_next=compressed + change,
        has_next=linked,
    )


def interval_volatility(grid: Grid, rows: IntArray) -> FloatArray:
    """Trailing volatility of a decision interval, a fraction, (len(rows),)."""
    volatility: FloatArray = grid.trailing_volatility[rows] * np.sqrt(float(grid.interval_minutes))
    return volatility


def layout_of(material: Material, cost_bp: float) -> InputLayout:
    """The layout of a policy's inputs in a cell."""
    places = material.settings.policy_memories
    return InputLayout.of_encoder(
        material.encoder,
        own=places,
        shared=places,
        min_age_minutes=material.fold.embargo_minutes,
        cost_bp=cost_bp,
    )


def state_columns(material: Material, rows: IntArray) -> StateColumns:
    """States as columns for a policy's inputs."""
    grid = material.grid
    return StateColumns(
        timestamp_ms=grid.timestamp_ms[rows],
        product=grid.product[rows],
        regime=grid.regime[rows],
        features=grid.features[rows],
        vectors=grid.vectors(material.encoder, rows),
        trailing_volatility=interval_volatility(grid, rows),
        price=grid.price[rows],
        spread=grid.spread[rows],
    )


def estimate_scale(material: Material, rows: IntArray) -> FloatArray:
    """Spread of what neighbours estimate for some rows, (2 H,), so that estimates enter at a size of about 1."""
    flat = _estimates(material, rows)
    known = np.isfinite(flat)
    spread = np.sqrt(np.where(known, flat**2, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    floored: FloatArray = np.maximum(spread, _LEAST_SPREAD)
    return floored


def _estimates(material: Material, rows: IntArray) -> FloatArray:
    """Mean outcomes of the neighbours, (n, 2 H): returns by horizon, then volatilities."""
    means = neighbour_means(material.memory_targets, material.neighbours_of(rows))
    flat: FloatArray = means.transpose(0, 2, 1).reshape(len(rows), -1)
    return flat


def policy_inputs(
    material: Material,
    rows: IntArray,
    layout: InputLayout,
    lived: Experiences,
    columns: MemoryColumns | None,
    scale: FloatArray | None = None,
) -> PolicyInputs:
    """Inputs of a policy for some rows, flat before.

    Knowledge of regimes is left out for all: on these spans it would be one row of constants a regime, which a network
    that sees the regime learns by itself.

    Parameters
    ----------
    columns
        What memory holds; None retrieves nothing.
    scale
        Where given, the columns of the regime's base rates hold what all the neighbours estimate, divided by this.
    """
    parts = []
    own_places = np.arange(layout.memories) < layout.own
    for start in range(0, max(len(rows), 1), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        states = state_columns(material, some)
        tokens = np.zeros((len(some), layout.memories, len(layout.token_names)), np.float32)
        mask = np.zeros((len(some), layout.memories), np.bool_)
        if columns is not None:
            found = material.neighbours_of(some)
            sides = [found.among(lived.own, layout.own), found.among(~lived.own, layout.shared)]
            nearest = np.concatenate([side.rows for side in sides], axis=1).astype(np.int64)
            distances = np.concatenate([side.distances for side in sides], axis=1).astype(np.float64)
            tokens, mask = tokens_of_rows(layout, columns, nearest, distances, own_places, states)
        knowledge, known = no_knowledge(len(some))
        if scale is not None:
            estimates = _estimates(material, some) / scale
            there = np.isfinite(estimates)
            knowledge[:, : estimates.shape[1]] = np.where(there, np.clip(estimates, -OUTCOME_CLIP, OUTCOME_CLIP), 0.0)
            known[:, : estimates.shape[1]] = there
        parts.append(
            PolicyInputs(
                state=state_inputs(layout, states),
                position=np.zeros(len(some), np.float32),
                memory=tokens,
                memory_mask=mask,
                knowledge=knowledge,
                knowledge_mask=known,
            )
        )
    return PolicyInputs.concatenate(parts)
