"""The archive: what a consolidation read, as content-hashed Parquet under a configurable place.

The name of a file holds the SHA-256 of its bytes. A file is written under a temporary name, forced to the disk where
it is local, and only then moved, so that a name with a hash is a whole file. Paths are relative to the archive's root:
an archive that is moved as a whole stays readable.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from memory.errors import ArchiveError
from memory.ledger.archive_merge import merge
from memory.ledger.archive_tables import (
    content_digest,
    experience_table_from_arrow,
    experience_table_to_arrow,
    state_table_from_arrow,
    state_table_to_arrow,
)
from memory.records import SOURCES
from memory.settings import NAMESPACE_PATTERN
from memory.tables import WindowData
from memory.validation import validate_choice, validate_identifier
from memory.window import Window

ROW_GROUP_ROWS = 16_384
"""Rows written at a time: 16 MiB of 256-d vectors, and more than most nights hold."""
COMPRESSION_LEVEL = 3
"""Of zstd; higher levels hardly shrink float32 vectors."""
_CHUNK_BYTES = 1 << 20
_USER_INFO = re.compile(r"(://)[^/@\s]*@")

__all__ = ["Archive", "ArchiveReference", "ArchivedFile", "content_digest", "merge"]


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One Parquet file: path under the archive's root, SHA-256 of its bytes, rows, size in bytes."""

    path: str
    sha256: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveReference:
    """Where the states and experiences of a window lie, for one encoder and source.

    `content_digest` covers what was lived through and not when it was recorded: equal experience, equal digest.
    """

    namespace: str
    window: Window
    encoder_id: str
    source: str
    content_digest: str
    states: ArchivedFile
    experiences: ArchivedFile


class Archive:
    """An archive under any fsspec URL (`file://`, `s3://`, `memory://` ...).

    Parameters
    ----------
    url
        Root of the archive.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with self._explained("opened"):
            filesystem, root = fsspec.core.url_to_fs(url)
        self._filesystem: Any = filesystem
        self._root: str = root.rstrip("/")

    @property
    def display_url(self) -> str:
        """The URL without a user's name and password."""
        return _without_password(self.url)

    def write(self, namespace: str, window: Window, data: WindowData) -> ArchiveReference:
        """Archives a window's states and experiences; the same content again gives the same files.

        Raises
        ------
        ArchiveError
            The place cannot be written to; nothing that looks whole is left behind.
        """
        encoder_id = validate_identifier(data.states.encoder_id, "encoder_id")
        source = validate_choice(data.states.source, "source", SOURCES)
        if not NAMESPACE_PATTERN.fullmatch(namespace):
            raise ArchiveError(f"{namespace!r} is no namespace.", remedy="Use 1 to 32 of a-z, 0-9 and '-'.")
        folder = posixpath.join(namespace, window.name, encoder_id, source)
        return ArchiveReference(
            namespace=namespace,
            window=window,
            encoder_id=encoder_id,
            source=source,
            content_digest=content_digest(data),
            states=self._write_file(folder, "states", state_table_to_arrow(data.states)),
            experiences=self._write_file(folder, "experiences", experience_table_to_arrow(data.experiences)),
        )

    def read(self, reference: ArchiveReference) -> WindowData:
        """The archived window, bit for bit as it was written.

        Raises
        ------
        ArchiveError
            A file is missing, or its bytes are not those that were written.
        """
        return WindowData(
            state_table_from_arrow(self._read_file(reference.states)),
            experience_table_from_arrow(self._read_file(reference.experiences)),
        )

    def exists(self, reference: ArchiveReference) -> bool:
        """Whether both files are there with their size; their bytes are checked when they are read."""
        with self._explained("looked at"):
            return all(
                self._filesystem.exists(path) and self._filesystem.size(path) == file.bytes
                for file in (reference.states, reference.experiences)
                for path in [self._path(file.path)]
            )

    def _path(self, relative: str) -> str:
        return posixpath.join(self._root, relative)

    def _write_file(self, folder: str, kind: str, table: pa.Table) -> ArchivedFile:
        temporary = self._path(posixpath.join(folder, f".{kind}-{uuid.uuid4().hex}.tmp"))
        with self._explained("written"):
            self._filesystem.makedirs(self._path(folder), exist_ok=True)
            try:
                with self._filesystem.open(temporary, "wb") as stream:
                    sink = _HashingSink(stream)
                    _write_parquet(table, sink)
                    stream.flush()
                    self._to_disk(stream)
                name = f"{kind}-{sink.sha256}.parquet"
                self._filesystem.mv(temporary, self._path(posixpath.join(folder, name)))
                self._folder_to_disk(self._path(folder))
            except BaseException:
                with contextlib.suppress(OSError):
                    if self._filesystem.exists(temporary):
                        self._filesystem.rm(temporary)
                raise
        return ArchivedFile(posixpath.join(folder, name), sink.sha256, table.num_rows, sink.bytes)

    def _read_file(self, file: ArchivedFile) -> pa.Table:
        path = self._path(file.path)
        with self._explained("read"):
            if not self._filesystem.exists(path):
                raise ArchiveError(
                    f"the archived file {file.path} is not under {self.display_url}.",
                    remedy="Set COINSWARM_ARCHIVE_URL to where it is, or restore it from a backup.",
                )
            with self._filesystem.open(path, "rb") as stream:
                digest = hashlib.sha256()
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
                if digest.hexdigest() != file.sha256:
                    raise ArchiveError(
                        f"the archived file {file.path} does not match its hash: it was changed or damaged.",
                        remedy="Restore it from a backup; the window cannot be consolidated again without it.",
                    )
                stream.seek(0)
                table: pa.Table = pq.read_table(stream)
        return table

    def _to_disk(self, stream: Any) -> None:
        if isinstance(self._filesystem, LocalFileSystem):
            os.fsync(stream.fileno())

    def _folder_to_disk(self, folder: str) -> None:
        if isinstance(self._filesystem, LocalFileSystem):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ImportError, ValueError, pa.ArrowException) as error:
            raise ArchiveError(
                f"the archive at {self.display_url} cannot be {what}: {_without_password(str(error))}.",
                remedy="Check COINSWARM_ARCHIVE_URL, the rights on that place and its free space.",
            ) from error


class _HashingSink(io.RawIOBase):
    """Passes bytes on to a stream, and hashes and counts them on the way."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._digest = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._digest.update(view)
        self._stream.write(view)
        self.bytes += view.nbytes
        return view.nbytes


def _without_password(text: str) -> str:
    return _USER_INFO.sub(r"\1***@", text)


def _write_parquet(table: pa.Table, sink: _HashingSink) -> None:
    texts = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    pq.write_table(
        table,
        pa.PythonFile(sink, mode="w"),
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        # Only names repeat; a dictionary of vectors would be as large as they are.
        use_dictionary=texts,
        write_statistics=False,
        store_schema=True,
    )
