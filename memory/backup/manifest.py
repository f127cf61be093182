"""What a snapshot is: a folder of files, and a manifest that names each with its hash and is sealed itself.

::

    NAMESPACE/20210622T013000.123Z/
        manifest.json
        redis/SECTION-00000.parquet ...     keys of Redis (`memory.backup.rows`)
        ledger/TABLE.parquet                rows of the ledger (`memory.backup.ledger_dump`)
        archive/...                         files of the archive, as they lie there
        policies/...                        trained policies, likewise

The folder gets its name when all of it is written: a snapshot that has a name is whole, or was damaged since.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

import msgspec

from memory.errors import SnapshotError
from memory.records import from_ms
from memory.settings import NAMESPACE_PATTERN
from memory.typed import json_as

FORMAT = 1
"""Of snapshots that this software writes; it reads those of this format and of earlier ones."""
MANIFEST = "manifest.json"
EXPORT = "coinswarm-experiences"
"""What the manifest of an export (`memory.keeping.export_folder`) names as its format."""
_CHUNK_BYTES = 1 << 20


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file: the part it belongs to, such as ``redis/episodic``; SHA-256 of its bytes and their number; its rows,
    and the digest of what it holds of Redis (`memory.backup.rows`)."""

    part: str
    sha256: str
    bytes: int
    rows: int = 0
    digest: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot holds.

    Attributes
    ----------
    format, software, ledger_schema, record_schema
        Versions of the snapshot's layout, of the software, and of what it wrote: the ledger's tables and the records.
    namespace
        Name of the memory.
    cut_ms
        Time of the snapshot, milliseconds since 1970: nothing that was recorded later is in it.
    highest_token
        No fencing token that the memory has seen was higher.
    files
        By path in the folder.
    ledger_digest, semantic_digest
        Of all knowledge in the ledger (`Ledger.digest`) and in Redis (`SemanticStore.digest`).
    policies
        Folder that the policies lay in: the ledger's paths to them begin with it.
    missing
        Files of the archive that the ledger names and that were not there, or not whole: as little are they here.
    seal
        SHA-256 of all the rest.
    """

    format: int
    software: str
    ledger_schema: str
    record_schema: str
    namespace: str
    cut_ms: int
    highest_token: int
    files: dict[str, FileEntry]
    ledger_digest: str
    semantic_digest: str
    policies: str = ""
    missing: list[str] = []
    seal: str = ""

    @property
    def cut(self) -> datetime:
        """Time of the snapshot."""
        return from_ms(self.cut_ms)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.cut:%Y%m%dT%H%M%S}.{self.cut_ms % 1000:03d}Z"

    @property
    def bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.bytes for file in self.files.values())

    def rows(self, kind: str) -> dict[str, int]:
        """Rows of each part of ``redis`` or ``ledger``, by name, those without rows left out."""
        found: dict[str, int] = {}
        for file in self.files.values():
            own, _, name = file.part.partition("/")
            if own == kind and file.rows:
                found[name] = found.get(name, 0) + file.rows
        return dict(sorted(found.items()))

    def paths(self, kind: str, part: str | None = None) -> list[str]:
        """Paths of the files of a kind (``redis``, ``ledger``, ``archive``, ``policies``), or of one part, in order."""
        wanted = kind if part is None else f"{kind}/{part}"
        return sorted(
            path for path, file in self.files.items() if file.part == wanted or file.part.startswith(f"{wanted}/")
        )


def software_version() -> str:
    """Version of the installed package."""
    try:
        return version("coinswarm-memory")
    except PackageNotFoundError:
        return "unknown"


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its seal."""
    return msgspec.structs.replace(manifest, seal=_seal(manifest))


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is written."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def is_snapshot(content: Mapping[str, object]) -> bool:
    """Whether what a manifest holds is that of a snapshot, of any version, damaged or not."""
    return isinstance(content.get("format"), int) and {"seal", "cut_ms"} <= content.keys()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a snapshot.

    Raises
    ------
    SnapshotError
        The folder is no snapshot (one that is an export is said to be), its manifest is damaged or names files
        elsewhere, or software that is newer wrote it.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SnapshotError(
            f"{folder} is no snapshot: its {MANIFEST} cannot be read ({error.strerror}).",
            remedy=_inside(folder),
        ) from error
    try:
        written = json_as(dict, content).get("format")
        if written == EXPORT:
            raise SnapshotError(
                f"{folder} is no snapshot but an export: experiences, which any memory takes up beside its own.",
                remedy=f"coinswarm import {shlex.quote(str(folder))}",
            )
        if isinstance(written, int) and written > FORMAT:
            raise SnapshotError(
                f"{folder} has format {written}, and this version of the software reads formats up to {FORMAT}.",
                remedy="Upgrade the software (pip install -U coinswarm-memory).",
            )
        manifest = json_as(Manifest, content)
    except msgspec.DecodeError as error:
        raise _damaged(path, f"is damaged or cut off ({error})") from error
    if manifest.seal != _seal(manifest):
        raise _damaged(path, "was changed or damaged: it does not match its seal")
    if not NAMESPACE_PATTERN.fullmatch(manifest.namespace):
        raise _damaged(path, f"is of namespace {manifest.namespace!r}, which is no name of one")
    for name in manifest.files:
        # Anybody can seal a manifest: what is read and restored by it lies in the folder all the same.
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise _damaged(path, f"names {name!r}, which leads out of the snapshot")
    return manifest


def check_files(folder: Path, manifest: Manifest, announce: Callable[[str], None] = lambda _: None) -> int:
    """Read all files of a snapshot, and return how many bytes they have.

    Raises
    ------
    SnapshotError
        A file is missing, has another length, lies elsewhere, or its bytes are not those that were written: the first
        one is named.
    """
    for path, file in sorted(manifest.files.items()):
        announce(path)
        if folder.resolve() not in (folder / path).resolve().parents:
            raise _damaged(folder / path, "is a link that leads out of the snapshot")
        check_file(folder / path, file)
    return manifest.bytes


def check_file(path: Path, file: FileEntry) -> None:
    """SnapshotError unless a file is there with its bytes."""
    try:
        size = path.stat().st_size
        if size != file.bytes:
            raise _damaged(
                path, f"is {'cut off' if size < file.bytes else 'longer than it was'}: {size:,} bytes of {file.bytes:,}"
            )
        digest = sha256_of(path)
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    if digest != file.sha256:
        raise _damaged(path, "was changed or damaged: its bytes are not those that were written")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex digits; a megabyte in memory at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _seal(manifest: Manifest) -> str:
    rest: Mapping[str, object] = {
        name: value for name, value in msgspec.to_builtins(manifest).items() if name != "seal"
    }
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()


def _damaged(path: Path, what: str) -> SnapshotError:
    return SnapshotError(f"{path} {what}.", remedy="Use another snapshot: coinswarm backup --list shows them.")


def _inside(folder: Path) -> str:
    """What to do where a folder is none: the newest snapshot inside is named."""
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else []
    if found:
        return f"It holds {len(found)}: the newest is {found[-1]}."
    return "Name the folder of one snapshot: coinswarm backup --list shows them."
