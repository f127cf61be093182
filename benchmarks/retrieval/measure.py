"""Measuring contestants: one question after the other, and from many agents at once, in rounds that all take part in.

Whatever else the machine does meanwhile hits all contestants alike: in each round every contestant answers the same
questions, in an order that turns; figures are medians over the rounds.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.retrieval.contestant import Ask, AsyncContestant, Contestant, ThreadContestant
from benchmarks.retrieval.corpus import Corpus, Query

Milliseconds = npt.NDArray[np.float64]

SETTLE_QUERIES = 25
SETTLE_PATIENCE_S = 60.0
SETTLED = 0.8
"""A contestant is warm when the next questions take at least this share of the time of those before."""
FEWEST = 50
"""Questions that are asked in a round even where time is up: a p99 of fewer says nothing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of question.

    Attributes
    ----------
    name
        In words.
    queries
        The questions of a round.
    as_of
        Whether they are asked as of a time.
    """

    name: str
    queries: Sequence[Query]
    as_of: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes
    ----------
    rounds
        Rounds; figures are medians over them.
    queries
        Questions of each kind in a round, one after the other.
    seconds
        Most that one contestant may take for them.
    recall_queries
        Questions of each kind that are compared with the exact answers.
    agents
        Numbers of agents that ask at the same time.
    agents_seconds, agents_rounds
        How long they ask, and how often.
    """

    rounds: int = 5
    queries: int = 300
    seconds: float = 0.4
    recall_queries: int = 100
    agents: tuple[int, ...] = (1, 10, 50)
    agents_seconds: float = 0.7
    agents_rounds: int = 3


@dataclass(slots=True)
class Figures:
    """Figures of one contestant and kind of question; times in milliseconds.

    Attributes
    ----------
    per_s
        Questions a second, of all agents together.
    recall
        Share of the exact answers; None where it was not looked at.
    """

    p50: float
    p95: float
    p99: float
    per_s: float
    asked: int
    recall: float | None = None


@dataclass(slots=True)
class _Rounds:
    p50: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    asked: int = 0

    def add(self, taken: Milliseconds, seconds: float) -> None:
        for values, percent in ((self.p50, 50), (self.p95, 95), (self.p99, 99)):
            values.append(float(np.percentile(taken, percent)))
        self.per_s.append(len(taken) / seconds)
        self.asked += len(taken)

    def figures(self) -> Figures:
        p50, p95, p99, per_s = (float(np.median(values)) for values in (self.p50, self.p95, self.p99, self.per_s))
        return Figures(p50, p95, p99, per_s, self.asked)


# --- one after the other -------------------------------------------------------------------------------------


async def measure_workloads(
    contestants: Sequence[Contestant],
    workloads: Sequence[Workload],
    corpus: Corpus,
    plan: Plan,
    say: Callable[[str], None],
) -> dict[str, dict[str, Figures]]:
    """Figures by workload and contestant; contestants that cannot ask as of a time are left out there."""
    found: dict[str, dict[str, Figures]] = {}
    for workload in workloads:
        taking_part = [item for item in contestants if item.as_of or not workload.as_of]
        recall = {}
        for item in taking_part:
            await settle(item, workload.queries)
            recall[item.name] = await _recall(item, workload.queries[: plan.recall_queries], corpus)
        rounds = {item.name: _Rounds() for item in taking_part}
        _leave_garbage_alone()
        for number in range(plan.rounds):
            for item in _turned(taking_part, number):
                begun = time.perf_counter()
                taken = await _one_by_one(item, workload.queries, plan.seconds)
                rounds[item.name].add(taken, time.perf_counter() - begun)
        found[workload.name] = {name: item.figures() for name, item in rounds.items()}
        for name, value in recall.items():
            found[workload.name][name].recall = value
        say(f"{workload.name}: " + "; ".join(f"{name} {item.p50:.2f}" for name, item in found[workload.name].items()))
    return found


async def settle(contestant: Contestant, queries: Sequence[Query]) -> None:
    """Ask until answers come no quicker than before: connections open, plans made, caches full."""
    deadline = time.perf_counter() + SETTLE_PATIENCE_S
    before = float("inf")
    for start in itertools.count(0, SETTLE_QUERIES):
        chosen = [queries[(start + offset) % len(queries)] for offset in range(SETTLE_QUERIES)]
        now = float(np.median(await _one_by_one(contestant, chosen, SETTLE_PATIENCE_S)))
        if now >= SETTLED * before or time.perf_counter() > deadline:
            return
        before = now


async def _one_by_one(contestant: Contestant, queries: Sequence[Query], seconds: float) -> Milliseconds:
    taken: list[float] = []
    deadline = time.perf_counter() + seconds
    if isinstance(contestant, AsyncContestant):
        for query in queries:
            begun = time.perf_counter()
            await contestant.ask(query)
            ended = time.perf_counter()
            taken.append(ended - begun)
            if ended > deadline and len(taken) >= FEWEST:
                break
    else:
        with _session(contestant) as ask:
            for query in queries:
                begun = time.perf_counter()
                ask(query)
                ended = time.perf_counter()
                taken.append(ended - begun)
                if ended > deadline and len(taken) >= FEWEST:
                    break
    return 1000 * np.array(taken)


async def _recall(contestant: Contestant, queries: Sequence[Query], corpus: Corpus) -> float:
    if isinstance(contestant, AsyncContestant):
        answers = [await contestant.ask(query) for query in queries]
    else:
        with _session(contestant) as ask:
            answers = [ask(query) for query in queries]
    shares = [corpus.recall(query, contestant.numbers(answer)) for query, answer in zip(queries, answers, strict=True)]
    return float(np.mean(shares))


# --- many agents at once -------------------------------------------------------------------------------------


async def measure_agents(
    contestants: Sequence[Contestant], workload: Workload, plan: Plan, say: Callable[[str], None]
) -> dict[int, dict[str, Figures]]:
    """Figures by number of agents and contestant; each agent asks its next question as soon as it has an answer."""
    found: dict[int, dict[str, Figures]] = {}
    for agents in plan.agents:
        rounds = {item.name: _Rounds() for item in contestants}
        _leave_garbage_alone()
        for number in range(plan.agents_rounds):
            for item in _turned(contestants, number):
                taken, seconds = await _at_once(item, workload.queries, agents, plan.agents_seconds)
                rounds[item.name].add(taken, seconds)
        found[agents] = {name: item.figures() for name, item in rounds.items()}
        say(
            f"{agents} agents: "
            + "; ".join(f"{name} {item.per_s:,.0f}/s p99 {item.p99:.2f}" for name, item in found[agents].items())
        )
    return found


async def _at_once(
    contestant: Contestant, queries: Sequence[Query], agents: int, seconds: float
) -> tuple[Milliseconds, float]:
    """Milliseconds of all questions, and the seconds that they took together."""
    if isinstance(contestant, AsyncContestant):
        return await _tasks(contestant.ask, queries, agents, seconds)
    return await asyncio.to_thread(_threads, contestant, queries, agents, seconds)


async def _tasks(
    ask: Callable[[Query], Awaitable[Any]], queries: Sequence[Query], agents: int, seconds: float
) -> tuple[Milliseconds, float]:
    started = time.perf_counter()
    deadline = started + seconds

    async def agent(number: int) -> list[float]:
        taken: list[float] = []
        position = number * len(queries) // agents
        while (begun := time.perf_counter()) < deadline or not taken:
            await ask(queries[position % len(queries)])
            taken.append(time.perf_counter() - begun)
            position += 1
        return taken

    parts = await asyncio.gather(*(agent(number) for number in range(agents)))
    return 1000 * np.concatenate(parts), time.perf_counter() - started


def _threads(
    contestant: Contestant, queries: Sequence[Query], agents: int, seconds: float
) -> tuple[Milliseconds, float]:
    parts: list[list[float]] = [[] for _ in range(agents)]
    errors: list[BaseException] = []
    ready = threading.Barrier(agents + 1)

    def agent(number: int) -> None:
        try:
            with _session(contestant) as ask:
                position = number * len(queries) // agents
                taken = parts[number]
                ready.wait()
                deadline = time.perf_counter() + seconds
                while (begun := time.perf_counter()) < deadline or not taken:
                    ask(queries[position % len(queries)])
                    taken.append(time.perf_counter() - begun)
                    position += 1
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            errors.append(error)
            ready.abort()

    with ExitStack() as stack:
        threads = [threading.Thread(target=agent, args=(number,), daemon=True) for number in range(agents)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        try:
            ready.wait()
        except threading.BrokenBarrierError:
            stack.close()
        started = time.perf_counter()
        stack.close()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return 1000 * np.concatenate(parts), time.perf_counter() - started


def _session(contestant: Contestant) -> Any:
    if not isinstance(contestant, ThreadContestant):
        raise TypeError(f"{contestant.name} is asked neither by tasks nor by threads.")
    return contestant.session()


def _turned(contestants: Sequence[Contestant], number: int) -> Sequence[Contestant]:
    """The contestants, beginning with another one each time."""
    start = number % len(contestants) if contestants else 0
    return [*contestants[start:], *contestants[:start]]


def _leave_garbage_alone() -> None:
    """Collect what is garbage, and take what is left (the benchmark's own memories) out of later collections."""
    gc.collect()
    gc.freeze()


Found = Mapping[str, Mapping[str, Figures]]
__all__ = ["Ask", "Figures", "Found", "Plan", "Workload", "measure_agents", "measure_workloads", "settle"]
