"""What was known at a time, kept in the process: read from Redis once, checked each time, never stale.

A publication writes the list of a line's versions (the manifest) and, in the same step, a digest of it (the stamp).
Whoever asks reads small things in one round trip: which line is (or, as of a time, was) current, and its stamp. Where
they are what they were, everything read before still holds; where they are not, the list and then the memories are read
anew, only those of the kinds asked for, and only those valid at the time asked for. The stamp also says until when the
past has expired: a question as of an earlier time is refused, whatever this process still holds.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from redis.exceptions import ResponseError

from memory.errors import StoreUnavailableError
from memory.records import SEMANTIC_CLASSES, SemanticMemory, SemanticType
from memory.store.answers import check_complete
from memory.store.keys import CONCEPT_VECTOR, Keys
from memory.store.lines import LineChoice
from memory.store.link import Command, RedisLink
from memory.store.manifest import check_past, read_manifest
from memory.store.publications import ALL_KINDS
from memory.store.scan import lost_index
from memory.store.semantic_codec import unpack_semantic
from memory.store.versions import VersionKey, Versions

SNAPSHOTS_KEPT = 64
"""Of each kind: a replay asks of one time after the other, so few are ever asked for again."""
VERSIONS_KEPT = 1000
"""Of those that searches found: about 10 KB each; a day of one market knows a few hundred patterns."""
READ_SIZE = 200
"""Memories read in one round trip."""
ATTEMPTS = 20
"""How often reading starts again because something was published meanwhile."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a memory as it was read.

    Attributes
    ----------
    key
        Which version.
    memory
        To be read only: all who ask share it.
    """

    key: VersionKey
    memory: SemanticMemory

    def copy(self, *, as_of: bool) -> SemanticMemory:
        """The memory, for a caller to keep; `as_of` a time its end was not known, and is left out.

        What can be changed is copied, its vector cannot be. A tenth of what unpacking it costs: 5 microseconds.
        """
        memory = self.memory
        own: SemanticMemory = type(memory)(**{name: _own(getattr(memory, name)) for name in _FIELDS[type(memory)]})
        if as_of:
            own.valid_to = None
        return own


_FIELDS = {kind: tuple(item.name for item in fields(kind)) for kind in SEMANTIC_CLASSES.values()}


def _own(value: Any) -> Any:
    """A copy of dicts all the way down; everything else in a memory cannot be changed."""
    return {name: _own(item) for name, item in value.items()} if type(value) is dict else value


@dataclass(slots=True)
class _Versions:
    """Single versions that searches of a line found, while the stamp is the same; last used last."""

    stamp: bytes | None
    read: OrderedDict[VersionKey, StoredVersion] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class _History:
    """All versions of one kind of a line, and what was read of them, while the stamp is the same."""

    stamp: bytes | None
    versions: Versions
    times: list[int]
    snapshots: OrderedDict[int, tuple[StoredVersion, ...]] = field(default_factory=OrderedDict)

    def place(self, as_of_ms: int | None) -> int:
        """Which span between two changes a time lies in; -1 for what is current."""
        return -1 if as_of_ms is None else bisect_right(self.times, as_of_ms)

    def valid_at(self, as_of_ms: int | None) -> list[VersionKey]:
        return sorted(valid_at(self.versions, as_of_ms))

    def keep(self, place: int, snapshot: tuple[StoredVersion, ...]) -> None:
        self.snapshots[place] = snapshot
        while len(self.snapshots) > SNAPSHOTS_KEPT:
            self.snapshots.popitem(last=False)


class Snapshots:
    """The semantic memories of one namespace by time, for the process's readers to share.

    Cost of a question: one round trip of two small commands, as long as nothing was published and the span of time was
    asked for before; else another one or two, and the list of versions where something was published.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._lines = LineChoice(keys)
        self._histories: dict[tuple[str, str], _History] = {}
        self._versions: dict[str, _Versions] = {}
        self._reading = asyncio.Lock()

    # --- what is known ---------------------------------------------------------------------------------------

    async def known(
        self, encoder_id: str, kinds: Collection[SemanticType], as_of_ms: int | None
    ) -> dict[SemanticType, tuple[StoredVersion, ...]]:
        """What an encoder's line knows (or knew at a time) of some kinds, by id; empty without a line.

        Raises
        ------
        PastExpiredError
            What was known at that time has left Redis.
        """
        for _ in range(ATTEMPTS):
            line, stamp = await self._check(encoder_id, as_of_ms)
            if line is None:
                return dict.fromkeys(kinds, ())
            check_past(stamp, as_of_ms, line)
            found = await self._of_line(line, kinds, as_of_ms, stamp)
            if found is not None:
                return found
        raise _unsettled(encoder_id)

    async def found(
        self, encoder_id: str, as_of_ms: int | None, search: Callable[[str], Command]
    ) -> list[tuple[float, StoredVersion]]:
        """What a search of an encoder's line finds, with the distances; empty without a line.

        Parameters
        ----------
        encoder_id
            Whose line it is.
        as_of_ms
            Time that is asked about, milliseconds since 1970; None for what is known now.
        search
            Gives the command for a line: an FT.SEARCH of semantic memories that returns ``distance`` alone.

        Returns
        -------
        In the server's order. One round trip where all that is found was read before.

        Raises
        ------
        PastExpiredError
            What was known at that time has left Redis.
        """
        which_line = self._lines.commands(encoder_id, as_of_ms)
        for _ in range(ATTEMPTS):
            line = self._lines.expected(encoder_id, as_of_ms)
            if line is None:
                line = self._lines.choose(encoder_id, as_of_ms, await self._link.pipeline(which_line))
                if line is None:
                    return []
            which_stamp = ("GET", self._keys.semantic_stamp(line))
            try:
                answers = await self._link.pipeline([*which_line, which_stamp, search(line), which_stamp])
            except ResponseError as error:
                # Where the memory was emptied since it was last asked, there is neither an index nor a line.
                # Nor is there an index before something was published that it holds.
                if self._lines.choose(encoder_id, as_of_ms, await self._link.pipeline(which_line)) != line:
                    continue
                if not await self._link.execute("EXISTS", self._keys.semantic_manifest(line)):
                    return []
                remedy = "Build it again: mem.indexes.ensure_semantic(encoder_id); what is stored is safe."
                raise lost_index(error, self._keys.semantic_index(encoder_id), remedy) from error
            *which, stamp, answer, stamp_after = answers
            if self._lines.choose(encoder_id, as_of_ms, which) != line or stamp != stamp_after:
                continue
            check_past(stamp, as_of_ms, line)
            rows = check_complete(answer)[b"results"]
            distances = {_version_key(row[b"id"]): float(row[b"extra_attributes"][b"distance"]) for row in rows}
            versions = await self._read(line, list(distances), stamp)
            if versions is not None:
                return [(distances[version.key], version) for version in versions]
        raise _unsettled(encoder_id)

    async def line(self, encoder_id: str, as_of_ms: int | None) -> str | None:
        """The line that is read for an encoder, or was read at a time; None where there is none."""
        answers = await self._link.pipeline(self._lines.commands(encoder_id, as_of_ms))
        return self._lines.choose(encoder_id, as_of_ms, answers)

    async def versions(
        self, line: str, kinds: Collection[SemanticType] = ALL_KINDS, *, as_of_ms: int | None = None
    ) -> Versions:
        """All versions of some kinds of a line that are kept.

        Raises
        ------
        PastExpiredError
            What was known at `as_of_ms` has left Redis.
        """
        for _ in range(ATTEMPTS):
            stamp = await self._link.execute("GET", self._keys.semantic_stamp(line))
            check_past(stamp, as_of_ms, line)
            histories = await self._histories_of(line, kinds, stamp)
            if histories is not None:
                return {key: version for history in histories.values() for key, version in history.versions.items()}
        raise _unsettled(line)

    async def _check(self, encoder_id: str, as_of_ms: int | None) -> tuple[str | None, bytes | None]:
        """The line to ask and its stamp; one round trip where the line is the expected one."""
        which_line = self._lines.commands(encoder_id, as_of_ms)
        expected = self._lines.expected(encoder_id, as_of_ms)
        while True:
            commands = list(which_line)
            if expected is not None:
                commands.append(("GET", self._keys.semantic_stamp(expected)))
            answers = await self._link.pipeline(commands)
            line = self._lines.choose(encoder_id, as_of_ms, answers)
            if line is None:
                return None, None
            if line == expected:
                return line, answers[-1]
            expected = line

    async def _of_line(
        self, line: str, kinds: Collection[SemanticType], as_of_ms: int | None, stamp: bytes | None
    ) -> dict[SemanticType, tuple[StoredVersion, ...]] | None:
        """What a line knows of some kinds; None where something was published meanwhile."""
        found = self._kept(line, kinds, as_of_ms, stamp)
        if found is not None:
            return found
        async with self._reading:
            histories = await self._histories_of(line, kinds, stamp, locked=True)
            if histories is None:
                return None
            for history in histories.values():
                place = history.place(as_of_ms)
                if stamp is None or place not in history.snapshots:
                    snapshot = await self._load(line, history.valid_at(as_of_ms), stamp)
                    if snapshot is None:
                        return None
                    history.keep(place, snapshot)
            return {kind: history.snapshots[history.place(as_of_ms)] for kind, history in histories.items()}

    def _kept(
        self, line: str, kinds: Collection[SemanticType], as_of_ms: int | None, stamp: bytes | None
    ) -> dict[SemanticType, tuple[StoredVersion, ...]] | None:
        """What was read before and still holds; None where any of it is missing."""
        found = {}
        for kind in kinds:
            history = self._histories.get((line, kind))
            if history is None or stamp is None or history.stamp != stamp:
                return None
            snapshot = history.snapshots.get(history.place(as_of_ms))
            if snapshot is None:
                return None
            found[kind] = snapshot
        return found

    async def _histories_of(
        self, line: str, kinds: Collection[SemanticType], stamp: bytes | None, *, locked: bool = False
    ) -> dict[SemanticType, _History] | None:
        """The versions of some kinds; None where something was published meanwhile."""
        if not locked:
            async with self._reading:
                return await self._histories_of(line, kinds, stamp, locked=True)
        known = {kind: self._histories.get((line, kind)) for kind in kinds}
        # A line that was published before there were stamps is read anew each time.
        missing = [
            kind for kind, history in known.items() if history is None or stamp is None or history.stamp != stamp
        ]
        if missing:
            listed = await self._scan(line, missing)
            if await self._link.execute("GET", self._keys.semantic_stamp(line)) != stamp:
                return None
            for kind, versions in listed.items():
                ends = (version.valid_to_ms for version in versions.values() if version.valid_to_ms is not None)
                times = sorted({*(key.valid_from_ms for key in versions), *ends})
                known[kind] = self._histories[line, kind] = _History(stamp, versions, times)
        return {kind: history for kind, history in known.items() if history is not None}

    async def _scan(self, line: str, kinds: Sequence[SemanticType]) -> dict[SemanticType, Versions]:
        """All versions of some kinds, listed in small steps so that nobody waits behind a long command."""
        listed = await read_manifest(self._link, self._keys, line, kinds[0] if len(kinds) == 1 else None)
        found: dict[SemanticType, Versions] = {kind: {} for kind in kinds}
        for key, version in listed.items():
            own = found.get(SemanticType(key.kind))
            if own is not None:
                own[key] = version
        return found

    async def _read(self, line: str, keys: Sequence[VersionKey], stamp: bytes | None) -> list[StoredVersion] | None:
        """Some versions in order; None where something was published meanwhile."""
        known = self._versions.get(line)
        if known is None or stamp is None or known.stamp != stamp:
            known = self._versions[line] = _Versions(stamp)
        # Taken out before anything is waited for: others may drop versions meanwhile.
        at_hand = {key: known.read[key] for key in keys if key in known.read}
        if len(at_hand) < len(keys):
            loaded = await self._load(line, [key for key in keys if key not in at_hand], stamp)
            if loaded is None:
                return None
            at_hand.update({version.key: version for version in loaded})
        versions = [at_hand[key] for key in keys]
        for version in versions:
            known.read[version.key] = version
            known.read.move_to_end(version.key)
        while len(known.read) > VERSIONS_KEPT:
            known.read.popitem(last=False)
        return versions

    async def _load(
        self, line: str, keys: Sequence[VersionKey], stamp: bytes | None
    ) -> tuple[StoredVersion, ...] | None:
        """Some versions, as they are while the stamp is what it was; None where it is not."""
        stored = []
        for start in range(0, len(keys), READ_SIZE):
            part = keys[start : start + READ_SIZE]
            names = [self._keys.semantic(key.kind, key.memory_id, key.valid_from_ms, line) for key in part]
            found, *documents = await self._link.pipeline(
                [("GET", self._keys.semantic_stamp(line)), *(("HGETALL", name) for name in names)], transaction=True
            )
            if found != stamp:
                return None
            for key, name, document in zip(part, names, documents, strict=True):
                if not document:
                    raise StoreUnavailableError(
                        f"{name} is listed as a version of {line}, but is missing from Redis.",
                        remedy="Publish the line again from the ledger, and let nothing evict or delete its keys.",
                    )
                stored.append(StoredVersion(key, unpack_document(document, key)))
        return tuple(stored)


def _version_key(name: bytes) -> VersionKey:
    """What the key of a stored version says: NAMESPACE:semantic:KIND:MEMORY:VALID_FROM:LINE."""
    _, _, kind, memory_id, valid_from_ms, _ = name.decode().split(":", 5)
    return VersionKey(kind, memory_id, int(valid_from_ms))


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


def valid_at(versions: Versions, as_of_ms: int | None) -> Versions:
    """The versions that are current, or were valid at a time."""
    if as_of_ms is None:
        return {key: version for key, version in versions.items() if version.valid_to_ms is None}
    return {
        key: version
        for key, version in versions.items()
        if key.valid_from_ms <= as_of_ms and (version.valid_to_ms is None or version.valid_to_ms > as_of_ms)
    }


def _unsettled(what: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"what is known of {what} changed {ATTEMPTS} times while it was being read.",
        remedy="Let the publication finish, then ask again.",
    )
