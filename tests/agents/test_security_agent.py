"""An agent's whole life with the rights that `coinswarm acl` gives it, beside the jobs that take in what it lived."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import memory
from agents.baselines import MomentumAgent
from agents.connecting import register_encoder
from agents.encoder import StateEncoder
from agents.market import Market
from agents.recorder import ExperienceRecorder
from agents.regime_detection import RegimeDetectionAgent
from agents.replay import MarketReplay
from agents.trading import TradingAgent
from memory import MemoryConnection
from memory.errors import AccessDeniedError
from memory.records import EpisodicMemory
from memory.store.acl import users

START = datetime(2021, 6, 17, tzinfo=UTC)
MINUTES = 30


async def test_a_trading_agent_asks_hears_decides_and_records(
    mem: MemoryConnection,
    as_user: Callable[..., str],
    binance: Market,
    encoder: StateEncoder,
    lived_hours: tuple[EpisodicMemory, ...],
) -> None:
    jobs, _, trader, analyst = users(mem.namespace, ["momentum", "regime"])
    market = Market("hours", [binance.products["BTC-USDT"]])
    past = [item for item in lived_hours if item.timestamp < START + timedelta(hours=1)]
    replay = MarketReplay(market, START + timedelta(hours=2), START + timedelta(hours=2, minutes=MINUTES), encoder)

    def connect(user: Any) -> MemoryConnection:
        return memory.connect(redis_url=as_user(user), namespace=mem.namespace, encoder_id=encoder.id_)

    async with connect(jobs) as own:
        await register_encoder(own, encoder)
        await own.episodic.add_many(past)
    async with connect(analyst) as own:
        detector = RegimeDetectionAgent(own, encoder, agent_id="regime", source="replay", run_id="r-1")
        await detector.run(replay)
    async with connect(trader) as own, ExperienceRecorder(own, on_termination=False) as recorder:
        agent = TradingAgent(
            own, MomentumAgent(), recorder=recorder, encoder=encoder, source="replay", run_id="r-1", announces=True
        )
        report = await agent.run(replay)
        flushed = await recorder.flush(60.0)
        assert (flushed.written, flushed.traces_written) == (report.recorded, report.recorded)
        assert report.recorded > MINUTES / 2
        with pytest.raises(AccessDeniedError):
            await own.inbox.append(past[0], agent_id="random")
        with pytest.raises(AccessDeniedError):
            await own.episodic.add_many(past[:1])
    async with connect(jobs) as own:
        assert await own.inbox.length() == {"momentum": report.recorded}
        entries = await own.inbox.read(consumer="test", count=1000)
        assert len(entries) == report.recorded
        stored = await own.episodic.add_many([entry.to_experience() for entry in entries])
        assert (len(stored.stored), stored.rejections) == (report.recorded, ())


async def test_an_agent_that_may_not_register_its_encoder_records_all_the_same(
    mem: MemoryConnection, as_user: Callable[..., str], binance: Market, encoder: StateEncoder
) -> None:
    *_, trader = users(mem.namespace, ["momentum"])
    replay = MarketReplay(Market("hours", [binance.products["BTC-USDT"]]), START, START + timedelta(minutes=5), encoder)
    async with (
        memory.connect(redis_url=as_user(trader), namespace=mem.namespace) as own,
        ExperienceRecorder(own, on_termination=False) as recorder,
    ):
        agent = TradingAgent(own, MomentumAgent(), recorder=recorder, encoder=encoder, source="replay", run_id="r-1")
        report = await agent.run(replay)
        assert (await recorder.flush(60.0)).written == report.recorded > 0
