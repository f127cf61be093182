"""Semantic memory: what was learned, kept in versions, published in one step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from memory.asof import bounded, check_lock, check_time
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import SemanticMemory, SemanticType, to_ms
from memory.store.access import ACCESS_DAYS, AccessCount, AccessCounters
from memory.store.codec import ms_rounded_up
from memory.store.fence import Fence
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.manifest import read_manifest
from memory.store.publications import ALL_KINDS, Publication, SemanticVersion, expected_contents
from memory.store.published_windows import PublishedWindows
from memory.store.publishing import Publisher, PublishReport
from memory.store.semantic_lines import SemanticLines
from memory.store.snapshots import READ_SIZE, Snapshots, unpack_document, valid_at
from memory.store.staging import Document, document_key, remove_leftovers
from memory.store.versions import VersionKey, Versions
from memory.validation import validate_choice, validate_identifier

__all__ = [
    "Publication",
    "PublishReport",
    "SemanticStore",
    "SemanticVersion",
    "expected_contents",
    "unpack_document",
]


class SemanticStore(SemanticLines):
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
        super().__init__(link, keys, indexes, fence, locked_to)
        self._publisher = publisher
        self._access = access
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

        A snapshot, which nothing expires with: the nightly job publishes changes (`publish_versions`).
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

    async def publish_versions(
        self,
        versions: Iterable[SemanticVersion],
        *,
        line: str,
        kinds: Collection[SemanticType],
        token: int,
        since: datetime | None,
        horizon: datetime | None,
        aliases: Mapping[str, str] | None = None,
        windows: PublishedWindows | None = None,
        adopt: bool = True,
    ) -> PublishReport:
        """Replace what happened to memories from a time on, in one step; the past that has expired goes with it.

        The same changes lead to the same memory, in how many publications and in which order they come. Whatever a
        publication that was killed has left is removed.

        Parameters
        ----------
        versions
            What happened from `since` on: memory by memory, each in order of time (`SemanticVersion`); of several
            changes at one time the last counts. Held in memory one memory at a time.
        line
            Knowledge line that they belong to; memories of other lines are not touched.
        kinds
            Kinds that `versions` is about; memories of other kinds only expire.
        token
            Fencing token of the run, which it has announced (`Fence.raise_to`).
        since
            From when on the past is replaced. None for all of it: then documents that are missing or damaged are
            written again, and those that no list names are removed.
        horizon
            Versions that ended then or earlier go; None keeps all that is given. Those that stay keep the time that
            they began.
        aliases
            Ids that memories of the line had before, with those that they have: all that there are. None leaves them.
        windows
            By kind, when each window that the line is published through became known: all that there are of a kind
            that is named. `MemoryConnection.freshness` answers from them.
        adopt
            Make this the line that is read for its encoder where there is none yet.

        Raises
        ------
        InvalidRecordError
            A memory is malformed, of another line or kind; changes are out of order; or `since` lies in the past that
            has expired (`horizon` of this store), so that `since=None` is needed. Nothing is published.
        FencedOutError
            A newer run has begun, or Redis was emptied since this one did. Nothing is published.
        StoreUnavailableError
            Redis went away: publishing again completes it.

        Notes
        -----
        Documents are written before the step, 100 at a time; the step itself takes the server some 0.1 ms for each
        version that is new or ends, during which nobody else is served.
        """
        return await self._open_publisher().publish_versions(
            versions, line, kinds, token, since, horizon, aliases, windows=windows, adopt=adopt
        )

    # --- reading ---------------------------------------------------------------------------------------------

    async def line_at(self, as_of: datetime, encoder_id: str | None = None) -> str | None:
        """The knowledge line that answers questions as of a time; None where there is none."""
        encoder_id = encoder_id or await self._indexes.current_encoder()
        return None if encoder_id is None else await self.snapshots.line(encoder_id, to_ms(self._bounded(as_of)))

    async def current(self, kind: SemanticType | None = None, *, line: str | None = None) -> list[SemanticMemory]:
        """What is known now, by kind and id; with `mem.at(t)`, what was known then.

        Cost: one read a memory, and the list of versions where something was published since it was last read.

        Raises
        ------
        InvalidQueryError
            The kind is not known, or the question is not bounded inside a replay.
        PastExpiredError
            What was known at the time that is asked about has left Redis.
        """
        return await self._read(kind, line, bounded(None, self._locked_to))

    async def as_of(
        self, as_of: datetime, kind: SemanticType | None = None, *, line: str | None = None
    ) -> list[SemanticMemory]:
        """What was known at a time, by kind and id; as `current`."""
        return await self._read(kind, line, self._bounded(as_of))

    async def versions(self, memory_id: str, *, line: str | None = None) -> list[SemanticMemory]:
        """All versions of one memory that are kept, oldest first; with `mem.at(t)`, those that were known then."""
        as_of = bounded(None, self._locked_to)
        line, stored = await self._versions_of(memory_id, line, as_of)
        if as_of is not None:
            stored = {key: version for key, version in stored.items() if key.valid_from_ms <= to_ms(as_of)}
        return await self._load(stored, line, as_of)

    async def get(self, memory_id: str, *, line: str | None = None) -> SemanticMemory | None:
        """The current version of one memory (with `mem.at(t)` the one valid then); None where there is none."""
        as_of = bounded(None, self._locked_to)
        line, stored = await self._versions_of(memory_id, line, as_of)
        found = await self._load(valid_at(stored, None if as_of is None else to_ms(as_of)), line, as_of)
        return found[-1] if found else None

    async def counts(self, *, line: str | None = None) -> dict[str, int]:
        """Number of memories of each kind that are known now; with `mem.at(t)`, that were known then."""
        as_of = bounded(None, self._locked_to)
        line = await self._line(line, as_of)
        as_of_ms = None if as_of is None else to_ms(as_of)
        versions = {} if line is None else await self.snapshots.versions(line, as_of_ms=as_of_ms)
        versions = valid_at(versions, as_of_ms)
        return {kind.value: sum(key.kind == kind for key in versions) for kind in ALL_KINDS}

    # --- as it lies there --------------------------------------------------------------------------------------

    async def digest(self, *, line: str | None = None) -> str:
        """SHA-256 over all semantic memory, or over one line: every field but access counters and aliases.

        All of it is every line with its stamp, which line is and was read for each encoder, and the registered
        encoders. Which ids memories had before (`aliases`) is left out: that depends on the order of the work. The same
        knowledge gives the same digest in any namespace's Redis, whatever led to it: of the lines' names, the namespace
        counts for nothing. Reads everything, and trusts nothing that this process has seen before.
        """
        return await (self._contents.digest() if line is None else self._contents.line_digest(line))

    def contents(self, line: str) -> AsyncIterator[tuple[VersionKey, Document]]:
        """The stored fields of every version that a line lists, in order; no fields where the document is missing.

        The counterpart of `expected_contents`, for comparison. 200 documents a round trip.
        """
        return self._contents.documents(line)

    async def orphans(self, line: str) -> list[VersionKey]:
        """Versions of a line that lie in Redis but are not listed; sorted. Looks at every key of the server."""
        return await self._contents.orphans(line)

    async def leftovers(self, line: str) -> list[str]:
        """Keys of the documents that a killed publication of a line left: nobody reads them, the next removes them."""
        return await self._contents.leftovers(line)

    async def remove_leftovers(self, line: str, *, token: int) -> int:
        """Remove the documents that `leftovers` names, and return how many there were; FencedOutError if overtaken.

        To be called by who holds the namespace: a publication that is under way would have to begin again.
        """
        self._check_open()
        listed = await read_manifest(self._link, self._keys, line)
        return await remove_leftovers(self._link, self._keys, self._fence, line, token, listed)

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
        self._check_open()
        return self._publisher

    def _bounded(self, time: datetime, name: str = "as_of") -> datetime:
        time = check_time(time, name)
        bounded(time, self._locked_to)
        return time

    async def _line(self, line: str | None, as_of: datetime | None) -> str | None:
        """The line that was named, or the one that answers questions of that time."""
        if line is not None or as_of is None:
            return line or await self.current_line()
        return await self.line_at(as_of)

    async def _versions_of(self, memory_id: str, line: str | None, as_of: datetime | None) -> tuple[str, Versions]:
        """All versions of a memory; an id that it had before leads to it too."""
        try:
            validate_identifier(memory_id, "memory_id")
        except InvalidRecordError as error:
            raise InvalidQueryError(error.message, remedy=error.remedy, argument="memory_id") from error
        line = await self._line(line, as_of)
        if line is None:
            return "", {}
        stored = await self.snapshots.versions(line, as_of_ms=None if as_of is None else to_ms(as_of))
        own = {key: version for key, version in stored.items() if key.memory_id == memory_id}
        if not own:
            name = await self._link.execute("HGET", self._keys.memory_aliases(line), memory_id)
            own = {key: version for key, version in stored.items() if name and key.memory_id == name.decode()}
        return line, own

    async def _read(self, kind: SemanticType | None, line: str | None, as_of: datetime | None) -> list[SemanticMemory]:
        kinds = ALL_KINDS if kind is None else (_checked_kind(kind),)
        line = await self._line(line, as_of)
        if line is None:
            return []
        as_of_ms = None if as_of is None else to_ms(as_of)
        versions = await self.snapshots.versions(line, kinds, as_of_ms=as_of_ms)
        return await self._load(valid_at(versions, as_of_ms), line, as_of)

    async def _load(self, versions: Versions, line: str, as_of: datetime | None) -> list[SemanticMemory]:
        ordered = sorted(versions)
        memories: list[SemanticMemory] = []
        for start in range(0, len(ordered), READ_SIZE):
            keys = ordered[start : start + READ_SIZE]
            documents = await self._link.pipeline([("HGETALL", document_key(self._keys, key, line)) for key in keys])
            for key, document in zip(keys, documents, strict=True):
                if not document:
                    continue  # Published anew since the list was read.
                memory = unpack_document(document, key)
                if as_of is not None and memory.valid_to is not None and memory.valid_to > as_of:
                    memory.valid_to = None
                memories.append(memory)
        return memories


def _checked_kind(kind: SemanticType) -> SemanticType:
    try:
        return SemanticType(validate_choice(kind, "kind", ALL_KINDS))
    except InvalidRecordError as error:
        raise InvalidQueryError(error.message, remedy=error.remedy, argument="kind") from error
