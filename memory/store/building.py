"""How far indexes are, whether one holds what another holds, and taking one away."""

from __future__ import annotations

import asyncio

from redis.exceptions import ResponseError

from memory.errors import ReindexError
from memory.store.indexes import BUILD_POLL_S, Indexes
from memory.store.layout import Family, IndexSchema
from memory.store.link import RedisLink
from memory.store.readiness import share_built

VERIFY_ATTEMPTS = 20
"""How often counts are compared before a difference is taken for real: a record that expires leaves one index after
the other."""


class Building:
    """Looks after the indexes of one family while one takes another's place."""

    def __init__(self, link: RedisLink, indexes: Indexes, family: Family) -> None:
        self._link = link
        self._indexes = indexes
        self._family = family

    async def names(self, schema: IndexSchema) -> list[str]:
        """All indexes of a schema, the main one first."""
        pairs = await self._indexes.partitions.reload(schema) if schema.partitioned else frozenset()
        return self._indexes.names(schema, pairs)

    async def progress(self, schema: IndexSchema) -> float:
        """Share of a schema's indexes that is built, 0 to 1. One command an index."""
        shares = []
        for name in await self.names(schema):
            shares.append(share_built(await self._link.execute("FT.INFO", name)))
        return sum(shares) / len(shares)

    async def verify(self, schema: IndexSchema, against: IndexSchema | None) -> int:
        """Number of records in a schema's index, once it is seen to be whole.

        Its partitions hold together what its main index holds, and that is as much as the index `against` holds,
        counted in one step.

        Raises
        ------
        ReindexError
            It lacks records, or could not take some.
        """
        names, counts = await self.names(schema), [0]
        for name in names:
            failures = int((await self._link.execute("FT.INFO", name))[b"hash_indexing_failures"])
            if failures:
                raise ReindexError(
                    f"the index {name} could not take {failures} records.",
                    remedy=f"FT.INFO {name} names one of them and the reason; the index in use stays as it is.",
                )
        for _ in range(VERIFY_ATTEMPTS):
            names = await self.names(schema)
            counts = await self._count([*names, *([] if against is None else [against.name])])
            main, parts = counts[0], counts[1 : len(names)]
            if (against is None or counts[-1] == main) and (not schema.partitioned or sum(parts) == main):
                return main
            await asyncio.sleep(BUILD_POLL_S)
        beside = "" if against is None else f"; {against.name} holds {counts[-1]}"
        raise ReindexError(
            f"the index {schema.name} holds {counts[0]} records, its {len(names) - 1} partitions "
            f"{sum(counts[1 : len(names)])}{beside}.",
            remedy="The index in use stays as it is. Stop clients of older versions, and run reindex_memory again.",
        )

    async def _count(self, names: list[str]) -> list[int]:
        commands = [("FT.SEARCH", name, "*", "LIMIT", 0, 0, "DIALECT", 2) for name in names]
        return [int(answer[b"total_results"]) for answer in await self._link.pipeline(commands, transaction=True)]

    async def present(self, schema: IndexSchema) -> list[str]:
        """All indexes of a schema that there are, listed or not, the main one first."""
        depth = schema.name.count(":") + 2
        names = sorted(name.decode() for name in await self._link.execute("FT._LIST"))
        return [
            name
            for name in names
            if name == schema.name
            or (schema.partitioned and name.startswith(f"{schema.name}:") and name.count(":") == depth)
        ]

    async def drop(self, schema: IndexSchema) -> None:
        """Drop all indexes of a schema, listed or not; the records stay."""
        for name in await self.present(schema):
            await self._drop(name)
        await self._link.execute("DEL", self._family.pairs_key(schema))

    async def _drop(self, name: str) -> None:
        try:
            await self._link.execute("FT.DROPINDEX", name)
        except ResponseError as error:
            # Sent twice, or by two runs, it is gone the second time.
            if "no such index" not in str(error).lower() and "unknown index" not in str(error).lower():
                raise
