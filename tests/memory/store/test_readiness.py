"""No answer comes from an index that is still being built."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import memory
from memory.errors import StoreUnavailableError
from memory.retrieval.pipelined import PipelinedLink
from memory.store.link import RedisLink
from memory.store.readiness import LOOK_AGAIN_S
from memory.store.wire import WireConnection

RECORDS = 4000
"""Building a graph of so many takes the server about a second."""
COUNT = ("*", "LIMIT", 0, 0, "DIALECT", 2)


@pytest.fixture
async def building(mem: memory.MemoryConnection) -> str:
    """An index that the server has just begun to build over records that were there before."""
    vectors = np.random.default_rng(0).standard_normal((RECORDS, 256)).astype(np.float32)
    for first in range(0, RECORDS, 500):
        await mem.link.pipeline(
            [
                ("HSET", f"{mem.namespace}:record:{row}", "vector", vectors[row].tobytes())
                for row in range(first, first + 500)
            ]
        )
    return await begin(mem)


async def begin(mem: memory.MemoryConnection) -> str:
    name = f"{mem.namespace}:graph"
    await mem.link.execute(
        *("FT.CREATE", name, "ON", "HASH", "PREFIX", 1, f"{mem.namespace}:record:", "SCHEMA"),
        *("vector", "VECTOR", "HNSW", 6, "TYPE", "FLOAT32", "DIM", 256, "DISTANCE_METRIC", "COSINE"),
    )
    return name


async def test_the_server_itself_answers_from_a_part(building: str, servers: Any) -> None:
    bare = await WireConnection.open(servers.redis_url, timeout_s=5)
    answer = await bare.execute("FT.SEARCH", building, *COUNT)
    await bare.close()
    assert answer[b"total_results"] < RECORDS
    assert not answer[b"warning"]


async def test_a_search_waits_until_the_index_is_whole(mem: memory.MemoryConnection, building: str) -> None:
    answer = await mem.link.execute("FT.SEARCH", building, *COUNT, timeout_s=60)
    assert answer[b"total_results"] == RECORDS


async def test_searches_in_a_pipeline_wait_as_well(mem: memory.MemoryConnection, building: str) -> None:
    pong, answer = await mem.link.pipeline([("PING",), ("FT.SEARCH", building, *COUNT)], timeout_s=60)
    assert pong in (b"PONG", "PONG")
    assert answer[b"total_results"] == RECORDS


async def test_past_the_deadline_the_search_is_refused_with_how_far_the_index_is(
    mem: memory.MemoryConnection, building: str
) -> None:
    with pytest.raises(StoreUnavailableError, match=r"is being built \(\d+%") as refused:
        await mem.link.execute("FT.SEARCH", building, *COUNT, timeout_s=0.1)
    assert "doctor" in refused.value.remedy


async def test_a_shared_link_waits_as_well(building: str, servers: Any) -> None:
    link = PipelinedLink(servers.redis_url, timeout_s=60)
    await link.open()
    try:
        answer = await link.execute("FT.SEARCH", building, *COUNT)
        (piped,) = await link.pipeline([("FT.SEARCH", building, *COUNT)])
    finally:
        await link.close()
    assert answer[b"total_results"] == piped[b"total_results"] == RECORDS


async def test_an_index_that_went_missing_is_waited_for_when_it_is_made_again(
    mem: memory.MemoryConnection, building: str, servers: Any
) -> None:
    shared = PipelinedLink(servers.redis_url, timeout_s=60)
    await shared.open()
    try:
        for link in (mem.link, shared):
            await link.execute("FT.SEARCH", building, *COUNT, timeout_s=60)
        await mem.link.execute("FT.DROPINDEX", building)
        for link in (mem.link, shared):
            with pytest.raises(Exception, match=r"(?i)no such index|unknown index"):
                await link.execute("FT.SEARCH", building, *COUNT)
        await begin(mem)
        answers = [await link.execute("FT.SEARCH", building, *COUNT, timeout_s=60) for link in (mem.link, shared)]
    finally:
        await shared.close()
    assert [answer[b"total_results"] for answer in answers] == [RECORDS, RECORDS]


async def test_clients_that_asked_nothing_meanwhile_notice_that_an_index_was_made_again(
    mem: memory.MemoryConnection, building: str, servers: Any
) -> None:
    links = [RedisLink(servers.redis_url), RedisLink(servers.redis_url), PipelinedLink(servers.redis_url, timeout_s=60)]
    single, piped, shared = links
    for link in links:
        await link.open()
    try:
        for link in links:
            await link.execute("FT.SEARCH", building, *COUNT, timeout_s=60)
        await asyncio.sleep(LOOK_AGAIN_S * 1.1)
        await mem.link.execute("FT.DROPINDEX", building)
        await begin(mem)
        alone, (_, among_others), batched = await asyncio.gather(
            single.execute("FT.SEARCH", building, *COUNT, timeout_s=60),
            piped.pipeline([("PING",), ("FT.SEARCH", building, *COUNT)], timeout_s=60),
            shared.execute("FT.SEARCH", building, *COUNT, timeout_s=60),
        )
    finally:
        for link in links:
            await link.close()
    assert [answer[b"total_results"] for answer in (alone, among_others, batched)] == [RECORDS] * 3


@pytest.mark.parametrize("shared", [False, True])
async def test_an_index_that_does_not_exist_is_refused_at_once(
    mem: memory.MemoryConnection, servers: Any, shared: bool
) -> None:
    link = PipelinedLink(servers.redis_url, timeout_s=5) if shared else mem.link
    if shared:
        await link.open()
    try:
        with pytest.raises(Exception, match=r"(?i)no such index|unknown index"):
            await link.execute("FT.SEARCH", f"{mem.namespace}:nothing", *COUNT)
    finally:
        if shared:
            await link.close()
