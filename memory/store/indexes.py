"""The search indexes of a namespace: of experiences, shared experiences and semantic memory, one each an encoder.

Indexes are named by encoder and generation, so that a new one can be built beside the old (`memory.store.reindexing`);
the aliases point at those of the namespace's current encoder. A record is in the index of an encoder if it holds a
vector of it. What an index looks like is written in Redis when it is created, and rules from then on: settings say what
a new one will be like.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from memory.records import VECTOR_DIMENSION
from memory.settings import Settings
from memory.store.keys import CONCEPT_VECTOR, TAG_SEPARATOR, Keys, vector_attribute, vector_field
from memory.store.layout import (
    FLAT,
    HNSW,
    HNSW_BUILD_EFFORT,
    HNSW_NEIGHBOURS,
    HNSW_SEARCH_EFFORT,
    SINGLE,
    Family,
    IndexSchema,
    SearchTarget,
    WriteRules,
    choose,
    create_index,
    create_main,
    decode_schema,
    episodic_family,
    partition_name,
    plan_schema,
    shared_family,
)
from memory.store.link import Command, RedisLink
from memory.store.partitions import Pair, Partitions, create_where_missing
from memory.store.readiness import share_built
from memory.typed import json_as

__all__ = [
    "HNSW_BUILD_EFFORT",
    "HNSW_NEIGHBOURS",
    "HNSW_SEARCH_EFFORT",
    "IndexHealth",
    "IndexSchema",
    "Indexes",
    "SearchTarget",
    "WriteRules",
]

BUILD_POLL_S = 0.05


class IndexReplacedError(ResponseError):
    """The index that a question was about to ask is not the one in use any more; handled like one that is gone."""


@dataclass(frozen=True, slots=True)
class IndexHealth:
    """State of an index: records in it, records it could not take, and its size in bytes."""

    name: str
    documents: int
    failures: int
    building: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class Shadow:
    """What writers have to see to beside the index in use; see `WriteRules`."""

    schema: IndexSchema | None = None
    successor: str | None = None


class Indexes:
    """Creates and describes the indexes of one namespace."""

    def __init__(self, link: RedisLink, keys: Keys, settings: Settings) -> None:
        self._link = link
        self._keys = keys
        self._settings = settings
        self._known: dict[str, IndexSchema] = {}
        self.experiences = episodic_family(keys)
        self.pool = shared_family(keys)
        self.partitions = Partitions(link, self.experiences)

    async def encoder_ids(self) -> list[str]:
        """Ids of all encoders of the namespace, recorded or registered, sorted."""
        return sorted(value.decode() for value in await self._link.execute("SMEMBERS", self._keys.encoders))

    # --- what there is ---------------------------------------------------------------------------------------

    def at_hand(self, family: Family, encoder_id: str | None) -> bool:
        """Whether the schema of an encoder's index is known here already, so that the server need not be asked."""
        return encoder_id is not None and family.key("schema", encoder_id) in self._known

    async def episodic(self, encoder_id: str) -> IndexSchema | None:
        """Schema of an encoder's index of experiences; None where nothing was recorded with it. Cached."""
        schema = self._known.get(self._keys.index_schema(encoder_id))
        return schema if schema is not None else await self.current_schema(encoder_id)

    async def current_schema(self, encoder_id: str) -> IndexSchema | None:
        """As `episodic`, asking the server."""
        return await self._stored_schema(self.experiences, encoder_id)

    async def shared(self, encoder_id: str) -> IndexSchema | None:
        """Schema of an encoder's index of shared experiences; None where none was shared with it. Cached."""
        schema = self._known.get(self._keys.shared_index_schema(encoder_id))
        return schema if schema is not None else await self.current_shared_schema(encoder_id)

    async def current_shared_schema(self, encoder_id: str) -> IndexSchema | None:
        """As `shared`, asking the server."""
        return await self._stored_schema(self.pool, encoder_id)

    async def _stored_schema(self, family: Family, encoder_id: str) -> IndexSchema | None:
        rules = await self.rules(family, encoder_id)
        return None if rules is None else rules.schema

    async def rules(self, family: Family, encoder_id: str) -> WriteRules | None:
        """What a writer has to do for its records to be found; None where the encoder has no index. One round trip."""
        parts = [family.key(part, encoder_id) for part in ("schema", "shadow", "epoch")]
        packed, shadowed, epoch = await self._link.execute("MGET", *parts)
        before = self._known.pop(parts[0], None)
        if packed is None:
            return None
        schema = decode_schema(packed, encoder_id)
        self._known[parts[0]] = schema
        if before is not None and before != schema:
            self.partitions.forget(before)
        shadow = Shadow() if shadowed is None else json_as(Shadow, shadowed)
        return WriteRules(schema, shadow.schema, shadow.successor, "" if epoch is None else epoch.decode())

    async def refreshed(self, schema: IndexSchema) -> IndexSchema | None:
        """The schema to ask instead of one whose index turned out to be missing; None where there is no other.

        An index goes when another took its place, some time after that happened: then the question is asked again,
        once, by the schema returned. Where None is returned, the memory was emptied, or its index was lost.
        """
        self.partitions.forget(schema)
        current = await self.current_schema(schema.encoder_id)
        return None if current == schema else current

    # --- asking ----------------------------------------------------------------------------------------------

    def targets(self, schema: IndexSchema, agent_id: str | None, product_id: str | None) -> tuple[SearchTarget, ...]:
        """Indexes that a question about experiences has to ask; see `Partitions.targets` and `probe`."""
        return self.partitions.targets(schema, agent_id, product_id)

    async def missed(
        self, schema: IndexSchema, agent_id: str | None, product_id: str | None, answer: Any
    ) -> tuple[SearchTarget, ...]:
        """As `Partitions.missed`, of a schema that is in use.

        A schema that was dropped has no pairs, or those of late writers only: what its list says is believed only
        where the list is the one that was known, or the schema is still in use (one more round trip).

        Raises
        ------
        IndexReplacedError
            It is not in use any more.
        """
        known = self.partitions.listed(schema)
        more = await self.partitions.missed(schema, agent_id, product_id, answer)
        if known and known is self.partitions.listed(schema):
            return more
        if await self.current_schema(schema.encoder_id) != schema:
            raise IndexReplacedError(f"no such index in use: {schema.name}")
        return more

    # --- creating --------------------------------------------------------------------------------------------

    async def ensure_episodic(self, encoder_id: str, dimension: int = VECTOR_DIMENSION) -> IndexSchema:
        """Schema of an encoder's index of experiences, which is built by the settings where it does not exist.

        The first encoder of a namespace becomes its current one. Safe to call from many processes at once.
        """
        return (await self.ensure_rules(self.experiences, encoder_id, dimension)).schema

    async def ensure_shared(self, encoder_id: str, dimension: int = VECTOR_DIMENSION) -> IndexSchema:
        """As `ensure_episodic`, for an encoder's index of shared experiences."""
        return (await self.ensure_rules(self.pool, encoder_id, dimension)).schema

    async def ensure_rules(self, family: Family, encoder_id: str, dimension: int = VECTOR_DIMENSION) -> WriteRules:
        """As `rules`; the index is built by the settings where it does not exist."""
        rules = await self.rules(family, encoder_id)
        if rules is not None:
            return rules
        layout, algorithm = (SINGLE, self._settings.vector_algorithm) if family is self.pool else choose(self._settings)
        planned = plan_schema(
            family,
            encoder_id,
            dimension,
            layout=layout,
            algorithm=algorithm,
            vector_type=self._settings.vector_type,
        )
        return await self.create(family, planned)

    async def create(self, family: Family, planned: IndexSchema) -> WriteRules:
        """Build an encoder's first index as planned; where another process was first, it is as that one made it."""
        encoder_id = planned.encoder_id
        await create_where_missing(self._link, create_main(family, planned))
        await self.wait_until_built([planned.name])
        schema = await self._as_created(planned)
        # The first to come says how it is; the epoch tells this index from an earlier one of the same name.
        await self._link.pipeline(
            [
                ("SET", family.key("epoch", encoder_id), uuid.uuid4().hex, "NX"),
                ("SET", family.key("schema", encoder_id), encode_schema(schema), "NX"),
            ],
            transaction=True,
        )
        await self._adopt(encoder_id)
        rules = await self.rules(family, encoder_id)
        return rules if rules is not None else WriteRules(schema)

    async def _as_created(self, planned: IndexSchema) -> IndexSchema:
        """How an index is, in case that another process with other settings created it first."""
        info = await self._link.execute("FT.INFO", planned.name)
        for attribute in info[b"attributes"]:
            if attribute[b"type"] == b"VECTOR":
                return replace(
                    planned,
                    vector_field=attribute[b"identifier"].decode(),
                    vector_attribute=attribute[b"attribute"].decode(),
                    algorithm=attribute[b"algorithm"].decode(),
                    vector_type=attribute[b"data_type"].decode(),
                    dimension=int(attribute[b"dim"]),
                    layout=SINGLE,
                )
        return replace(planned, layout="partitioned", algorithm=HNSW)

    async def ensure_semantic(self, encoder_id: str, dimension: int = VECTOR_DIMENSION) -> str:
        """Name of an encoder's index of patterns and regimes, which is built where it does not exist."""
        name = self._keys.semantic_index(encoder_id)
        attribute = vector_attribute(encoder_id)
        fields: list[Command] = [
            ("scope", "TAG", "SEPARATOR", TAG_SEPARATOR, "CASESENSITIVE"),
            ("valid_from", "NUMERIC"),
            ("valid_to", "NUMERIC"),
            # Few of many versions are current: asking for them by tag is several times faster than by time.
            ("current", "TAG"),
            # Patterns are thousands, not millions: exact search and full precision cost nothing here.
            (
                *(vector_field(CONCEPT_VECTOR, encoder_id), "AS", attribute, "VECTOR", FLAT, 6),
                *("TYPE", "FLOAT32", "DIM", dimension, "DISTANCE_METRIC", "COSINE"),
            ),
        ]
        await create_where_missing(self._link, create_index(name, self._keys.semantic_prefix, attribute, fields))
        await self.wait_until_built([name])
        await self._adopt(encoder_id)
        return name

    async def restore(self, family: Family, encoder_id: str) -> list[str]:
        """Build again what is missing of an encoder's indexes in use, such as one that was dropped by hand.

        Returns their names once they hold all that is stored; nothing is sent where all are there but for looking.
        """
        rules = await self.rules(family, encoder_id)
        if rules is None:
            return []
        schema = rules.schema
        present = {name.decode() for name in await self._link.execute("FT._LIST")}
        missing = [] if schema.name in present else [schema.name]
        if missing:
            await create_where_missing(self._link, create_main(family, schema))
        if schema.partitioned:
            pairs = await self.partitions.reload(schema)
            lost = [pair for pair in sorted(pairs) if partition_name(schema, *pair) not in present]
            await self.partitions.create(schema, lost)
            missing += [partition_name(schema, *pair) for pair in lost]
        if missing:
            await self.wait_until_built(missing)
            await self._adopt(encoder_id)
        return missing

    async def restore_shadow(self, family: Family, encoder_id: str) -> list[str]:
        """As `restore`, for the index that is kept beside the one in use while it is changed; none where it is not."""
        rules = await self.rules(family, encoder_id)
        if rules is None or rules.shadow is None:
            return []
        shadow = rules.shadow
        await create_where_missing(self._link, create_main(family, shadow))
        if shadow.partitioned:
            await self.partitions.create(shadow, sorted(await self.partitions.reload(shadow)))
        await self.wait_until_built([shadow.name])
        return [shadow.name]

    async def point_aliases(self, encoder_id: str) -> None:
        """Point the aliases at what there is of an encoder's indexes; nothing is built."""
        await self._adopt(encoder_id)

    async def wait_until_built(self, names: list[str]) -> None:
        """Return once all of some indexes hold all that is stored."""
        for name in names:
            while not await self.is_built(name):
                await asyncio.sleep(BUILD_POLL_S)

    async def is_built(self, name: str) -> bool:
        """Whether an index holds all that is stored, as far as it belongs there."""
        return share_built(await self._link.execute("FT.INFO", name)) >= 1.0

    def names(self, schema: IndexSchema, pairs: frozenset[Pair]) -> list[str]:
        """Names of all indexes of a schema."""
        return [schema.name, *(partition_name(schema, *pair) for pair in sorted(pairs))]

    # --- the current encoder ---------------------------------------------------------------------------------

    async def set_current_encoder(self, encoder_id: str) -> None:
        """Point the aliases at an encoder's indexes, which are built where they do not exist."""
        await self._link.pipeline(await self.commands_to_make_current(encoder_id), transaction=True)

    async def commands_to_make_current(self, encoder_id: str) -> list[Command]:
        """What `set_current_encoder` sends as one step; the indexes exist then."""
        episodic = await self.ensure_episodic(encoder_id)
        semantic = await self.ensure_semantic(encoder_id)
        shared = await self.ensure_shared(encoder_id)
        return [
            ("SET", self._keys.current_encoder, encoder_id),
            ("FT.ALIASUPDATE", self._keys.shared_alias, shared.name),
            ("FT.ALIASUPDATE", self._keys.episodic_alias, episodic.name),
            ("FT.ALIASUPDATE", self._keys.semantic_alias, semantic),
        ]

    async def current_encoder(self) -> str | None:
        """Id of the namespace's current encoder: the first one recorded, or the one that was set."""
        value = await self._link.execute("GET", self._keys.current_encoder)
        return None if value is None else value.decode()

    async def _adopt(self, encoder_id: str) -> None:
        """List an encoder; make it the current one where there is none, and set the aliases that are missing."""
        await self._link.pipeline(
            [
                ("SADD", self._keys.encoders, encoder_id),
                ("SET", self._keys.current_encoder, encoder_id, "NX"),
            ]
        )
        current = await self.current_encoder()
        if current != encoder_id:
            return
        episodic, shared = await self.current_schema(encoder_id), await self.current_shared_schema(encoder_id)
        for alias, name in (
            (self._keys.episodic_alias, None if episodic is None else episodic.name),
            (self._keys.semantic_alias, self._keys.semantic_index(encoder_id)),
            (self._keys.shared_alias, None if shared is None else shared.name),
        ):
            if name is None:
                continue
            try:
                await self._link.execute("FT.ALIASADD", alias, name)
            except ResponseError as error:
                # The alias is set already, or another of the indexes is not built yet.
                if "already exists" not in str(error) and "nknown index" not in str(error):
                    raise

    # --- health ----------------------------------------------------------------------------------------------

    async def health(self) -> list[IndexHealth]:
        """State of every index of the namespace. Cost: one command an index."""
        prefixes = (self._keys.episodic_index(""), self._keys.semantic_index(""), self._keys.shared_index(""))
        names = sorted(name.decode() for name in await self._link.execute("FT._LIST"))
        return [await self._health(name) for name in names if name.startswith(prefixes)]

    async def _health(self, name: str) -> IndexHealth:
        info: dict[bytes, Any] = await self._link.execute("FT.INFO", name)
        megabytes = sum(
            float(info.get(part, 0) or 0)
            for part in (b"inverted_sz_mb", b"vector_index_sz_mb", b"doc_table_size_mb", b"key_table_size_mb")
        )
        return IndexHealth(
            name=name,
            documents=int(info[b"num_docs"]),
            failures=int(info[b"hash_indexing_failures"]),
            building=bool(int(info[b"indexing"])),
            bytes=int(megabytes * 2**20),
        )


def encode_schema(schema: IndexSchema) -> bytes:
    """A schema as Redis keeps it."""
    return msgspec.json.encode(asdict(schema))
