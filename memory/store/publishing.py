"""Publishing: how what was learned becomes what is known, in one step, by the newest run only."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from memory.errors import InvalidRecordError
from memory.records import SemanticMemory, SemanticType
from memory.store.codec import ms_rounded_up
from memory.store.encoders import EncoderRegistry
from memory.store.fence import Fence
from memory.store.indexes import Indexes
from memory.store.keys import CONCEPT_VECTOR, Keys, semantic_tags, vector_field
from memory.store.link import Command, Read, RedisLink
from memory.store.semantic_codec import PackedSemantic, pack_semantic
from memory.store.versions import History, MemoryKey, Snapshot, Version, VersionKey, Versions, republish
from memory.validation import validate_choice, validate_semantic, validate_timestamp

PUBLISH_TIMEOUT_S = 120.0
"""Deadline of one publication: years of versions may have to be written again after Redis was lost."""
STAMP_BYTES = 16
_VALIDITY = (b"valid_to", b"current")
ALL_KINDS: tuple[SemanticType, ...] = tuple(SemanticType)


@dataclass(frozen=True, slots=True)
class Publication:
    """All memories (of the kinds that are published) as they are from a time on."""

    valid_from: datetime
    memories: Sequence[SemanticMemory]


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What a publication changed.

    Attributes
    ----------
    current
        Memories that are current afterwards.
    added, removed
        Versions that are new; versions that are gone because the snapshot that they came from was replaced.
    closed
        Versions whose validity ended (or ended at another time than before).
    unchanged
        Versions that stayed as they were.
    """

    current: int
    added: int
    closed: int
    removed: int
    unchanged: int


class Publisher:
    """Publishes semantic memories of one namespace."""

    def __init__(self, link: RedisLink, keys: Keys, indexes: Indexes, encoders: EncoderRegistry, fence: Fence) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._encoders = encoders
        self._fence = fence

    async def publish(
        self,
        publications: Sequence[Publication],
        line: str,
        kinds: Collection[SemanticType],
        token: int,
        replaces_from_ms: int | None,
        *,
        replaces: bool,
    ) -> PublishReport:
        """Publish in one step; see `SemanticStore.publish` and `publish_history`.

        With `replaces`, every publication from `replaces_from_ms` on (all where None) is replaced by those given.
        """
        wanted = {SemanticType(validate_choice(kind, "kinds", ALL_KINDS)) for kind in kinds}
        contents, snapshots = _snapshots(publications, line, wanted)
        encoder_id = next((content.encoder_id for content in contents.values()), None)
        if encoder_id is not None:
            await self._indexes.ensure_semantic(encoder_id, await self._encoders.dimension(encoder_id))
        packed = {essence: content.packed for essence, content in contents.items()}
        manifest, times = self._keys.semantic_manifest(line), self._keys.semantic_publications(line)
        stamp_key = self._keys.semantic_stamp(line)
        replace_from_ms = (-(2**62) if replaces_from_ms is None else replaces_from_ms) if replaces else None

        async def prepare(read: Read) -> tuple[list[Command], PublishReport]:
            commands = await self._fence.check(read, token)
            stored = decode_manifest(await read("HGETALL", manifest))
            published = [name.decode() for name in await read("HKEYS", times)]
            before: Versions = {}
            after: Versions = {}
            for kind in sorted(wanted):
                own = {key: version for key, version in stored.items() if key.kind == kind}
                own_times = sorted(int(name.partition(":")[2]) for name in published if name.partition(":")[0] == kind)
                result = republish(History(own, tuple(own_times)), snapshots[kind], replace_from_ms=replace_from_ms)
                before.update(own)
                after.update(result.versions)
                commands += _time_commands(times, kind, set(own_times), set(result.times))
            report = await self._changes(read, commands, before, after, packed, line, encoder_id)
            if encoder_id is not None:
                commands.append(("HSETNX", self._keys.current_line, encoder_id, line))
            stamp = _stamp({**{key: version for key, version in stored.items() if key.kind not in wanted}, **after})
            if stamp != await read("GET", stamp_key):
                commands.append(("SET", stamp_key, stamp))
            return commands, report

        return await self._link.transaction([self._keys.fence, manifest, times], prepare, timeout_s=PUBLISH_TIMEOUT_S)

    async def _changes(
        self,
        read: Read,
        commands: list[Command],
        before: Versions,
        after: Versions,
        packed: Mapping[tuple[MemoryKey, bytes], PackedSemantic],
        line: str,
        encoder_id: str | None,
    ) -> PublishReport:
        """Append the commands that lead from some versions to others."""
        manifest = self._keys.semantic_manifest(line)
        removed = [key for key in before if key not in after]
        added = [key for key in after if key not in before]
        closed = 0
        sources = {((key.kind, key.memory_id), version.digest): key for key, version in before.items()}
        for key in added:
            version = after[key]
            essence = ((key.kind, key.memory_id), version.digest)
            if essence in packed and encoder_id is not None:
                fields = _document(packed[essence], line, encoder_id)
            else:  # The content was published at another time before: it moves with its version.
                old = sources[essence]
                answer = await read("HGETALL", self._key(old, line))
                fields = {name.decode(): value for name, value in answer.items() if name not in _VALIDITY}
            fields["valid_from"] = key.valid_from_ms
            if version.valid_to_ms is None:
                fields["current"] = 1
            else:
                fields["valid_to"] = version.valid_to_ms
            flat = [part for pair in fields.items() for part in pair]
            commands.append(("HSET", self._key(key, line), *flat))
        for key, version in after.items():
            old_version = before.get(key)
            if old_version == version:
                continue
            commands.append(("HSET", manifest, _field(key), _value(version)))
            if old_version is None:
                continue
            if old_version.digest != version.digest and encoder_id is not None:
                content = _document(packed[((key.kind, key.memory_id), version.digest)], line, encoder_id)
                commands.append(("HSET", self._key(key, line), *[part for pair in content.items() for part in pair]))
            if old_version.valid_to_ms == version.valid_to_ms:
                continue
            closed += 1
            if version.valid_to_ms is None:
                commands.append(("HDEL", self._key(key, line), "valid_to"))
                commands.append(("HSET", self._key(key, line), "current", 1))
            else:
                commands.append(("HDEL", self._key(key, line), "current"))
                commands.append(("HSET", self._key(key, line), "valid_to", version.valid_to_ms))
        for key in removed:
            commands += [("UNLINK", self._key(key, line)), ("HDEL", manifest, _field(key))]
        return PublishReport(
            current=sum(version.valid_to_ms is None for version in after.values()),
            added=len(added),
            closed=closed,
            removed=len(removed),
            unchanged=sum(before.get(key) == version for key, version in after.items()),
        )

    def _key(self, key: VersionKey, line: str) -> str:
        return self._keys.semantic(key.kind, key.memory_id, key.valid_from_ms, line)


def decode_manifest(answer: Mapping[bytes, bytes]) -> Versions:
    """All versions of a line, as its manifest lists them."""
    versions: Versions = {}
    for name, value in answer.items():
        kind, memory_id, valid_from_ms = name.decode().split(":")
        digest, valid_to_ms = msgspec.msgpack.decode(value, type=tuple[bytes, int | None])
        versions[VersionKey(kind, memory_id, int(valid_from_ms))] = Version(digest, valid_to_ms)
    return versions


def _stamp(versions: Versions) -> bytes:
    """Digest of all versions of a line: readers that keep a copy of what it lists compare it (`snapshots`)."""
    digest = hashlib.blake2b(digest_size=STAMP_BYTES)
    for key in sorted(versions):
        digest.update(_field(key).encode() + b"\x00" + _value(versions[key]))
    return digest.hexdigest().encode()


def _field(key: VersionKey) -> str:
    return f"{key.kind}:{key.memory_id}:{key.valid_from_ms}"


def _value(version: Version) -> bytes:
    return msgspec.msgpack.encode((version.digest, version.valid_to_ms))


def _time_commands(key: str, kind: str, before: set[int], after: set[int]) -> list[Command]:
    commands: list[Command] = [("HSET", key, f"{kind}:{time}", 1) for time in sorted(after - before)]
    commands += [("HDEL", key, f"{kind}:{time}") for time in sorted(before - after)]
    return commands


def _document(packed: PackedSemantic, line: str, encoder_id: str) -> dict[str, str | int | bytes]:
    fields: dict[str, str | int | bytes] = {
        "body": packed.body,
        "scope": semantic_tags(packed.kind, line, packed.product_ids, packed.regime),
    }
    if packed.vector is not None:
        fields[vector_field(CONCEPT_VECTOR, encoder_id)] = packed.vector
    return fields


@dataclass(frozen=True, slots=True)
class _Prepared:
    packed: PackedSemantic
    encoder_id: str


def _snapshots(
    publications: Sequence[Publication], line: str, kinds: Collection[SemanticType]
) -> tuple[dict[tuple[MemoryKey, bytes], _Prepared], dict[str, dict[int, Snapshot]]]:
    """Validated content by id and digest, and the snapshots of each kind by time."""
    contents: dict[tuple[MemoryKey, bytes], _Prepared] = {}
    snapshots: dict[str, dict[int, Snapshot]] = {kind.value: {} for kind in kinds}
    for publication in publications:
        # A version is seen from its millisecond on: rounded up, never earlier than it was known.
        time_ms = ms_rounded_up(validate_timestamp(publication.valid_from, "valid_from"))
        found: dict[str, dict[MemoryKey, bytes]] = {kind.value: {} for kind in kinds}
        for memory in publication.memories:
            validate_semantic(memory)
            packed = pack_semantic(memory)
            key = (packed.kind.value, packed.memory_id)
            if packed.kind not in kinds:
                raise _misplaced(memory, "kinds", f"is a {packed.kind}, which this publication is not about")
            if memory.line != line:
                raise _misplaced(memory, "line", f"belongs to line {memory.line!r}, not to {line!r}")
            if key in found[packed.kind]:
                raise _misplaced(memory, "memory_id", "occurs twice")
            found[packed.kind][key] = packed.digest
            contents[(key, packed.digest)] = _Prepared(packed, memory.encoder_id)
        for kind, snapshot in found.items():
            snapshots[kind][time_ms] = snapshot
    encoders = {content.encoder_id for content in contents.values()}
    if len(encoders) > 1:
        raise InvalidRecordError(
            f"memories of the encoders {', '.join(sorted(encoders))} are published as one line.",
            remedy="A knowledge line has one encoder: publish each line by itself.",
            field="encoder_id",
        )
    return contents, snapshots


def _misplaced(memory: SemanticMemory, field: str, problem: str) -> InvalidRecordError:
    return InvalidRecordError(
        f"semantic memory {memory.memory_id} {problem}.", remedy="Nothing was published.", field=field
    )
