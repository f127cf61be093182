"""The command line of the benchmark; see the package."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.retrieval import __doc__ as description
from benchmarks.retrieval.bars import JUDGED, JUDGED_LARGE, judge
from benchmarks.retrieval.data import REAL_WEIGHTS, Dataset, clustered, history_nights, sample_nights
from benchmarks.retrieval.large import compare_large
from benchmarks.retrieval.measure import Plan
from benchmarks.retrieval.output import as_json, show, show_bars
from benchmarks.retrieval.run import Outcome, Say, compare
from benchmarks.retrieval.servers import temporary_servers

LARGE = Plan(queries=400, seconds=1.0, agents_seconds=1.0)
QUICK = Plan(rounds=3, queries=100, seconds=0.15, recall_queries=40, agents_seconds=0.25, agents_rounds=2)
SMALL = 10_000
TABLE_WIDTH = 200
"""Columns of the tables where the output is no terminal."""


def datasets(arguments: argparse.Namespace) -> list[Dataset]:
    """What is searched, by the arguments."""
    if arguments.size is not None:
        return [clustered(arguments.size, seed=arguments.seed)]
    if arguments.large and not arguments.all:
        return []
    if arguments.quick:
        return [clustered(SMALL, seed=arguments.seed)]
    return [clustered(SMALL, seed=arguments.seed), clustered(JUDGED, seed=arguments.seed), sample_nights(JUDGED)]


def large_dataset(count: int, seed: int, say: Say) -> Dataset:
    """Real nights where larger history is configured, else clustered states of five agents and three products."""
    if os.environ.get("COINSWARM_HISTORY"):
        return history_nights(count)
    say("COINSWARM_HISTORY names no market history: clustered states instead")
    return clustered(
        count, agents=5, products=3, shared_states=True, weights=REAL_WEIGHTS, seed=seed, batch_minutes=1440
    )


async def run(
    arguments: argparse.Namespace, plan: Plan, large_plan: Plan, say: Say
) -> tuple[list[Outcome], list[Outcome]]:
    """All comparisons that the arguments ask for, each on servers of its own."""
    outcomes, large = [], []
    for dataset in datasets(arguments):
        say(f"{dataset.name}, {dataset.count:,} memories")
        begun = time.perf_counter()
        replay_seconds = None
        if dataset.name == "real":
            next(iter(dataset.read()))
            replay_seconds = time.perf_counter() - begun
        held = dataset.materialised()
        with temporary_servers() as servers:
            outcome = await compare(servers, held, plan, say, only=arguments.only)
        outcome.replay_seconds = replay_seconds
        outcomes.append(outcome)
    if arguments.large:
        dataset = large_dataset(arguments.large_count, arguments.seed, say)
        say(f"{dataset.name}, {dataset.count:,} memories")
        with temporary_servers() as servers:
            large.append(await compare_large(servers, dataset, large_plan, say, with_peers=arguments.large_peers))
    return outcomes, large


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help=f"{SMALL:,} clustered memories and few questions")
    parser.add_argument("--size", type=int, help="this many clustered memories alone")
    parser.add_argument("--large", action="store_true", help="millions of memories, and nothing else")
    parser.add_argument("--large-count", type=int, default=JUDGED_LARGE, help="how many")
    parser.add_argument("--large-peers", action="store_true", help="peers take part there too, which takes long")
    parser.add_argument("--all", action="store_true", help="with --large: the other sizes too")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="contestants whose name holds one of these"
    )
    parser.add_argument("--rounds", type=int, help="rounds, where the plan's number does not suit")
    parser.add_argument("--seed", type=int, default=0, help="seed of memories and questions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found there, too")
    return parser.parse_args(arguments)


def _stop(*_: object) -> None:
    """End at once, also within a call that awaits nothing; all that was opened is closed on the way out."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the benchmark."""
    arguments = parse()
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:6.1f} s] {text}", file=sys.stderr, flush=True)

    plan, large_plan = (QUICK, QUICK) if arguments.quick else (Plan(), LARGE)
    if arguments.rounds is not None:
        rounds = {"rounds": arguments.rounds, "agents_rounds": arguments.rounds}
        plan, large_plan = replace(plan, **rounds), replace(large_plan, **rounds)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    say(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    try:
        outcomes, large = asyncio.run(run(arguments, plan, large_plan, say))
    except KeyboardInterrupt:
        say("stopped; the servers are gone")
        raise SystemExit(130) from None
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    say(f"load {loads} in the last 1, 5 and 15 minutes, this run included")
    bars = judge(outcomes, large)
    for outcome in (*outcomes, *large):
        show(console, outcome)
    show_bars(console, bars)
    if arguments.json is not None:
        found = as_json(outcomes, large, bars, {"datasets": plan, "large": large_plan})
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        say(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
