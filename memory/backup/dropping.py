"""What a namespace holds, and dropping all of it: for refusing to restore onto something, and for drills.

A namespace is dropped only where the mark of a restore lies on it: it was empty before, and no other can be lost by a
wrong name.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from memory.backup.capture import SCAN_COUNT
from memory.backup.keyspace import section_of
from memory.backup.ledger_load import delete_fences, delete_rows, rows_held
from memory.errors import SnapshotError
from memory.ledger import Archive, FencingToken, Ledger
from memory.store.fence import Fence
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.unfinished import DRILL, read_mark

if TYPE_CHECKING:
    from memory.connection import MemoryConnection

UNLINK_SIZE = 500


async def keys_held(link: RedisLink, keys: Keys) -> dict[str, int]:
    """How many keys of each section a namespace has; those of the moment are left out. Looks at every key there is."""
    found: Counter[str] = Counter()
    cursor = b"0"
    start = len(keys.namespace) + 1
    while True:
        cursor, names = await link.execute("SCAN", cursor, "MATCH", f"{keys.namespace}:*", "COUNT", SCAN_COUNT)
        sections = (section_of(name[start:]) for name in names)
        found.update(section.value for section in sections if section is not None)
        if int(cursor) == 0:
            return dict(sorted(found.items()))


async def held_in(mem: MemoryConnection, ledger: Ledger, archive: Archive, policies: Path) -> list[str]:
    """What a namespace holds, in words; nothing where it is empty, whatever runs it has seen."""
    held = [f"{count:,} keys of {name} in Redis" for name, count in (await keys_held(mem.link, mem.keys)).items()]
    with ledger.transaction() as session:
        held += [f"{count:,} rows of {name} in the ledger" for name, count in rows_held(session, mem.namespace).items()]
    files = len(archive.files(mem.namespace))
    held += [f"{files:,} files in the archive"] if files else []
    if policies.is_dir() and any(policies.iterdir()):
        held.append(f"policies in {policies}")
    return held


async def drop_marked(
    mem: MemoryConnection, *, ledger: Ledger, archive: Archive, policies: Path, token: FencingToken, whole: bool
) -> int:
    """Drop all that a restore has put into a namespace, and return how many keys of Redis that were.

    Again, it completes what was interrupted.

    Parameters
    ----------
    whole
        Drop the mark too, last of all, and with it the right to write to the namespace: nothing is left of a drill.
        Otherwise both stay.

    Raises
    ------
    SnapshotError
        No restore's mark lies on the namespace, or not a drill's where `whole` is set.
    FencedOutError
        The run was overtaken.
    """
    mark = await read_mark(mem.link, mem.keys)
    if not mark or (whole and DRILL not in mark):
        raise SnapshotError(
            f"namespace {mem.namespace!r} is no {'drill' if whole else 'restore'}'s, and is not dropped.",
            remedy="Restores and drills mark their namespace before they write to it: run it again.",
        )
    await mem.fence.ensure(token.value)
    for name in await mem.link.execute("FT._LIST"):
        if name.startswith(f"{mem.namespace}:".encode()):
            await mem.link.execute("FT.DROPINDEX", name)
    dropped = await _drop_keys(mem.link, mem.fence, mem.keys, token.value)
    with ledger.transaction(token) as session:
        delete_rows(session, mem.namespace, keep_run=None if whole else token.run_id)
    for path in archive.files(mem.namespace):
        archive.remove(path)
    shutil.rmtree(policies, ignore_errors=True)
    if whole:
        await mem.fence.write([("UNLINK", mem.keys.restoring, mem.keys.fence)], token.value)
        with ledger.transaction() as session:
            delete_fences(session, mem.namespace)
    return dropped


async def _drop_keys(link: RedisLink, fence: Fence, keys: Keys, token: int) -> int:
    """Remove all keys but the fence and the mark."""
    kept = {keys.fence.encode(), keys.restoring.encode()}
    dropped = 0
    cursor = b"0"
    while True:
        cursor, names = await link.execute("SCAN", cursor, "MATCH", f"{keys.namespace}:*", "COUNT", UNLINK_SIZE)
        going = [name for name in names if name not in kept]
        if going:
            await fence.write([("UNLINK", *going)], token)
            dropped += len(going)
        if int(cursor) == 0:
            return dropped
