"""What a policy asks of the memory before it acts, as of the step's own time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from agents.policy.inputs import PolicyInputs, StateColumns, feature_row, state_inputs, tokens_of
from agents.policy.knowledge import knowledge_of
from agents.policy.layout import InputLayout
from agents.replay import State
from memory import MemoryConnection
from memory.errors import PastExpiredError
from memory.records import REGIMES, RegimeMemory, to_ms
from memory.retrieval.hits import Hit, PatternHit
from memory.tables import TRAILING_VOLATILITY


@dataclass(frozen=True, slots=True, eq=False)
class Retrieved:
    """What the memory answered about one state.

    Attributes
    ----------
    own, shared
        Experiences, nearest first.
    regime
        What is known of the regime; None where nothing is, or no more.
    pattern
        The pattern that the state is an occurrence of.
    """

    own: Sequence[Hit] = ()
    shared: Sequence[Hit] = ()
    regime: RegimeMemory | None = None
    pattern: PatternHit | None = None


async def retrieve(
    mem: MemoryConnection,
    layout: InputLayout,
    state: State,
    *,
    agent_id: str,
    product_id: str,
    regime: str,
    as_of: datetime,
    same_product: bool = False,
    same_regime: bool = False,
) -> Retrieved:
    """Ask four questions at once: own and shared experiences, the regime, the pattern. All as of one time.

    An agent that has recorded nothing finds nothing of its own, and an agent that is unknown to the pool finds what
    others have shared: that is no error. Knowledge that has left Redis counts as unknown.
    """
    product = product_id if same_product else None
    only_regime = regime if same_regime else None
    until = as_of - timedelta(minutes=layout.min_age_minutes)

    async def own() -> list[Hit]:
        if not layout.own:
            return []
        return await mem.retrieval.retrieve_similar_experiences(
            state.vector,
            agent_id=agent_id,
            product_id=product,
            regime=only_regime,
            until=until,
            as_of=as_of,
            top_k=layout.own,
            with_next_state=True,
        )

    async def shared() -> list[Hit]:
        if not layout.shared:
            return []
        return await mem.shared.retrieve_shared_experiences(
            state.vector,
            product_id=product,
            regime=only_regime,
            until=until,
            as_of=as_of,
            exclude_agent_id=agent_id,
            top_k=layout.shared,
            with_next_state=True,
        )

    async def known() -> tuple[RegimeMemory | None, PatternHit | None]:
        try:
            knowledge = await mem.retrieval.retrieve_regime_knowledge(regime, product_id=product_id, as_of=as_of)
            pattern = await mem.retrieval.find_similar_pattern(state.vector, as_of=as_of)
        except PastExpiredError:
            return None, None
        return knowledge.memory, pattern

    own_hits, shared_hits, (memory, pattern) = await asyncio.gather(own(), shared(), known())
    return Retrieved(own_hits, shared_hits, memory, pattern)


def states_of(layout: InputLayout, states: Sequence[State], regimes: Sequence[str]) -> StateColumns:
    """States as columns, all of product 0, with the regimes that their agents take them for.

    Raises
    ------
    EncoderError
        A feature of the layout is missing.
    """

    def floats(values: Sequence[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)

    return StateColumns(
        timestamp_ms=np.array([to_ms(state.timestamp) for state in states], dtype=np.int64),
        product=np.zeros(len(states), np.int64),
        regime=np.array([REGIMES.index(regime) for regime in regimes], dtype=np.int64),
        features=np.stack([feature_row(layout, state.features) for state in states]),
        vectors=np.stack([state.vector for state in states]),
        trailing_volatility=floats([state.features.get(TRAILING_VOLATILITY) for state in states]),
        price=floats([state.price for state in states]),
        spread=floats([state.spread for state in states]),
    )


def inputs_of(
    layout: InputLayout,
    states: Sequence[State],
    regimes: Sequence[str],
    product_ids: Sequence[str],
    positions: Sequence[float],
    retrieved: Sequence[Retrieved],
    as_of: Sequence[datetime],
) -> PolicyInputs:
    """The inputs of some states with what was retrieved for them.

    Raises
    ------
    EncoderError
        A memory is of another encoder than the layout's, or a feature is missing.
    InvalidRecordError
        A feature, or a vector, is not finite.
    """
    columns = states_of(layout, states, regimes)
    tokens, masks, values, known = [], [], [], []
    for row, (found, product_id) in enumerate(zip(retrieved, product_ids, strict=True)):
        token, mask = tokens_of(
            layout,
            found.own,
            found.shared,
            product_id=product_id,
            timestamp_ms=to_ms(as_of[row]),
            regime=regimes[row],
        )
        pattern = found.pattern
        knowledge, is_known = knowledge_of(
            found.regime,
            None if pattern is None else pattern.memory,
            None if pattern is None else pattern.distance,
            trailing_volatility=float(columns.trailing_volatility[row]),
        )
        tokens.append(token)
        masks.append(mask)
        values.append(knowledge)
        known.append(is_known)
    return PolicyInputs(
        state=state_inputs(layout, columns),
        position=np.array(positions, dtype=np.float32),
        memory=np.concatenate(tokens),
        memory_mask=np.concatenate(masks),
        knowledge=np.stack(values),
        knowledge_mask=np.stack(known),
    )
