"""Semantic memory: what was learned, kept in versions, published in one step."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from memory.asof import bounded, check_lock, check_time
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import SemanticMemory, SemanticType, to_ms
from memory.store.access import ACCESS_DAYS, AccessCount, AccessCounters
from memory.store.codec import ms_rounded_up
from memory.store.fence import Fence
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.publishing import ALL_KINDS, Publication, Publisher, PublishReport, decode_manifest
from memory.store.snapshots import READ_SIZE, Snapshots, unpack_document, valid_at
from memory.store.versions import VersionKey, Versions
from memory.validation import validate_choice, validate_identifier

__all__ = ["Publication", "PublishReport", "SemanticStore", "unpack_document"]


class SemanticStore:
    """The semantic memory of one namespace.

    Reading is bounded as all questions are (`memory.asof.bounded`): by a lock to a time, and inside a replay by its
    present. Of what is read as of a time, `valid_to` is left out, since the end of a version was not known then.

    Parameters
    ----------
    locked_to
        Time that reading is locked to: nothing that became valid later is seen, and nothing can be published.
    snapshots
        What other readers of the process share with this one.

    Attributes
    ----------
    snapshots
        What is known by time, kept in the process.
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
        snapshots: Snapshots | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._publisher = publisher
        self._fence = fence
        self._access = access
        self._locked_to = locked_to
        self.snapshots = snapshots or Snapshots(link, keys)

    def at(self, as_of: datetime) -> SemanticStore:
        """The same memory, for reading, locked to what was valid at a time; a lock can be moved back only."""
        as_of = check_lock(as_of, self._locked_to)
        return SemanticStore(
            self._link,
            self._keys,
            self._indexes,
            self._publisher,
            self._fence,
            self._access,
            locked_to=as_of,
            snapshots=self.snapshots,
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
        """What is known now, by kind and id; with `mem.at(t)`, what was known then.

        Cost: one read a memory, and the list of versions where something was published since it was last read.

        Raises
        ------
        InvalidQueryError
            The kind is not known, or the question is not bounded inside a replay.
        """
        return await self._read(kind, line, bounded(None, self._locked_to))

    async def as_of(
        self, as_of: datetime, kind: SemanticType | None = None, *, line: str | None = None
    ) -> list[SemanticMemory]:
        """What was known at a time, by kind and id; as `current`."""
        return await self._read(kind, line, self._bounded(as_of))

    async def versions(self, memory_id: str, *, line: str | None = None) -> list[SemanticMemory]:
        """All versions of one memory, oldest first; with `mem.at(t)`, those that were known then."""
        as_of = bounded(None, self._locked_to)
        line, stored = await self._versions_of(memory_id, line)
        if as_of is not None:
            stored = {key: version for key, version in stored.items() if key.valid_from_ms <= to_ms(as_of)}
        return await self._load(stored, line, as_of)

    async def get(self, memory_id: str, *, line: str | None = None) -> SemanticMemory | None:
        """The current version of one memory (with `mem.at(t)` the one valid then); None where there is none."""
        as_of = bounded(None, self._locked_to)
        line, stored = await self._versions_of(memory_id, line)
        found = await self._load(valid_at(stored, None if as_of is None else to_ms(as_of)), line, as_of)
        return found[-1] if found else None

    async def counts(self, *, line: str | None = None) -> dict[str, int]:
        """Number of memories of each kind that are known now; with `mem.at(t)`, that were known then."""
        as_of = bounded(None, self._locked_to)
        line = line or await self.current_line()
        versions = {} if line is None else await self.snapshots.versions(line)
        versions = valid_at(versions, None if as_of is None else to_ms(as_of))
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
        # Read as it lies there, whatever this process has seen before: a digest is a check.
        versions = decode_manifest(await self._link.execute("HGETALL", self._keys.semantic_manifest(line)))
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
        await self._access.count_access(memory_ids, self._bounded(at, "at"))

    async def access_counts(
        self, memory_ids: Sequence[str], until: datetime, days: int = ACCESS_DAYS
    ) -> Mapping[str, AccessCount]:
        """Retrievals of some memories on the `days` UTC days before `until` (a window's end), by id."""
        return await self._access.counts(memory_ids, self._bounded(until, "until"), days)

    # --- internals -------------------------------------------------------------------------------------------

    def _open_publisher(self) -> Publisher:
        if self._locked_to is not None:
            raise InvalidRecordError(
                "the past cannot be published to.", remedy="Publish through mem.semantic.", field="valid_from"
            )
        return self._publisher

    def _bounded(self, time: datetime, name: str = "as_of") -> datetime:
        time = check_time(time, name)
        bounded(time, self._locked_to)
        return time

    def _document_key(self, key: VersionKey, line: str) -> str:
        return self._keys.semantic(key.kind, key.memory_id, key.valid_from_ms, line)

    async def _versions_of(self, memory_id: str, line: str | None) -> tuple[str, Versions]:
        try:
            validate_identifier(memory_id, "memory_id")
        except InvalidRecordError as error:
            raise InvalidQueryError(error.message, remedy=error.remedy, argument="memory_id") from error
        line = line or await self.current_line()
        if line is None:
            return "", {}
        stored = await self.snapshots.versions(line)
        return line, {key: version for key, version in stored.items() if key.memory_id == memory_id}

    async def _read(self, kind: SemanticType | None, line: str | None, as_of: datetime | None) -> list[SemanticMemory]:
        kinds = ALL_KINDS if kind is None else (_checked_kind(kind),)
        line = line or await self.current_line()
        if line is None:
            return []
        versions = await self.snapshots.versions(line, kinds)
        return await self._load(valid_at(versions, None if as_of is None else to_ms(as_of)), line, as_of)

    async def _load(self, versions: Versions, line: str, as_of: datetime | None) -> list[SemanticMemory]:
        ordered = sorted(versions)
        memories: list[SemanticMemory] = []
        for start in range(0, len(ordered), READ_SIZE):
            keys = ordered[start : start + READ_SIZE]
            documents = await self._link.pipeline([("HGETALL", self._document_key(key, line)) for key in keys])
            for key, document in zip(keys, documents, strict=True):
                if not document:
                    continue  # Published anew since the list was read.
                memory = unpack_document(document, key)
                if as_of is not None and memory.valid_to is not None and memory.valid_to > as_of:
                    memory.valid_to = None
                memories.append(memory)
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


def _checked_kind(kind: SemanticType) -> SemanticType:
    try:
        return SemanticType(validate_choice(kind, "kind", ALL_KINDS))
    except InvalidRecordError as error:
        raise InvalidQueryError(error.message, remedy=error.remedy, argument="kind") from error
