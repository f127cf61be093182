"""Vector stores that run inside the process: qdrant-edge, LanceDB and usearch."""

from __future__ import annotations

import base64
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.retrieval.contestant import (
    Ask,
    AsyncContestant,
    Loaded,
    Memories,
    ThreadContestant,
    folder_bytes,
)
from benchmarks.retrieval.corpus import Query, Scope
from memory.records import EpisodicMemory, to_ms

M = 16
ROWS_A_PARTITION = 4096
EF_CONSTRUCTION = 100
EF_SEARCH = 128
"""With 64, recall by agent alone was 0.92 in qdrant-edge."""


def scopes_of(record: EpisodicMemory) -> tuple[Scope, Scope]:
    """The two scopes that are asked for and that a memory belongs to."""
    return (record.agent_id, record.product_id, record.regime), (record.agent_id, None, None)


def scope_name(agent_id: str, product_id: str | None, regime: str | None) -> str:
    """One word for a scope; ids hold no slash."""
    return "/".join(part or "" for part in (agent_id, product_id, regime))


class QdrantEdge(ThreadContestant):
    """Qdrant's engine as a library."""

    name = "qdrant-edge"
    package = "qdrant_edge"
    returns = "number, score and the packed record (base64 in the payload)"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "qdrant"
        self._shard: Any = None

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return (
            f"payload indexes: scope names (keyword, tenant) and known_ms (integer); HNSW m {M}, ef_construct "
            f"{EF_CONSTRUCTION}, payload_m {M}, ef {EF_SEARCH}; vectors and payload in memory; optimised after loading"
        )

    async def load(self, memories: Memories) -> Loaded:
        """Insert, index the payload, then let the optimiser build the graph."""
        import qdrant_edge as qdrant

        begun = time.perf_counter()
        self._folder.mkdir(parents=True)
        config = qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(256, qdrant.Distance.Dot, memory=qdrant.Memory.Pinned),
            hnsw_config=qdrant.HnswIndexConfig(
                m=M, ef_construct=EF_CONSTRUCTION, full_scan_threshold=10_000, payload_m=M
            ),
            payload_memory=qdrant.Memory.Cached,
            wal_enabled=False,
        )
        self._shard = qdrant.EdgeShard.create(str(self._folder), config)
        operation = qdrant.UpdateOperation
        for name, schema in (
            ("scope", qdrant.KeywordIndexParams(is_tenant=True)),
            ("known_ms", qdrant.IntegerIndexParams(lookup=False, range=True)),
        ):
            self._shard.update(operation.create_field_index(name, schema))
        count = 0
        for batch in memories.dataset.batches():
            points = []
            for number, record, body in zip(batch.numbers(), batch.records, batch.bodies(), strict=True):
                payload = {
                    "scope": [scope_name(*scope) for scope in scopes_of(record)],
                    "known_ms": to_ms(record.known_at or record.timestamp),
                    "body": base64.b64encode(body).decode(),
                }
                points.append(qdrant.Point(number, record.state_vector.tolist(), payload))
            self._shard.update(operation.upsert_points(points))
            count += len(points)
        self._shard.optimize()
        self._shard.flush()
        return Loaded(time.perf_counter() - begun, folder_bytes(self._folder) / count, "files on disk")

    @contextmanager
    def session(self) -> Iterator[Ask]:
        """All threads share the shard."""
        import qdrant_edge as qdrant

        shard = self._shard
        parameters = qdrant.SearchParams(hnsw_ef=EF_SEARCH)

        def ask(query: Query) -> Any:
            name = scope_name(query.agent_id, query.product_id, query.regime)
            must: list[Any] = [qdrant.FieldCondition("scope", match=qdrant.MatchValue(name))]
            if query.as_of_ms is not None:
                must.append(qdrant.FieldCondition("known_ms", range=qdrant.RangeFloat(lte=float(query.as_of_ms))))
            return shard.search(
                qdrant.SearchRequest(
                    qdrant.Query.Nearest(query.vector.tolist()),
                    query.top_k,
                    filter=qdrant.Filter(must=must),
                    params=parameters,
                    with_payload=["body"],
                )
            )

        yield ask

    def numbers(self, answer: Any) -> Sequence[int]:
        """Ids of the points."""
        return [point.id for point in answer]

    async def close(self) -> None:
        """Close the shard and remove its files."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None
        shutil.rmtree(self._folder, ignore_errors=True)


class LanceDb(AsyncContestant):
    """LanceDB on local files."""

    name = "LanceDB"
    package = "lancedb"
    returns = "number, distance and the packed record"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "lance"
        self._table: Any = None
        self._partitions = 1

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return (
            f"IVF_FLAT in partitions of {ROWS_A_PARTITION} rows, all probed (exact; a third of them gave recall 0.8); "
            "bitmap indexes on both scope columns, b-tree on known_ms, filtered first; compacted"
        )

    async def load(self, memories: Memories) -> Loaded:
        """Append, index, compact."""
        import lancedb
        import pyarrow as pa
        from lancedb.index import Bitmap, BTree, IvfFlat

        begun = time.perf_counter()
        schema = pa.schema(
            [
                ("number", pa.int32()),
                ("agent", pa.string()),
                ("scope", pa.string()),
                ("known_ms", pa.int64()),
                ("vector", pa.list_(pa.float32(), 256)),
                ("body", pa.binary()),
            ]
        )
        connection = await lancedb.connect_async(str(self._folder))
        self._table = await connection.create_table("memories", schema=schema)
        count = 0
        for batch in memories.dataset.batches():
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors().ravel()), 256)
            columns = [
                pa.array(batch.numbers(), pa.int32()),
                pa.array([record.agent_id for record in batch.records]),
                pa.array([scope_name(*scopes_of(record)[0]) for record in batch.records]),
                pa.array([to_ms(record.known_at or record.timestamp) for record in batch.records]),
                vectors,
                pa.array(batch.bodies(), pa.binary()),
            ]
            await self._table.add(pa.Table.from_arrays(columns, schema=schema))
            count += len(batch.records)
        await self._table.optimize()
        self._partitions = max(1, count // ROWS_A_PARTITION)
        vectors_index = IvfFlat(distance_type="dot", num_partitions=self._partitions)
        for column, index in (
            ("agent", Bitmap()),
            ("scope", Bitmap()),
            ("known_ms", BTree()),
            ("vector", vectors_index),
        ):
            await self._table.create_index(column, config=index)
        await self._table.optimize()
        return Loaded(time.perf_counter() - begun, folder_bytes(self._folder) / count, "files on disk")

    async def ask(self, query: Query) -> Any:
        """One question; ids hold no quotes."""
        if query.product_id is None:
            condition = f"agent = '{query.agent_id}'"
        else:
            condition = f"scope = '{scope_name(query.agent_id, query.product_id, query.regime)}'"
        if query.as_of_ms is not None:
            condition += f" AND known_ms <= {query.as_of_ms}"
        near = self._table.query().nearest_to(query.vector).distance_type("dot").nprobes(self._partitions)
        return await near.where(condition).limit(query.top_k).select(["number", "body", "_distance"]).to_arrow()

    def numbers(self, answer: Any) -> Sequence[int]:
        """The first column."""
        found: list[int] = answer["number"].to_pylist()
        return found

    async def close(self) -> None:
        """Remove its files."""
        self._table = None
        shutil.rmtree(self._folder, ignore_errors=True)


class Usearch(ThreadContestant):
    """usearch, whose Python binding takes no filter: an index for each scope that is asked for."""

    name = "usearch"
    package = "usearch"
    returns = "numbers and distances, no record"
    as_of = False

    def __init__(self) -> None:
        self._indexes: dict[Scope, Any] = {}

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return (
            f"an HNSW index for each agent+product+regime and each agent (so every vector twice), connectivity {M}, "
            f"expansion {EF_CONSTRUCTION} and {EF_SEARCH}, float32, inner product; no filter, so no as-of"
        )

    async def load(self, memories: Memories) -> Loaded:
        """Add each batch to the indexes it belongs to."""
        from usearch.index import Index

        begun = time.perf_counter()
        count = 0
        for batch in memories.dataset.batches():
            members: dict[Scope, list[int]] = defaultdict(list)
            for position, record in enumerate(batch.records):
                for scope in scopes_of(record):
                    members[scope].append(position)
            vectors = batch.vectors()
            for scope, positions in members.items():
                index = self._indexes.get(scope)
                if index is None:
                    index = self._indexes[scope] = Index(
                        ndim=256,
                        metric="ip",
                        dtype="f32",
                        connectivity=M,
                        expansion_add=EF_CONSTRUCTION,
                        expansion_search=EF_SEARCH,
                    )
                index.add(np.array(positions, dtype=np.uint64) + batch.first, vectors[positions])
            count += len(batch.records)
        seconds = time.perf_counter() - begun
        used = sum(index.serialized_length for index in self._indexes.values())
        return Loaded(seconds, used / count, "indexes as they would be saved (in memory they reserve more); no record")

    @contextmanager
    def session(self) -> Iterator[Ask]:
        """Threads share the indexes; each search stays in its thread."""
        indexes = self._indexes

        def ask(query: Query) -> Any:
            index = indexes[query.agent_id, query.product_id, query.regime]
            return index.search(query.vector, query.top_k, threads=1)

        yield ask

    def numbers(self, answer: Any) -> Sequence[int]:
        """Keys of the matches."""
        found: list[int] = answer.keys.tolist()
        return found

    async def close(self) -> None:
        """Let the indexes go."""
        self._indexes.clear()
