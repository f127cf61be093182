"""pgvector in the embedded Postgres: exact search behind a b-tree, and HNSW for each agent."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np

from benchmarks.retrieval.contestant import Ask, Loaded, Memories, ThreadContestant
from benchmarks.retrieval.corpus import Query
from memory.records import to_ms

CONNECTIONS = 20
"""Of each variant; the embedded server takes 50. Threads that share a few starve each other: whoever gives a connection
back takes it again."""
EF_CONSTRUCTION = 100
EF_SEARCH = 64
BUILD_MEMORY = "1GB"
"""Memory of an index build; the default of 64 MB spills to disk at about 30,000 vectors."""


class Pgvector(ThreadContestant):
    """Asked through psycopg in binary, with prepared statements, over the socket.

    Parameters
    ----------
    database_url
        The embedded Postgres; `vector` is created in it.
    """

    package = "psycopg"
    returns = "number, distance and the packed record"
    agents = f"threads, over at most {CONNECTIONS} connections"
    table: ClassVar[str]

    def __init__(self, database_url: str) -> None:
        # SQLAlchemy's name of the driver is nothing that libpq knows.
        self._url = database_url.replace("postgresql+psycopg://", "postgresql://")
        self._free: SimpleQueue[Any] = SimpleQueue()
        self._agents: list[str] = []

    @abstractmethod
    def _create(self, connection: Any) -> None:
        """Create the table."""

    @abstractmethod
    def _index(self, connection: Any) -> None:
        """Build the indexes of the filled table."""

    @abstractmethod
    def _prepare(self, connection: Any) -> None:
        """Settings of a connection that asks."""

    async def load(self, memories: Memories) -> Loaded:
        """Copy in binary, then index: the order that pgvector's manual recommends."""
        connection = self._connect()
        self._agents = sorted(memories.corpus.agents)
        try:
            begun = time.perf_counter()
            connection.execute(f"DROP TABLE IF EXISTS {self.table} CASCADE")
            self._create(connection)
            count = 0
            columns = "number, agent_id, product_id, regime, known_ms, vector, body"
            with connection.cursor().copy(f"COPY {self.table} ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int4", "text", "text", "text", "int8", "vector", "bytea"])
                for batch in memories.dataset.batches():
                    for number, record, body in zip(batch.numbers(), batch.records, batch.bodies(), strict=True):
                        known_ms = to_ms(record.known_at or record.timestamp)
                        names = (record.agent_id, record.product_id, record.regime)
                        copy.write_row((number, *names, known_ms, record.state_vector, body))
                        count += 1
            connection.execute(f"SET maintenance_work_mem = '{BUILD_MEMORY}'")
            connection.execute("SET max_parallel_maintenance_workers = 2")
            self._index(connection)
            connection.execute(f"VACUUM ANALYZE {self.table}")
            seconds = time.perf_counter() - begun
            size = connection.execute(
                "SELECT pg_total_relation_size(%(table)s::regclass) + coalesce((SELECT sum("
                "pg_total_relation_size(relid)) FROM pg_partition_tree(%(table)s::regclass) WHERE level > 0), 0)",
                {"table": self.table},
            ).fetchone()[0]
        finally:
            connection.close()
        for _ in range(CONNECTIONS):
            ready = self._connect()
            self._prepare(ready)
            self._free.put(ready.cursor(binary=True))
        return Loaded(seconds, float(size) / count, "table and its indexes on disk")

    @contextmanager
    def session(self) -> Iterator[Ask]:
        """Each question borrows a connection."""

        def ask(query: Query) -> Any:
            wanted = "agent_id = %s"
            arguments: list[Any] = [query.agent_id]
            if query.product_id is not None:
                wanted += " AND product_id = %s AND regime = %s"
                arguments += [query.product_id, query.regime]
            if query.as_of_ms is not None:
                wanted += " AND known_ms <= %s"
                arguments.append(query.as_of_ms)
            cursor = self._free.get()
            try:
                return cursor.execute(
                    f"SELECT number, vector <#> %s, body FROM {self.table} WHERE {wanted} ORDER BY 2 LIMIT %s",
                    (query.vector, *arguments, query.top_k),
                    prepare=True,
                ).fetchall()
            finally:
                self._free.put(cursor)

        yield ask

    def numbers(self, answer: Any) -> Sequence[int]:
        """The first column."""
        return [row[0] for row in answer]

    async def close(self) -> None:
        """Drop the table."""
        while not self._free.empty():
            self._free.get().connection.close()
        connection = self._connect()
        try:
            connection.execute(f"DROP TABLE IF EXISTS {self.table} CASCADE")
        finally:
            connection.close()

    def _connect(self) -> Any:
        import psycopg
        from psycopg.adapt import Dumper
        from psycopg.pq import Format
        from psycopg.types import TypeInfo

        connection = psycopg.connect(self._url, autocommit=True)
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        info = TypeInfo.fetch(connection, "vector")
        if info is None:
            raise RuntimeError("this Postgres has no pgvector: use the embedded one.")
        info.register(connection)
        type_oid = info.oid

        class VectorDumper(Dumper):
            """pgvector's binary form: dimension, zero, then big-endian floats (src/vector.c, vector_recv)."""

            format = Format.BINARY
            oid = type_oid

            def dump(self, obj: Any) -> bytes:
                packed: bytes = len(obj).to_bytes(2, "big") + b"\0\0" + obj.astype(">f4").tobytes()
                return packed

        connection.adapters.register_dumper(np.ndarray, VectorDumper)
        return connection


_COLUMNS = """
    number int4 NOT NULL, agent_id text NOT NULL, product_id text NOT NULL, regime text NOT NULL,
    known_ms int8 NOT NULL, vector vector(256) NOT NULL, body bytea NOT NULL
"""


class PgvectorExact(Pgvector):
    """Reads the rows that the filter lets through, and sorts them by distance."""

    name = "pgvector, exact"
    table = "memories_exact"

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return "b-tree on (agent, product, regime, known_ms), rows in its order, vectors in line, inner product"

    def _create(self, connection: Any) -> None:
        connection.execute(f"CREATE TABLE {self.table} ({_COLUMNS})")
        connection.execute(f"ALTER TABLE {self.table} ALTER vector SET STORAGE PLAIN")

    def _index(self, connection: Any) -> None:
        connection.execute(f"CREATE INDEX {self.table}_scope ON {self.table} (agent_id, product_id, regime, known_ms)")
        connection.execute(f"CLUSTER {self.table} USING {self.table}_scope")

    def _prepare(self, connection: Any) -> None:
        connection.execute("SET work_mem = '64MB'")


class PgvectorHnsw(Pgvector):
    """An HNSW index for each agent; scans go on until enough rows pass the filter."""

    name = "pgvector, HNSW"
    table = "memories_hnsw"

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return (
            f"partitioned by agent, each with HNSW (m 16, ef_construction {EF_CONSTRUCTION}) and a b-tree on (product, "
            f"regime, known_ms); ef_search {EF_SEARCH}, iterative scan in strict order; the planner chooses"
        )

    def _create(self, connection: Any) -> None:
        connection.execute(f"CREATE TABLE {self.table} ({_COLUMNS}) PARTITION BY LIST (agent_id)")
        connection.execute(f"ALTER TABLE {self.table} ALTER vector SET STORAGE PLAIN")
        for number, agent_id in enumerate(self._agents):
            connection.execute(
                f"CREATE TABLE {self.table}_{number} PARTITION OF {self.table} FOR VALUES IN ('{agent_id}')"
            )

    def _index(self, connection: Any) -> None:
        options = f"(m = 16, ef_construction = {EF_CONSTRUCTION})"
        for number in range(len(self._agents)):
            part = f"{self.table}_{number}"
            connection.execute(f"CREATE INDEX ON {part} USING hnsw (vector vector_ip_ops) WITH {options}")
            connection.execute(f"CREATE INDEX ON {part} (product_id, regime, known_ms)")

    def _prepare(self, connection: Any) -> None:
        connection.execute(f"SET hnsw.ef_search = {EF_SEARCH}")
        connection.execute("SET hnsw.iterative_scan = strict_order")
        connection.execute("SET work_mem = '64MB'")
