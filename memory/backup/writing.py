"""Writing the parts of a snapshot: sections of Redis, tables of the ledger, files of archive and policies."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from memory.backup.capture import Capture
from memory.backup.keyspace import BULK, Section
from memory.backup.ledger_dump import dump_table
from memory.backup.ledger_rows import owned_tables
from memory.backup.manifest import FileEntry, check_file
from memory.backup.rows import KeyRow, RowWriter, read_rows
from memory.backup.seen import Seen
from memory.backup.snapshots import Partial
from memory.backup.streams import read_head, read_stream
from memory.errors import ArchiveError, SnapshotError
from memory.ledger import Archive, Ledger
from memory.ledger.archive_files import ArchivedFile
from memory.ledger.knowledge_digest import knowledge_digest
from memory.store.keys import Keys
from memory.store.link import RedisLink

PART_ROWS = 20_000
"""Keys of one file, about 40 MB of experiences: what is lost of a scan when its run is killed."""
LEDGER, ARCHIVE, POLICIES = "ledger", "archive", "policies"
LEDGER_DIGEST, SEMANTIC_DIGEST = "ledger_digest", "semantic_digest"
"""Facts that are noted with what they were taken of."""

Announce = Callable[[str], None]


def part_of(section: Section) -> str:
    """Name of the part that a section of Redis is."""
    return f"redis/{section}"


class SectionWriter:
    """Writes a section as files of some rows each.

    Parameters
    ----------
    number
        Of the first file.
    """

    def __init__(self, partial: Partial, section: Section, number: int = 0) -> None:
        self._partial = partial
        self._section = section
        self._number = number
        self._stack = contextlib.ExitStack()
        self._writer: RowWriter | None = None
        self.rows = 0

    @property
    def _path(self) -> str:
        return f"redis/{self._section}-{self._number:05d}.parquet"

    def write(self, rows: Iterable[KeyRow]) -> None:
        """Write rows."""
        for row in rows:
            if self._writer is None:
                self._writer = RowWriter(self._stack.enter_context(self._partial.new_file(self._path)))
            self._writer.write((row,))
            self.rows += 1

    @property
    def is_full(self) -> bool:
        """Whether it is time for another file."""
        return self.rows >= PART_ROWS

    def end_file(self, cursor: str | None = None) -> None:
        """End the file under way, and note it, with how far the scan has come."""
        if self._writer is None:
            return
        writer, path = self._writer, self._path
        writer.close()
        self._stack.close()
        self._partial.note(path, part_of(self._section), rows=writer.rows, digest=f"{writer.digest:x}", cursor=cursor)
        self._writer, self.rows = None, 0
        self._number += 1

    def abandon(self) -> None:
        """Let go of the file under way; it counts for nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def write_section(
    link: RedisLink, keys: Keys, partial: Partial, section: Section, announce: Announce = lambda _: None
) -> int:
    """Write a section that holds no streams, or go on where its scan was left; returns its rows.

    Memory: some hundreds of keys at a time, and 16 bytes a key to know them again.
    """
    part = part_of(section)
    if partial.is_done(part):
        return _rows_of(partial, part)
    begun_at = partial.progress.cursors.get(part, "0")
    if begun_at == "0":
        partial.forget(part)
    known = Seen()
    for path in partial.files_of(part):
        for batch in read_rows(partial.path / path):
            known.add([row.key for row in batch])
    cut_ms = partial.progress.cut_ms or None
    capture, writer = Capture(link, keys, cut_ms), SectionWriter(partial, section, len(partial.files_of(part)))
    rows = len(known)
    try:
        async for cursor, names in capture.names(section, begun_at):
            fresh = known.add(names)
            found = await _readable(capture, section, fresh, known)
            writer.write(found)
            rows += len(found)
            announce(f"{section}: {rows:,} keys")
            if writer.is_full and section in BULK and cursor != "0":
                writer.end_file(cursor)
        writer.end_file()
    finally:
        writer.abandon()
    partial.finish(part)
    return _rows_of(partial, part)


async def write_streams(
    link: RedisLink, keys: Keys, partial: Partial, section: Section, announce: Announce = lambda _: None
) -> int:
    """Write streams and what belongs to them, as of the cut; returns the rows. To be called right after the cut.

    How each stream stands is looked at first, while little has been added to it since.
    """
    part = part_of(section)
    if partial.is_done(part):
        return _rows_of(partial, part)
    partial.forget(part)
    cut_ms = partial.progress.cut_ms or None
    capture, writer = Capture(link, keys, cut_ms), SectionWriter(partial, section)
    known = Seen()
    plain: list[bytes] = []
    streams: list[bytes] = []
    async for _, names in capture.names(section):
        fresh = known.add(names)
        for name, is_stream in zip(fresh, await capture.is_stream(fresh), strict=True):
            (streams if is_stream else plain).append(name)
    try:
        # Ids of what was sent are read before the streams: one that is missing would let a message be sent twice.
        writer.write(await capture.rows(section, sorted(plain)))
        heads = [await read_head(link, keys, name, cut_ms) for name in sorted(streams)]
        for head in heads:
            if head is None:
                continue
            announce(f"{section}: {head.key.decode(errors='replace')}")
            async for rows in read_stream(link, keys, head):
                writer.write(rows)
            if writer.is_full:
                writer.end_file()
        writer.end_file()
    finally:
        writer.abandon()
    partial.finish(part)
    return _rows_of(partial, part)


async def _readable(capture: Capture, section: Section, names: list[bytes], known: Seen) -> list[KeyRow]:
    if section is not Section.MAILBOXES:
        return await capture.rows(section, names)
    found: list[KeyRow] = []
    for own in sorted({name.partition(b":")[2] for name in names}):
        # A mailbox and its leases are one: they are read in one step, wherever the scan comes upon them.
        pair = [b"mailbox:" + own, b"mailbox_leases:" + own]
        known.add(pair)
        found += await capture.rows(section, pair)
    return found


def _rows_of(partial: Partial, part: str) -> int:
    return sum(file.rows for file in partial.files_of(part).values())


def write_ledger(ledger: Ledger, namespace: str, partial: Partial, announce: Announce = lambda _: None) -> int:
    """Write the ledger's rows as of one moment, with the digest of their knowledge; returns how many."""
    if partial.is_done(LEDGER):
        return sum(file.rows for path, file in partial.progress.files.items() if path.startswith(f"{LEDGER}/"))
    rows = 0
    with ledger.snapshot() as session:
        digest = knowledge_digest(session, namespace).digest
        for owned in owned_tables():
            announce(f"{LEDGER}: {owned.name}")
            path = f"{LEDGER}/{owned.name}.parquet"
            with partial.new_file(path) as file:
                written = dump_table(session, owned, namespace, str(file))
            partial.note(path, f"{LEDGER}/{owned.name}", rows=written)
            rows += written
    partial.progress.facts[LEDGER_DIGEST] = digest
    partial.finish(LEDGER)
    return rows


def write_archive(
    ledger: Ledger,
    archive: Archive,
    namespace: str,
    partial: Partial,
    before: tuple[Path, dict[str, FileEntry]] | None,
    announce: Announce = lambda _: None,
) -> int:
    """Write the archive's files that the ledger names, and return how many; those missing or damaged are noted.

    Parameters
    ----------
    before
        The snapshot before this one, and its files. One that is the same there is linked, and takes no space of its
        own, as long as its bytes are those that were written.
    """
    if partial.is_done(ARCHIVE):
        return len(partial.files_of(ARCHIVE))
    missing = []
    for number, (path, file) in enumerate(sorted(ledger.windows.archived_files(namespace).items())):
        announce(f"{ARCHIVE}: {number + 1}")
        own = f"{ARCHIVE}/{path.partition('/')[2]}"
        if own in partial.progress.files:
            continue
        try:
            with partial.new_file(own) as target:
                target.unlink(missing_ok=True)
                if not _linked(before, own, file, target):
                    _copied(archive, file, target)
        except ArchiveError as error:
            (partial.path / own).unlink(missing_ok=True)
            missing.append(path)
            announce(error.message)
            continue
        partial.note(own, ARCHIVE, rows=file.rows)
    partial.progress.missing = missing
    partial.finish(ARCHIVE)
    return len(partial.files_of(ARCHIVE))


def write_policies(folder: Path, partial: Partial, announce: Announce = lambda _: None) -> int:
    """Write all trained policies, and return how many files; states of trainings under way are left out."""
    if partial.is_done(POLICIES):
        return len(partial.files_of(POLICIES))
    partial.forget(POLICIES)
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pt")
    for path in found:
        own = f"{POLICIES}/{path.relative_to(folder).as_posix()}"
        announce(own)
        with partial.new_file(own) as target:
            shutil.copyfile(path, target)
        partial.note(own, POLICIES)
    partial.finish(POLICIES)
    return len(found)


def _linked(before: tuple[Path, dict[str, FileEntry]] | None, own: str, file: ArchivedFile, target: Path) -> bool:
    if before is None:
        return False
    folder, files = before
    there = files.get(own)
    if there is None or there.sha256 != file.sha256:
        return False
    try:
        check_file(folder / own, there)
        os.link(folder / own, target)
    except (SnapshotError, OSError):
        return False
    return True


def _copied(archive: Archive, file: ArchivedFile, target: Path) -> None:
    """Copy a file whose bytes are those that were archived."""
    with archive.opened(file) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
