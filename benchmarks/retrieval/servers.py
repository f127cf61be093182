"""The servers of a run: embedded Redis and Postgres in a temporary home, gone when the run ends, however it ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memory.embedded import EmbeddedOptions, open_session

POSTGRES_BUFFERS_MB = 1024
"""pgvector searches in Postgres' own cache: the ledger's 64 MB would hold a third of 100,000 vectors."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers listen, and the folder for what else needs one."""

    redis_url: str
    database_url: str
    home: Path


@contextmanager
def temporary_servers() -> Iterator[Servers]:
    """Servers that nobody else uses. Their supervisor ends with this process, also where it is killed."""
    with tempfile.TemporaryDirectory(prefix="coinswarm-benchmark-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        options = EmbeddedOptions(postgres_shared_buffers_mb=POSTGRES_BUFFERS_MB)
        with open_session(home, ("redis", "postgres"), options=options) as session:
            redis_url, database_url = session.endpoints.redis_url, session.endpoints.database_url
            if redis_url is None or database_url is None:
                raise AssertionError("the embedded servers did not start.")
            yield Servers(redis_url, database_url, home)
