"""How fast experiences are recorded, what they cost in memory, and how fast a window is read back.

Run as ``python benchmarks/recording.py [--nights 5] [--hnsw] [--half]``: real nights of the sample market, five agents,
three products, an embedded Redis in a home of its own. Beside each figure stands its bar, or the bare command measured
in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

import memory
from agents.baselines import baseline_agents
from agents.fitting import default_encoder
from agents.market import Market
from agents.simulation import simulate
from memory.settings import Settings
from memory.store.codec import pack_vector
from memory.store.keys import scope_tag
from memory.store.windows import read_window_data
from memory.window import Window

FIRST_NIGHT = date(2021, 6, 17)
QUERIES = 1000
BARE_WRITES = 20_000
BARE_FIELD_BYTES = 1600
"""What a record of the sample market holds: vector, body, tags and figures."""


def simulated_night(window: Window) -> list[memory.EpisodicMemory]:
    """What the baseline agents lived through in a window of the sample market."""
    night = simulate(Market.sample("binance"), window.start, window.end, baseline_agents(), default_encoder())
    return list(night.experiences())


async def used_bytes(mem: memory.MemoryConnection) -> int:
    """Memory that Redis uses for data."""
    info = await mem.link.execute("INFO", "memory")
    return int(info.split(b"used_memory:")[1].split(b"\r")[0])


async def timed(queries: list[Awaitable[object]]) -> str:
    """Median and 99th percentile of some queries, one after the other."""
    took = []
    for query in queries:
        start = time.perf_counter()
        await query
        took.append(time.perf_counter() - start)
    return f"p50 {1e3 * float(np.percentile(took, 50)):.2f} ms, p99 {1e3 * float(np.percentile(took, 99)):.2f} ms"


async def bare_writes(mem: memory.MemoryConnection) -> float:
    """Hashes a second through bare pipelined HSET, without an index: the floor of any recording."""
    payload = bytes(BARE_FIELD_BYTES)
    start = time.perf_counter()
    for first in range(0, BARE_WRITES, 200):
        await mem.link.pipeline([("HSET", f"bare:{number}", "body", payload) for number in range(first, first + 200)])
    rate = BARE_WRITES / (time.perf_counter() - start)
    for first in range(0, BARE_WRITES, 200):
        await mem.link.execute("UNLINK", *(f"bare:{number}" for number in range(first, first + 200)))
    return rate


async def measure(mem: memory.MemoryConnection, nights: int) -> None:
    """Record some nights and print what it took."""
    print(f"bare pipelined HSET, {BARE_FIELD_BYTES} bytes each: {await bare_writes(mem):,.0f}/s")
    before = await used_bytes(mem)
    stored = 0
    last: list[memory.EpisodicMemory] = []
    for number in range(nights):
        window = Window.of_date(FIRST_NIGHT + timedelta(days=number))
        start = time.perf_counter()
        last = simulated_night(window)
        replayed = time.perf_counter()
        report = await mem.episodic.add_many(last)
        written = time.perf_counter()
        again = await mem.episodic.add_many(last)
        repeated = time.perf_counter()
        data = await read_window_data(mem, window)
        read = time.perf_counter()
        if (len(report.stored), len(again.duplicates)) != (len(last), len(last)):
            raise AssertionError("the night was not stored once and once only")
        stored += len(last)
        states = sum(len(table.states) for table in data.values())
        print(
            f"{window.name}: {len(last):,} experiences; replayed in {replayed - start:.1f} s; "
            f"stored at {len(last) / (written - replayed):,.0f}/s (bar 5,000/s); "
            f"replayed and stored in {written - start:.1f} s (bar 20 s); "
            f"again, as duplicates: {len(last) / (repeated - written):,.0f}/s; "
            f"read back as {states:,} states in {read - repeated:.2f} s"
        )
    print(f"memory at {stored:,}: {(await used_bytes(mem) - before) / stored:,.0f} bytes each (bar 4 KB)")
    await measure_queries(mem, last)


async def measure_queries(mem: memory.MemoryConnection, records: list[memory.EpisodicMemory]) -> None:
    """Print how fast the service answers beside the bare command, by agent, product and regime."""
    schema = await mem.indexes.episodic(records[0].encoder_id)
    if schema is None:
        raise AssertionError("nothing was recorded")
    chosen = [records[number] for number in np.random.default_rng(0).integers(0, len(records), QUERIES)]
    service = [
        mem.retrieval.retrieve_similar_experiences(
            record.state_vector, agent_id=record.agent_id, product_id=record.product_id, regime=record.regime
        )
        for record in chosen
    ]
    text = f"(@scope:{{$scope}})=>[KNN 10 @{schema.vector_attribute} $vector AS distance]"
    bare = [
        mem.link.execute(
            *("FT.SEARCH", schema.name, text, "RETURN", 2, "body", "distance", "SORTBY", "distance", "LIMIT", 0, 10),
            *("PARAMS", 4, "scope", scope_tag(record.agent_id, record.product_id, record.regime)),
            *("vector", pack_vector(record.state_vector, schema.vector_type), "DIALECT", 2),
        )
        for record in chosen
    ]
    print(f"bare FT.SEARCH by agent, product and regime: {await timed(list(bare))}")
    print(f"the service, records parsed: {await timed(list(service))}")


async def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=5, help="nights of the sample market, from 2021-06-17")
    parser.add_argument("--hnsw", action="store_true", help="HNSW instead of FLAT")
    parser.add_argument("--half", action="store_true", help="FLOAT16 instead of FLOAT32")
    arguments = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {arguments}")
    with tempfile.TemporaryDirectory(prefix="coinswarm-benchmark-") as home:
        settings = Settings(
            home=Path(home),
            redis_url=None,
            vector_algorithm="HNSW" if arguments.hnsw else "FLAT",
            vector_type="FLOAT16" if arguments.half else "FLOAT32",
        )
        async with memory.connect(settings=settings, namespace="benchmark") as mem:
            await measure(mem, arguments.nights)


if __name__ == "__main__":
    asyncio.run(main())
