"""Files of the archive: written under a temporary name, moved when they are whole, checked before they are read.

The name of a file holds the SHA-256 of its bytes. Where the file system is local, a file is forced to the disk before
it is moved, so that a name with a hash is a whole file.
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
from datetime import UTC, datetime
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from memory.errors import ArchiveError, ArchiveUnavailableError

_CHUNK_BYTES = 1 << 20
_USER_INFO = re.compile(r"(://)[^/@\s]*@")
_STORAGE: tuple[type[Exception], ...] = (OSError, pa.ArrowException)
_PLACE = (*_STORAGE, ImportError, ValueError)
"""What a file raises while it is read, and what file systems raise besides: no driver, an URL that they refuse."""


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One Parquet file: path under the archive's root, SHA-256 of its bytes, rows, size in bytes."""

    path: str
    sha256: str
    rows: int
    bytes: int


class Place:
    """The root of an archive under any fsspec URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        with self.explained("opened"):
            filesystem, root = fsspec.core.url_to_fs(url)
        self.filesystem: Any = filesystem
        self._root: str = root.rstrip("/")

    @property
    def display_url(self) -> str:
        """The URL without a user's name and password."""
        return _without_password(self.url)

    def path(self, relative: str) -> str:
        """Where a file lies in the file system."""
        return posixpath.join(self._root, relative)

    def has(self, file: ArchivedFile) -> bool:
        """Whether a file is there with its size; its bytes are checked when it is read."""
        path = self.path(file.path)
        with self.explained("looked at"):
            return bool(self.filesystem.exists(path) and self.filesystem.size(path) == file.bytes)

    def files(self, folder: str) -> dict[str, int]:
        """Size in bytes of every file under a folder, by path under the root; none where there is no such folder."""
        with self.explained("listed"):
            found = (
                self.filesystem.find(self.path(folder), detail=True)
                if self.filesystem.exists(self.path(folder))
                else {}
            )
        start = len(self.path(folder)) - len(folder)
        return {name[start:]: int(details["size"]) for name, details in sorted(found.items())}

    def written_at(self, relative: str) -> datetime | None:
        """When a file was written last; None where it is gone, or the file system does not say."""
        with self.explained("looked at"):
            try:
                when: datetime = self.filesystem.modified(self.path(relative))
            except (FileNotFoundError, NotImplementedError):
                return None
        return when if when.tzinfo is not None else when.replace(tzinfo=UTC)

    def remove(self, relative: str) -> bool:
        """Remove a file; False where it was gone."""
        with self.explained("written"):
            try:
                self.filesystem.rm_file(self.path(relative))
            except FileNotFoundError:
                return False
        return True

    @contextlib.contextmanager
    def opened(self, file: ArchivedFile) -> Iterator[Any]:
        """A file's stream, once its bytes have been found to be those that were written.

        Raises
        ------
        ArchiveError
            The file is missing, or its bytes are not those that were written.
        ArchiveUnavailableError
            The place cannot be reached or read.
        """
        path = self.path(file.path)
        with self.explained("read"):
            if not self.filesystem.exists(path):
                self._refuse_missing(file)
            opened = self.filesystem.open(path, "rb")
        with opened as stream:
            with self.explained("read"):
                digest = hashlib.sha256()
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
                if digest.hexdigest() != file.sha256:
                    raise ArchiveError(
                        f"the archived file {file.path} does not match its hash: it was changed or damaged.",
                        remedy="Restore it from a backup; the window cannot be consolidated again without it.",
                    )
                stream.seek(0)
            # What the reader does with the content may fail for reasons of its own.
            with self.explained("read", _STORAGE):
                yield stream

    @contextlib.contextmanager
    def explained(self, what: str, kinds: tuple[type[Exception], ...] = _PLACE) -> Iterator[None]:
        """Turns errors of the file system and of Parquet into this project's."""
        try:
            yield
        except kinds as error:
            raise ArchiveUnavailableError(
                f"the archive at {self.display_url} cannot be {what}: {_without_password(str(error))}.",
                remedy="Check COINSWARM_ARCHIVE_URL, the rights on that place and its free space.",
            ) from error

    def _refuse_missing(self, file: ArchivedFile) -> None:
        # A disk that is not mounted must not be taken for an archive that was lost.
        kind = ArchiveError if self.filesystem.exists(self._root) else ArchiveUnavailableError
        raise kind(
            f"the archived file {file.path} is not under {self.display_url}.",
            remedy="Set COINSWARM_ARCHIVE_URL to where it is, or restore it from a backup.",
        )


class NewFile:
    """A file on its way into the archive; it counts for nothing until `finish`, which makes it whole, and `commit`."""

    def __init__(self, place: Place, folder: str, kind: str) -> None:
        self._place = place
        self._folder = folder
        self._kind = kind
        self._temporary = place.path(posixpath.join(folder, f".{kind}-{uuid.uuid4().hex}.tmp"))
        place.filesystem.makedirs(place.path(folder), exist_ok=True)
        self._stream: Any = place.filesystem.open(self._temporary, "wb")
        self.sink = _HashingSink(self._stream)

    def finish(self) -> None:
        """Ends the writing, and forces what was written to `sink` to the disk: all that takes room."""
        self._stream.flush()
        if self._is_local:
            os.fsync(self._stream.fileno())
        self._stream.close()

    def commit(self, rows: int) -> ArchivedFile:
        """Gives a finished file its name."""
        name = f"{self._kind}-{self.sink.sha256}.parquet"
        folder = self._place.path(self._folder)
        self._place.filesystem.mv(self._temporary, posixpath.join(folder, name))
        if self._is_local:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return ArchivedFile(posixpath.join(self._folder, name), self.sink.sha256, rows, self.sink.bytes)

    @contextlib.contextmanager
    def read_back(self) -> Iterator[Any]:
        """Ends the writing, and gives a stream of what was written."""
        self._stream.close()
        with self._place.filesystem.open(self._temporary, "rb") as stream:
            yield stream

    def discard(self) -> None:
        """Removes what was written, as far as the place lets it, and ignores what is written from now on."""
        self.sink.abandoned = True
        with contextlib.suppress(OSError):
            self._stream.close()
        with contextlib.suppress(OSError):
            if self._place.filesystem.exists(self._temporary):
                self._place.filesystem.rm(self._temporary)

    @property
    def _is_local(self) -> bool:
        return isinstance(self._place.filesystem, LocalFileSystem)


class _HashingSink(io.RawIOBase):
    """Passes bytes on to a stream, and hashes and counts them on the way."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.abandoned = False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if not self.abandoned:
            self._digest.update(view)
            self._stream.write(view)
            self.bytes += view.nbytes
        return view.nbytes


def _without_password(text: str) -> str:
    return _USER_INFO.sub(r"\1***@", text)
