"""Partitioned indexes: which pairs of agent and product have one, and which of them a question has to ask.

The pairs of a schema are a set in Redis that only grows. A writer that meets a new pair creates its index first, lists
the pair second, and stores the record third. So whoever asks after a record was acknowledged finds its pair listed:
a client that knows as many pairs as the set holds knows all of them, and the size of the set travels with the question
(`Partitions.probe`). Where agent and product are named and their pair is known, nothing needs to be looked up at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.exceptions import ResponseError

from memory.store.keys import scope_tag
from memory.store.layout import (
    Family,
    IndexSchema,
    SearchTarget,
    WriteRules,
    create_partition,
    partition_name,
    search_target,
)
from memory.store.link import Command, RedisLink

Pair = tuple[str, str]
"""Agent and product."""


class Partitions:
    """The pairs that have an index of their own, as far as this process knows; of one family of one namespace."""

    def __init__(self, link: RedisLink, family: Family) -> None:
        self._link = link
        self._family = family
        self._opened: dict[tuple[str, str], set[Pair]] = {}
        self._listed: dict[str, frozenset[Pair]] = {}
        self._targets: dict[tuple[str, str | None, str | None], tuple[SearchTarget, ...]] = {}

    # --- asking ----------------------------------------------------------------------------------------------

    def targets(self, schema: IndexSchema, agent_id: str | None, product_id: str | None) -> tuple[SearchTarget, ...]:
        """Indexes that a question has to ask, of those that this process knows; in order of their names. Cached.

        One where the layout is single, or agent and product are given; else one for each pair of theirs. Without an
        agent that is all pairs of the product, without either all pairs: the server's time grows with their number.
        """
        found = self._targets.get((schema.name, agent_id, product_id))
        if found is None:
            found = self._targets[schema.name, agent_id, product_id] = self._matching(schema, agent_id, product_id)
        return found

    def probe(self, schema: IndexSchema, agent_id: str | None, product_id: str | None) -> Command | None:
        """What to send in the same round trip as the question; its answer goes to `missed`. None: nothing."""
        if not schema.partitioned:
            return None
        if agent_id is not None and product_id is not None and self.targets(schema, agent_id, product_id):
            return None
        return ("SCARD", self._family.pairs_key(schema))

    async def missed(
        self, schema: IndexSchema, agent_id: str | None, product_id: str | None, answer: Any
    ) -> tuple[SearchTarget, ...]:
        """Targets of a question that this process learned of just now, by the answer to `probe`; nearly always none.

        Cost: nothing where the number of pairs is the one that is known, else one round trip.
        """
        if int(answer) == len(self._listed.get(schema.name, ())):
            return ()
        asked = self.targets(schema, agent_id, product_id)
        await self.reload(schema)
        return tuple(target for target in self.targets(schema, agent_id, product_id) if target not in asked)

    async def reload(self, schema: IndexSchema) -> frozenset[Pair]:
        """The pairs that have an index, from the server."""
        members = await self._link.execute("SMEMBERS", self._family.pairs_key(schema))
        listed = frozenset(_pair(member) for member in members)
        self.forget(schema)
        self._listed[schema.name] = listed
        return listed

    def listed(self, schema: IndexSchema) -> frozenset[Pair]:
        """The pairs of a schema that this process knows."""
        return self._listed.get(schema.name, frozenset())

    def forget(self, schema: IndexSchema) -> None:
        """Know nothing of a schema's pairs any more, such as when one of its indexes turned out to be gone."""
        self._listed.pop(schema.name, None)
        for key in [key for key in self._targets if key[0] == schema.name]:
            del self._targets[key]

    def _matching(self, schema: IndexSchema, agent_id: str | None, product_id: str | None) -> tuple[SearchTarget, ...]:
        if not schema.partitioned:
            return (search_target(schema, schema.name),)
        return tuple(
            search_target(schema, partition_name(schema, agent, product))
            for agent, product in sorted(self._listed.get(schema.name, ()))
            if agent_id in (None, agent) and product_id in (None, product)
        )

    # --- writing ---------------------------------------------------------------------------------------------

    async def open_all(self, records: Iterable[tuple[WriteRules, Pair]]) -> None:
        """As `open`, for records by different rules."""
        pairs: dict[WriteRules, set[Pair]] = {}
        for rules, pair in records:
            pairs.setdefault(rules, set()).add(pair)
        for rules, wanted in pairs.items():
            await self.open(rules, wanted)

    async def open(self, rules: WriteRules, pairs: Iterable[Pair]) -> None:
        """See to it that every schema of some rules has an index for every pair; to be called before storing.

        Cost: nothing for pairs that were opened before under these rules, else three commands a pair. Safe to call
        from many processes at once.
        """
        wanted = set(pairs)
        for schema in rules.schemas:
            if not schema.partitioned:
                continue
            opened = self._opened.setdefault((schema.name, rules.epoch), set())
            new = sorted(wanted - opened)
            for pair in new:
                await self.create(schema, [pair], holds_all_from_now_on=await self._begins(rules, schema, pair))
            opened.update(new)

    async def _begins(self, rules: WriteRules, schema: IndexSchema, pair: Pair) -> bool:
        """Whether nothing that belongs into the index of a new pair can be stored before the index is made.

        So it is for the schema in use, since every record of a pair is stored after its index was made; for one with
        vectors of its own, since they are written after it too; and for a pair without records, since whoever stores
        its first one by these rules makes the index before.
        """
        if schema is rules.schema or schema.vector_field != rules.schema.vector_field:
            return True
        answer = await self._link.execute(
            *("FT.SEARCH", rules.schema.name, "@scope:{$scope}", "LIMIT", 0, 0),
            *("PARAMS", 2, "scope", scope_tag(*pair), "DIALECT", 2),
        )
        return int(answer[b"total_results"]) == 0

    async def create(self, schema: IndexSchema, pairs: Iterable[Pair], *, holds_all_from_now_on: bool = False) -> None:
        """Create the indexes of some pairs where they do not exist, then list them."""
        ordered = list(pairs)
        for agent, product in ordered:
            command = create_partition(
                self._family, schema, agent, product, holds_all_from_now_on=holds_all_from_now_on
            )
            await create_where_missing(self._link, command)
        if ordered:
            listed = [f"{agent}:{product}" for agent, product in ordered]
            await self._link.execute("SADD", self._family.pairs_key(schema), *listed)


async def create_where_missing(link: RedisLink, command: Command) -> None:
    """Send FT.CREATE; nothing happens where the index exists."""
    try:
        await link.execute(*command)
    except ResponseError as error:
        if "already exists" not in str(error):
            raise


def _pair(member: bytes) -> Pair:
    agent, product = member.decode().split(":")
    return agent, product
