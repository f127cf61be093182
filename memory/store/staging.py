"""Documents of a publication, written before the step that makes them known.

One step that wrote thousands of documents would make every reader wait. So they are written first, in batches, where
nobody looks for them: of a line that is being read under names that no index covers, from which the step moves them to
their own; of a line that nobody reads yet at once under their own. Documents that have expired go after the step. A
list names those that come and go while they are under way, so that the next publication finds and removes what a killed
one left behind.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from memory.records import SemanticType
from memory.store.fence import Fence
from memory.store.keys import CONCEPT_VECTOR, Keys, semantic_tags, vector_field
from memory.store.link import Command, Read, RedisLink
from memory.store.semantic_codec import PackedSemantic
from memory.store.versions import VersionKey

BATCH = 100
"""Documents of one step: about 10 KB each."""
UNLINK_SIZE = 500
SCAN_SIZE = 1000
_MARK = "="
"""What the mark of a publication begins with, as no key does."""

Document = dict[bytes, bytes]
"""Fields of a stored version."""


def document(
    packed: PackedSemantic, line: str, encoder_id: str, valid_from_ms: int, valid_to_ms: int | None
) -> Document:
    """The fields of a version as they are stored."""
    fields: Document = {
        b"body": packed.body,
        b"scope": semantic_tags(packed.kind, line, packed.product_ids, packed.regime).encode(),
        b"valid_from": str(valid_from_ms).encode(),
    }
    if packed.vector is not None:
        fields[vector_field(CONCEPT_VECTOR, encoder_id).encode()] = packed.vector
    return fields | validity(valid_to_ms)


def validity(valid_to_ms: int | None) -> Document:
    """The field that says until when a version is valid."""
    return {b"current": b"1"} if valid_to_ms is None else {b"valid_to": str(valid_to_ms).encode()}


def document_key(keys: Keys, key: VersionKey, line: str) -> str:
    """Where a version lies."""
    return keys.semantic(key.kind, key.memory_id, key.valid_from_ms, line)


def in_parts(names: Sequence[str], size: int) -> list[Sequence[str]]:
    """Names in order, some at a time."""
    return [names[start : start + size] for start in range(0, len(names), size)]


def unlink_commands(names: Sequence[str]) -> list[Command]:
    """What removes some keys."""
    return [("UNLINK", *part) for part in in_parts(names, UNLINK_SIZE)]


class Staging:
    """Documents of one publication that are written already.

    Parameters
    ----------
    live
        Whether the line may be read by somebody.
    """

    def __init__(self, link: RedisLink, keys: Keys, fence: Fence, line: str, token: int, *, live: bool) -> None:
        self._link = link
        self._keys = keys
        self._fence = fence
        self._line = line
        self._token = token
        self._live = live
        self._mark = f"{_MARK}{secrets.token_hex(8)}"
        self._written: set[VersionKey] = set()
        self._waiting: list[tuple[VersionKey, Document]] = []
        self._unsure: list[tuple[VersionKey, Document]] = []

    @property
    def list_key(self) -> str:
        """Key of the list of what is under way."""
        return self._keys.semantic_staged(self._line)

    @property
    def written(self) -> set[VersionKey]:
        """Versions whose documents are written."""
        return self._written

    async def add(self, key: VersionKey, fields: Document) -> None:
        """Write a document, soon."""
        self._waiting.append((key, fields))
        if len(self._waiting) >= BATCH:
            await self._write()

    async def add_where_different(self, key: VersionKey, fields: Document) -> None:
        """Write a document where what is stored is missing or differs."""
        self._unsure.append((key, fields))
        if len(self._unsure) >= BATCH:
            await self._compare()

    async def finish(self) -> None:
        """Write what waits."""
        await self._compare()
        await self._write()

    def commands(self) -> list[Command]:
        """What makes the documents those of their versions; part of the step of publication."""
        if not self._written:
            return []
        moves: list[Command] = []
        if self._live:
            moves = [("RENAME", self._staged(key), document_key(self._keys, key, self._line)) for key in self._written]
        listed = in_parts([self._mark, *self._names()], UNLINK_SIZE)
        return [*moves, *(("SREM", self.list_key, *part) for part in listed)]

    async def is_whole(self, read: Read) -> bool:
        """Whether all that was written is still there, to be asked in the step of publication.

        Another publication may have removed it, or the server may have come back without the last of it. Documents and
        their names on the list are written together, so the list tells.
        """
        if not self._written:
            return True
        for part in in_parts([self._mark, *self._names()], UNLINK_SIZE):
            if not all(await read("SMISMEMBER", self.list_key, *part)):
                return False
        return True

    def _names(self) -> list[str]:
        """Keys that were written."""
        return [self._name(key) for key in sorted(self._written)]

    def _name(self, key: VersionKey) -> str:
        return self._staged(key) if self._live else document_key(self._keys, key, self._line)

    async def _compare(self) -> None:
        waiting, self._unsure = self._unsure, []
        names = [document_key(self._keys, key, self._line) for key, _ in waiting]
        for (key, fields), stored in zip(
            waiting, await self._link.pipeline([("HGETALL", name) for name in names]), strict=True
        ):
            if stored != fields:
                await self.add(key, fields)

    async def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        named = [(self._name(key), fields) for key, fields in waiting]
        marked = () if self._written else (self._mark,)
        commands: list[Command] = [("SADD", self.list_key, *marked, *(name for name, _ in named))]
        for name, fields in named:
            commands += [("DEL", name), ("HSET", name, *(part for pair in fields.items() for part in pair))]
        await self._fence.write(commands, self._token)
        self._written.update(key for key, _ in waiting)

    def _staged(self, key: VersionKey) -> str:
        return f"{self.list_key}:{self._mark}:{key.kind}:{key.memory_id}:{key.valid_from_ms}"


async def remove_leftovers(
    link: RedisLink, keys: Keys, fence: Fence, line: str, token: int, listed: Mapping[VersionKey, object]
) -> int:
    """Remove documents that are under way and not listed, and return how many those were.

    They were written by a publication that was killed, or expired with the last one.
    """
    staged = keys.semantic_staged(line)
    names = sorted(name.decode() for name in await link.execute("SMEMBERS", staged))
    if not names:
        return 0
    kept = {document_key(keys, key, line) for key in listed}
    marks = [name for name in names if name.startswith(_MARK)]
    doomed = [name for name in names if name not in kept and not name.startswith(_MARK)]
    if marks:  # First, so that whoever wrote them moves nothing that is half gone.
        await fence.write([("SREM", staged, *marks)], token)
    for command in unlink_commands(doomed):
        await fence.write([command], token)
    await fence.write([("UNLINK", staged)], token)
    return len(doomed)


async def leftovers(link: RedisLink, keys: Keys, line: str, listed: Mapping[VersionKey, object]) -> list[str]:
    """Keys of the documents of a line that are under way and not listed, sorted: what a killed publication left."""
    kept = {document_key(keys, key, line) for key in listed}
    names = (name.decode() for name in await link.execute("SMEMBERS", keys.semantic_staged(line)))
    waiting = sorted(name for name in names if name not in kept and not name.startswith(_MARK))
    there = await link.pipeline([("EXISTS", name) for name in waiting])
    return [name for name, found in zip(waiting, there, strict=True) if found]


async def stored_versions(link: RedisLink, keys: Keys, line: str) -> list[VersionKey]:
    """All versions of a line that have a document, listed or not; sorted. Looks at every key of the server."""
    found: set[VersionKey] = set()
    cursor = b"0"
    while True:
        cursor, names = await link.execute(
            "SCAN", cursor, "MATCH", f"{keys.semantic_prefix}*:{line}", "COUNT", SCAN_SIZE, "TYPE", "hash"
        )
        for name in names:
            kind, memory_id, valid_from_ms, own_line = name[len(keys.semantic_prefix) :].decode().split(":", 3)
            if own_line == line and kind in set(SemanticType):
                found.add(VersionKey(kind, memory_id, int(valid_from_ms)))
        if int(cursor) == 0:
            return sorted(found)
