"""Is this memory well? Checks of its Redis that read and never write, each with what was seen and what to do.

`check_memory` runs them all. A check that cannot be made (a restricted user, a server that went away meanwhile) says
so, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redis.exceptions import RedisError

from memory.errors import AccessDeniedError, CoinswarmError
from memory.store.health_check import (
    Check,
    CheckStatus,
    MemoryCheck,
    OpenMemory,
    fail,
    ok,
    server_time,
    warn,
)
from memory.store.health_indexes import check_indexes
from memory.store.health_messages import check_messages
from memory.store.health_records import check_records, take_census
from memory.store.health_server import (
    check_clock,
    check_eviction,
    check_memory_left,
    check_persistence,
    check_server,
    judge_clock,
)
from memory.store.health_waiting import check_dead_letters, check_inbox

__all__ = ["Check", "CheckStatus", "check_memory", "fail", "judge_clock", "ok", "server_time", "warn"]

Announce = Callable[[str], None]


async def check_memory(mem: OpenMemory, announce: Announce = lambda _: None) -> list[Check]:
    """Check the Redis of an open memory, and the memory in it; nothing is written.

    Parameters
    ----------
    mem
        An open memory.
    announce
        Is told what is looked at next.

    Returns
    -------
    list of Check
        In a fixed order. Cost: some milliseconds, and a scan of all keys of the server in small steps (about a second
        a million), up to `health_records.SCAN_LIMIT` keys.
    """

    async def contents(mem: OpenMemory) -> list[Check]:
        census = await take_census(mem)
        return [*await check_indexes(mem, census), *await check_records(mem, census)]

    found: list[Check] = []
    checks: Sequence[tuple[str, MemoryCheck]] = (
        ("redis", check_server),
        ("eviction", check_eviction),
        ("persistence", check_persistence),
        ("memory", check_memory_left),
        ("clock", check_clock),
        ("indexes and records", contents),
        ("inbox", check_inbox),
        ("messages", check_messages),
        ("dead letters", check_dead_letters),
    )
    for name, check in checks:
        announce(name)
        try:
            found += await check(mem)
        except AccessDeniedError as error:
            found.append(warn(name, f"this user may not ask: {error.message}", error.remedy))
        except CoinswarmError as error:
            found.append(fail(name, error.message, error.remedy))
        except RedisError as error:
            found.append(fail(name, f"the server refused: {error}.", "Look into the server's log."))
    return found
