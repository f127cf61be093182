"""A policy's inputs as arrays: states, retrieved memories as tokens, and knowledge. numpy alone.

Acting and learning build them by the same arithmetic: `tokens_of` from the hits of a question, `tokens_of_rows` from
rows of a table; both end in one function. Figures are computed in float64 and kept as float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.experiences import Costs
from agents.policy.layout import (
    FALLBACK_VOLATILITY,
    OUTCOME_CLIP,
    SCORE_CLIP,
    VOLATILITY_FLOOR,
    InputLayout,
)
from memory.errors import EncoderError, InvalidRecordError
from memory.records import REGIMES, to_ms
from memory.retrieval.hits import Hit
from memory.tables import TRAILING_VOLATILITY

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Inputs32 = npt.NDArray[np.float32]

_MS_PER_DAY = 86_400_000.0
_LEAST_EXPOSURE = 1e-6
"""Below this an exposure is none: the market's move cannot be told from the return."""


@dataclass(frozen=True, slots=True, eq=False)
class PolicyInputs:
    """A batch of B inputs with K memories each; columns as `InputLayout` names them.

    Attributes
    ----------
    state
        float32 (B, F).
    position
        float32 (B,), exposure before the action. Apart from the state, so that one pass of the network serves every
        position.
    memory, memory_mask
        float32 (B, K, T) tokens, bool (B, K): whether there is one. Nothing retrieved is a mask, never a zero vector.
    knowledge, knowledge_mask
        float32 (B, R), bool (B, R): whether the figure is known.
    """

    state: Inputs32
    position: Inputs32
    memory: Inputs32
    memory_mask: Bools
    knowledge: Inputs32
    knowledge_mask: Bools

    def __len__(self) -> int:
        return len(self.state)

    def take(self, rows: npt.NDArray[Any] | slice) -> PolicyInputs:
        """Some rows, in the given order."""
        arrays = (getattr(self, item.name) for item in fields(self))
        if isinstance(rows, slice):
            return PolicyInputs(*(array[rows] for array in arrays))
        # Copies whole rows, where an index would go through them value by value.
        return PolicyInputs(*(array.take(rows, axis=0) for array in arrays))

    def with_position(self, position: npt.ArrayLike) -> PolicyInputs:
        """The same with other positions, broadcast to (B,)."""
        shaped = np.broadcast_to(np.asarray(position, np.float32), self.position.shape)
        return replace(self, position=shaped.copy())

    def without_memory(self, *, knowledge: bool = True) -> PolicyInputs:
        """The same with nothing retrieved (K = 0); without knowledge too where that is False. What a baseline sees.

        A network gives the same for no place as for places that are all masked, and is quicker.
        """
        known = self.knowledge_mask if knowledge else np.zeros_like(self.knowledge_mask)
        return replace(self, memory=self.memory[:, :0], memory_mask=self.memory_mask[:, :0], knowledge_mask=known)

    @classmethod
    def concatenate(cls, parts: Sequence[PolicyInputs]) -> PolicyInputs:
        """Several batches as one."""
        return cls(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(cls)))


# --- states --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class StateColumns:
    """What is needed of N states, in time order or not.

    Attributes
    ----------
    timestamp_ms, product, regime
        int64 (N,): decision time, code of the product (the caller's own, the same for states and memories), and index
        into `REGIMES`.
    features
        float64 (N, n_features) in the layout's order.
    vectors
        (N, 256) unit vectors.
    trailing_volatility, price, spread
        float64 (N,); NaN where unknown.
    """

    timestamp_ms: Ints
    product: Ints
    regime: Ints
    features: Floats
    vectors: npt.NDArray[Any]
    trailing_volatility: Floats
    price: Floats
    spread: Floats

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    def take(self, rows: npt.NDArray[Any] | slice) -> StateColumns:
        """Some rows, in the given order."""
        return StateColumns(*(getattr(self, item.name)[rows] for item in fields(self)))


def volatility_of(trailing_volatility: Floats) -> Floats:
    """Trailing volatilities to divide by: the fallback where unknown, and never below the floor."""
    known = np.where(np.isfinite(trailing_volatility), trailing_volatility, FALLBACK_VOLATILITY)
    return np.maximum(known, VOLATILITY_FLOOR)


def cost_rates(layout: InputLayout, price: Floats, spread: Floats) -> Floats:
    """Cost of trading one notional, a fraction: the fee, and half the spread where there is a quote."""
    quoted = np.isfinite(spread) & np.isfinite(price)
    costs = Costs(basis_points=layout.cost_bp, half_spread=layout.half_spread)
    return costs.rates(np.where(quoted, price, 1.0), np.where(quoted, spread, np.nan))


def state_inputs(layout: InputLayout, states: StateColumns) -> Inputs32:
    """The state part of the inputs, (N, F).

    Raises
    ------
    InvalidRecordError
        A feature or a vector is not finite; it is named.
    """
    if not np.isfinite(states.features).all():
        row, column = np.argwhere(~np.isfinite(states.features))[0]
        name = layout.feature_names[column]
        raise InvalidRecordError(
            f"feature {name} of state {row} is {states.features[row, column]}.",
            remedy="A policy acts on finite features only: skip the state, or impute its neutral value.",
            field=name,
        )
    if not np.isfinite(states.vectors).all():
        raise InvalidRecordError(
            "a state's vector is not finite.",
            remedy="Encode the state's features again; a policy acts on finite vectors only.",
            field="state_vector",
        )
    scores = np.clip((states.features - layout.center) / layout.scale, -SCORE_CLIP, SCORE_CLIP) * layout.weight
    regime = states.regime[:, None] == np.arange(len(REGIMES))
    cost = cost_rates(layout, states.price, states.spread) / volatility_of(states.trailing_volatility)
    log_cost = np.log1p(np.minimum(cost, OUTCOME_CLIP * OUTCOME_CLIP))[:, None]
    return np.concatenate([scores, regime, log_cost, layout.compress(states.vectors)], axis=1).astype(np.float32)


def feature_row(layout: InputLayout, features: Mapping[str, float]) -> Floats:
    """A state's features in the layout's order, (n_features,); EncoderError where one is missing."""
    missing = [name for name in layout.feature_names if name not in features]
    if missing:
        raise EncoderError(
            f"the state lacks the features {', '.join(missing)}.",
            remedy=f"Compute the features that encoder {layout.encoder_id} was fitted to.",
        )
    return np.array([features[name] for name in layout.feature_names], dtype=np.float64)


# --- memories ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class MemoryColumns:
    """What tokens are made of, for M experiences: columns of equal leading shape.

    Attributes
    ----------
    timestamp_ms, product, regime
        int64, as in `StateColumns`.
    position_before, position_after
        Exposure, shares of notional.
    reward, gross_return, cost
        Over the next bar, fractions of notional.
    trailing_volatility
        Of the state; NaN where unknown.
    compressed, compressed_next
        Compressed vectors of state and next state, (..., projected); the latter means nothing where `has_next` is
        False.
    has_next
        Whether a next state is known.
    """

    timestamp_ms: Ints
    product: Ints
    regime: Ints
    position_before: Floats
    position_after: Floats
    reward: Floats
    gross_return: Floats
    cost: Floats
    trailing_volatility: Floats
    compressed: Floats
    compressed_next: Floats
    has_next: Bools

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    def take(self, rows: npt.NDArray[Any]) -> MemoryColumns:
        """Some rows; an index of any shape gives columns of that shape."""
        return MemoryColumns(*(getattr(self, item.name)[rows] for item in fields(self)))


def tokens_of_rows(
    layout: InputLayout,
    table: MemoryColumns,
    rows: Ints,
    distances: Floats,
    own: Bools,
    queries: StateColumns,
) -> tuple[Inputs32, Bools]:
    """Tokens of retrieved rows: (B, K, T) and the mask (B, K).

    Parameters
    ----------
    table
        The experiences.
    rows
        (B, K) rows of `table` by query, own ones first; -1 for none.
    distances
        (B, K) cosine distances; of no meaning where there is no row.
    own
        (B, K) or (K,): whether a place holds the agent's own memory.
    queries
        The B states that asked.
    """
    mask = rows >= 0
    if not len(table):
        return np.zeros((*rows.shape, len(layout.token_names)), np.float32), mask
    found = table.take(np.where(mask, rows, 0))
    tokens = _tokens(
        found,
        np.where(mask, distances, 0.0),
        np.broadcast_to(own, rows.shape),
        queries.timestamp_ms[:, None],
        queries.product[:, None],
        queries.regime[:, None],
    )
    tokens[~mask] = 0.0
    return tokens, mask


def tokens_of(
    layout: InputLayout, own: Sequence[Hit], shared: Sequence[Hit], *, product_id: str, timestamp_ms: int, regime: str
) -> tuple[Inputs32, Bools]:
    """Tokens of the hits of one state's questions: (1, K, T) and the mask (1, K); K is the layout's `memories`.

    Hits should carry their next state (`with_next_state=True`); those beyond the layout's numbers are left out.

    Raises
    ------
    EncoderError
        A memory is of another encoder than the layout's.
    """
    hits = [*own[: layout.own], *shared[: layout.shared]]
    count = min(len(own), layout.own)
    tokens = np.zeros((1, layout.memories, len(layout.token_names)), np.float32)
    mask = np.zeros((1, layout.memories), np.bool_)
    if not hits:
        return tokens, mask
    columns = columns_of_hits(layout, hits, product_id)
    distances = np.array([hit.distance for hit in hits], dtype=np.float64)
    is_own = np.arange(len(hits)) < count
    made = _tokens(columns, distances, is_own, timestamp_ms, 0, REGIMES.index(regime))
    places = [*range(count), *range(layout.own, layout.own + len(hits) - count)]
    tokens[0, places], mask[0, places] = made, True
    return tokens, mask


def columns_of_hits(layout: InputLayout, hits: Sequence[Hit], product_id: str) -> MemoryColumns:
    """The columns of some hits; product 0 is `product_id`, 1 is any other. EncoderError as `tokens_of`."""
    for hit in hits:
        layout.check_encoder(hit.memory.encoder_id)
    memories = [hit.memory for hit in hits]
    before = _floats([memory.position_before for memory in memories], 0.0)
    after = _floats(
        [
            memory.action.target(memory.position_before or 0.0)
            if memory.position_after is None
            else memory.position_after
            for memory in memories
        ],
        0.0,
    )
    reward = _floats([memory.reward for memory in memories], 0.0)
    cost = _floats([memory.cost for memory in memories], 0.0)
    following = [memory.next_state_vector for memory in memories]
    compressed = layout.compress(np.stack([memory.state_vector for memory in memories]))
    return MemoryColumns(
        timestamp_ms=np.array([to_ms(memory.timestamp) for memory in memories], dtype=np.int64),
        product=np.array([int(memory.product_id != product_id) for memory in memories], dtype=np.int64),
        regime=np.array([REGIMES.index(memory.regime) for memory in memories], dtype=np.int64),
        position_before=before,
        position_after=after,
        reward=reward,
        gross_return=np.where(
            [memory.gross_return is None for memory in memories],
            reward + cost,
            _floats([memory.gross_return for memory in memories], 0.0),
        ),
        cost=cost,
        trailing_volatility=_floats([memory.features.get(TRAILING_VOLATILITY) for memory in memories], np.nan),
        compressed=compressed,
        compressed_next=layout.compress(
            np.stack(
                [
                    memory.state_vector if vector is None else vector
                    for memory, vector in zip(memories, following, strict=True)
                ]
            )
        ),
        has_next=np.array([vector is not None for vector in following], dtype=np.bool_),
    )


def _tokens(
    found: MemoryColumns,
    distances: Floats,
    own: Bools,
    timestamp_ms: Ints | int,
    product: Ints | int,
    regime: Ints | int,
) -> Inputs32:
    """Tokens of columns of any leading shape; times, products and regimes are those of the states that asked."""
    volatility = volatility_of(found.trailing_volatility)
    held = np.abs(found.position_after) > _LEAST_EXPOSURE
    move = np.where(held, found.gross_return / np.where(held, found.position_after, 1.0), 0.0)
    age_days = np.maximum((timestamp_ms - found.timestamp_ms) / _MS_PER_DAY, 0.0)
    figures = (
        found.position_after,
        found.position_before,
        np.clip(found.reward / volatility, -OUTCOME_CLIP, OUTCOME_CLIP),
        np.clip(move / volatility, -OUTCOME_CLIP, OUTCOME_CLIP),
        held,
        np.clip(found.cost / volatility, 0.0, OUTCOME_CLIP),
        distances,
        np.log1p(age_days),
        own,
        found.product == product,
        found.regime == regime,
        found.has_next,
    )
    change = np.where(found.has_next[..., None], found.compressed_next - found.compressed, 0.0)
    return np.concatenate([np.stack(figures, axis=-1), found.compressed, change], axis=-1).astype(np.float32)


def _floats(values: Sequence[float | None], missing: float) -> Floats:
    return np.array([missing if value is None else value for value in values], dtype=np.float64)
