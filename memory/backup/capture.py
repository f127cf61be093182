"""Reading a namespace's part of Redis as it was at a time, in small steps, while agents go on recording.

A key that a scan gives twice is read once. What was recorded after the cut is left out: experiences say when they were
recorded, entries of streams when they were added, and what says nothing of the kind is read before the cut
(`keyspace.BEFORE`) or does not change while the namespace is held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from memory.backup.keyspace import Section, patterns_of, section_of
from memory.backup.rows import HASH, LIST, SET, STREAM, STRING, ZSET, KeyRow
from memory.store.decisions import trace_key_parts
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink

SCAN_COUNT = 1000
READ_SIZE = 200
"""Keys of one round trip: some milliseconds of the server's time, with other clients' commands in between."""
GONE = -2
_READ: dict[str, tuple[str, ...]] = {
    STRING: ("GET",),
    HASH: ("HGETALL",),
    SET: ("SMEMBERS",),
    ZSET: ("ZRANGE", "0", "-1", "WITHSCORES"),
    LIST: ("LRANGE", "0", "-1"),
}
_ENTRY_IDS = (b"message_ids:", b"dead_letter_digests")
"""Hashes whose values are ids of entries: those after the cut are left out with their entries."""
_KINDS = {Section.EPISODIC: HASH, Section.SHARED: HASH, Section.DECISIONS: STRING}


async def server_ms(link: RedisLink) -> int:
    """The server's clock, milliseconds since 1970."""
    seconds, micros = await link.execute("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def cut_now(link: RedisLink) -> int:
    """A time of the server that has passed when this returns: nothing more is recorded at it."""
    cut_ms = await server_ms(link)
    while await server_ms(link) <= cut_ms:
        pass
    return cut_ms


class Capture:
    """Reads one namespace.

    Parameters
    ----------
    cut_ms
        Time as of which it is read; None for what there is.
    """

    def __init__(self, link: RedisLink, keys: Keys, cut_ms: int | None = None) -> None:
        self._link = link
        self._keys = keys
        self._prefix = f"{keys.namespace}:".encode()
        self.cut_ms = cut_ms

    async def names(self, section: Section, cursor: str = "0") -> AsyncIterator[tuple[str, list[bytes]]]:
        """Keys of a section, without the namespace, some at a time and now and then one twice; with each lot the
        cursor that the scan goes on from, ``0`` with the last one.

        Cost: the server looks through all its keys, a thousand at a time (0.3 ms).
        """
        for pattern in patterns_of(section):
            if "*" not in pattern:
                yield "0", [pattern.encode()]  # A key that is not there has no row.
                continue
            while True:
                cursor, found = await self._scan(pattern, cursor)
                yield cursor, [key for key in found if section_of(key) is section]
                if cursor == "0":
                    break

    async def _scan(self, pattern: str, cursor: str) -> tuple[str, list[bytes]]:
        following, names = await self._link.execute(
            "SCAN", cursor, "MATCH", f"{self._keys.namespace}:{pattern}", "COUNT", SCAN_COUNT
        )
        return following.decode(), [name[len(self._prefix) :] for name in names]

    async def rows(self, section: Section, names: Sequence[bytes]) -> list[KeyRow]:
        """The rows of some keys of a section that is no stream; those that are gone, or came later, are left out."""
        found: list[KeyRow] = []
        for start in range(0, len(names), READ_SIZE):
            part = names[start : start + READ_SIZE]
            known = [_known_kind(section, name) for name in part]
            kinds = [kind for kind in known if kind is not None] if all(known) else await self._kinds(part)
            found += await self._read(part, kinds, together=section is Section.MAILBOXES)
        if self.cut_ms is None:
            return found
        if section in (Section.EPISODIC, Section.SHARED):
            return [row for row in found if recorded_ms(row) <= self.cut_ms]
        if section is Section.DECISIONS:
            return await self._decided_by_then(found, self.cut_ms)
        return [_of_the_time(row, self.cut_ms) for row in found]

    async def is_stream(self, names: Sequence[bytes]) -> list[bool]:
        """Which of some keys are streams."""
        return [kind == STREAM for kind in await self._kinds(names)]

    async def _kinds(self, names: Sequence[bytes]) -> list[str]:
        answers = await self._link.pipeline([("TYPE", self._prefix + name) for name in names])
        return [answer.decode() for answer in answers]

    async def _read(self, names: Sequence[bytes], kinds: Sequence[str], *, together: bool) -> list[KeyRow]:
        """Rows of some keys, each read in one step; all of them in one where they belong together."""
        wanted = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind in _READ]
        commands: list[Command] = []
        for name, kind in wanted:
            command, *rest = _READ[kind]
            commands += [(command, self._prefix + name, *rest), ("PEXPIRETIME", self._prefix + name)]
        answers = await self._link.pipeline(commands, transaction=together)
        rows = []
        for (name, kind), content, expires_ms in zip(wanted, answers[::2], answers[1::2], strict=True):
            # A key that went in between, or whose time went with it, is as little there as one that was not found.
            if content is not None and expires_ms != GONE and (kind == STRING or content):
                rows.append(_row(name, kind, content, None if expires_ms < 0 else int(expires_ms)))
        return rows

    async def _decided_by_then(self, rows: Sequence[KeyRow], cut_ms: int) -> list[KeyRow]:
        """Traces of experiences that were recorded by the cut, and of decisions of which no experience is stored."""
        parts = [trace_key_parts(row.value or b"") for row in rows]
        asked = [
            ("HGET", self._keys.episodic(*part) if part is not None else self._keys.on_disk, "recorded_at")
            for part in parts
        ]
        recorded: list[bytes | None] = []
        for start in range(0, len(asked), READ_SIZE):
            recorded += await self._link.pipeline(asked[start : start + READ_SIZE])
        kept = []
        for row, part, when in zip(rows, parts, recorded, strict=True):
            at_ms = int(when) if when is not None else (0 if part is None else part[2])
            if at_ms <= cut_ms:
                kept.append(row)
        return kept


def _known_kind(section: Section, name: bytes) -> str | None:
    """The kind of a key where its name says so: nothing need be asked before it is read."""
    if section is Section.MAILBOXES:
        return ZSET if name.startswith(b"mailbox_leases:") else HASH
    return _KINDS.get(section)


def recorded_ms(row: KeyRow) -> int:
    """When an experience was recorded, milliseconds since 1970; 0 where it does not say."""
    for name, value in row.fields:
        if name == b"recorded_at":
            return int(value)
    return 0


def _of_the_time(row: KeyRow, cut_ms: int) -> KeyRow:
    if not row.key.startswith(_ENTRY_IDS):
        return row
    return row._replace(fields=[pair for pair in row.fields if int(pair[1].partition(b"-")[0]) <= cut_ms])


def _row(name: bytes, kind: str, content: Any, expires_ms: int | None) -> KeyRow:
    if kind == STRING:
        return KeyRow(name, kind, expires_ms, content)
    if kind == HASH:
        return KeyRow(name, kind, expires_ms, None, list(content.items()))
    if kind == SET:
        return KeyRow(name, kind, expires_ms, None, [(member, b"") for member in sorted(content)])
    if kind == LIST:
        return KeyRow(name, kind, expires_ms, None, [(item, b"") for item in content])
    return KeyRow(name, kind, expires_ms, None, [(member, repr(score).encode()) for member, score in content])
