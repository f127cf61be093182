"""Where snapshots are written, listed and dropped: one folder a memory, and in it one a snapshot.

What is under way lies in `PARTIAL`, with a note of which of its files are whole; it gets its name last. A snapshot that
is dropped loses its name first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from memory.backup.manifest import (
    FORMAT,
    MANIFEST,
    FileEntry,
    Manifest,
    check_file,
    encode_manifest,
    read_manifest,
    sha256_of,
    software_version,
)
from memory.errors import SnapshotError
from memory.typed import json_as

PARTIAL = ".partial"
_DROPPED = ".dropped-"
_DAMAGED = ".damaged-"
_NOTE = "progress.json"
_OWNER_ONLY = 0o700
"""A snapshot holds all of the memory, wherever it lies."""


class Progress(msgspec.Struct, kw_only=True):
    """How far a snapshot has come, and what has to hold still for it to go on.

    Attributes
    ----------
    life
        Which life of the Redis server it was begun in: another one may have lost the last second of what is read.
    token
        Fencing token of the run that wrote last. Where another run has held the namespace since, what is there belongs
        to an earlier state of it.
    knowledge
        Digest of the ledger when it was begun.
    done
        Parts that are whole.
    cursors
        How far the scan of a part has come that is not.
    """

    namespace: str
    life: str
    token: int
    knowledge: str
    cut_ms: int = 0
    format: int = FORMAT
    software: str = ""
    files: dict[str, FileEntry] = {}
    done: list[str] = []
    cursors: dict[str, str] = {}
    facts: dict[str, str] = {}
    missing: list[str] = []


@contextmanager
def written_to(folder: Path | str) -> Iterator[None]:
    """Turns errors of the disk that snapshots are written to into one that says what to do."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        # Parquet that could not be written cannot be ended either: what was first says why.
        first: BaseException = error
        while not isinstance(first, OSError) and first.__context__ is not None:
            first = first.__context__
        reason = first.strerror if isinstance(first, OSError) and first.strerror else first
        raise SnapshotError(
            f"the snapshot cannot be written to {folder}: {reason}.",
            remedy="Make room there, or choose another folder (COINSWARM_BACKUP_URL); then back up again: what is "
            "whole is kept.",
        ) from error


class Partial:
    """A snapshot under way.

    Parameters
    ----------
    folder
        Of the memory's snapshots.
    progress
        How far it has come.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress

    @property
    def path(self) -> Path:
        """Where it lies for now."""
        return self.folder / PARTIAL

    @classmethod
    def begin(cls, folder: Path, progress: Progress) -> Partial:
        """Begin anew: what another one left is dropped."""
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        partial = cls(folder, progress)
        progress.software = software_version()
        with written_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            partial.path.mkdir(mode=_OWNER_ONLY)
            partial.save()
        return partial

    @classmethod
    def find(cls, folder: Path) -> Partial | None:
        """What a run left that did not end; None where there is none that this software can go on with."""
        try:
            progress = json_as(Progress, (folder / PARTIAL / _NOTE).read_bytes())
        except (OSError, msgspec.DecodeError):
            return None
        if progress.format != FORMAT or progress.software != software_version():
            return None
        return cls(folder, progress)

    def keep_whole_files(self) -> int:
        """Forget files that are not as they were written, and the parts that they belong to; returns how many stay."""
        lost = set()
        for path, file in self.progress.files.items():
            try:
                check_file(self.path / path, file)
            except SnapshotError:
                lost.add(file.part)
        for part in lost:
            self.forget(part)
        return len(self.progress.files)

    def forget(self, part: str) -> None:
        """Drop what there is of a part."""
        own = [path for path, file in self.progress.files.items() if file.part == part]
        for path in own:
            del self.progress.files[path]
            (self.path / path).unlink(missing_ok=True)
        self.progress.cursors.pop(part, None)
        self.progress.done = [name for name in self.progress.done if name != part]
        self.save()

    def is_done(self, part: str) -> bool:
        """Whether a part is whole."""
        return part in self.progress.done

    def files_of(self, part: str) -> dict[str, FileEntry]:
        """Files of a part, by path."""
        return {path: file for path, file in self.progress.files.items() if file.part == part}

    @contextmanager
    def new_file(self, path: str) -> Iterator[Path]:
        """Where to write a file of this path; forced to the disk at the block's end. It counts once it is noted."""
        full = self.path / path
        full.parent.mkdir(parents=True, exist_ok=True)
        yield full
        with full.open("rb") as stream:
            os.fsync(stream.fileno())

    def note(self, path: str, part: str, *, rows: int = 0, digest: str = "", cursor: str | None = None) -> FileEntry:
        """Note that a file is whole, and how far the scan of its part has come."""
        full = self.path / path
        file = FileEntry(part=part, sha256=sha256_of(full), bytes=full.stat().st_size, rows=rows, digest=digest)
        self.progress.files[path] = file
        if cursor is not None:
            self.progress.cursors[part] = cursor
        self.save()
        return file

    def finish(self, part: str) -> None:
        """Note that a part is whole."""
        self.progress.cursors.pop(part, None)
        self.progress.done.append(part)
        self.save()

    def save(self) -> None:
        """Write the note; one that is killed leaves the note before it."""
        _write(self.path / _NOTE, msgspec.json.encode(self.progress))

    def commit(self, manifest: Manifest) -> Path:
        """Write the manifest, and give the folder its name."""
        _write(self.path / MANIFEST, encode_manifest(manifest))
        (self.path / _NOTE).unlink(missing_ok=True)
        for stray in [path for path in self.path.rglob("*") if path.is_file()]:
            relative = stray.relative_to(self.path).as_posix()
            if relative != MANIFEST and relative not in manifest.files:
                stray.unlink()  # Left by a run that was killed while it wrote it.
        final = self.folder / manifest.name
        self.path.rename(final)
        _sync(self.folder)
        return final


@dataclass(frozen=True, slots=True)
class Listed:
    """A snapshot in a folder: where, and its manifest, or why that cannot be used."""

    path: Path
    manifest: Manifest | None
    problem: str = ""


def list_snapshots(folder: Path) -> list[Listed]:
    """Snapshots of a memory, oldest first; their manifests are looked at, not their files."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")):
        try:
            found.append(Listed(path, read_manifest(path)))
        except SnapshotError as error:
            found.append(Listed(path, None, error.message))
    return found


def newest_snapshot(folder: Path) -> Path:
    """The newest snapshot with a manifest that can be used; SnapshotError where there is none."""
    whole = [item.path for item in list_snapshots(folder) if item.manifest is not None]
    if not whole:
        raise SnapshotError(f"there is no snapshot in {folder}.", remedy="Write one: coinswarm backup.")
    return whole[-1]


def set_aside(path: Path) -> Path:
    """Take the name of a snapshot that turned out to be damaged: it is listed and restored no more."""
    aside = path.with_name(f"{_DAMAGED}{path.name}")
    path.rename(aside)
    return aside


def drop_old(folder: Path, keep: int, written: Path | None = None) -> list[Path]:
    """Drop all but the newest `keep` whole snapshots, and what a killed drop left; returns what was dropped.

    Folders whose manifests cannot be read are left for a person to look at.

    Parameters
    ----------
    written
        The one that was written and verified just now. It is among those that are kept, even where the clock says that
        it is the oldest: its server may be another one than that of the others.
    """
    for left in folder.glob(f"{_DROPPED}*"):
        shutil.rmtree(left)
    whole = [item.path for item in list_snapshots(folder) if item.manifest is not None]
    whole.sort(key=lambda path: path == written)  # A stable sort: the others stay in order.
    dropped = whole[: max(0, len(whole) - keep)]
    for path in dropped:
        unnamed = path.with_name(f"{_DROPPED}{path.name}")
        path.rename(unnamed)
        shutil.rmtree(unnamed)
    return dropped


def _write(path: Path, content: bytes) -> None:
    """Write a file whole: under another name first, forced to the disk, then moved."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
