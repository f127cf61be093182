"""The folder of an export: files of Parquet, the encoder, and a manifest with checksums, all of them there or none.

It is written beside its place under a name that begins with a dot, and moved there when it is whole. One process at a
time writes there; what a killed one left is written over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from memory.backup.manifest import EXPORT, is_snapshot
from memory.embedded.home import FileLock
from memory.keeping.errors import KeepingError
from memory.typed import convert_to

FORMAT = EXPORT
VERSION = 2
"""Version of the layout; raised when a reader of today could not read what is written tomorrow. The first had no
experiences of the archive, which its readers would pass over."""
MANIFEST = "manifest.json"
ROWS_PER_FILE = 500_000
"""Rows of one file, about: a gigabyte at most with 256 dimensions."""
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file: its name in the folder, SHA-256 of its bytes, size in bytes, rows (0 of what is no table)."""

    name: str
    sha256: str
    bytes: int
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder holds.

    Attributes
    ----------
    namespace, software, created_at
        Memory that it comes from, version of the software, UTC time.
    selection
        What was asked for: agent_id, product_id, since, until (null where open), encoder_id.
    encoders
        By id: `dimension`, and the `file` that holds the encoder, where one is registered.
    feature_schemas
        Names of features by the id of their schema.
    counts
        Of `experiences` and `decisions`, and of those that come from the archive (`archived`).
    missing
        Windows whose archive was gone or damaged, each with its source: what was only there is not in the export.
    files
        All files but this one.
    """

    namespace: str
    software: str
    created_at: str
    selection: Mapping[str, Any]
    encoders: Mapping[str, dict[str, Any]]
    feature_schemas: Mapping[str, list[str]]
    counts: Mapping[str, int]
    missing: tuple[str, ...] = field(default=())
    files: tuple[ExportedFile, ...] = field(default=())

    def named(self, prefix: str) -> list[str]:
        """Names of the files that begin with a prefix, in order."""
        return sorted(file.name for file in self.files if file.name.startswith(prefix))


class NewExport:
    """A folder on its way: nothing is at its place before `finish`."""

    def __init__(self, target: Path) -> None:
        self.target = target.absolute()
        check_target(self.target)
        self._folder = self.target.with_name(f".{self.target.name}.partial")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock.on_directory(self._folder)
        self._done = False
        if not self._lock.try_exclusive() or not self._lock.still_in_place():
            self._lock.close()
            raise KeepingError(f"{self.target} is being written by another export.", remedy="Wait until it has ended.")
        for left in self._folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self._tables: dict[str, _Tables] = {}

    def __enter__(self) -> NewExport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tables in self._tables.values():
            tables.close()
        if not self._done:
            shutil.rmtree(self._folder)
        self._lock.close()

    def append(self, prefix: str, table: pa.Table) -> None:
        """Write a table as one row group to the files `prefix-NNNN.parquet`."""
        if prefix not in self._tables:
            self._tables[prefix] = _Tables(self._folder, prefix, table.schema)
        self._tables[prefix].append(table)

    def add(self, name: str, content: bytes) -> None:
        """Write a file, forced to the disk."""
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self, manifest: Manifest) -> Manifest:
        """Close all files, write the manifest with their checksums, and move the folder to its place."""
        rows: dict[str, int] = {}
        for tables in self._tables.values():
            tables.close()
            rows |= tables.rows
        files = []
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name = path.relative_to(self._folder).as_posix()
            files.append(ExportedFile(name, _sha256(path), path.stat().st_size, rows.get(name, 0)))
        whole = Manifest(**{**_fields(manifest), "files": tuple(files)})
        content = {"format": FORMAT, "version": VERSION, **asdict(whole)}
        self.add(MANIFEST, json.dumps(content, indent=1, sort_keys=True).encode())
        if self.target.is_dir():
            self.target.rmdir()
        self._folder.rename(self.target)
        self._done = True
        return whole


class _Tables:
    """Files of one sort of table, a new one where the last is full."""

    def __init__(self, folder: Path, prefix: str, schema: pa.Schema) -> None:
        self.rows: dict[str, int] = {}
        self._folder, self._prefix, self._schema = folder, prefix, schema
        self._writer: pq.ParquetWriter | None = None
        self._name = ""

    def append(self, table: pa.Table) -> None:
        if self._writer is None or self.rows[self._name] >= ROWS_PER_FILE:
            self.close()
            self._name = f"{self._prefix}-{len(self.rows):04d}.parquet"
            self.rows[self._name] = 0
            self._writer = pq.ParquetWriter(self._folder / self._name, self._schema, compression="zstd")
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self.rows[self._name] += table.num_rows

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with (self._folder / self._name).open("rb") as stream:
                os.fsync(stream.fileno())


def check_target(target: Path) -> None:
    """Raises KeepingError where something is at the place of an export already."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise KeepingError(f"{target} exists already and is not empty.", remedy="Choose another --out, or remove it.")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export, whose files are those that were written.

    Cost: reads every byte once.

    Raises
    ------
    KeepingError
        As `check_manifest`, and where a file is missing or damaged: it is named.
    """
    manifest = check_manifest(folder)
    for file in manifest.files:
        _check(folder, file)
    return manifest


def check_manifest(folder: Path) -> Manifest:
    """The manifest of an export, whose files are not looked at.

    Raises
    ------
    KeepingError
        It is no export (one that is a snapshot is said to be), one of a newer version, or its manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise KeepingError(
            f"{folder} holds no {MANIFEST}: it is no export, or not a whole one.",
            remedy="Name a folder that `coinswarm export` wrote.",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and is_snapshot(content):
            raise KeepingError(
                f"{folder} is no export but a snapshot: a whole memory, which is restored into an empty namespace.",
                remedy=f"coinswarm restore {shlex.quote(str(folder))}",
            )
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError("it is the manifest of something else")
        version = content.pop("version")
        if not isinstance(version, int) or version > VERSION:
            raise KeepingError(
                f"{folder} has the layout {version}; this version of the software reads up to {VERSION}.",
                remedy="Upgrade the software (pip install -U coinswarm-memory), then import it.",
            )
        content.pop("format")
        manifest = convert_to(Manifest, content)
        named = {about.get("file") for about in manifest.encoders.values()} - {None}
        if not {"experiences", "decisions"} <= set(manifest.counts):
            raise ValueError("it does not count what there is")
        if strange := named - {file.name for file in manifest.files}:
            raise ValueError(f"it does not list {', '.join(sorted(map(str, strange)))}")
    except (ValueError, TypeError, KeyError, msgspec.ValidationError) as error:
        raise KeepingError(f"{path} cannot be read: {error}.", remedy="Export again.") from error
    return manifest


def row_groups(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """The row groups of a file of Parquet, one at a time; KeepingError where its columns are others."""
    with pq.ParquetFile(path) as file:
        if not file.schema_arrow.equals(schema):
            raise KeepingError(f"{path} has other columns than an export.", remedy="Export again.")
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)


def _check(folder: Path, file: ExportedFile) -> None:
    path = folder / file.name
    if folder.resolve() not in path.resolve().parents:
        raise KeepingError(f"{MANIFEST} names {file.name}, outside of {folder}.", remedy="Export again.")
    if not path.is_file():
        raise KeepingError(f"{path} is missing.", remedy="Copy the whole folder again, or export again.")
    if path.stat().st_size != file.bytes or _sha256(path) != file.sha256:
        raise KeepingError(
            f"{path} is damaged: it does not match its checksum.",
            remedy="Copy the whole folder again, or export again.",
        )


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
