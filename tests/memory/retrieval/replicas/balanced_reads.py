"""Reads that are balanced over replicas: what a test waits for, and callers that ask on and on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from memory import MemoryConnection
from memory.retrieval.replicas import LoadBalancedMemoryRetrieval, ReplicaPolicy, ServerState
from tests.memory.retrieval.redis_processes import RedisProcess

QUICK = ReplicaPolicy(check_interval_s=0.05, max_lag_s=1.0, hang_s=0.3)


@asynccontextmanager
async def balanced_over(
    mem: MemoryConnection, urls: list[str], policy: ReplicaPolicy = QUICK, **options: Any
) -> AsyncIterator[LoadBalancedMemoryRetrieval]:
    async with LoadBalancedMemoryRetrieval(mem, urls, policy=policy, **options) as balanced:
        yield balanced


async def until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come so far"
        await asyncio.sleep(0.01)


def state_of(balanced: LoadBalancedMemoryRetrieval, server: RedisProcess) -> ServerState:
    return next(state for state in balanced.describe() if state.address == server.url)


def serving(balanced: LoadBalancedMemoryRetrieval) -> int:
    return sum(state.serving for state in balanced.describe() if state.role == "replica")


def steps(hits: Any) -> list[int]:
    return [hit.memory.step for hit in hits]


async def recorded(mem: MemoryConnection, make: Any, number: int = 20) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(number)])


class Callers:
    """Agents that ask on and on; what they were answered, and what they met."""

    def __init__(self, balanced: LoadBalancedMemoryRetrieval, vector: Any, number: int = 8) -> None:
        self.answers = 0
        self.errors: list[Exception] = []
        self.wrong = 0
        self._stopped = False
        self._tasks = [asyncio.create_task(self._live(balanced, vector, agent)) for agent in range(number)]

    async def _live(self, balanced: LoadBalancedMemoryRetrieval, vector: Any, agent: int) -> None:
        minute = agent
        while not self._stopped:
            minute = (minute + 1) % 20
            try:
                hits = await balanced.retrieve_similar_experiences(vector(minute), top_k=3)
            except Exception as error:  # noqa: BLE001 - whatever a caller meets is counted.
                self.errors.append(error)
                continue
            self.answers += 1
            self.wrong += len(hits) != 3 or hits[0].memory.step != minute

    async def more(self, number: int = 50) -> None:
        """Wait for further answers."""
        goal = self.answers + number
        await until(lambda: self.answers >= goal)

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)
