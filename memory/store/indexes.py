"""The search indexes of a namespace: one of experiences and one of semantic memory for each encoder.

Indexes are named by encoder and schema, so that a new one can be built beside the old; the aliases point at those of
the namespace's current encoder. A record is in the index of an encoder if it holds a vector of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from memory.errors import StoreUnavailableError
from memory.records import VECTOR_DIMENSION
from memory.settings import Settings
from memory.store.keys import CONCEPT_VECTOR, STATE_VECTOR, TAG_SEPARATOR, Keys, vector_attribute, vector_field
from memory.store.link import Command, RedisLink

HNSW_NEIGHBOURS = 16
HNSW_BUILD_EFFORT = 200
HNSW_SEARCH_EFFORT = 64
"""At 10, the server's default, recall on clustered data was 0.88; at 50 it was 0.997."""
BUILD_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class IndexSchema:
    """How an index was built.

    Attributes
    ----------
    name
        Name of the index.
    vector_field, vector_attribute
        Field of the record's hash that holds the vector; its name in queries.
    algorithm, vector_type, dimension
        FLAT or HNSW; FLOAT32 or FLOAT16; length of the vectors.
    """

    name: str
    vector_field: str
    vector_attribute: str
    algorithm: str
    vector_type: str
    dimension: int


@dataclass(frozen=True, slots=True)
class IndexHealth:
    """State of an index: records in it, records it could not take, and its size in bytes."""

    name: str
    documents: int
    failures: int
    building: bool
    bytes: int


class Indexes:
    """Creates and describes the indexes of one namespace."""

    def __init__(self, link: RedisLink, keys: Keys, settings: Settings) -> None:
        self._link = link
        self._keys = keys
        self._settings = settings
        self._known: dict[str, IndexSchema] = {}

    async def encoder_ids(self) -> list[str]:
        """Ids of all encoders of the namespace, recorded or registered, sorted."""
        return sorted(value.decode() for value in await self._link.execute("SMEMBERS", self._keys.encoders))

    async def episodic(self, encoder_id: str) -> IndexSchema | None:
        """Schema of an encoder's index of experiences; None where nothing was recorded with it. Cached."""
        schema = self._known.get(encoder_id)
        return schema if schema is not None else await self.current_schema(encoder_id)

    async def current_schema(self, encoder_id: str) -> IndexSchema | None:
        """As `episodic`, asking the server."""
        packed = await self._link.execute("GET", self._keys.index_schema(encoder_id))
        if packed is None:
            self._known.pop(encoder_id, None)
            return None
        schema = msgspec.json.decode(packed, type=IndexSchema)
        self._known[encoder_id] = schema
        return schema

    async def ensure_episodic(self, encoder_id: str, dimension: int = VECTOR_DIMENSION) -> IndexSchema:
        """Schema of an encoder's index of experiences, which is built by the settings where it does not exist.

        The first encoder of a namespace becomes its current one. Safe to call from many processes at once.
        """
        schema = await self.current_schema(encoder_id)
        if schema is not None:
            return schema
        name = self._keys.episodic_index(encoder_id)
        await self._create(
            name,
            self._keys.episodic_prefix,
            encoder_id,
            [
                ("scope", "TAG", "SEPARATOR", TAG_SEPARATOR, "CASESENSITIVE"),
                ("timestamp", "NUMERIC"),
                ("known_at", "NUMERIC"),
                ("recorded_at", "NUMERIC"),
                ("reward", "NUMERIC"),
                self._vector_field(encoder_id, dimension),
            ],
        )
        schema = await self._describe(name)
        await self._link.execute("SET", self._keys.index_schema(encoder_id), msgspec.json.encode(asdict(schema)))
        await self._adopt(encoder_id)
        self._known[encoder_id] = schema
        return schema

    async def ensure_semantic(self, encoder_id: str, dimension: int = VECTOR_DIMENSION) -> str:
        """Name of an encoder's index of patterns and regimes, which is built where it does not exist."""
        name = self._keys.semantic_index(encoder_id)
        await self._create(
            name,
            self._keys.semantic_prefix,
            encoder_id,
            [
                ("scope", "TAG", "SEPARATOR", TAG_SEPARATOR, "CASESENSITIVE"),
                ("valid_from", "NUMERIC"),
                ("valid_to", "NUMERIC"),
                # Few of many versions are current: asking for them by tag is several times faster than by time.
                ("current", "TAG"),
                # Patterns are thousands, not millions: exact search and full precision cost nothing here.
                (
                    *(vector_field(CONCEPT_VECTOR, encoder_id), "AS", vector_attribute(encoder_id)),
                    *("VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", dimension, "DISTANCE_METRIC", "COSINE"),
                ),
            ],
        )
        await self._adopt(encoder_id)
        return name

    async def set_current_encoder(self, encoder_id: str) -> None:
        """Point the aliases at an encoder's indexes, which are built where they do not exist."""
        await self.ensure_episodic(encoder_id)
        await self.ensure_semantic(encoder_id)
        await self._link.pipeline(
            [
                ("SET", self._keys.current_encoder, encoder_id),
                ("FT.ALIASUPDATE", self._keys.episodic_alias, self._keys.episodic_index(encoder_id)),
                ("FT.ALIASUPDATE", self._keys.semantic_alias, self._keys.semantic_index(encoder_id)),
            ],
            transaction=True,
        )

    async def current_encoder(self) -> str | None:
        """Id of the namespace's current encoder: the first one recorded, or the one that was set."""
        value = await self._link.execute("GET", self._keys.current_encoder)
        return None if value is None else value.decode()

    async def health(self) -> list[IndexHealth]:
        """State of every index of the namespace. Cost: one command an index."""
        prefixes = (self._keys.episodic_prefix, self._keys.semantic_prefix)
        names = sorted(name.decode() for name in await self._link.execute("FT._LIST"))
        states = []
        for name in names:
            if not name.startswith(prefixes):
                continue
            info = await self._link.execute("FT.INFO", name)
            megabytes = sum(
                float(info.get(part, 0) or 0)
                for part in (b"inverted_sz_mb", b"vector_index_sz_mb", b"doc_table_size_mb", b"key_table_size_mb")
            )
            states.append(
                IndexHealth(
                    name=name,
                    documents=int(info[b"num_docs"]),
                    failures=int(info[b"hash_indexing_failures"]),
                    building=bool(int(info[b"indexing"])),
                    bytes=int(megabytes * 2**20),
                )
            )
        return states

    # --- internals -------------------------------------------------------------------------------------------

    def _vector_field(self, encoder_id: str, dimension: int) -> Command:
        attributes: list[Any] = ["TYPE", self._settings.vector_type, "DIM", dimension, "DISTANCE_METRIC", "COSINE"]
        if self._settings.vector_algorithm == "HNSW":
            attributes += ["M", HNSW_NEIGHBOURS, "EF_CONSTRUCTION", HNSW_BUILD_EFFORT]
            attributes += ["EF_RUNTIME", HNSW_SEARCH_EFFORT]
        algorithm = self._settings.vector_algorithm
        field = vector_field(STATE_VECTOR, encoder_id)
        return (field, "AS", vector_attribute(encoder_id), "VECTOR", algorithm, len(attributes), *attributes)

    async def _create(self, name: str, prefix: str, encoder_id: str, fields: Sequence[Command]) -> None:
        """Create an index and wait until it holds all that is stored; nothing happens where it exists."""
        try:
            await self._link.execute(
                *("FT.CREATE", name, "ON", "HASH", "PREFIX", 1, prefix),
                *("FILTER", f"exists(@{vector_attribute(encoder_id)})"),
                "SCHEMA",
                *(part for field in fields for part in field),
            )
        except ResponseError as error:
            if "already exists" not in str(error):
                raise
        while True:
            info = await self._link.execute("FT.INFO", name)
            if not int(info[b"indexing"]) and float(info[b"percent_indexed"]) >= 1.0:
                return
            await asyncio.sleep(BUILD_POLL_S)

    async def _describe(self, name: str) -> IndexSchema:
        info = await self._link.execute("FT.INFO", name)
        for attribute in info[b"attributes"]:
            if attribute[b"type"] == b"VECTOR":
                return IndexSchema(
                    name=name,
                    vector_field=attribute[b"identifier"].decode(),
                    vector_attribute=attribute[b"attribute"].decode(),
                    algorithm=attribute[b"algorithm"].decode(),
                    vector_type=attribute[b"data_type"].decode(),
                    dimension=int(attribute[b"dim"]),
                )
        raise StoreUnavailableError(
            f"the index {name} has no vectors.", remedy=f"Drop it (FT.DROPINDEX {name}) and start again."
        )

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
        for alias, name in (
            (self._keys.episodic_alias, self._keys.episodic_index(encoder_id)),
            (self._keys.semantic_alias, self._keys.semantic_index(encoder_id)),
        ):
            try:
                await self._link.execute("FT.ALIASADD", alias, name)
            except ResponseError as error:
                # The alias is set already, or the other of the two indexes is not built yet.
                if "already exists" not in str(error) and "nknown index" not in str(error):
                    raise
