"""Concurrent agents on one machine and over links with latency: shared connections against pools of them.

    python -m benchmarks.batching                  # one machine, then 0.5, 2 and 10 ms each way
    python -m benchmarks.batching --delays 0 2 --agents 10 50 --seconds 2

Every row answers the same questions through the same service: agent, product and regime given, top 10, records
unpacked. Only how commands travel differs:

* pool of N: redis-py's BlockingConnectionPool with N connections; "one each" has as many as there are agents;
* memory: what `memory.connect()` opens by default;
* batched: `BatchedMemoryRetrieval`, with its default number of connections;
* batched, equal: the same where all agents of a minute ask about the same state at the same moment.

``cpu us`` is the processor time that a question costs in the client. redis-py's pool hands a connection that comes
back to whoever asks next, not to whoever has waited longest: with more callers than connections some wait for seconds.

The latency is real traffic held back by a proxy process (tests/memory/retrieval/latency_proxy.py); its own work, about
30 microseconds each way, comes on top.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from redis.asyncio import BlockingConnectionPool, Redis

import memory
from memory import Action, EpisodicMemory, MemoryConnection, Settings, Side
from memory.records import REGIMES
from memory.retrieval.batching import CONNECTIONS, BatchedMemoryRetrieval
from memory.store.link import Command, RedisLink
from tests.memory.retrieval.latency_proxy import proxy_process

START = datetime(2021, 6, 17, tzinfo=UTC)
AGENTS = ("momentum", "reversal", "hold", "breakout", "noise")
PRODUCTS = ("BTC-USDT", "ETH-USDT")
SEED = 7


class Figures(NamedTuple):
    """Questions a second; median and 99th percentile of their times; the client's processor time a question."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


class PoolLink(RedisLink):
    """redis-py's client on a pool that waits, with nothing around it."""

    def __init__(self, url: str, connections: int) -> None:
        super().__init__(url, max_connections=connections)
        pool = BlockingConnectionPool.from_url(url, max_connections=connections, timeout=None, protocol=3)
        self.client = Redis.from_pool(pool)
        self.client.response_callbacks.clear()

    async def execute(self, *arguments: Any, retry: bool = True, timeout_s: float | None = None) -> Any:  # noqa: ARG002
        """One command."""
        return await self.client.execute_command(*arguments)

    async def pipeline(
        self,
        commands: Sequence[Command],
        *,
        transaction: bool = False,
        timeout_s: float | None = None,  # noqa: ARG002
    ) -> list[Any]:
        """Commands of one round trip."""
        pipe = self.client.pipeline(transaction=transaction)
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute())

    async def close(self) -> None:
        """Close the pool."""
        await self.client.aclose()


def main() -> None:
    """Load a memory, ask it in each way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--memories", type=int, default=20_000)
    parser.add_argument("--agents", type=int, nargs="*", default=[1, 10, 50], help="concurrent callers")
    parser.add_argument("--delays", type=float, nargs="*", default=[0.0, 0.5, 2.0, 10.0], help="ms, one way")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each row; the better one is shown")
    asyncio.run(run(parser.parse_args()))


async def run(arguments: argparse.Namespace) -> None:
    """The whole table."""
    with tempfile.TemporaryDirectory(prefix="batching-") as home:
        settings = Settings(home=Path(home), namespace="batching", redis_url=None)
        async with memory.connect(settings=settings) as mem:
            states = await load(mem, arguments.memories)
            print(f"{arguments.memories:,} memories; {len(AGENTS)} agents, {len(PRODUCTS)} products; top 10\n")
            for delay_ms in arguments.delays:
                await table(mem, states, delay_ms, arguments)


async def load(mem: MemoryConnection, number: int) -> npt.NDArray[np.float32]:
    """Store clustered states; returns states to ask about."""
    rng = np.random.default_rng(SEED)
    centres = rng.standard_normal((200, 256))
    vectors = centres[rng.integers(0, 200, number)] + 0.6 * rng.standard_normal((number, 256))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    batch: list[EpisodicMemory] = []
    for row in range(number):
        timestamp = START + timedelta(minutes=row // (len(AGENTS) * len(PRODUCTS)))
        batch.append(
            EpisodicMemory(
                agent_id=AGENTS[row % len(AGENTS)],
                timestamp=timestamp,
                state_vector=vectors[row],
                action=Action(Side.BUY, 0.5),
                reward=0.001,
                product_id=PRODUCTS[row // len(AGENTS) % len(PRODUCTS)],
                regime=REGIMES[row // 10 % len(REGIMES)],
                encoder_id="bench-1",
                source="backtest",
                run_id="batching",
                step=row,
                known_at=timestamp + timedelta(minutes=1),
                features={"trailing_volatility": 0.001, "trend": 0.5},
            )
        )
        if len(batch) == 2_000 or row == number - 1:
            await mem.episodic.add_many(batch)
            batch = []
    asked = vectors[rng.integers(0, number, 512)] + 0.03 * rng.standard_normal((512, 256)).astype(np.float32)
    return (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)


async def table(
    mem: MemoryConnection, states: npt.NDArray[np.float32], delay_ms: float, arguments: argparse.Namespace
) -> None:
    """The rows of one link."""
    print("one machine" if not delay_ms else f"{delay_ms:g} ms each way")
    print(f"{'':26}" + "".join(f"{f'{agents} agents':>43}" for agents in arguments.agents))
    print(f"{'':26}" + f"{'p50 ms':>13}{'p99 ms':>10}{'q/s':>10}{'cpu us':>10}" * len(arguments.agents))
    async with AsyncExitStack() as stack:
        url = mem.link._url
        if delay_ms:
            socket = Path(unquote(urlsplit(url).path))
            url = await stack.enter_async_context(proxy_process(socket, delay_ms / 1000))
        rows: dict[str, tuple[Callable[[int], Any], bool]] = {
            f"pool of {CONNECTIONS}": (lambda _: pool(mem, url, CONNECTIONS), False),
            "pool, one each": (lambda agents: pool(mem, url, agents), False),
            "memory": (lambda _: default(mem, url), False),
            "batched, 1 connection": (lambda _: batched(mem, url, 1), False),
            f"batched, {CONNECTIONS} connections": (lambda _: batched(mem, url, CONNECTIONS), False),
            "batched, equal": (lambda _: batched(mem, url, CONNECTIONS), True),
        }
        best: dict[tuple[str, int], Figures] = {}
        # Rows take turns, so that a noisy neighbour hits all of them.
        for agents in arguments.agents:
            for _ in range(arguments.rounds):
                for name, (opened, equal) in rows.items():
                    async with opened(agents) as retrieval:
                        figures = await measure(retrieval, states, agents, arguments.seconds, equal=equal)
                    best[name, agents] = max(best.get((name, agents), figures), figures)
        for name in rows:
            cells = [best[name, agents] for agents in arguments.agents]
            shown = (f"{one.p50_ms:>13.2f}{one.p99_ms:>10.2f}{one.rate:>10,.0f}{one.cpu_us:>10.0f}" for one in cells)
            print(f"{name:26}" + "".join(shown), flush=True)
    print()


@asynccontextmanager
async def pool(mem: MemoryConnection, url: str, connections: int) -> AsyncIterator[Any]:
    """The service over redis-py's pool."""
    link = PoolLink(url, connections)
    try:
        yield mem.over(link).retrieval
    finally:
        await link.close()


@asynccontextmanager
async def default(mem: MemoryConnection, url: str) -> AsyncIterator[Any]:
    """The service as it comes."""
    async with memory.connect(settings=mem.settings, redis_url=url, namespace=mem.namespace) as opened:
        yield opened.retrieval


@asynccontextmanager
async def batched(mem: MemoryConnection, url: str, connections: int) -> AsyncIterator[Any]:
    """`BatchedMemoryRetrieval`."""
    async with (
        memory.connect(settings=mem.settings, redis_url=url, namespace=mem.namespace) as opened,
        BatchedMemoryRetrieval(opened, connections=connections) as retrieval,
    ):
        yield retrieval


async def measure(
    retrieval: Any, states: npt.NDArray[np.float32], agents: int, seconds: float, *, equal: bool
) -> Figures:
    """Figures of agents that each ask, wait for the answer, and ask again."""
    times: list[float] = []
    end = 0.0

    async def ask(agent: int, number: int) -> None:
        place = number if equal else number + 37 * agent
        speaker = 0 if equal else agent
        started = time.perf_counter()
        hits = await retrieval.retrieve_similar_experiences(
            states[place % len(states)],
            agent_id=AGENTS[speaker % len(AGENTS)],
            product_id=PRODUCTS[speaker % len(PRODUCTS)],
            regime=REGIMES[place % len(REGIMES)],
        )
        times.append(time.perf_counter() - started)
        assert len(hits) == 10

    async def live(agent: int) -> None:
        number = 0
        while time.perf_counter() < end:
            await ask(agent, number)
            number += 1

    async def live_together() -> None:
        number = 0
        while time.perf_counter() < end:
            await asyncio.gather(*(ask(agent, number) for agent in range(agents)))
            number += 1

    for phase_s in (0.3, seconds):
        times.clear()
        began, worked = time.perf_counter(), time.process_time()
        end = began + phase_s
        await (live_together() if equal else asyncio.gather(*(live(agent) for agent in range(agents))))
    took, worked = time.perf_counter() - began, time.process_time() - worked
    p50, p99 = (float(value) for value in np.percentile(times, [50, 99]) * 1000)
    return Figures(len(times) / took, p50, p99, worked / len(times) * 1e6)


if __name__ == "__main__":
    main()
