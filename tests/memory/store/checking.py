"""A memory to check, and what its checks see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from memory import MemoryConnection
from memory.store.health import Check, CheckStatus


async def checked(mem: MemoryConnection) -> dict[str, Check]:
    """The checks by name, the worst of each."""
    found: dict[str, Check] = {}
    for check in await mem.health():
        assert bool(check.remedy) == (check.status is not CheckStatus.OK), check
        worse = found.get(check.name)
        if worse is None or list(CheckStatus).index(check.status) > list(CheckStatus).index(worse.status):
            found[check.name] = check
    return found


def turned(found: dict[str, Check]) -> set[str]:
    return {name for name, check in found.items() if check.status is not CheckStatus.OK}


async def register(mem: MemoryConnection, encoder_id: str = "rff-1") -> None:
    await mem.encoders.register(encoder_id, fitted_until=datetime(2021, 6, 1, tzinfo=UTC), definition={"kind": "test"})


async def fill(mem: MemoryConnection, make: Any, count: int = 40) -> None:
    await register(mem)
    await mem.episodic.add_many([make(minute) for minute in range(count)])
