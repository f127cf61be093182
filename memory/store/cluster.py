"""Whether a Redis cluster can hold a memory: search must answer whole, and a namespace be changed in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import RedisClusterException, RedisError

from memory.errors import ServerUnsuitableError

if TYPE_CHECKING:
    from memory.store.link import RedisLink

PROBES = 3
"""Keys that lie in different slots, as the keys of a namespace do; they are read, and need not exist."""


async def check_cluster(link: RedisLink) -> None:
    """Refuse a cluster that splits the keys of a namespace; which versions search whole, `judge_redis` says.

    Recording, publishing and reindexing change several keys in one step. A server that enforces slots refuses that even
    where one node holds them all; a proxy before a cluster, as some hosted services have, may not.

    Raises
    ------
    ServerUnsuitableError
        It refuses to read keys of several slots at once.
    """
    try:
        await link.execute("EXISTS", *(f"{link.own_key}:{number}" for number in range(PROBES)))
    except (RedisClusterException, RedisError) as error:
        raise ServerUnsuitableError(
            f"Redis at {link.address} is a cluster that refuses commands on keys of several slots ({error}).",
            remedy="Use a server that is no cluster, with replicas or Sentinel for more than one machine.",
        ) from error
