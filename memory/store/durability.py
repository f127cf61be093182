"""Waiting until what was written is on the server's disk, so that a server that is killed comes back with it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

from memory.errors import AccessDeniedError, StoreUnavailableError

if TYPE_CHECKING:
    from memory.store.link import RedisLink

_log = logging.getLogger(__name__)

DISK_TIMEOUT_S = 10.0
"""Longest wait for the append-only file: it is written out every second, later where the disk is busy."""
KEY_TTL_MS = 1000
"""Of the key that is written and removed again, a write of one's own to wait for."""


async def wait_for_disk(link: RedisLink, timeout_s: float) -> bool:
    """See `RedisLink.on_disk`."""
    # WAITAOF waits for what was written on its own connection, and for all that anybody wrote before that.
    commands = [
        ("SET", link.own_key, 1, "PX", KEY_TTL_MS),
        ("UNLINK", link.own_key),
        ("WAITAOF", 1, 0, max(1, int(timeout_s * 1000))),
    ]
    try:
        _, _, (written, _) = await link.pipeline(commands, timeout_s=timeout_s + link.timeout_s)
    except AccessDeniedError as error:
        _log.warning("Whether Redis at %s has written to its disk may not be asked: %s", link.address, error)
        return False
    except ResponseError as error:
        if "appendonly" not in str(error):
            raise
        _log.warning("Redis at %s keeps no append-only file: a restart loses what it holds.", link.address)
        return False
    if not written:
        raise StoreUnavailableError(
            f"Redis at {link.address} did not write to its disk within {timeout_s:g} s.",
            remedy="Check its disk, its log and its appendfsync (everysec or always), then run this again.",
        )
    return True
