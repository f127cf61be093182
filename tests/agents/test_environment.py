"""The Gymnasium environment: the rewards of a simulation, episodes that end at days and gaps, no view of the future."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from agents.baselines import MeanReversionAgent, RandomAgent
from agents.encoder import StateEncoder
from agents.market import Market
from agents.replay import MarketReplay
from agents.simulation import simulate
from memory import MemoryConnection
from memory.errors import InvalidQueryError, InvalidRecordError, MarketDataError
from memory.records import Action, Side

gymnasium = pytest.importorskip("gymnasium", reason="environments need the extra 'policy'")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from agents.environment import MarketEnvironment  # noqa: E402

DAY = datetime(2018, 4, 4, tzinfo=UTC)
"""The sample's day with a gap, from 16:47 to the next morning."""


@pytest.fixture(scope="module")
def replay(bitcoin: Market, coinbase_encoder: StateEncoder) -> MarketReplay:
    return MarketReplay(bitcoin, DAY, DAY + timedelta(days=2), coinbase_encoder)


@pytest.mark.parametrize("observe", ["features", "vector"])
@pytest.mark.parametrize("actions", ["discrete", "exposure"])
def test_gymnasiums_own_check_passes(replay: MarketReplay, observe: Any, actions: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Its advice on bounds and specs.
        check_env(MarketEnvironment(replay, observe=observe, actions=actions), skip_render_check=True)


@pytest.mark.parametrize(
    "agent", [MeanReversionAgent(), RandomAgent(seed=3, trade_share=0.5)], ids=lambda agent: agent.agent_id
)
def test_a_policy_gets_exactly_the_rewards_of_a_simulation(
    replay: MarketReplay, bitcoin: Market, coinbase_encoder: StateEncoder, agent: Any
) -> None:
    env = MarketEnvironment(replay, actions="exposure")
    lived = []
    for number in range(len(env.episodes)):
        env.reset(options={"episode": number})
        ended = False
        while not ended:
            state = env.state
            target = agent.decide(state, env.position).action.target(env.position)
            _, reward, ended, _, info = env.step(np.array([target]))
            lived.append((state.timestamp, info["position_after"], info["gross_return"], info["cost"], reward, ended))
    simulated = simulate(bitcoin, DAY, DAY + timedelta(days=2), [agent], coinbase_encoder).experiences()
    expected = [
        (item.timestamp, item.position_after, item.gross_return, item.cost, item.reward, item.terminal)
        for item in simulated
    ]
    assert lived == expected
    assert len({row[1] for row in lived}) > 2


def test_episodes_end_with_the_day_and_before_a_gap(replay: MarketReplay) -> None:
    env = MarketEnvironment(replay)
    table = replay.product("BTC-USD")
    ends = [table.decision_ms[episode.rows[-1]] for episode in env.episodes]
    starts = [table.decision_ms[episode.rows[0]] for episode in env.episodes]
    assert len(env.episodes) >= 2
    for end, start in zip(ends, starts[1:], strict=False):
        assert start - end > 5 * 60_000 or start // 86_400_000 > end // 86_400_000
    assert datetime.fromtimestamp(int(ends[0]) / 1000, UTC) < DAY.replace(hour=16, minute=48)


def test_discrete_actions_are_those_of_the_memory(replay: MarketReplay) -> None:
    env = MarketEnvironment(replay)
    env.reset(seed=0)
    positions = [env.step(index)[4]["position_after"] for index in (2, 3, 0, 3, 1)]
    assert positions == [1.0, 1.0, -1.0, -1.0, 0.0]
    assert env.action_of(2) == Action.from_index(2) == Action(Side.BUY, 1.0)


def test_the_observation_is_the_state_and_the_position(replay: MarketReplay) -> None:
    env = MarketEnvironment(replay, observe="vector")
    first, info = env.reset(seed=0)
    np.testing.assert_array_equal(first[:-1], env.state.vector)
    assert (first[-1], info["timestamp"]) == (0.0, env.state.timestamp)
    after, *_ = env.step(0)
    assert after[-1] == -1.0


async def test_memory_questions_cannot_see_past_the_last_observation(
    mem: MemoryConnection, replay: MarketReplay
) -> None:
    env = MarketEnvironment(replay)
    env.reset(seed=0)
    seen = env.state.timestamp
    with env.present():
        with pytest.raises(InvalidQueryError, match="the present of the replay"):
            await mem.messages.history(as_of=seen + timedelta(minutes=1), run_id="r")
        env.step(3)
        assert env.clock.now > seen
        await mem.messages.history(as_of=env.clock.now, run_id="r")


def test_shuffled_episodes_come_in_an_order_of_the_seed(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    replay = MarketReplay(coinbase, DAY, DAY + timedelta(days=2), coinbase_encoder)
    env = MarketEnvironment(replay, shuffle=True)

    def order(seed: int) -> list[datetime]:
        infos = [env.reset(seed=seed if number == 0 else None)[1] for number in range(len(env.episodes))]
        return [(info["timestamp"], info["product_id"]) for info in infos]

    assert order(1) == order(1)
    assert sorted(order(1)) == sorted(order(2))
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def test_what_cannot_be_is_refused_by_name(replay: MarketReplay) -> None:
    with pytest.raises(MarketDataError, match="DOGE-USD"):
        MarketEnvironment(replay, products=("DOGE-USD",))
    env = MarketEnvironment(replay)
    with pytest.raises(InvalidQueryError, match="no episode has begun"):
        env.step(0)
    env.reset()
    with pytest.raises(InvalidRecordError):
        env.step(7)
    with pytest.raises(InvalidQueryError, match="there is no episode 99"):
        env.reset(options={"episode": 99})
    with pytest.raises(InvalidRecordError, match="action"):
        MarketEnvironment(replay, actions="exposure").action_of(np.array([np.nan]))
