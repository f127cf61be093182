"""How fast agents hear one another, and what recording costs an agent's loop.

Run as ``python benchmarks/messages.py [--messages 5000] [--readers 10]``: an embedded Redis in a home of its own, the
sender and the readers each with a connection of its own to it. Beside each figure stands the bare command measured in
the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import memory
from agents.recorder import ExperienceRecorder
from memory import Action, AgentMemoryMessage, EpisodicMemory, Side
from memory.settings import Settings

PAUSE_S = 0.005
"""Between two messages whose latency is measured, so that each finds its readers waiting."""
LATENCIES = 500
BATCH = 100


def message(number: int, **changes: object) -> AgentMemoryMessage:
    """A message like those that agents send."""
    return AgentMemoryMessage(
        sender_agent_id="regime",
        message_type="REGIME_CHANGE",
        insight="Detected regime shift from TRENDING to VOLATILE",
        data={"number": number, "old_regime": "TRENDING", "new_regime": "VOLATILE", "confidence": 0.92},
        importance=0.9,
        **changes,  # type: ignore[arg-type]
    )


def spread(took: list[float]) -> str:
    """Median and 99th percentile of some times."""
    return f"p50 {1e3 * float(np.percentile(took, 50)):.2f} ms, p99 {1e3 * float(np.percentile(took, 99)):.2f} ms"


async def rate(count: int, work: Callable[[], Awaitable[object]]) -> str:
    """How many a second some work does."""
    start = time.perf_counter()
    await work()
    return f"{count / (time.perf_counter() - start):,.0f}/s"


async def sending(mem: memory.MemoryConnection, count: int) -> None:
    """Messages a second, one by one and in batches, beside bare XADDs."""

    took: list[float] = []

    async def bare() -> None:
        for _ in range(count):
            start = time.perf_counter()
            await mem.link.execute("XADD", "bare", "MAXLEN", "~", 10_000, "*", "c", bytes(250))
            took.append(time.perf_counter() - start)

    async def singly() -> None:
        for number in range(count):
            start = time.perf_counter()
            await mem.messages.send(message(number))
            took.append(time.perf_counter() - start)

    async def together() -> None:
        for first in range(0, count, BATCH):
            await mem.messages.send_many([message(count + number) for number in range(first, first + BATCH)])

    print(f"bare XADD, one by one: {await rate(count, bare)}, {spread(took)}")
    took.clear()
    print(f"sent one by one: {await rate(count, singly)}, {spread(took)}")
    print(f"sent {BATCH} at a time: {await rate(count, together)}")


async def reading(mem: memory.MemoryConnection, count: int) -> None:
    """Messages a second that a reader takes and acknowledges."""
    await mem.messages.rewind("hold", datetime(2000, 1, 1, tzinfo=UTC))
    took: list[float] = []

    async def drain() -> None:
        reader = mem.messages.read("hold", wait=False)
        start = time.perf_counter()
        async for _ in reader:
            took.append(time.perf_counter() - start)
            start = time.perf_counter()

    speed = await rate(min(2 * count, mem.settings.message_limit), drain)
    print(f"read and acknowledged one by one: {speed}, {spread(took)}")


async def latency(mem: memory.MemoryConnection, others: list[memory.MemoryConnection]) -> None:
    """From sending to the readers' loops, with the readers waiting."""
    began: dict[int, float] = {}
    took: list[float] = []

    async def listen(other: memory.MemoryConnection, agent_id: str) -> None:
        async with other.messages.read(agent_id, start=datetime.now(UTC)) as reader:
            async for heard in reader:
                number = heard.data["number"]
                if number < 0:
                    return
                took.append(time.perf_counter() - began[number])

    listeners = [asyncio.create_task(listen(other, f"agent-{place}")) for place, other in enumerate(others)]
    await asyncio.sleep(0.5)
    for number in range(LATENCIES):
        await asyncio.sleep(PAUSE_S)
        fresh = message(number, memory_id=f"latency-{number}")
        began[number] = time.perf_counter()
        await mem.messages.send(fresh)
    await mem.messages.send(message(-1))
    await asyncio.gather(*listeners)
    print(f"from sender to {len(others)} waiting readers: {spread(took)}")


async def bare_latency(mem: memory.MemoryConnection, other: memory.MemoryConnection) -> None:
    """From XADD to the one who waits in XREAD: the floor of the above."""
    took: list[float] = []
    began = 0.0

    async def listen() -> None:
        last = "$"
        for _ in range(LATENCIES):
            answer = await other.link.execute("XREAD", "BLOCK", 5000, "STREAMS", "wake", last)
            took.append(time.perf_counter() - began)
            last = answer[b"wake"][-1][0].decode()

    listener = asyncio.create_task(listen())
    await asyncio.sleep(0.2)
    for _ in range(LATENCIES):
        await asyncio.sleep(PAUSE_S)
        began = time.perf_counter()
        await mem.link.execute("XADD", "wake", "*", "c", bytes(250))
    await listener
    print(f"from bare XADD to bare XREAD BLOCK: {spread(took)}")


async def recording(mem: memory.MemoryConnection, count: int) -> None:
    """What `record` costs the loop that calls it, and how fast the background writes."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    now = datetime.now(UTC)
    lived = [
        EpisodicMemory(
            agent_id="momentum",
            timestamp=now,
            state_vector=vector,
            action=Action(Side.BUY, 1.0),
            reward=0.001,
            product_id="BTC-USDT",
            regime="QUIET",
            step=step,
        )
        for step, vector in enumerate(vectors)
    ]
    for destination in ("inbox", "episodic"):
        took = []
        async with ExperienceRecorder(mem, destination=destination, capacity=count) as recorder:  # type: ignore[arg-type]
            start = time.perf_counter()
            for experience in lived:
                before = time.perf_counter()
                recorder.record(experience)
                took.append(time.perf_counter() - before)
                await asyncio.sleep(0)
            await recorder.flush()
            speed = count / (time.perf_counter() - start)
        print(
            f"record into {destination}: median {1e6 * float(np.median(took)):.1f} us, "
            f"longest {1e3 * max(took):.2f} ms; "
            f"written {speed:,.0f}/s"
        )


async def measure(count: int, readers: int) -> None:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="coinswarm-bench-") as home:
        settings = Settings(home=Path(home))
        async with memory.connect(settings=settings) as mem:
            await sending(mem, count)
            await reading(mem, count)
            others = []
            try:
                for _ in range(readers):
                    others.append(memory.connect(settings=settings))
                    await others[-1].open()
                await bare_latency(mem, others[0])
                await latency(mem, others[:1])
                for other in others:
                    await other.messages.close()
                await latency(mem, others)
            finally:
                for other in others:
                    await other.close()
            await recording(mem, count)


def main() -> None:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--readers", type=int, default=10)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.messages, arguments.readers))


if __name__ == "__main__":
    main()
