"""The trading agent where its input is bad or its luck is, and where it is alone with a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import memory
from agents.baselines import Decision, HoldAgent
from agents.encoder import StateEncoder
from agents.experiences import Costs, settle
from agents.feed import Tick, replay_ticks
from agents.market import Market
from agents.recorder import ExperienceRecorder
from agents.replay import MarketReplay, State
from agents.strategies import as_strategy
from agents.trading import TradingAgent
from memory import MemoryConnection
from memory.errors import EncoderError, InvalidQueryError, InvalidRecordError, MarketDataError
from memory.records import Action, Side
from tests.agents.trading_days import DAY, MINUTE, hold, stored, ticks

# --- bad input, and bad luck -----------------------------------------------------------------------------------


async def test_a_feature_that_is_nan_is_named_and_nothing_is_decided(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    broken = replace(states[1], features=states[1].features | {"return_5m": float("nan")})
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder)
    with pytest.raises(InvalidRecordError, match=r"feature return_5m of BTC-USDT at .* is nan"):
        await agent.run(ticks([states[0], broken]))
    await recorder.flush()
    assert len(await stored(mem)) == 1  # What was complete by then is recorded.


async def test_a_memory_of_another_encoder_is_refused(
    mem: MemoryConnection,
    recorder: ExperienceRecorder,
    states: list[State],
    encoder: StateEncoder,
    coinbase_encoder: StateEncoder,
    bitcoin: Market,
) -> None:
    first = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder)
    await first.run(ticks(states[:3]))
    await recorder.flush()
    second = TradingAgent(mem, HoldAgent(), recorder=recorder, hears=False)
    with pytest.raises(EncoderError, match=f"asked in encoder {encoder.id_}"):
        await second.run(MarketReplay(bitcoin, DAY, DAY + timedelta(days=1), coinbase_encoder))


async def test_a_replay_in_another_encoder_than_the_agents_is_refused(
    mem: MemoryConnection, recorder: ExperienceRecorder, encoder: StateEncoder, bitcoin: Market,
    coinbase_encoder: StateEncoder,
) -> None:  # fmt: skip
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder)
    with pytest.raises(InvalidQueryError, match="the replay's states are those of encoder"):
        await agent.run(MarketReplay(bitcoin, DAY, DAY + timedelta(days=1), coinbase_encoder))


async def test_bars_out_of_order_are_refused(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder, hears=False)
    with pytest.raises(MarketDataError, match="comes after that of"):
        await agent.run(ticks([states[1], states[1]]))


@pytest.mark.parametrize("answer", [None, Action(Side.BUY, 1.0), Decision(Action(Side.BUY, 2.0), 0.5)])
async def test_an_answer_that_is_no_decision_is_refused(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder, answer: Any
) -> None:
    agent = TradingAgent(mem, lambda _: answer, recorder=recorder, agent_id="odd", encoder=encoder)
    with pytest.raises(InvalidRecordError, match=r"returned|action\.size"):
        await agent.run(ticks(states[:1]))


def test_what_can_decide_nothing_is_no_strategy() -> None:
    with pytest.raises(InvalidRecordError, match="int is no strategy"):
        as_strategy(7)


async def test_a_live_agent_goes_on_without_its_memory_and_says_how_often(
    servers: Any, namespace: str, states: list[State], encoder: StateEncoder
) -> None:
    async with (
        memory.connect(redis_url=servers.redis_url, namespace=namespace) as away,
        memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem,
        ExperienceRecorder(mem, destination="episodic", on_termination=False) as recorder,
    ):
        agent = TradingAgent(away, hold, recorder=recorder, agent_id="alone", encoder=encoder, hears=False)

        async def feed() -> AsyncIterator[list[Tick]]:
            for number, item in enumerate(ticks(states[:6])):
                if number == 2:
                    await away.link.close()
                yield item

        report = await agent.run(feed())
        assert (report.decisions, report.without_memory, report.recorded) == (6, 4, 5)
        assert agent.position("BTC-USDT") == 0.0  # Closed with the feed's end.
        await recorder.flush()
        assert [item.position_after for item in await stored(mem)] == [1.0] * 5


async def test_an_agent_that_is_cancelled_records_what_was_complete(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    reached = asyncio.Event()

    async def feed() -> AsyncIterator[list[Tick]]:
        for item in ticks(states[:10]):
            yield item
        reached.set()
        await asyncio.Event().wait()

    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder)
    running = asyncio.create_task(agent.run(feed()))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await recorder.flush()
    found = await stored(mem)
    assert len(found) == 9
    assert found[-1].terminal


# --- a process of its own --------------------------------------------------------------------------------------


async def test_an_agent_needs_no_more_than_a_url_and_an_id(servers: Any, namespace: str, states: list[State]) -> None:
    async with TradingAgent.connect(
        servers.redis_url, agent_id="momentum", namespace=namespace, destination="episodic"
    ) as agent:
        report = await agent.run(ticks(states[:30]))
    assert (agent.strategy.name, report.recorded) == ("momentum", 29)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        assert await mem.episodic.count(agent_id="momentum") == 29


async def test_an_id_that_no_baseline_has_needs_a_strategy(mem: MemoryConnection, recorder: ExperienceRecorder) -> None:
    with pytest.raises(InvalidRecordError, match=r"agent 'mine' has no strategy.*momentum"):
        TradingAgent(mem, recorder=recorder, agent_id="mine")


def test_a_replay_gives_its_ticks_in_order_with_the_bar_after_its_end(
    bitcoin: Market, coinbase_encoder: StateEncoder
) -> None:
    replay = MarketReplay(bitcoin, DAY + timedelta(hours=9), DAY + timedelta(hours=9, minutes=3), coinbase_encoder)
    given = [(tick.timestamp, tick.acts, replay.clock.now) for (tick,) in replay_ticks(replay)]
    times = [replay.start + minute * MINUTE for minute in range(4)]
    assert given == [(time, time < replay.end, time) for time in times]


def test_rewards_are_settled_alike_alone_and_together() -> None:
    rng = np.random.default_rng(0)
    n = 200
    before, after = rng.choice([-1.0, 0.0, 0.5], (n, 3)), rng.choice([-1.0, 0.0, 1.0], (n, 3))
    price, later = rng.uniform(90, 110, n), rng.uniform(90, 110, n)
    spread = np.where(rng.random(n) < 0.3, np.nan, rng.uniform(0, 1, n))
    together = settle(before, after, price, later, spread, Costs())
    for row in range(n):
        one = slice(row, row + 1)
        alone = settle(before[one], after[one], price[one], later[one], spread[one], Costs())
        assert all(mine.tobytes() == its[one].tobytes() for mine, its in zip(alone, together, strict=True))
    gross, cost, reward = together
    assert np.array_equal(reward, gross - cost)
    assert cost[np.isnan(spread) & (before[:, 0] == after[:, 0]), 0].sum() == 0.0
