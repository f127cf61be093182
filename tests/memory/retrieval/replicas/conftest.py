"""A primary and two replicas of it, which tests kill, halt and cut off; the next test finds them healed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import memory
from memory import MemoryConnection
from tests.memory.retrieval.redis_processes import Cluster


@pytest.fixture(scope="module")
def servers_of_this_file() -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="replicas-"))
    cluster = Cluster(directory, replicas=2)
    try:
        cluster.heal()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def cluster(servers_of_this_file: Cluster) -> Cluster:
    """A primary and two replicas that follow it."""
    servers_of_this_file.heal()
    return servers_of_this_file


@pytest.fixture
async def primary(cluster: Cluster, namespace: str) -> AsyncIterator[MemoryConnection]:
    """An open memory at the primary."""
    mem = memory.connect(redis_url=cluster.primary.url, namespace=namespace)
    await mem.open()
    yield mem
    mem.access._waiting.clear()  # What a dead primary could not count would fail the closing.
    await mem.close()
