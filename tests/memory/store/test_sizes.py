"""How much of Redis each kind of keys takes."""

from __future__ import annotations

from typing import Any

from memory import MemoryConnection
from memory.store import sizes
from memory.store.sizes import EXPERIENCES, INDEXES, redis_sizes


async def usage(mem: MemoryConnection) -> int:
    """Bytes of all keys of the namespace, asked for one by one."""
    names = [name async for name in keys(mem)]
    return sum(await mem.link.pipeline([("MEMORY", "USAGE", name) for name in names]))


async def keys(mem: MemoryConnection) -> Any:
    cursor = 0
    while True:
        cursor, names = await mem.link.execute("SCAN", cursor, "MATCH", f"{mem.namespace}:*", "COUNT", 1000)
        for name in names:
            yield name
        cursor = int(cursor)
        if not cursor:
            return


async def test_every_key_of_the_namespace_is_in_one_kind(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(20)])
    found = await redis_sizes(mem)
    assert found[EXPERIENCES].number == 20
    assert found[INDEXES].number == 20
    assert found[INDEXES].bytes > 0
    held = {kind: size for kind, size in found.items() if kind != INDEXES}
    assert sum(size.number for size in held.values()) == len([name async for name in keys(mem)])
    assert sum(size.bytes for size in held.values()) == await usage(mem)
    assert [size.bytes for size in found.values()] == sorted((s.bytes for s in found.values()), reverse=True)


async def test_many_keys_are_estimated_from_some_of_them(mem: MemoryConnection, make: Any, monkeypatch: Any) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(150)])
    whole = (await redis_sizes(mem))[EXPERIENCES]
    monkeypatch.setattr(sizes, "SAMPLE", 30)
    sampled = (await redis_sizes(mem))[EXPERIENCES]
    assert sampled.number == whole.number == 150
    assert abs(sampled.bytes - whole.bytes) < 0.05 * whole.bytes
    assert await redis_sizes(mem) == await redis_sizes(mem)


async def test_an_empty_namespace_takes_nothing(mem: MemoryConnection) -> None:
    assert all(size.bytes > 0 for size in (await redis_sizes(mem)).values())
    assert EXPERIENCES not in await redis_sizes(mem)
