"""A trading agent that acts by the memory-augmented policy: traced, repeatable, and blind to its future."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agents.baselines import HoldAgent, MomentumAgent
from agents.books import TradingReport
from agents.encoder import StateEncoder
from agents.market import Market
from agents.policy.checkpoint import PolicyCheckpoint
from agents.policy.policy import MemoryAugmentedPolicy
from agents.recorder import ExperienceRecorder
from agents.replay import MarketReplay
from agents.simulation import simulate
from agents.trading import TradingAgent
from memory import MemoryConnection

DAY = datetime(2021, 6, 17, tzinfo=UTC)
NOON = DAY + timedelta(hours=12)


async def test_its_decisions_are_traced_and_can_be_taken_again(
    mem: MemoryConnection, binance: Market, encoder: StateEncoder, checkpoint: PolicyCheckpoint
) -> None:
    market = Market("policy-test", [binance.products["BTC-USDT"]])
    lived = simulate(market, DAY, DAY + timedelta(days=1), [HoldAgent(), MomentumAgent()], encoder)
    await mem.episodic.add_many([item for item in lived.experiences() if item.timestamp < DAY + timedelta(hours=6)])
    policy = MemoryAugmentedPolicy(mem, checkpoint, seed=5)

    async def trade() -> TradingReport:
        async with ExperienceRecorder(
            mem, destination="episodic", close_wait_s=120.0, on_termination=False
        ) as recorder:
            agent = TradingAgent(mem, policy, recorder=recorder, agent_id="hold", hears=False)
            return await agent.run(MarketReplay(market, NOON, NOON + timedelta(minutes=12), encoder))

    report = await trade()
    assert (report.decisions, report.recorded) == (12, 12)
    pages = [page async for page in mem.episodic.read_window(NOON, NOON + timedelta(hours=1))]
    decided = [item for page in pages for item in page]
    traces = await mem.decisions.get_many([item.memory_id for item in decided])
    for experience, trace in zip(decided, traces, strict=True):
        assert trace is not None
        assert (trace.action, trace.checkpoint) == (experience.action, checkpoint.id_)
        assert trace.own
        assert all(read.known_at <= trace.timestamp for read in trace.own)
        again = await policy.decide_again(trace)
        assert (again.action, again.draw, again.probabilities) == (trace.action, trace.draw, trace.probabilities)
        assert again.own == trace.own
    before = await mem.episodic.count()
    await trade()
    assert await mem.episodic.count() == before
    assert await mem.dead_letters.count() == 0
