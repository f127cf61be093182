"""What agents lived through in the states of a training, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.policy.inputs import Bools, Floats, Ints, StateColumns
from memory.records import Action, Side
from memory.tables import ExperienceTable

_HOLD, _FLAT = Action(Side.HOLD, 0.0).index, Action(Side.BUY, 0.0).index
_LONG, _SHORT = Action(Side.BUY).index, Action(Side.SELL).index


@dataclass(frozen=True, slots=True, eq=False)
class Experiences:
    """Experiences of all windows in known states, by decision time, then agent and product."""

    agents: tuple[str, ...]
    agent: Ints
    state: Ints
    known_ms: Ints
    action: Ints
    before: Floats
    after: Floats
    reward: Floats
    gross: Floats
    cost: Floats
    quality: Floats
    terminal: Bools

    @classmethod
    def of(cls, tables: Sequence[ExperienceTable], states: StateColumns, products: tuple[str, ...]) -> Experiences:
        """Those of some tables that were lived through in `states`, whose product codes are places in `products`."""
        agents = tuple(sorted({agent for table in tables for agent in table.agents}))
        codes = {agent: code for code, agent in enumerate(agents)}
        product_codes = {product: code for code, product in enumerate(products)}

        def joined(name: str) -> npt.NDArray[np.float64]:
            return np.concatenate([getattr(table, name) for table in tables])

        agent = np.concatenate([np.array([codes[name] for name in table.agents], int)[table.agent] for table in tables])
        product = np.concatenate(
            [np.array([product_codes.get(name, -1) for name in table.products], int)[table.product] for table in tables]
        )
        time = np.concatenate([table.timestamp_ms for table in tables])
        side, size = joined("side"), joined("size")
        action = np.select([side == 0, size == 0, side > 0], [_HOLD, _FLAT, _LONG], _SHORT)
        before = np.nan_to_num(joined("position_before"), nan=0.0)
        aimed = np.where(side == 0, before, side * size)
        after = np.where(np.isfinite(joined("position_after")), joined("position_after"), aimed)
        reward, cost = joined("reward"), np.nan_to_num(joined("cost"), nan=0.0)
        gross = np.where(np.isfinite(joined("gross_return")), joined("gross_return"), reward + cost)
        state = rows_of(states, product, time)
        order = np.lexsort((product, agent, time))
        order = order[state[order] >= 0]
        return cls(
            agents=agents,
            agent=agent[order],
            state=state[order],
            known_ms=np.concatenate([table.known_at_ms for table in tables])[order],
            action=action[order].astype(np.int64),
            before=before[order],
            after=after[order],
            reward=reward[order],
            gross=gross[order],
            cost=cost[order],
            quality=joined("quality")[order],
            terminal=np.concatenate([table.terminal for table in tables])[order],
        )

    def terminal_states(self, count: int) -> Bools:
        """Whether an episode ends in each state."""
        ends = np.zeros(count, np.bool_)
        ends[self.state[self.terminal]] = True
        return ends


def rows_of(states: StateColumns, product: Ints, time_ms: Ints) -> Ints:
    """Rows of the states of some products and times; -1 where there is none."""
    if not len(states):
        return np.full(len(time_ms), -1, dtype=np.int64)
    first = int(states.timestamp_ms.min())
    span = int(states.timestamp_ms.max()) - first + 1
    keys = states.product * span + (states.timestamp_ms - first)
    inside = (product >= 0) & (time_ms >= first) & (time_ms < first + span)
    wanted = np.where(inside, product * span + (time_ms - first), -1)
    rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(inside & (keys[rows] == wanted), rows, -1)
