"""A near cache beside an open memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import memory
from memory.retrieval.hits import Hit
from memory.retrieval.near.cache import NearCache
from memory.retrieval.query import check_bounds

WAIT_S = 15.0


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; the test fails where it does not in time."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        await asyncio.sleep(0.005)


class Near:
    """A near cache, and the memory that it stands beside."""

    def __init__(self, mem: memory.MemoryConnection, url: str, **settings: Any) -> None:
        self.mem = mem
        self.cache = NearCache(
            mem.link, url, mem.keys, mem.indexes, mem.reader, **{"budget_mb": 64.0, "after": 0, **settings}
        )

    async def ask(self, vector: Any, top_k: int = 10, *, with_next_state: bool = False, **bounds: Any) -> Any:
        """The answer of the cache; None where the server has to be asked."""
        schema = await self.mem.indexes.episodic("rff-1")
        assert schema is not None
        return await self.cache.nearest(schema, vector, check_bounds(**bounds), top_k, with_next_state=with_next_state)

    async def answer(self, vector: Any, top_k: int = 10, **asked: Any) -> list[Hit]:
        """The answer of the cache, as soon as it has one."""
        deadline = time.monotonic() + WAIT_S
        while (hits := await self.ask(vector, top_k, **asked)) is None:
            assert time.monotonic() < deadline, f"no answer: {self.cache.describe()}"
            await asyncio.sleep(0.005)
        found: list[Hit] = hits
        return found

    async def wire(self, vector: Any, top_k: int = 10, **asked: Any) -> list[Hit]:
        """The answer of the server."""
        return await self.mem.retrieval.retrieve_similar_experiences(vector, top_k=top_k, **asked)


OpenNear = Callable[..., Awaitable[Near]]


@pytest.fixture
async def open_near() -> AsyncIterator[OpenNear]:
    """Opens near caches that follow, and closes them."""
    opened: list[Near] = []

    async def open_one(mem: memory.MemoryConnection, url: str, **settings: Any) -> Near:
        near = Near(mem, url, **settings)
        opened.append(near)
        await until(lambda: near.cache.describe().reason != "connecting", "the follower connects")
        return near

    yield open_one
    for near in opened:
        await near.cache.close()


@pytest.fixture
async def near(servers: Any, mem: memory.MemoryConnection, open_near: OpenNear) -> Near:
    """A near cache on the shared Redis that loads an agent when it is first asked about."""
    return await open_near(mem, servers.redis_url)
