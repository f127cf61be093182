"""Writing rows back into Redis, under any namespace's name; the same rows again change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memory.backup.keyspace import renamed
from memory.backup.rows import ENTRY, HASH, LIST, SET, STREAM, STRING, ZSET, KeyRow
from memory.backup.streams import entry_commands, head_commands
from memory.store.fence import Fence
from memory.store.keys import Keys
from memory.store.link import Command

WRITE_SIZE = 200
"""Keys of one round trip."""
PARTS = 500
"""Fields or members of one command."""


class Refill:
    """Writes the rows of one file into a namespace.

    Nothing else may write to the namespace meanwhile, and it held nothing before: what is written twice is then the
    same. A stream is begun anew with its first entry, so all of its entries have to come from one file.

    Parameters
    ----------
    fence, token
        A run that was overtaken writes nothing more.
    source
        Namespace that the rows were read from.
    now_ms
        The server's time: keys that expire by then are left out.
    """

    def __init__(self, fence: Fence, token: int, keys: Keys, source: str, now_ms: int) -> None:
        self._fence = fence
        self._token = token
        self._keys = keys
        self._prefix = f"{keys.namespace}:".encode()
        self._source = source
        self._now_ms = now_ms
        self._stream: bytes | None = None
        self.written = 0
        self.expired = 0

    async def write(self, rows: Sequence[KeyRow]) -> None:
        """Write rows, in order; returns when the server has all of them. FencedOutError where it was overtaken."""
        commands: list[Command] = []
        for row in rows:
            if row.expires_ms is not None and row.expires_ms <= self._now_ms:
                self.expired += 1
                continue
            commands += self._commands(renamed(row, self._source, self._keys.namespace))
            self.written += 1
            if len(commands) >= WRITE_SIZE:
                await self._fence.write(commands, self._token)
                commands = []
        if commands:
            await self._fence.write(commands, self._token)

    def _commands(self, row: KeyRow) -> Iterator[Command]:
        name = self._prefix + row.key
        if row.kind in (ENTRY, STREAM):
            if self._stream != row.key:
                yield ("DEL", name)
                self._stream = row.key
            yield from entry_commands(name, row) if row.kind == ENTRY else head_commands(name, row)
            return
        yield from key_commands(name, row)


def key_commands(name: bytes, row: KeyRow) -> Iterator[Command]:
    """What writes a key that is no stream; it expires when it would have."""
    if row.kind == STRING:
        yield ("SET", name, row.value, *(() if row.expires_ms is None else ("PXAT", row.expires_ms)))
        return
    if row.kind == LIST:
        yield ("DEL", name)
    for start in range(0, len(row.fields), PARTS):
        part = row.fields[start : start + PARTS]
        if row.kind == HASH:
            yield ("HSET", name, *(item for pair in part for item in pair))
        elif row.kind == SET:
            yield ("SADD", name, *(member for member, _ in part))
        elif row.kind == ZSET:
            yield ("ZADD", name, *(item for member, score in part for item in (score, member)))
        else:
            yield ("RPUSH", name, *(item for item, _ in part))
    if row.expires_ms is not None:
        yield ("PEXPIREAT", name, row.expires_ms)
