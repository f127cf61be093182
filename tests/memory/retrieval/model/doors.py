"""Every way to an answer: over the wire, by the near cache, locked to a time, over partitioned indexes, and batched."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import memory
from memory import BatchedMemoryRetrieval, Hit, MemoryConnection
from tests.memory.retrieval.model.experience_model import ASKED, FAR, KEEPING, MINUTE, Record


class Doors:
    """One memory behind several doors, and the same content in partitioned indexes."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._name = f"m-{uuid.uuid4().hex[:10]}"

    async def open(self) -> None:
        self.wire = await self._connect(near_cache_mb=0)
        self.near = await self._connect(near_cache_mb=16, near_cache_after=0)
        self.partitioned = await self._connect("-p", near_cache_mb=0, index_layout="partitioned")
        self.batched = await self._stack.enter_async_context(BatchedMemoryRetrieval(self.wire))
        self._stack.push_async_callback(self._drop)

    async def _connect(self, suffix: str = "", **configured: Any) -> MemoryConnection:
        configuration = memory.Settings(redis_url=self._url, namespace=self._name + suffix, **configured)
        return await self._stack.enter_async_context(memory.connect(settings=configuration, encoder_id="rff-1"))

    async def _drop(self) -> None:
        for name in await self.wire.link.execute("FT._LIST"):
            if name.decode().split(":")[0] in (self._name, f"{self._name}-p"):
                await self.wire.link.execute("FT.DROPINDEX", name, "DD")

    async def add(self, batch: Sequence[Record], *, by_another: bool) -> list[Any]:
        writer = self.near if by_another else self.wire
        return [await mem.episodic.add_many([record.build() for record in batch]) for mem in (self.partitioned, writer)]

    async def forget(self, criteria: dict[str, Any]) -> list[int]:
        return [(await mem.episodic.forget(**criteria)).experiences for mem in (self.partitioned, self.wire)]

    async def answers(self, questions: Sequence[dict[str, Any]]) -> list[list[tuple[str, list[Hit]]]]:
        """The answers to each question, by the name of the door.

        The near cache is asked first, before it could hear of what was written in any other way than its own.
        """
        near = [("near", await self._near(self.near.retrieval, arguments(asked))) for asked in questions]
        batched = await asyncio.gather(*(self.batched.retrieve_async(**arguments(asked)) for asked in questions))
        return [
            [one, ("batched", hits), *await self._by_one(arguments(asked))]
            for asked, one, hits in zip(questions, near, batched, strict=True)
        ]

    async def _by_one(self, asked: dict[str, Any]) -> list[tuple[str, list[Hit]]]:
        found = [
            ("wire", await self.wire.retrieval.retrieve_similar_experiences(**asked)),
            ("partitioned", await self.partitioned.retrieval.retrieve_similar_experiences(**asked)),
        ]
        if "as_of" in asked:
            rest = {name: value for name, value in asked.items() if name != "as_of"}
            locked, looser = self.near.at(asked["as_of"]).retrieval, self.near.at(FAR + MINUTE).retrieval
            found += [
                ("wire, locked", await self.wire.at(asked["as_of"]).retrieval.retrieve_similar_experiences(**rest)),
                ("near, locked", await self._near(locked, rest)),
                ("near, locked later", await self._near(looser, asked)),
            ]
        return found

    async def _near(self, retrieval: Any, asked: dict[str, Any]) -> list[Hit]:
        """The answer of the near cache itself, where the question is one for it."""
        cache = self.near.near
        assert cache is not None
        deadline = asyncio.get_running_loop().time() + 15
        while True:
            misses = cache.describe().misses
            hits: list[Hit] = await retrieval.retrieve_similar_experiences(**asked)
            if "agent_id" not in asked or cache.describe().misses == misses:
                return hits
            assert asyncio.get_running_loop().time() < deadline, cache.describe()
            await asyncio.sleep(0.002)


def arguments(asked: dict[str, Any]) -> dict[str, Any]:
    """A drawn question as it is asked."""
    given = {name: value for name, value in asked.items() if name != "question"}
    if "post_filter" in asked:
        keep = KEEPING[asked["post_filter"]]
        given["post_filter"] = lambda hits: [hit for hit in hits if keep(hit.memory)]
    return {"state_vector": ASKED[asked["question"]], **given}
