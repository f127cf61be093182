"""A memory with something of everything, on a server that nobody else talks to."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

import memory
from memory import BatchedMemoryRetrieval, LoadBalancedMemoryRetrieval
from memory.retrieval.replicas import ReplicaPolicy
from tests.memory.retrieval.bad_input.asking import PRESENT, VALID, Opened, count_commands
from tests.memory.retrieval.bad_input.bad_values import DAY, MAX_TOP_K
from tests.memory.retrieval.conftest import (
    LINE,
    correlation_memory,
    experience,
    pattern_memory,
    performance,
    regime_memory,
    strategy_memory,
)
from tests.memory.retrieval.redis_processes import RedisProcess

LOADED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    """A Redis that nobody else talks to."""
    directory = Path(tempfile.mkdtemp(prefix="coinswarm-test-"))
    process = RedisProcess(directory)
    process.start()
    yield process
    process.kill()
    shutil.rmtree(directory)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def opened(server: RedisProcess) -> AsyncIterator[Opened]:
    """A memory with something of everything, asked once before: by wire, near cache, batched, balanced, locked."""

    def configured(near_cache_mb: int) -> memory.Settings:
        return memory.Settings(
            redis_url=server.url,
            namespace="bad-input",
            max_top_k=MAX_TOP_K,
            near_cache_mb=near_cache_mb,
            near_cache_after=0,
        )

    async with AsyncExitStack() as stack:
        mem = await stack.enter_async_context(memory.connect(settings=configured(0)))
        near = await stack.enter_async_context(memory.connect(settings=configured(16)))
        await mem.episodic.add_many([experience(minute) for minute in range(20)])
        await mem.shared.add_shared_experiences([experience(minute, quality=0.9) for minute in range(5)])
        await mem.link.execute("SET", mem.keys.fence, 1)
        await mem.semantic.publish(
            [
                pattern_memory(seed=3),
                regime_memory(),
                strategy_memory("momentum", {"QUIET": performance(2.0)}),
                correlation_memory("BTC-USDT", "ETH-USDT", 0.5),
            ],
            line=LINE,
            kinds=tuple(memory.SemanticType),
            token=1,
            valid_from=DAY,
        )
        batched = await stack.enter_async_context(BatchedMemoryRetrieval(mem))
        # It looks at its servers once an hour, so that all that is sent is sent for questions.
        policy = ReplicaPolicy(check_interval_s=3600.0, max_lag_s=7200.0)
        balanced = await stack.enter_async_context(LoadBalancedMemoryRetrieval(mem, [], policy=policy))
        past = mem.at(PRESENT)
        doors = (mem.retrieval, near.retrieval, batched, balanced, past.retrieval, mem.shared, past.shared)
        ready = Opened(mem, doors, lambda: count_commands(server))
        assert near.near is not None
        async with asyncio.timeout(LOADED_WITHIN_S):
            while not near.near.describe().hits:
                for question, arguments in VALID.items():
                    for ask in ready.ask(question):
                        await ask(**arguments)
        await mem.access.flush()
        await near.access.flush()
        yield ready
