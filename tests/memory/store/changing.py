"""Changes of an index, step by step, and what is recorded meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from memory import EpisodicMemory, MemoryConnection
from memory.errors import EncoderError
from memory.records import VECTOR_DIMENSION, Vector, to_ms
from memory.store.layout import Family
from memory.store.reindex_job import ReindexJob
from memory.store.reindexing import Reindexer
from memory.store.revectoring import Encode
from tests.memory.store.conftest import unit_vector

DAY = datetime(2021, 6, 17, tzinfo=UTC)
OLD, NEW = "rff-1", "rff-2"
CHANGES = [
    ("single", "HNSW", "FLOAT32"),
    ("single", "FLAT", "FLOAT16"),
    ("partitioned", "HNSW", "FLOAT32"),
    ("partitioned", "HNSW", "FLOAT16"),
]


def reindexer(mem: MemoryConnection, token: int | None = None, family: Family | None = None) -> Reindexer:
    return Reindexer(mem.link, mem.indexes, mem.reader, mem.fence, family or mem.indexes.experiences, token=token)


async def change(
    mem: MemoryConnection,
    layout: Any,
    algorithm: str,
    vector_type: str,
    *,
    encoder_id: str = OLD,
    pause: Callable[[], Any] | None = None,
) -> ReindexJob | None:
    """The whole change, with a pause after each step."""
    work = reindexer(mem)

    async def wait() -> None:
        if pause is not None:
            await pause()

    job = await work.begin(encoder_id, layout=layout, algorithm=algorithm, vector_type=vector_type)
    if job is None:
        return None
    await wait()
    async for reached in work.fill(job):
        job = reached
    await wait()
    await mem.indexes.wait_until_built([job.target.name])
    while await work.progress(job) < 1.0:
        await asyncio.sleep(0.02)
    await work.verify(job)
    job = await work.swap(job)
    await wait()
    job = await work.retire(job)
    await wait()
    await work.clean(job)
    return job


async def fields(mem: MemoryConnection, record: EpisodicMemory) -> dict[str, bytes]:
    key = mem.keys.episodic(record.agent_id, record.product_id, to_ms(record.timestamp), record.memory_id)
    answer = await mem.link.execute("HGETALL", key)
    return {name.decode(): value for name, value in answer.items()}


def lived(make: Any, minutes: int = 30) -> list[EpisodicMemory]:
    return [
        make(minute, agent_id=agent, product_id=product)
        for agent in ("momentum", "hold")
        for product in ("BTC-USDT", "ETH-USDT")
        for minute in range(minutes)
    ]


def turned(names: tuple[str, ...], values: Any) -> Vector:
    """An encoder of the test: the vector of the minute that the features tell, upside down."""
    if "trailing_volatility" not in names:
        raise EncoderError("the features lack trailing_volatility.", remedy="Record it.")
    column = names.index("trailing_volatility")
    return np.stack([-unit_vector(round(row[column] / 0.001) - 1) for row in values])


async def encode_anew(mem: MemoryConnection, *, remove_old: bool = False, encode: Encode = turned) -> ReindexJob:
    work = reindexer(mem)
    job = await work.begin_encoder(
        OLD, NEW, VECTOR_DIMENSION, layout="partitioned", algorithm="HNSW", vector_type="FLOAT32"
    )
    assert job is not None
    async for reached in work.fill(job, encode):
        job = reached
    job = await work.drain(job, encode)
    while await work.progress(job) < 1.0:
        await asyncio.sleep(0.02)
    await work.verify(job)
    job = await work.swap(job, encode)
    if remove_old:
        job = await work.retire(job)
        await work.clean(job)
    return job
