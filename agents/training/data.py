"""Training data: the states of a span with what followed, and the memories and knowledge of each as of its own time.

What every action would have brought is known, since agents are price takers: the market's move over the next bar is the
same for all. So a state serves for every position and action (counterfactual learning), and what agents did is kept
beside it for learning from that alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from agents.features import GAP_MINUTES, MINUTE_MS
from agents.policy.inputs import (
    Bools,
    Floats,
    Ints,
    MemoryColumns,
    PolicyInputs,
    StateColumns,
    cost_rates,
    state_inputs,
    tokens_of_rows,
    volatility_of,
)
from agents.policy.knowledge import no_knowledge
from agents.policy.layout import InputLayout
from agents.training.hindsight import hindsight_values
from agents.training.learner import Batch
from agents.training.lived import Experiences
from agents.training.neighbours import nearest_before
from memory.errors import InvalidRecordError
from memory.tables import TRAILING_VOLATILITY, StateTable, WindowData

GAP_MS = GAP_MINUTES * MINUTE_MS
_DAY_MS = 86_400_000
_LEAST_EXPOSURE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """N states by product and time, and M experiences in them. Returns are in the states' trailing volatilities.

    Attributes
    ----------
    states
        The states; `products` and `agents` name the codes.
    inputs
        What a policy sees there, at position 0.
    following
        Row of the next state of the episode; -1 where the episode ends or the next state is not known.
    move, cost, volatility_ratio
        As in `agents.training.learner.Batch`, (N,); the move is NaN where it is not known.
    learnable
        Rows of the states whose move is known: what counterfactual learning draws from.
    experience_state, action, position_before, position_after, reward
        Of the experiences that can be learned from, (M,).
    optimal
        Action values of hindsight (N, 3, 4).
    counts
        What was found, and what was left out and why.
    """

    products: tuple[str, ...]
    agents: tuple[str, ...]
    states: StateColumns
    inputs: PolicyInputs
    following: Ints
    move: Floats
    cost: Floats
    volatility_ratio: Floats
    learnable: Ints
    experience_state: Ints
    action: Ints
    position_before: Floats
    position_after: Floats
    reward: Floats
    optimal: Floats
    counts: dict[str, int] = field(default_factory=dict)

    def size(self, counterfactual: bool) -> int:
        """Transitions to draw from: states, or experiences."""
        return len(self.learnable) if counterfactual else len(self.experience_state)

    def batch(self, items: Ints, weight: Floats, *, counterfactual: bool) -> Batch:
        """The batch of some transitions: indices below `size`."""
        rows = self.learnable[items] if counterfactual else self.experience_state[items]
        following = self.following[rows]
        terminal = following < 0
        inputs = self.inputs.take(rows)
        next_inputs = self.inputs.take(np.where(terminal, rows, following))
        action = reward = None
        if not counterfactual:
            inputs = inputs.with_position(self.position_before[items])
            next_inputs = next_inputs.with_position(self.position_after[items])
            action, reward = self.action[items], self.reward[items]
        return Batch(
            inputs=inputs,
            next_inputs=next_inputs,
            move=self.move[rows],
            cost=self.cost[rows],
            volatility_ratio=self.volatility_ratio[rows],
            terminal=terminal,
            weight=weight,
            action=action,
            reward=reward,
            optimal=self.optimal[rows],
        )

    def with_knowledge(self, values: npt.NDArray[np.float32], mask: Bools) -> TrainingData:
        """The same with knowledge (N, R) and its mask."""
        return replace(self, inputs=replace(self.inputs, knowledge=values, knowledge_mask=mask))


def training_data(
    layout: InputLayout,
    windows: Sequence[WindowData],
    *,
    gamma: float,
    min_quality: float,
    shared_days: int,
    max_states: int | None = None,
    until_ms: int | None = None,
) -> TrainingData:
    """The training data of some windows of one encoder and source.

    Each product and UTC day is seen through the eyes of one agent, in turn: its own memories are that agent's, the
    shared ones are those of the others that are good enough for the pool. Knowledge is unknown until `with_knowledge`.

    Parameters
    ----------
    windows
        In time order.
    gamma
        Discount a decision, for the values of hindsight.
    min_quality, shared_days
        Quality that the shared pool asks for, and how long it keeps what it has.
    max_states
        Only the latest states are learned from; all are remembered. All where None.
    until_ms
        Hindsight sees nothing of states from this time on, milliseconds: they are not learned from. All where None.

    Raises
    ------
    InvalidRecordError
        No state whose next price is known.
    EncoderError
        The windows are of another encoder than the layout's.
    """
    windows = [window for window in windows if len(window.states)]
    for window in windows:
        layout.check_encoder(window.states.encoder_id)
    if not windows:
        raise _nothing()
    tables = [window.states for window in windows]
    products = tuple(sorted({product for table in tables for product in table.products}))
    states, incomplete = _states(layout, tables, products)
    experiences = Experiences.of([window.experiences for window in windows], states, products)
    volatility = volatility_of(states.trailing_volatility)
    next_row = _next_rows(states)
    rate = cost_rates(layout, states.price, states.spread)
    last = experiences.terminal_states(len(states))
    move = _moves(states, experiences, next_row, last)
    known = np.isfinite(move)
    following = np.where(known & ~last & (next_row >= 0), next_row, -1)
    ratio = volatility[np.maximum(following, 0)] / volatility
    learnable = np.flatnonzero(known)
    if not len(learnable):
        raise _nothing()
    if max_states is not None and len(learnable) > max_states:
        newest = np.argsort(states.timestamp_ms[learnable], kind="stable")[-max_states:]
        learnable = np.sort(learnable[newest])
    foreseen = following
    if until_ms is not None:
        foreseen = np.where(states.timestamp_ms[np.maximum(following, 0)] < until_ms, following, -1)
    scaled_move, cost = np.where(known, move, 0.0) / volatility, rate / volatility
    inputs = _inputs(layout, states, experiences, next_row, min_quality, shared_days, learnable, following)
    drawn = np.isin(experiences.state, learnable)
    counts = {
        "states": len(states),
        "learned_states": len(learnable),
        "experiences": len(experiences.state),
        "incomplete_states": incomplete,
        "unknown_moves": int((~known).sum()),
    }
    return TrainingData(
        products=products,
        agents=experiences.agents,
        states=states,
        inputs=inputs,
        following=following,
        move=np.where(known, scaled_move, np.nan),
        cost=cost,
        volatility_ratio=np.where(following >= 0, ratio, 1.0),
        learnable=learnable,
        experience_state=experiences.state[drawn],
        action=experiences.action[drawn],
        position_before=experiences.before[drawn],
        position_after=experiences.after[drawn],
        reward=experiences.reward[drawn] / volatility[experiences.state[drawn]],
        optimal=hindsight_values(scaled_move, cost, gamma * ratio, foreseen),
        counts=counts,
    )


def _nothing() -> InvalidRecordError:
    return InvalidRecordError(
        "the span holds no state whose next price is known.",
        remedy="Record experiences there first (coinswarm run record_experiences), or train on another span.",
        field="states",
    )


def _states(layout: InputLayout, tables: Sequence[StateTable], products: tuple[str, ...]) -> tuple[StateColumns, int]:
    """The states by product and time, and how many were left out since a feature was missing."""
    codes = {product: code for code, product in enumerate(products)}
    features = np.concatenate(
        [np.stack([table.feature(name) for name in layout.feature_names], axis=1) for table in tables]
    )
    columns = StateColumns(
        timestamp_ms=np.concatenate([table.timestamp_ms for table in tables]),
        product=np.concatenate([np.array([codes[name] for name in table.products])[table.product] for table in tables]),
        regime=np.concatenate([table.regime for table in tables]),
        features=features,
        vectors=np.concatenate([table.vectors for table in tables]),
        trailing_volatility=np.concatenate([table.feature(TRAILING_VOLATILITY) for table in tables]),
        price=np.concatenate([table.price for table in tables]),
        spread=np.concatenate([table.spread for table in tables]),
    )
    whole = np.isfinite(features).all(axis=1)
    order = np.lexsort((columns.timestamp_ms, columns.product))
    return columns.take(order[whole[order]]), int((~whole).sum())


def _next_rows(states: StateColumns) -> Ints:
    """Row of the product's next state within the gap; -1 where there is none."""
    follows = np.zeros(len(states), np.bool_)
    same = states.product[1:] == states.product[:-1]
    follows[:-1] = same & (np.diff(states.timestamp_ms) <= GAP_MS)
    return np.where(follows, np.arange(len(states)) + 1, -1)


def _moves(states: StateColumns, experiences: Experiences, next_row: Ints, last: Bools) -> Floats:
    """The market's return over each state's next bar: by both prices, and where an episode ends, as it was lived.

    A state may be missing between the two: then an agent's reward ends before the next state begins. What ends an
    episode leaves no state, and only who held a position knows its price.
    """
    ahead = states.price[np.maximum(next_row, 0)]
    with np.errstate(invalid="ignore", divide="ignore"):
        prices = np.where(next_row >= 0, ahead / states.price - 1.0, np.nan)
    held = np.abs(experiences.after) > _LEAST_EXPOSURE
    lived = np.full(len(states), np.nan)
    # In order of time and agent, reversed: of those that lived it, the first speaks.
    lived[experiences.state[held][::-1]] = (experiences.gross[held] / experiences.after[held])[::-1]
    return np.where(np.isfinite(lived) & (last | ~np.isfinite(prices)), lived, prices)


def _inputs(
    layout: InputLayout,
    states: StateColumns,
    experiences: Experiences,
    next_row: Ints,
    min_quality: float,
    shared_days: int,
    learnable: Ints,
    following: Ints,
) -> PolicyInputs:
    """What a policy sees in each state; memories are looked up where they are needed."""
    columns = _memory_columns(layout, states, experiences, next_row)
    wanted = np.zeros(len(states), np.bool_)
    wanted[learnable] = True
    wanted[following[learnable][following[learnable] >= 0]] = True
    rows = np.full((len(states), layout.memories), -1, np.int64)
    distances = np.full((len(states), layout.memories), np.nan)
    eyes = (states.timestamp_ms // _DAY_MS + states.product) % max(len(experiences.agents), 1)
    vectors = states.vectors.astype(np.float32)
    for code in range(len(experiences.agents)):
        asking = np.flatnonzero(wanted & (eyes == code))
        own = np.flatnonzero(experiences.agent == code)
        pool = np.flatnonzero((experiences.agent != code) & (experiences.quality >= min_quality))
        for memories, places, oldest in (
            (own, slice(0, layout.own), None),
            (pool, slice(layout.own, layout.memories), shared_days * _DAY_MS),
        ):
            count = places.stop - places.start
            if not (count and len(asking) and len(memories)):
                continue
            near, distance = nearest_before(
                vectors[asking],
                states.timestamp_ms[asking],
                vectors[experiences.state[memories]],
                states.timestamp_ms[experiences.state[memories]],
                experiences.known_ms[memories],
                count,
                min_age_ms=layout.min_age_minutes * MINUTE_MS,
                max_age_ms=oldest,
            )
            rows[asking, places] = np.where(near >= 0, memories[np.maximum(near, 0)], -1)
            distances[asking, places] = distance
    own_places = np.arange(layout.memories) < layout.own
    tokens, mask = tokens_of_rows(layout, columns, rows, distances, own_places, states)
    knowledge, known = no_knowledge(len(states))
    return PolicyInputs(
        state=state_inputs(layout, states),
        position=np.zeros(len(states), np.float32),
        memory=tokens,
        memory_mask=mask,
        knowledge=knowledge,
        knowledge_mask=known,
    )


def _memory_columns(
    layout: InputLayout, states: StateColumns, experiences: Experiences, next_row: Ints
) -> MemoryColumns:
    compressed = layout.compress(states.vectors)
    of = experiences.state
    return MemoryColumns(
        timestamp_ms=states.timestamp_ms[of],
        product=states.product[of],
        regime=states.regime[of],
        position_before=experiences.before,
        position_after=experiences.after,
        reward=experiences.reward,
        gross_return=experiences.gross,
        cost=experiences.cost,
        trailing_volatility=states.trailing_volatility[of],
        compressed=compressed[of],
        compressed_next=compressed[np.maximum(next_row[of], 0)],
        has_next=next_row[of] >= 0,
    )
