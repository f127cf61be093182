"""The namespaces that drills restore into: dropped as a drill ends, or after one that was killed by who comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memory import MemoryConnection
from memory.errors import AccessDeniedError, NamespaceBusyError
from memory.store.keys import Keys, drill_namespace
from memory.store.unfinished import DRILL, read_mark, restoring
from tasks.progress import announce
from tasks.restoring import Restore, drop_filled
from tasks.retry import retried
from tasks.workspace import Workspace, open_workspace


@retried()
def drop_restored(restore: Restore) -> int:
    """Drop a drill's namespace wholly; returns how many keys of Redis that were."""
    with open_workspace(restore.run_namespace) as workspace:
        return drop_filled(restore, restore.held(workspace), whole=True)


def left_by_drills(workspace: Workspace) -> list[str]:
    """Namespaces that a killed drill of a memory has filled and not dropped; none while a drill is under way."""
    scratch = drill_namespace(workspace.namespace)
    holder = workspace.ledger.fence.holder(scratch)
    is_under_way = holder is not None and not (holder.released or holder.expired)
    return [] if is_under_way or not _is_marked(workspace, scratch) else [scratch]


def _is_marked(workspace: Workspace, scratch: str) -> bool:
    """Whether a drill has begun to fill a namespace, and has not dropped it."""

    async def marked(mem: MemoryConnection) -> bool:
        try:
            return DRILL in await read_mark(mem.link, Keys(scratch))
        except AccessDeniedError:
            return False  # Who has no rights there has held no drill.

    return workspace.with_memory(marked)


def drop_left_by_drills(workspace: Workspace, run_id: str, names: Sequence[str]) -> int:
    """Drop what `left_by_drills` named, and return how many namespaces; one that a drill has taken up since is its own.

    Parameters
    ----------
    run_id
        The run that drops; it holds each of the namespaces meanwhile.
    """
    dropped = 0
    for scratch in names:
        ledger, lease_s = workspace.ledger, workspace.settings.lease_s
        restore = Restore(workspace.namespace, scratch, "", run_id, 0)
        with restoring(scratch):
            # Tokens have to be above what Redis has seen there, wherever this ledger comes from.
            ledger.fence.advance_past(restore.held(workspace).with_memory(lambda mem: mem.fence.highest()))
        try:
            token = ledger.fence.acquire(scratch, run_id, flow="janitor", lease_s=lease_s)
        except NamespaceBusyError as error:
            announce(error.message)
            continue
        try:
            if _is_marked(workspace, scratch):  # Else a drill came and went since.
                with ledger.keep_alive(run_id, lease_s, token), restoring(scratch):
                    held = restore.held(workspace)
                    held.raise_fence(token)
                    drop_filled(replace(restore, token=token.value), held, whole=True)
                dropped += 1
        finally:
            ledger.fence.release(token)
    return dropped
