"""Semantic memory as it lies in Redis, byte by byte: for digests, and for comparison with what the ledger says.

Nothing that this process has seen before is trusted here.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.manifest import read_manifest
from memory.store.staging import Document, document_key, leftovers, stored_versions
from memory.store.versions import VersionKey

READ_SIZE = 200
"""Documents read in one round trip."""
SCAN_SIZE = 1000


class SemanticContents:
    """What Redis holds of the semantic memory of one namespace."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def lines(self) -> list[str]:
        """All lines that were published, read or not; sorted. Looks at every key of the server."""
        prefix = self._keys.semantic_manifest("")
        return sorted({name[len(prefix) :] for name in await self._scan(f"{prefix}*")})

    async def documents(self, line: str) -> AsyncIterator[tuple[VersionKey, Document]]:
        """The fields of every version that a line lists, in order; none where the document is missing."""
        ordered = sorted(await read_manifest(self._link, self._keys, line))
        for start in range(0, len(ordered), READ_SIZE):
            keys = ordered[start : start + READ_SIZE]
            names = [document_key(self._keys, key, line) for key in keys]
            for key, stored in zip(keys, await self._link.pipeline([("HGETALL", name) for name in names]), strict=True):
                yield key, stored

    async def orphans(self, line: str) -> list[VersionKey]:
        """Versions that have a document but are not listed; sorted. Looks at every key of the server."""
        listed = await read_manifest(self._link, self._keys, line)
        return [key for key in await stored_versions(self._link, self._keys, line) if key not in listed]

    async def leftovers(self, line: str) -> list[str]:
        """Keys of the documents that a publication wrote and never made known; sorted."""
        return await leftovers(self._link, self._keys, line, await read_manifest(self._link, self._keys, line))

    async def line_digest(self, line: str) -> str:
        """SHA-256 over the list of a line's versions, its stamp, and every field of every version.

        Without aliases: which ids agents may still hold depends on the order of the work.
        """
        digest = hashlib.sha256()
        listed, stamp = await self._link.pipeline(
            [
                ("HGETALL", self._keys.semantic_manifest(line)),
                ("GET", self._keys.semantic_stamp(line)),
            ],
            transaction=True,
        )
        _add(digest, (sorted(listed.items()), stamp))
        async for key, stored in self.documents(line):
            _add(digest, (tuple(key), sorted(_without_namespace(stored, line).items())))
        return digest.hexdigest()

    async def digest(self) -> str:
        """SHA-256 over all lines, which of them is and was read for each encoder, and all registered encoders."""
        digest = hashlib.sha256()
        for line in await self.lines():
            _add(digest, ("line", _bare(line), await self.line_digest(line)))
        current_lines, current_encoder, members = await self._link.pipeline(
            [
                ("HGETALL", self._keys.current_line),
                ("GET", self._keys.current_encoder),
                ("SMEMBERS", self._keys.encoders),
            ],
            transaction=True,
        )
        bare = sorted((encoder.decode(), _bare(line.decode())) for encoder, line in current_lines.items())
        _add(digest, ("current lines", bare, "current encoder", current_encoder))
        for encoder_id in sorted(name.decode() for name in members):
            registered, succession = await self._link.pipeline(
                [("GET", self._keys.encoder(encoder_id)), ("HGETALL", self._keys.line_history(encoder_id))]
            )
            since = sorted((when.decode(), _bare(line.decode())) for when, line in succession.items())
            _add(digest, ("encoder", encoder_id, registered, since))
        return digest.hexdigest()

    async def _scan(self, pattern: str) -> list[str]:
        found: list[str] = []
        cursor = b"0"
        while True:
            cursor, names = await self._link.execute("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_SIZE)
            found += [name.decode() for name in names]
            if int(cursor) == 0:
                return found


def _add(digest: Any, part: Any) -> None:
    packed = msgspec.msgpack.encode(part)
    digest.update(len(packed).to_bytes(8, "big") + packed)


def _bare(line: str) -> str:
    """A line's name without the namespace that it begins with."""
    return line.partition("/")[2]


def _without_namespace(document: Mapping[bytes, bytes], line: str) -> dict[bytes, bytes]:
    """A stored hash as it would be in a namespace without a name; what is damaged stays as it is."""
    content = dict(document)
    try:
        body = msgspec.msgpack.decode(content.get(b"body", b""))
    except msgspec.DecodeError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("line"), str):
        namespace = line.removesuffix(_bare(line))
        content[b"body"] = msgspec.msgpack.encode({**body, "line": body["line"].removeprefix(namespace)})
    if b"scope" in content:
        content[b"scope"] = content[b"scope"].replace(line.encode(), _bare(line).encode())
    return content
