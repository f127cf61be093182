"""Redis clusters are refused: where search answers from one shard, and where keys cannot be changed together."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import redis

import memory
from memory.embedded import check_redis
from memory.errors import ServerUnsuitableError
from memory.store.cluster import check_cluster
from memory.store.link import RedisLink


@pytest.fixture
def cluster(own_redis: Any) -> str:
    """A cluster of one node that serves all slots."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    own_redis.stop()
    own_redis.start("--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", "0")
    with redis.Redis(unix_socket_path=str(own_redis.socket)) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    return str(own_redis.url)


async def test_a_cluster_whose_search_is_not_whole_is_refused_with_the_reason(cluster: str) -> None:
    with pytest.raises(ServerUnsuitableError, match=r"a cluster with search 2\.10\.\d+, which answers from one"):
        async with memory.connect(redis_url=cluster):
            pass
    with pytest.raises(ServerUnsuitableError, match="is a cluster with search"):
        await asyncio.to_thread(check_redis, cluster)


async def test_a_cluster_that_splits_the_keys_of_a_namespace_is_refused_whatever_its_search(cluster: str) -> None:
    link = RedisLink(cluster, own_key="default:on_disk")
    with pytest.raises(ServerUnsuitableError):
        await link.open()
    link = WithoutChecks(cluster, own_key="default:on_disk")
    await link.open()
    async with asyncio.timeout(10):
        while b"cluster_state:ok" not in await link.execute("CLUSTER", "INFO"):
            await asyncio.sleep(0.05)
    with pytest.raises(ServerUnsuitableError, match="keys of several slots"):
        await check_cluster(link)
    await link.close()


async def test_a_server_that_is_no_cluster_passes(servers: Any, namespace: str) -> None:
    link = RedisLink(servers.redis_url, own_key=f"{namespace}:on_disk")
    await link.open()
    await check_cluster(link)
    await link.close()


class WithoutChecks(RedisLink):
    """A link to a server that nothing is asked of when it is opened."""

    async def _check_server(self) -> None:
        """Nothing is asked."""
