"""The simulation: agents act on a replayed market, and what they live through becomes experience.

Each UTC day is one session: agents start it flat, and its last decision is terminal though its reward over the next
bar counts. A gap of more than five minutes, or a cold state, ends the episode in the same way, and the next one starts
flat; that a gap has ended it is known five minutes after the last bar. So a day that is replayed alone equals that day
within a month.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

import numpy as np

from agents.baselines import Agent
from agents.encoder import StateEncoder
from agents.experiences import (
    DAY_MS,
    Costs,
    ProductExperiences,
    ReplayCounts,
    SimulatedWindow,
    ends_known_ms,
    settle,
)
from agents.features import DEFAULT_BAR_SHARE
from agents.market import Market
from agents.regimes import RULE_VERSION
from agents.replay import MarketReplay, ProductStates
from memory.asof import ReplayClock, replaying
from memory.errors import InvalidRecordError, WindowError
from memory.records import Action, from_ms
from memory.validation import validate_identifier
from memory.window import Window

SIMULATION_VERSION = "2"
"""Changes whenever the same market, agents and encoder would bring other experiences."""


def simulate(
    market: Market,
    start: datetime,
    end: datetime,
    agents: Sequence[Agent],
    encoder: StateEncoder,
    *,
    costs: Costs | None = None,
    source: str = "replay",
    bar_share: float = DEFAULT_BAR_SHARE,
) -> SimulatedWindow:
    """Let agents act on a span of whole UTC days of a market.

    Agents are price takers and act independently of each other. While one decides, the decision's time is the present:
    a question to a memory that could see further is refused (`memory.replaying`). Deterministic. Cost: about 20
    microseconds an experience, and as much for its record; memory: 1.5 KB a state before records are made.

    Parameters
    ----------
    market
        The candles; the look-back before `start` and one bar after `end` are read too.
    start, end
        Aware UTC, on the grid of windows: decisions with start <= timestamp < end. Each UTC day is one session.
    agents
        Those who act; ids must differ.
    encoder
        A fitted encoder that was known at `start`.
    costs
        2 basis points a side and half the spread where None.
    source
        "replay" or "backtest".
    bar_share
        As in `agents.replay.MarketReplay`.

    Raises
    ------
    WindowError
        The span is not made of whole UTC days.
    MarketDataError
        The market has no candle in the span.
    EncoderError
        The encoder was fitted on data later than `start`.
    InvalidRecordError
        No agent, two of the same id, a bad id, another source.
    """
    _check_grid(start, end)
    ordered = _checked_agents(agents)
    if source not in ("replay", "backtest"):
        raise InvalidRecordError(
            f"source is {source!r}; a simulation is not live.", remedy="Use replay or backtest.", field="source"
        )
    costs = costs or Costs()
    replay = MarketReplay(market, start, end, encoder, bar_share=bar_share)
    products: dict[str, ProductExperiences] = {}
    counts = ReplayCounts()
    for states in replay.products():
        products[states.product_id], product_counts = _act(states, ordered, costs)
        counts += product_counts
    return SimulatedWindow(
        start=replay.start,
        end=replay.end,
        source=source,
        run_id=run_id(market, ordered, encoder, costs, bar_share),
        encoder_id=encoder.id_,
        agent_ids=tuple(agent.agent_id for agent in ordered),
        products=products,
        counts=counts,
    )


def simulate_days(
    market: Market,
    start: datetime,
    end: datetime,
    agents: Sequence[Agent],
    encoder: StateEncoder,
    *,
    costs: Costs | None = None,
    source: str = "replay",
    bar_share: float = DEFAULT_BAR_SHARE,
) -> Iterator[SimulatedWindow]:
    """`simulate` day by day, in memory of one day; days on which no product has a candle are left out."""
    _check_grid(start, end)
    market.check_span(start, end)
    day = start
    while day < end:
        window = Window.containing(day)
        if market.has_decisions(window.start, window.end):
            yield simulate(
                market, window.start, window.end, agents, encoder, costs=costs, source=source, bar_share=bar_share
            )
        day = window.end


def run_id(
    market: Market, agents: Sequence[Agent], encoder: StateEncoder, costs: Costs, bar_share: float = DEFAULT_BAR_SHARE
) -> str:
    """Stable id of a simulation, such as ``replay-1f0c...``: a hash of all that its experiences depend on.

    Span and products are absent: replaying more of either, or a day again, brings the same records for what overlaps.
    """
    content = {
        "simulation": SIMULATION_VERSION,
        "regime_rule": RULE_VERSION,
        "market": market.identity,
        "encoder": encoder.id_,
        "agents": {agent.agent_id: agent.parameters() for agent in agents},
        "costs": asdict(costs),
        "bar_share": bar_share,
    }
    text = json.dumps(content, sort_keys=True)
    return f"{market.name}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _check_grid(start: datetime, end: datetime) -> None:
    Window.of_span(start, start + timedelta(days=1))
    Window.of_span(end - timedelta(days=1), end)
    if end <= start:
        raise WindowError(
            f"the span from {start.isoformat()} to {end.isoformat()} is empty.", remedy="Let it end after its start."
        )


def _checked_agents(agents: Sequence[Agent]) -> list[Agent]:
    ids = [validate_identifier(agent.agent_id, "agent_id") for agent in agents]
    if not ids or len(set(ids)) != len(ids):
        raise InvalidRecordError(
            f"the agents are {', '.join(ids) or 'none'}.",
            remedy="Give at least one agent, each with an id of its own.",
            field="agent_id",
        )
    return sorted(agents, key=lambda agent: agent.agent_id)


def _act(states: ProductStates, agents: Sequence[Agent], costs: Costs) -> tuple[ProductExperiences, ReplayCounts]:
    """Let the agents act on one product's states."""
    acting = states.inside & states.warm & states.has_next
    rows = np.flatnonzero(acting)
    n, width = len(rows), len(agents)
    day = states.decision_ms[rows] // DAY_MS
    new_session = np.append(True, np.diff(day) != 0)[:n]
    follows = np.append(np.diff(rows) == 1, False)[:n] & ~np.append(new_session[1:], True)[:n]
    terminal = ~follows
    starts = np.append(True, terminal[:-1])[:n]
    session_start = np.maximum.accumulate(np.where(new_session, np.arange(n), 0))

    actions: list[list[Action]] = []
    confidence, before, after = np.zeros((n, width)), np.zeros((n, width)), np.zeros((n, width))
    position = [0.0] * width
    with replaying(ReplayClock(from_ms(int(states.decision_ms[0])))) as clock:
        for index, row in enumerate(rows.tolist()):
            if starts[index]:
                position = [0.0] * width
            state = states.state(row)
            clock.now = state.timestamp
            taken = []
            before[index] = position
            for column, agent in enumerate(agents):
                decision = agent.decide(state, position[column])
                position[column] = decision.action.target(position[column])
                confidence[index, column] = decision.confidence
                taken.append(decision.action)
            after[index] = position
            actions.append(taken)

    # Zero has one sign, so that equal records are equal bit for bit.
    after += 0.0
    before += 0.0
    gross, cost, reward = settle(before, after, states.price[rows], states.price[rows + 1], states.spread[rows], costs)
    cumulative = reward.copy()
    end_row = rows.copy()
    for index in range(n - 2, -1, -1):
        if follows[index]:
            cumulative[index] += cumulative[index + 1]
            end_row[index] = end_row[index + 1]
    inside = states.inside
    counts = ReplayCounts(
        bars=int(inside.sum()),
        cold=int((inside & ~states.warm).sum()),
        gaps=int((inside[:-1] & inside[1:] & ~states.has_next[:-1]).sum()),
        unrewarded=int((inside & states.warm & ~states.has_next).sum()),
        states=n,
        experiences=n * width,
    )
    experiences = ProductExperiences(
        states=states,
        rows=rows,
        step=np.arange(n) - session_start,
        terminal=terminal,
        return_known_ms=ends_known_ms(states, end_row),
        actions=actions,
        confidence=confidence,
        position_before=before,
        position_after=after,
        gross_return=gross,
        cost=cost,
        reward=reward,
        cumulative_return=cumulative,
    )
    return experiences, counts
