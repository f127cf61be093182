"""Three agents in three processes on one replayed day, with one memory between them.

Run as ``python docs/examples/three_agents.py``; it needs nothing but the project, and takes half a minute. An analyst
judges the regimes and tells the others where they change. Of the two that trade, one is a baseline, and one asks its
own and the shared memory, and stays out of a crisis that it hears of. All three see the same bars at the same pace, as
they would live.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import memory
from agents.baselines import FLAT, KEEP, Decision, MomentumAgent
from agents.feed import Tick, replay_ticks
from agents.fitting import default_encoder
from agents.market import Market
from agents.market_analysis import MarketAnalysisAgent
from agents.recorder import ExperienceRecorder
from agents.replay import MarketReplay
from agents.strategies import Situation
from agents.trading import TradingAgent
from memory import embedded

RUN = "three-agents"
ROLES = ("analyst", "momentum", "careful")
PRODUCT = "BTC-USDT"
DAY = timedelta(days=1)


def careful(situation: Situation) -> Decision:
    """Follows momentum, unless a crisis was heard of, or the same position lost in the most similar moments."""
    wanted = MomentumAgent().decide(situation.state, situation.position)
    target = wanted.action.target(situation.position)
    warned = any(state.regime == "CRISIS" for state in situation.working.other_agent_states.values())
    similar = [hit.memory for hit in (*situation.own, *situation.shared)]
    lost = sum(item.reward for item in similar if (item.position_after or 0.0) * target > 0) < 0
    return Decision(FLAT if situation.position else KEEP, 0.5) if warned or lost else wanted


async def paced(replay: MarketReplay, begin: float, bars_a_second: float) -> AsyncIterator[list[Tick]]:
    """The ticks of a replay, each at its own moment of the clock on the wall."""
    for number, ticks in enumerate(replay_ticks(replay)):
        await asyncio.sleep(max(begin + number / bars_a_second - time.time(), 0.0))
        yield ticks


async def act(role: str, redis_url: str, minutes: int, begin: float, bars_a_second: float) -> str:
    """One agent, in a process of its own: all that it shares with the others is the URL, and the name of the run."""
    encoder = default_encoder()
    market = Market.sample("binance", [PRODUCT])
    start = encoder.fitted_until_
    replay = MarketReplay(market, start, start + timedelta(minutes=minutes), encoder)
    feed = paced(replay, begin, bars_a_second)
    async with memory.connect(redis_url=redis_url, encoder_id=encoder.id_) as mem:
        with memory.replaying(replay.clock):
            if role == "analyst":
                analyst = MarketAnalysisAgent(mem, encoder, agent_id=role, source="replay", run_id=RUN)
                return str(await analyst.run(feed))
            strategy = careful if role == "careful" else MomentumAgent()
            async with ExperienceRecorder(mem, destination="episodic") as recorder:
                agent = TradingAgent(
                    mem,
                    strategy,
                    recorder=recorder,
                    agent_id=role,
                    encoder=encoder,
                    source="replay",
                    run_id=RUN,
                    whole_episodes=False,
                    announces=True,
                )
                return str(await agent.run(feed))


async def show(redis_url: str) -> None:
    """What is in the memory when all have ended."""
    async with memory.connect(redis_url=redis_url) as mem:
        for role in ROLES[1:]:
            print(f"{role}: {await mem.episodic.count(agent_id=role)} experiences in memory")
        told = (await mem.messages.history(run_id=RUN)).messages
        print("messages:", dict(Counter(f"{item.sender_agent_id} {item.message_type}" for item in told)))
        for item in told[-3:]:
            print(f"  {item.timestamp:%H:%M} {item.sender_agent_id}: {item.insight}")
        first = default_encoder().fitted_until_
        pages = [page async for page in mem.episodic.read_window(first, first + DAY, agent_id="careful")]
        last = max((item for page in pages for item in page), key=lambda item: item.timestamp)
        trace = await mem.decisions.get(last.memory_id)
        assert trace is not None
        print(
            f"careful at {trace.timestamp:%H:%M}: {trace.action.side} {trace.action.size:g}, having read "
            f"{len(trace.own)} own and {len(trace.shared)} shared experiences, as of {trace.as_of:%H:%M}"
        )


async def run_all(home: Path, minutes: int, bars_a_second: float) -> int:
    """Start Redis, let the three act, and show what came of it; returns how many of them failed."""
    with embedded.open_session(home, ("redis",)) as session:
        url = session.endpoints.redis_url
        assert url is not None
        begin = time.time() + 2.0
        options = ["--minutes", str(minutes), "--begin", str(begin), "--bars-a-second", str(bars_a_second)]
        children = [
            await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--role", role, "--redis-url", url, *options, stdout=asyncio.subprocess.PIPE
            )
            for role in ROLES
        ]
        answers = await asyncio.gather(*(child.communicate() for child in children))
        for role, (output, _) in zip(ROLES, answers, strict=True):
            print(f"{role}: {output.decode().strip()}")
        await show(url)
        return sum(child.returncode != 0 for child in children)


def main() -> None:
    """Run all three, or, in a child process, one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=600, help="how much of the day is replayed")
    parser.add_argument("--bars-a-second", type=float, default=30.0, help="how quickly")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--redis-url", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        print(asyncio.run(act(options.role, options.redis_url, options.minutes, options.begin, options.bars_a_second)))
        return
    with tempfile.TemporaryDirectory(prefix="coinswarm-example-") as home:
        failed = asyncio.run(run_all(Path(home), options.minutes, options.bars_a_second))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
