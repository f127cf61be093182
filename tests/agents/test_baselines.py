"""Baseline agents: what each does, and that it depends on the state and the own position alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.baselines import (
    BreakoutAgent,
    HoldAgent,
    MeanReversionAgent,
    MomentumAgent,
    RandomAgent,
    baseline_agents,
)
from agents.catalogue import FEATURES
from agents.replay import State
from agents.simulation import SimulatedWindow
from memory.records import REGIMES
from memory.validation import validate_action

NIGHT = datetime(2021, 6, 17, tzinfo=UTC)


def a_state(regime: str = "QUIET", timestamp: datetime = NIGHT, product: str = "BTC-USD", **named: float) -> State:
    """A state with neutral features but for some."""
    features = {spec.name: spec.neutral for spec in FEATURES} | {"trailing_volatility": 1e-3} | named
    return State(product, timestamp, features, np.zeros(256, np.float32), 100.0, None, regime, 1.0)


def target(agent: object, state: State, position: float = 0.0) -> float:
    """Exposure after the agent's decision."""
    return agent.decide(state, position).action.target(position)


def test_there_are_five_with_ids_of_their_own() -> None:
    assert [agent.agent_id for agent in baseline_agents()] == [
        "breakout",
        "hold",
        "mean_reversion",
        "momentum",
        "random",
    ]


@given(
    st.floats(-8, 8),
    st.floats(-8, 8),
    st.floats(-1, 1),
    st.floats(-4, 4),
    st.sampled_from(REGIMES),
    st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]),
)
def test_decisions_are_valid_actions_with_a_confidence(
    r15: float, r60: float, place: float, volume: float, regime: str, position: float
) -> None:
    state = a_state(regime, return_15m=r15, return_60m=r60, range_position_60m=place, volume_5m=volume)
    for agent in baseline_agents():
        decision = agent.decide(state, position)
        validate_action(decision.action, "action")
        assert 0.0 <= decision.confidence <= 1.0
        assert agent.decide(state, position) == decision


def test_momentum_follows_a_drift_and_leaves_when_it_has_died() -> None:
    agent = MomentumAgent()
    rise, fall = a_state(return_15m=2.0, return_60m=2.0), a_state(return_15m=-2.0, return_60m=-2.0)
    assert (target(agent, rise), target(agent, fall)) == (1.0, -1.0)
    fading = a_state(return_15m=0.6, return_60m=0.6)
    assert (target(agent, fading, 1.0), target(agent, fading, 0.0)) == (1.0, 0.0)
    assert target(agent, a_state(return_15m=0.1, return_60m=0.1), 1.0) == 0.0


def test_momentum_stays_out_where_moves_are_taken_back() -> None:
    rise = a_state("MEAN_REVERTING", return_15m=2.0, return_60m=2.0)
    assert target(MomentumAgent(), rise, 1.0) == 0.0


def test_mean_reversion_bets_against_a_move_and_leaves_when_it_is_taken_back() -> None:
    agent = MeanReversionAgent()
    assert target(agent, a_state(return_15m=2.0)) == -1.0
    assert target(agent, a_state("VOLATILE", return_15m=2.0)) == -0.5
    assert target(agent, a_state(return_15m=1.0), -1.0) == -1.0
    assert target(agent, a_state(return_15m=0.1), -1.0) == 0.0


@pytest.mark.parametrize("regime", ["CRISIS", "TRENDING"])
def test_mean_reversion_stays_out_of_crises_and_trends(regime: str) -> None:
    assert target(MeanReversionAgent(), a_state(regime, return_15m=3.0), -1.0) == 0.0


def test_breakout_needs_volume_and_leaves_past_the_middle_of_the_range() -> None:
    agent = BreakoutAgent()
    assert target(agent, a_state(range_position_60m=0.95, volume_5m=1.0)) == 1.0
    assert target(agent, a_state(range_position_60m=-0.95, volume_5m=1.0)) == -1.0
    assert target(agent, a_state(range_position_60m=0.95, volume_5m=0.0)) == 0.0
    assert target(agent, a_state(range_position_60m=0.4), 1.0) == 1.0
    assert target(agent, a_state(range_position_60m=-0.1), 1.0) == 0.0


def test_hold_buys_once_and_holds() -> None:
    assert HoldAgent().decide(a_state(), 0.0).action.side == "BUY"
    assert HoldAgent().decide(a_state(), 1.0).action.side == "HOLD"


def test_random_depends_on_seed_product_and_time_alone() -> None:
    times = [NIGHT + timedelta(minutes=minute) for minute in range(500)]

    def drawn(seed: int, product: str, **named: float) -> list[object]:
        return [
            RandomAgent(seed=seed).decide(a_state(timestamp=time, product=product, **named), 0.0).action
            for time in times
        ]

    assert drawn(0, "BTC-USD") == drawn(0, "BTC-USD", return_15m=3.0)
    assert drawn(0, "BTC-USD") != drawn(1, "BTC-USD")
    assert drawn(0, "BTC-USD") != drawn(0, "ETH-USD")


def test_random_trades_in_its_share_of_decisions_in_all_directions() -> None:
    agent = RandomAgent(trade_share=0.5)
    actions = Counter(
        (decision.action.side.value, decision.action.size)
        for minute in range(4000)
        for decision in [agent.decide(a_state(timestamp=NIGHT + timedelta(minutes=minute)), 0.0)]
    )
    assert 0.45 < actions.pop(("HOLD", 0.0)) / 4000 < 0.55
    assert len(actions) == 5
    assert min(actions.values()) > 300


def test_parameters_tell_agents_apart() -> None:
    agent = MomentumAgent()
    assert agent.parameters() != replace(agent, entry=2.0).parameters()
    assert agent.parameters() != MeanReversionAgent(entry=agent.entry, exit=agent.exit).parameters()


def test_each_agent_takes_positions_of_its_own_on_a_real_night(night: SimulatedWindow) -> None:
    table = night.products["BTC-USDT"]
    invested = dict(zip(night.agent_ids, (table.position_after != 0).mean(axis=0), strict=True))
    assert invested["hold"] == 1.0
    assert all(0.05 < share < 0.95 for agent, share in invested.items() if agent != "hold"), invested
