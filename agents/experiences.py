"""Experiences of a simulation: what agents did on replayed states, what it cost and brought, as arrays and records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray, IntArray
from agents.features import GAP_MINUTES, MINUTE_MS
from agents.replay import ProductStates
from memory.records import Action, EpisodicMemory, from_ms
from memory.validation import validate_number

DEFAULT_COST_BP = 2.0
"""Fee a side that a large taker pays on a liquid market; MacroHFT's own figure."""
DAY_MS = 86_400_000
"""Length of a session."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of trading, on the traded notional.

    Parameters
    ----------
    basis_points
        Fee a side, basis points.
    half_spread
        Whether half the spread is paid as well, where there is a quote.
    """

    basis_points: float = DEFAULT_COST_BP
    half_spread: bool = True

    def __post_init__(self) -> None:
        validate_number(self.basis_points, "basis_points", 0.0, 10_000.0)

    def rates(self, price: FloatArray, spread: FloatArray) -> FloatArray:
        """Cost of a side as a fraction of the traded notional; price and spread in the quote currency, shape (n,)."""
        fee = np.full(len(price), self.basis_points / 1e4)
        if not self.half_spread:
            return fee
        return fee + np.where(np.isnan(spread), 0.0, spread) / (2.0 * price)


def settle(
    before: FloatArray,
    after: FloatArray,
    price: FloatArray,
    next_price: FloatArray,
    spread: FloatArray,
    costs: Costs,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What positions brought over the next bar: gross return, cost and reward = gross - cost, fractions of notional.

    Parameters
    ----------
    before, after
        Exposures before and after the decisions, -1 to 1, shape (n, agents).
    price, next_price, spread
        Of each decision and the one after it, quote currency, shape (n,); the spread is NaN without a quote.
    costs
        What trading costs.

    Returns
    -------
    Three arrays of shape (n, agents). A row is bit for bit the same alone and in any batch; zero has one sign.
    """
    gross = after * (next_price / price - 1.0)[:, None] + 0.0
    cost = np.abs(after - before) * costs.rates(price, spread)[:, None]
    return gross, cost, gross - cost


def ends_known_ms(states: ProductStates, last: IntArray) -> IntArray:
    """When it is known that episodes have ended with some states, milliseconds.

    At the next decision time, where the day ends or the history has gone cold; where a gap follows that bar, when no
    other has come for `GAP_MINUTES`: before, nobody can tell that the episode does not go on.

    Parameters
    ----------
    last
        Rows of the last states, (n,); each has a next one.
    """
    after = last + 1
    times = states.decision_ms
    same_day = times[after] // DAY_MS == times[last] // DAY_MS
    before_gap = same_day & states.inside[after] & states.warm[after] & ~states.has_next[after]
    return times[after] + np.where(before_gap, GAP_MINUTES * MINUTE_MS, 0)


@dataclass(frozen=True, slots=True)
class ReplayCounts:
    """What became of the bars of a span; counts add up over products and spans.

    Attributes
    ----------
    bars
        Decision times, cold ones included.
    cold
        Decision times without enough history: not recorded.
    gaps
        Spans of more than five minutes without a candle, between two decision times of the same span.
    unrewarded
        Warm states without a next bar within five minutes (a gap, or the end of the data): not recorded.
    states
        States that were acted on and recorded.
    experiences
        States times agents.
    """

    bars: int = 0
    cold: int = 0
    gaps: int = 0
    unrewarded: int = 0
    states: int = 0
    experiences: int = 0

    def __add__(self, other: ReplayCounts) -> ReplayCounts:
        return ReplayCounts(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class ProductExperiences:
    """Experiences of all agents with one product; rows are recorded states in time order, columns are agents.

    Attributes
    ----------
    rows
        Row of `states` of each recorded state, shape (n,).
    step
        Index of the decision within its session, shape (n,).
    terminal
        Whether the episode ends with the state, shape (n,).
    return_known_ms
        When the end of its episode, and with it the returns, are known (`ends_known_ms`), shape (n,).
    actions, confidence
        What each agent did: `actions[row][agent]`; confidence of shape (n, agents).
    position_before, position_after
        Exposure, shape (n, agents).
    gross_return, cost, reward
        Over the next bar, fractions of notional, reward = gross_return - cost, shape (n, agents).
    cumulative_return
        Sum of rewards from the state to the end of its episode, shape (n, agents).
    """

    states: ProductStates
    rows: IntArray
    step: IntArray
    terminal: npt.NDArray[np.bool_]
    return_known_ms: IntArray
    actions: list[list[Action]]
    confidence: FloatArray
    position_before: FloatArray
    position_after: FloatArray
    gross_return: FloatArray
    cost: FloatArray
    reward: FloatArray
    cumulative_return: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedWindow:
    """What the agents lived through in a span.

    Attributes
    ----------
    start, end
        Half-open span of decision times.
    run_id
        Stable id: the same market, encoder, rule, agents, parameters and costs give the same.
    agent_ids
        Columns of the arrays in `products`, sorted.
    products
        Experiences by product.
    counts
        What became of the bars.
    """

    start: datetime
    end: datetime
    source: str
    run_id: str
    encoder_id: str
    agent_ids: tuple[str, ...]
    products: dict[str, ProductExperiences]
    counts: ReplayCounts

    def __len__(self) -> int:
        return self.counts.experiences

    def experiences(self) -> Iterator[EpisodicMemory]:
        """The experiences as records, by time, product and agent.

        Agents of one state share its vector and its dictionary of features: do not change them in place.
        """
        for _, product_id, index in self._order():
            table = self.products[product_id]
            states, row = table.states, int(table.rows[index])
            state = states.state(row)
            follows = bool(states.warm[row + 1])
            known_at = from_ms(int(states.decision_ms[row + 1]))
            return_known_at = from_ms(int(table.return_known_ms[index]))
            actions = dict(zip(self.agent_ids, table.actions[index], strict=True))
            columns = (
                table.confidence[index].tolist(),
                table.position_before[index].tolist(),
                table.position_after[index].tolist(),
                table.gross_return[index].tolist(),
                table.cost[index].tolist(),
                table.reward[index].tolist(),
                table.cumulative_return[index].tolist(),
            )
            for agent_id, confidence, before, after, gross, cost, reward, cumulative in zip(
                self.agent_ids, *columns, strict=True
            ):
                yield EpisodicMemory(
                    agent_id=agent_id,
                    timestamp=state.timestamp,
                    state_vector=state.vector,
                    action=actions[agent_id],
                    reward=reward,
                    product_id=product_id,
                    regime=state.regime,
                    next_state_vector=states.vectors[row + 1] if follows else None,
                    confidence=confidence,
                    other_agent_actions={other: action for other, action in actions.items() if other != agent_id},
                    terminal=bool(table.terminal[index]),
                    cumulative_return=cumulative,
                    return_known_at=return_known_at,
                    encoder_id=self.encoder_id,
                    source=self.source,
                    run_id=self.run_id,
                    step=int(table.step[index]),
                    known_at=known_at,
                    price=state.price,
                    spread=state.spread,
                    gross_return=gross,
                    cost=cost,
                    position_before=before,
                    position_after=after,
                    features=state.features,
                )

    def _order(self) -> list[tuple[int, str, int]]:
        """Recorded states as (decision time, product, index), sorted."""
        return sorted(
            (time_ms, product_id, index)
            for product_id, table in self.products.items()
            for index, time_ms in enumerate(table.states.decision_ms[table.rows].tolist())
        )
