"""What can be published: snapshots of all that is known from a time on, or the changes of single memories."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from memory.errors import InvalidRecordError
from memory.records import SemanticMemory, SemanticType, from_ms
from memory.store.codec import ms_rounded_up
from memory.store.semantic_codec import PackedSemantic, pack_semantic
from memory.store.staging import Document, document
from memory.store.versions import Change, MemoryKey, Snapshot, VersionKey, expire, revise
from memory.validation import validate_choice, validate_identifier, validate_semantic, validate_timestamp

ALL_KINDS: tuple[SemanticType, ...] = tuple(SemanticType)


@dataclass(frozen=True, slots=True)
class Publication:
    """All memories (of the kinds that are published) as they are from a time on."""

    valid_from: datetime
    memories: Sequence[SemanticMemory]


@dataclass(frozen=True, slots=True)
class SemanticVersion:
    """What is known of one memory from a time on: one of the changes that its history consists of.

    Attributes
    ----------
    kind, memory_id
        Of which memory.
    valid_from
        From when on this was known.
    memory
        The memory (its own validity is of no account); None where nothing is known of it any more.
    """

    kind: SemanticType
    memory_id: str
    valid_from: datetime
    memory: SemanticMemory | None


@dataclass(frozen=True, slots=True)
class Content:
    """A memory as it is stored, and the encoder of its vector."""

    packed: PackedSemantic
    encoder_id: str


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one memory, in order of time, and what it holds from each of them on, by time."""

    memory: MemoryKey
    changes: tuple[Change, ...]
    contents: dict[int, Content]


def checked_kinds(kinds: Collection[SemanticType]) -> set[SemanticType]:
    """The kinds, or InvalidRecordError."""
    return {SemanticType(validate_choice(kind, "kinds", ALL_KINDS)) for kind in kinds}


def changes_by_memory(
    versions: Iterable[SemanticVersion], line: str, kinds: Collection[SemanticType], since_ms: int | None
) -> Iterator[Changes]:
    """Changes that were checked, memory by memory; holds those of one memory at a time.

    Raises
    ------
    InvalidRecordError
        A memory is malformed, of another line or kind, its changes do not come together in order of time, or one lies
        before `since_ms`.
    """
    seen: set[MemoryKey] = set()
    for (kind, memory_id), group in groupby(versions, lambda version: (version.kind, version.memory_id)):
        kind = SemanticType(validate_choice(kind, "kind", ALL_KINDS))
        memory_key = (kind.value, validate_identifier(memory_id, "memory_id"))
        if kind not in kinds:
            raise _misplaced(memory_id, "kinds", f"is a {kind}, which this publication is not about")
        if memory_key in seen:
            raise _misplaced(memory_id, "memory_id", "occurs twice: its changes have to come together")
        seen.add(memory_key)
        changes: list[Change] = []
        contents: dict[int, Content] = {}
        for version in group:
            # A version is seen from its millisecond on: rounded up, never earlier than it was known.
            time_ms = ms_rounded_up(validate_timestamp(version.valid_from, "valid_from"))
            if (changes and time_ms < changes[-1][0]) or (since_ms is not None and time_ms < since_ms):
                raise _misplaced(memory_id, "valid_from", f"changes at {from_ms(time_ms).isoformat()}, out of order")
            memory = version.memory
            contents.pop(time_ms, None)
            if memory is None:
                changes.append((time_ms, None))
                continue
            content = _content(memory, line, kinds)
            if (content.packed.kind, content.packed.memory_id) != (kind, memory_id):
                raise _misplaced(memory_id, "memory_id", f"holds a {content.packed.kind} {content.packed.memory_id}")
            changes.append((time_ms, content.packed.digest))
            contents[time_ms] = content
        yield Changes(memory_key, tuple(changes), contents)


def expected_contents(
    versions: Iterable[SemanticVersion], line: str, horizon: datetime | None
) -> Iterator[tuple[VersionKey, Document]]:
    """The documents that Redis holds once these changes, all that there are, were published; memory by memory.

    The counterpart of `SemanticStore.contents`: the same keys, the same bytes. Arguments are those of
    `SemanticStore.publish_versions`.
    """
    horizon_ms = None if horizon is None else ms_rounded_up(horizon)
    for own in changes_by_memory(versions, line, ALL_KINDS, None):
        revised = revise({}, own.changes, since_ms=None)
        kept, _ = expire({VersionKey(*own.memory, begin): version for begin, version in revised.items()}, horizon_ms)
        for key in sorted(kept):
            content = own.contents[key.valid_from_ms]
            yield (
                key,
                document(content.packed, line, content.encoder_id, key.valid_from_ms, kept[key].valid_to_ms),
            )


def snapshots_of(
    publications: Sequence[Publication], line: str, kinds: Collection[SemanticType]
) -> tuple[dict[tuple[MemoryKey, bytes], Content], dict[str, dict[int, Snapshot]]]:
    """Validated content by id and digest, and the snapshots of each kind by time."""
    contents: dict[tuple[MemoryKey, bytes], Content] = {}
    snapshots: dict[str, dict[int, Snapshot]] = {kind.value: {} for kind in kinds}
    for publication in publications:
        time_ms = ms_rounded_up(validate_timestamp(publication.valid_from, "valid_from"))
        found: dict[str, dict[MemoryKey, bytes]] = {kind.value: {} for kind in kinds}
        for memory in publication.memories:
            content = _content(memory, line, kinds)
            key = (content.packed.kind.value, content.packed.memory_id)
            if key in found[content.packed.kind]:
                raise _misplaced(memory.memory_id, "memory_id", "occurs twice")
            found[content.packed.kind][key] = content.packed.digest
            contents[(key, content.packed.digest)] = content
        for kind, snapshot in found.items():
            snapshots[kind][time_ms] = snapshot
    return contents, snapshots


def check_reachable(since_ms: int, expired: Mapping[str, int], kinds: Collection[SemanticType], line: str) -> None:
    """InvalidRecordError where publishing from a time on would need versions that have expired."""
    until_ms = max((time for kind, time in expired.items() if kind in set(kinds)), default=None)
    if until_ms is not None and since_ms <= until_ms:
        raise InvalidRecordError(
            f"publishing {line} from {from_ms(since_ms).isoformat()} on needs what was known before, which has left "
            f"Redis until {from_ms(until_ms).isoformat()}.",
            remedy="Publish the whole line from the ledger: publish_versions(..., since=None).",
            field="valid_from",
        )


def _content(memory: SemanticMemory, line: str, kinds: Collection[SemanticType]) -> Content:
    validate_semantic(memory)
    packed = pack_semantic(memory)
    if packed.kind not in kinds:
        raise _misplaced(memory.memory_id, "kinds", f"is a {packed.kind}, which this publication is not about")
    if memory.line != line:
        raise _misplaced(memory.memory_id, "line", f"belongs to line {memory.line!r}, not to {line!r}")
    return Content(packed, memory.encoder_id)


def _misplaced(memory_id: str, field: str, problem: str) -> InvalidRecordError:
    return InvalidRecordError(f"semantic memory {memory_id} {problem}.", remedy="Nothing was published.", field=field)
