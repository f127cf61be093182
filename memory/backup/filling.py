"""Putting the parts of a snapshot into a namespace: archive, policies, what lies in Redis, and its indexes.

Each part is noted in the mark (`memory.store.unfinished`) once it is whole; a part that a killed run left is done
again. The ledger's part is `memory.backup.ledger_load`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from memory.backup.capture import server_ms
from memory.backup.manifest import Manifest
from memory.backup.refill import Refill
from memory.backup.rows import read_rows
from memory.backup.writing import ARCHIVE, POLICIES
from memory.errors import StoreUnavailableError
from memory.ledger import Archive, Ledger
from memory.store.unfinished import DONE, RestoreMark

if TYPE_CHECKING:
    from memory.connection import MemoryConnection

Announce = Callable[[str], None]


async def fill_redis(
    mem: MemoryConnection, token: int, folder: Path, manifest: Manifest, announce: Announce = lambda _: None
) -> dict[str, int]:
    """Write all keys of a snapshot, file by file; returns how many were written here, and how many had expired.

    Memory: one row group. Raises FencedOutError where the run was overtaken.
    """
    mark = RestoreMark(mem.link, mem.keys, mem.fence, token)
    held = await mark.read()
    counts = {"written": 0, "expired": 0}
    for path in manifest.paths("redis"):
        if f"{DONE}{path}" in held:
            continue
        refill = Refill(mem.fence, token, mem.keys, manifest.namespace, await server_ms(mem.link))
        for rows in read_rows(folder / path):
            await refill.write(rows)
            announce(f"{path}: {refill.written:,} keys")
        await mark.done(path)
        counts["written"] += refill.written
        counts["expired"] += refill.expired
    return counts


async def build_indexes(mem: MemoryConnection, token: int, announce: Announce = lambda _: None) -> int:
    """Build the indexes that the restored schemas describe, and wait until they hold everything; returns how many.

    Those of an index change that was under way are among them, so that it can be taken up.
    """
    await mem.fence.ensure(token)
    built = 0
    current = await mem.indexes.current_encoder()
    for encoder_id in await mem.indexes.encoder_ids():
        for family in (mem.indexes.experiences, mem.indexes.pool):
            announce(f"{family.name} of {encoder_id}")
            built += len(await mem.indexes.restore(family, encoder_id))
            built += len(await mem.indexes.restore_shadow(family, encoder_id))
        if encoder_id == current or await mem.semantic.current_line(encoder_id) is not None:
            announce(f"semantic memory of {encoder_id}")
            await mem.indexes.ensure_semantic(encoder_id, await mem.encoders.dimension(encoder_id))
            built += 1
    if current is not None:
        await mem.indexes.point_aliases(current)
    return built


def fill_archive(
    ledger: Ledger, archive: Archive, target: str, folder: Path, announce: Announce = lambda _: None
) -> dict[str, int]:
    """Put the files back that the restored ledger names; returns how many were written, were there, and are missing.

    Raises
    ------
    ArchiveError
        A file of the snapshot is not what was archived.
    """
    counts = {"written": 0, "there": 0, "missing": 0}
    for number, (path, file) in enumerate(sorted(ledger.windows.archived_files(target).items())):
        announce(f"{ARCHIVE}: {number + 1}")
        source = folder / ARCHIVE / path.partition("/")[2]
        if not source.exists():
            counts["missing"] += 1
            continue
        with source.open("rb") as stream:
            counts["written" if archive.put(file, stream) else "there"] += 1
    return counts


def fill_policies(into: Path, folder: Path, manifest: Manifest) -> int:
    """Put the trained policies back, and return how many files that are."""
    paths = manifest.paths(POLICIES)
    for path in paths:
        target = into / path.removeprefix(f"{POLICIES}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(folder / path, temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    return len(paths)


async def end_restore(mem: MemoryConnection, token: int) -> None:
    """Say that the memory is whole, and see that the server has that on its disk.

    Raises
    ------
    StoreUnavailableError
        The server was restarted in this moment, and lost it.
    """
    mark = RestoreMark(mem.link, mem.keys, mem.fence, token)
    await mark.end()
    if await mark.read():
        raise StoreUnavailableError(
            f"Redis lost the end of the restore of {mem.namespace!r}.", remedy="It was restarted: restore again."
        )
