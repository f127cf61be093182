"""Semantic memory: what was learned, kept in versions, published in one step."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import SemanticMemory, SemanticType, to_ms
from memory.store.access import ACCESS_DAYS, AccessCount, AccessCounters
from memory.store.codec import ms_rounded_up
from memory.store.fence import Fence
from memory.store.indexes import Indexes
from memory.store.keys import CONCEPT_VECTOR, Keys
from memory.store.link import RedisLink
from memory.store.publishing import ALL_KINDS, Publication, Publisher, PublishReport, decode_manifest
from memory.store.semantic_codec import unpack_semantic
from memory.store.versions import Version, VersionKey, Versions
from memory.validation import validate_choice, validate_timestamp

__all__ = ["Publication", "PublishReport", "SemanticStore", "unpack_document"]

READ_SIZE = 200


class SemanticStore:
    """The semantic memory of one namespace.

    Parameters
    ----------
    locked_to
        Time that reading is locked to: nothing that became valid later is seen, and nothing can be published.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        indexes: Indexes,
        publisher: Publisher,
        fence: Fence,
        access: AccessCounters,
        *,
        locked_to: datetime | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._publisher = publisher
        self._fence = fence
        self._access = access
        self._locked_to = locked_to

    def at(self, as_of: datetime) -> SemanticStore:
        """The same memory, for reading, locked to what was valid at a time."""
        return SemanticStore(
            self._link, self._keys, self._indexes, self._publisher, self._fence, self._access, locked_to=as_of
        )

    # --- publishing ------------------------------------------------------------------------------------------

    async def publish(
        self,
        memories: Iterable[SemanticMemory],
        *,
        line: str,
        kinds: Collection[SemanticType],
        token: int,
        valid_from: datetime,
    ) -> PublishReport:
        """Make `memories` all that is known from a time on, in one step.

        Memories that are gone or whose content changed end at `valid_from`; new content begins there; unchanged
        content keeps its version. Later publications stay as they are. Publishing the same again changes nothing.

        Parameters
        ----------
        memories
            All memories of these kinds; their own `valid_from` and `valid_to` are replaced.
        line
            Knowledge line that they belong to; memories of other lines are not touched.
        kinds
            Kinds that this publication is about; memories of other kinds are not touched.
        token
            Fencing token of the run.
        valid_from
            From when on this is known.

        Raises
        ------
        InvalidRecordError
            A memory is malformed, of another line or kind, or there are two with one id. Nothing is published.
        FencedOutError
            A newer run has written. Nothing is published.
        """
        publication = Publication(valid_from, tuple(memories))
        return await self._open_publisher().publish(
            [publication], line, kinds, token, replaces_from_ms=None, replaces=False
        )

    async def publish_history(
        self,
        publications: Sequence[Publication],
        *,
        line: str,
        kinds: Collection[SemanticType],
        token: int,
        since: datetime | None = None,
    ) -> PublishReport:
        """Publish several times' knowledge in one step, as if each had been published then.

        Every publication from `since` on (all where None) is replaced by those given, so that a back-fill ends in
        the same versions as a run in order. Otherwise as `publish`.
        """
        replaces_from_ms = None if since is None else ms_rounded_up(since)
        return await self._open_publisher().publish(publications, line, kinds, token, replaces_from_ms, replaces=True)

    async def set_current_line(self, line: str, encoder_id: str, *, token: int) -> None:
        """Make a knowledge line the one that is read for an encoder, in one step."""
        await self._fence.write([("HSET", self._keys.current_line, encoder_id, line)], token)

    # --- reading ---------------------------------------------------------------------------------------------

    async def current_line(self, encoder_id: str | None = None) -> str | None:
        """The knowledge line that is read for an encoder (the namespace's current one where None)."""
        encoder_id = encoder_id or await self._indexes.current_encoder()
        if encoder_id is None:
            return None
        line = await self._link.execute("HGET", self._keys.current_line, encoder_id)
        return None if line is None else line.decode()

    async def current_lines(self) -> list[str]:
        """The knowledge lines that are read, one for each encoder that something was published for; sorted."""
        return sorted(line.decode() for line in await self._link.execute("HVALS", self._keys.current_line))

    async def current(self, kind: SemanticType | None = None, *, line: str | None = None) -> list[SemanticMemory]:
        """What is known now, by kind and id; with `mem.at(t)`, what was known then. Cost: one read a memory."""
        return await self._read(kind, line, self._locked_to)

    async def as_of(
        self, as_of: datetime, kind: SemanticType | None = None, *, line: str | None = None
    ) -> list[SemanticMemory]:
        """What was known at a time, by kind and id."""
        return await self._read(kind, line, self._bounded(as_of))

    async def versions(self, memory_id: str, *, line: str | None = None) -> list[SemanticMemory]:
        """All versions of one memory, oldest first."""
        line = line or await self.current_line()
        if line is None:
            return []
        stored = await self._versions(line)
        chosen = {
            key: version
            for key, version in stored.items()
            if key.memory_id == memory_id and (self._locked_to is None or key.valid_from_ms <= to_ms(self._locked_to))
        }
        return await self._load(chosen, line)

    async def get(self, memory_id: str, *, line: str | None = None) -> SemanticMemory | None:
        """The current version of one memory (with `mem.at(t)` the one valid then); None where there is none."""
        as_of_ms = None if self._locked_to is None else to_ms(self._locked_to)
        for memory in reversed(await self.versions(memory_id, line=line)):
            if memory.valid_to is None or (as_of_ms is not None and to_ms(memory.valid_to) > as_of_ms):
                return memory
        return None

    async def counts(self, *, line: str | None = None) -> dict[str, int]:
        """Number of current memories of each kind."""
        line = line or await self.current_line()
        versions = {} if line is None else _valid_at(await self._versions(line), self._locked_to)
        return {kind.value: sum(key.kind == kind for key in versions) for kind in ALL_KINDS}

    async def digest(self, *, line: str | None = None) -> str:
        """SHA-256 over every field of every version of a line, in order; access counters are no part of it.

        The same knowledge gives the same digest in any namespace's Redis, whatever led to it: of the line's name, the
        namespace counts for nothing.
        """
        line = line or await self.current_line()
        digest = hashlib.sha256()
        if line is None:
            return digest.hexdigest()
        versions = await self._versions(line)
        ordered = sorted(versions)
        for start in range(0, len(ordered), READ_SIZE):
            keys = ordered[start : start + READ_SIZE]
            documents = await self._link.pipeline([("HGETALL", self._document_key(key, line)) for key in keys])
            for key, document in zip(keys, documents, strict=True):
                content = _without_namespace(document, line)
                part = msgspec.msgpack.encode((tuple(key), versions[key].valid_to_ms, sorted(content.items())))
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    # --- access ----------------------------------------------------------------------------------------------

    async def count_access(self, memory_ids: Iterable[str], at: datetime) -> None:
        """Count one retrieval of each memory on the UTC day of `at`."""
        await self._access.count_access(memory_ids, self._bounded(at))

    async def access_counts(
        self, memory_ids: Sequence[str], until: datetime, days: int = ACCESS_DAYS
    ) -> Mapping[str, AccessCount]:
        """Retrievals of some memories on the `days` UTC days before `until` (a window's end), by id."""
        return await self._access.counts(memory_ids, self._bounded(until), days)

    # --- internals -------------------------------------------------------------------------------------------

    def _open_publisher(self) -> Publisher:
        if self._locked_to is not None:
            raise InvalidRecordError(
                "the past cannot be published to.", remedy="Publish through mem.semantic.", field="valid_from"
            )
        return self._publisher

    def _bounded(self, as_of: datetime) -> datetime:
        as_of = validate_timestamp(as_of, "as_of")
        if self._locked_to is not None and as_of > self._locked_to:
            raise InvalidQueryError(
                f"as_of {as_of.isoformat()} lies after {self._locked_to.isoformat()}, to which this memory is locked.",
                remedy="Ask as of an earlier time, or through a memory that is not locked.",
                argument="as_of",
            )
        return as_of

    def _document_key(self, key: VersionKey, line: str) -> str:
        return self._keys.semantic(key.kind, key.memory_id, key.valid_from_ms, line)

    async def _versions(self, line: str) -> Versions:
        return decode_manifest(await self._link.execute("HGETALL", self._keys.semantic_manifest(line)))

    async def _read(self, kind: SemanticType | None, line: str | None, as_of: datetime | None) -> list[SemanticMemory]:
        line = line or await self.current_line()
        if line is None:
            return []
        versions = _valid_at(await self._versions(line), as_of)
        if kind is not None:
            wanted = validate_choice(kind, "kind", ALL_KINDS)
            versions = {key: version for key, version in versions.items() if key.kind == wanted}
        return await self._load(versions, line)

    async def _load(self, versions: Mapping[VersionKey, Version], line: str) -> list[SemanticMemory]:
        ordered = sorted(versions)
        memories: list[SemanticMemory] = []
        for start in range(0, len(ordered), READ_SIZE):
            keys = ordered[start : start + READ_SIZE]
            documents = await self._link.pipeline([("HGETALL", self._document_key(key, line)) for key in keys])
            for key, document in zip(keys, documents, strict=True):
                if not document:
                    continue  # Published anew since the list was read.
                memories.append(unpack_document(document, key))
        return memories


# --- documents -----------------------------------------------------------------------------------------------


def _without_namespace(document: Mapping[bytes, bytes], line: str) -> dict[bytes, bytes]:
    """A stored hash as it would be in a namespace without a name."""
    bare = line.partition("/")[2]
    content = dict(document)
    body: dict[str, Any] = msgspec.msgpack.decode(content[b"body"])
    content[b"body"] = msgspec.msgpack.encode({**body, "line": body["line"].removeprefix(line.removesuffix(bare))})
    content[b"scope"] = content[b"scope"].replace(line.encode(), bare.encode())
    return content


def unpack_document(document: Mapping[bytes, bytes], key: VersionKey) -> SemanticMemory:
    """The memory that a stored hash holds."""
    prefix = f"{CONCEPT_VECTOR}:".encode()
    vector = next((value for name, value in document.items() if name.startswith(prefix)), None)
    valid_to = document.get(b"valid_to")
    return unpack_semantic(
        SemanticType(key.kind),
        document[b"body"],
        vector,
        key.valid_from_ms,
        None if valid_to is None else int(valid_to),
    )


def _valid_at(versions: Versions, as_of: datetime | None) -> Versions:
    if as_of is None:
        return {key: version for key, version in versions.items() if version.valid_to_ms is None}
    as_of_ms = to_ms(as_of)
    return {
        key: version
        for key, version in versions.items()
        if key.valid_from_ms <= as_of_ms and (version.valid_to_ms is None or version.valid_to_ms > as_of_ms)
    }
