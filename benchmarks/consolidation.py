"""What a consolidation costs: seconds, memory, where the time goes, and how fast agents are answered meanwhile.

    python -m benchmarks.consolidation                       # 21,600 and 150,000 experiences
    python -m benchmarks.consolidation --million             # 1,000,000 distinct states instead: half an hour, 10 GB
    python -m benchmarks.consolidation --experiences 3000    # a small size, to try it

Each size has a home and servers of its own. A day of planted patterns (`memory.learning.planted`) is recorded: prices
that walk, regimes that last, every state seen by several agents. Then ``coinswarm run consolidate_memories`` runs in a
process of its own while another one asks for similar experiences, a hundred times a second. Printed:

* seconds of the run, from the command to its end, beside the bar, and of processor time of its process; the share of
  each kind of work in the flow's steps.
  *Reading* includes joining what is read and writing the archive; *folding* includes the scorecard;
* how well the clusters agree with what was planted, partition by partition: adjusted Rand index over the states of
  planted patterns, and the share of the planted noise that is noise;
* peak resident memory of the flow's process, and memory of Redis: before, the most while it ran, and its own peak,
  which recording may have set;
* median and 99th percentile of the questions, before and during the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

import memory
from memory import embedded
from memory.learning import serial
from memory.learning.planted import NOISE, PlantedStates, planted_states
from memory.learning.summaries import PartitionSummary
from memory.records import REGIMES, VECTOR_DIMENSION, Action, EpisodicMemory, Side
from memory.settings import Settings
from memory.tables import TRAILING_VOLATILITY
from memory.window import Window
from tasks.consolidation import PATTERNS
from tasks.part_reading import partitions_of
from tasks.workspace import open_workspace

NAMESPACE = "benchmark"
ENCODER = "planted"
DAY = Window.of_date(date(2021, 6, 17))
VOLATILITY = 5e-4
"""Standard deviation of the return from one state to the next."""
SPELLS = 24
"""Stretches of one regime in a day of a product."""
RECORDED_AT_ONCE = 4_000
QUESTIONS_A_SECOND = 100
QUESTIONS = {"search of one agent and product": "agent-0", "search of one product": None}
"""Agent of each kind of question, asked in turn: the first is answered by the near cache of the process that asks
where that is on, the second by Redis."""
QUIET_S = 10.0
KINDS = {
    "archive": "reading",
    "look for late records": "reading",
    "cluster": "clustering",
    "windows again": "clustering",
    "fold": "folding",
    "commit": "writing",
    "publish": "writing",
}
"""Kind of work of each step of the flow."""
MIN_PATTERN_STATES = 1_500
"""Below, the planted patterns are fewer, or their sizes could not add up."""


@dataclass(frozen=True)
class Size:
    """A day to consolidate: products, distinct states of each, agents that see every state, seconds allowed."""

    products: int
    states_a_product: int
    agents: int
    bar_s: float | None

    @property
    def states(self) -> int:
        """Distinct states."""
        return self.products * self.states_a_product

    @property
    def experiences(self) -> int:
        """Experiences."""
        return self.states * self.agents


SIZES = (Size(3, 1_440, 5, 20.0), Size(10, 1_440, 10, 90.0))
"""A sample night, and ten products."""
MILLION = Size(100, 10_000, 1, 900.0)
EXTRA_EXPERIENCES = {14_400: 6_000}
"""Experiences of one agent more, by distinct states, which make it 150,000 in all."""


def day_of(size: Size) -> Iterator[list[EpisodicMemory]]:
    """Experiences of one day, in batches, product after product and agent after agent."""
    planted = _planted(size)
    generator = np.random.default_rng(0)
    extra = EXTRA_EXPERIENCES.get(size.states, 0)
    step_ms = round((DAY.end - DAY.start).total_seconds() * 1_000) // size.states_a_product
    times = [DAY.start + timedelta(milliseconds=step_ms * number) for number in range(size.states_a_product)]
    for product in range(size.products):
        vectors = planted.vectors[product * size.states_a_product : (product + 1) * size.states_a_product]
        returns = VOLATILITY * generator.standard_normal(size.states_a_product)
        prices = 100.0 * np.exp(np.cumsum(returns))
        spells = np.repeat(generator.integers(0, len(REGIMES) - 1, SPELLS), -(-size.states_a_product // SPELLS))
        regimes = [REGIMES[code] for code in spells.tolist()]
        agents = size.agents + (1 if extra > 0 else 0)
        for agent in range(agents):
            count = size.states_a_product if agent < size.agents else min(extra, size.states_a_product)
            if agent >= size.agents:
                extra -= count
            for begin in range(0, count, RECORDED_AT_ONCE):
                yield [
                    EpisodicMemory(
                        agent_id=f"agent-{agent}",
                        timestamp=times[row],
                        state_vector=vectors[row],
                        action=Action(Side.BUY, 0.1),
                        reward=0.1 * float(returns[row]) - 1e-4,
                        gross_return=0.1 * float(returns[row]),
                        cost=1e-4,
                        product_id=f"P{product:03}-USD",
                        regime=regimes[row],
                        encoder_id=ENCODER,
                        source="replay",
                        run_id="benchmark",
                        known_at=times[row] + timedelta(milliseconds=step_ms),
                        price=float(prices[row]),
                        features={"return": float(returns[row]), TRAILING_VOLATILITY: VOLATILITY},
                    )
                    for row in range(begin, min(begin + RECORDED_AT_ONCE, count))
                ]


def _planted(size: Size) -> PlantedStates:
    return planted_states(size.states, random_state=0, n_patterns=64 if size.states >= MIN_PATTERN_STATES else 12)


async def record(size: Size) -> tuple[int, float]:
    """Record the day; experiences, and how many a second."""
    stored, took = 0, 0.0
    async with memory.connect(namespace=NAMESPACE, encoder_id=ENCODER) as mem:
        await mem.encoders.register(ENCODER, fitted_until=DAY.start, definition={}, dimension=VECTOR_DIMENSION)
        for batch in day_of(size):
            begun = time.perf_counter()
            report = await mem.episodic.add_many(batch)
            took += time.perf_counter() - begun
            stored += len(report.stored)
    return stored, stored / took


async def ask(stop: Path, seconds: float) -> None:
    """Ask for similar experiences until `stop` exists or the seconds are over; print latencies and Redis' memory."""
    vectors = planted_states(MIN_PATTERN_STATES * 2, random_state=1).vectors
    took: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    used = []
    async with memory.connect(namespace=NAMESPACE, encoder_id=ENCODER) as mem:
        end = time.perf_counter() + seconds
        number = 0
        while time.perf_counter() < end and not stop.exists():
            due = time.perf_counter() + 1 / QUESTIONS_A_SECOND
            name = tuple(QUESTIONS)[number % len(QUESTIONS)]
            begun = time.perf_counter()
            await mem.retrieval.retrieve_similar_experiences(
                vectors[number % len(vectors)], agent_id=QUESTIONS[name], product_id="P000-USD"
            )
            took[name].append(time.perf_counter() - begun)
            if number % QUESTIONS_A_SECOND == 0:
                used.append(int((await redis_memory(mem))["used_memory"]))
            number += 1
            await asyncio.sleep(max(due - time.perf_counter(), 0.0))
    latencies = {
        name: {
            "p50": float(np.percentile(found, 50)),
            "p99": float(np.percentile(found, 99)),
            "longest": max(found),
            "n": len(found),
        }
        for name, found in took.items()
    }
    print(json.dumps({"latencies": latencies, "used_memory": max(used)}))


async def redis_memory(mem: memory.MemoryConnection) -> dict[str, str]:
    """The memory section of Redis' INFO."""
    lines = bytes(await mem.link.execute("INFO", "memory")).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


async def redis_now() -> dict[str, str]:
    """The same, on a connection of its own."""
    async with memory.connect(namespace=NAMESPACE) as mem:
        return await redis_memory(mem)


def asking(stop: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that asks, see `ask`."""
    command = [sys.executable, "-m", "benchmarks.consolidation", "--ask", str(stop), "--seconds", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answers(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What an asking process found, once it has ended."""
    printed, _ = process.communicate()
    if process.returncode:
        sys.exit("the process that asks failed; its message stands above")
    found: dict[str, Any] = json.loads(printed)
    return found


def consolidate() -> tuple[float, resource.struct_rusage, dict[str, Any]]:
    """Run the flow from the command line; seconds, what its process used, and its result."""
    command = [str(Path(sys.executable).parent / "coinswarm"), "run", "consolidate_memories"]
    command += ["--date", DAY.name, "--param", f"namespace={NAMESPACE}", "--json"]
    with tempfile.TemporaryFile("w+") as printed:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed)
        # wait4 tells the peak memory of this process alone; getrusage would tell that of the largest child so far.
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed; its message stands above")
        printed.seek(0)
        result: dict[str, Any] = json.load(printed)
    return took, usage, result


def _megabytes(usage: resource.struct_rusage) -> float:
    # Linux counts in KiB, macOS in bytes.
    return usage.ru_maxrss / (1_024.0 if sys.platform.startswith("linux") else 1_048_576.0)


def measure(size: Size) -> None:
    """Record, consolidate and print one size."""
    home = Path(tempfile.mkdtemp(prefix="coinswarm-consolidation-"))
    os.environ["COINSWARM_HOME"] = str(home)
    try:
        with embedded.open_session(home, ("redis", "postgres", "prefect"), timeout_s=120):
            stored, rate = asyncio.run(record(size))
            before = asyncio.run(redis_now())
            quiet = answers(asking(home / "stop", QUIET_S))
            asker = asking(home / "stop", 7_200.0)
            # The questions begin once the asker has imported what it needs.
            time.sleep(3.0)
            try:
                took, used, result = consolidate()
            finally:
                (home / "stop").touch()
                busy = answers(asker)
            after = asyncio.run(redis_now())
            show(size, stored, rate, (took, used, result), (quiet, busy), (before, after))
            show_agreement(size)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def show_agreement(size: Size) -> None:
    """Print how well the clusters of each partition agree with what was planted."""
    planted = _planted(size).labels
    with open_workspace(NAMESPACE) as workspace:
        (line,) = (record.line for record in workspace.ledger.lines.list(NAMESPACE))
        (reference,) = workspace.ledger.windows.archives_of(line, DAY)
        states = workspace.archive.states(reference, columns=())
        generation = workspace.ledger.windows.current_generation(line, DAY)
        assert generation is not None  # the run has ended well
        summaries = [serial.decode(item.payload, PartitionSummary) for item in generation.of_kind(PATTERNS)]
    # States come in the order in which they were planted: by product and time.
    partitions = partitions_of(states)
    for summary in summaries:
        truth = planted[partitions == summary.regime]
        inside = truth != NOISE
        agreement = adjusted_rand_score(truth[inside], summary.labels[inside])
        recall = float(np.mean(summary.labels[~inside] < 0))
        print(
            f"  {summary.regime}: {summary.states:,} states by the {summary.route} route, {len(summary.clusters)} "
            f"clusters, ARI {agreement:.3f}, noise recall {recall:.3f}"
        )


def show(
    size: Size,
    stored: int,
    rate: float,
    run: tuple[float, resource.struct_rusage, dict[str, Any]],
    asked: tuple[dict[str, Any], dict[str, Any]],
    redis: tuple[dict[str, str], dict[str, str]],
) -> None:
    """Print what was measured of one size."""
    (took, used, result), (quiet, busy), (before, after) = run, asked, redis
    steps: dict[str, float] = result["seconds"]
    in_steps = sum(steps.values())
    bar = "" if size.bar_s is None else f" (bar {size.bar_s:.0f} s)"
    print(f"\n{stored:,} experiences, {size.states:,} distinct states, recorded at {rate:,.0f}/s")
    print(
        f"  consolidated in {in_steps:.1f} s{bar}; {took:.1f} s with the start of the process, "
        f"{used.ru_utime + used.ru_stime:.1f} s of processor time"
    )
    shares: dict[str, float] = {}
    for name, seconds in steps.items():
        kind = KINDS.get(name, name)
        shares[kind] = shares.get(kind, 0.0) + seconds
    print("  " + ", ".join(f"{kind} {seconds:.1f} s ({seconds / in_steps:.0%})" for kind, seconds in shares.items()))
    print(f"  {result['clusters']} clusters, noise {result['noise_share']:.2f}")
    print(
        f"  memory: flow {_megabytes(used):,.0f} MB at its peak; Redis {_mb(before['used_memory']):,.0f} MB before, "
        f"{_mb(busy['used_memory']):,.0f} MB at most meanwhile, {_mb(after['used_memory_peak']):,.0f} MB at its peak"
    )
    for name in QUESTIONS:
        for when, asked_then in (("before", quiet), ("meanwhile", busy)):
            found = asked_then["latencies"][name]
            print(
                f"  {name}, {when}: p50 {1e3 * found['p50']:.2f} ms, p99 {1e3 * found['p99']:.2f} ms, "
                f"longest {1e3 * found['longest']:.0f} ms of {found['n']:,}"
            )


def _mb(count: str | float) -> float:
    return float(count) / 1_048_576.0


def main() -> None:
    """Run the sizes that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="1,000,000 distinct states instead")
    parser.add_argument("--experiences", type=int, help="this many alone: three products, five agents, no bar")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=QUIET_S, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        asyncio.run(ask(arguments.ask, arguments.seconds))
        return
    sizes = list(SIZES)
    if arguments.experiences:
        sizes = [Size(3, max(arguments.experiences // 15, 200), 5, None)]
    if arguments.million:
        sizes = [MILLION]
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, task runner {Settings().task_runner}")
    for size in sizes:
        measure(size)


if __name__ == "__main__":
    main()
