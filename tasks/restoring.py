"""Restoring snapshots: what each step of `restore_memory` and `restore_drill` does; each may be done again.

The mark on the target (`memory.store.unfinished`) is written before anything else, and goes when all was compared. A
restore that was killed is taken up by running it again; of another snapshot's, what is there is dropped first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memory import MemoryConnection
from memory.backup.capture import server_ms
from memory.backup.comparing import compare_answers, compare_redis
from memory.backup.dropping import drop_marked, held_in
from memory.backup.filling import build_indexes, end_restore, fill_archive, fill_policies, fill_redis
from memory.backup.ledger_load import Move, load_tables
from memory.backup.ledger_upgrade import check_revision, upgraded_rows
from memory.backup.manifest import Manifest, check_files, read_manifest
from memory.backup.snapshots import newest_snapshot
from memory.errors import SnapshotError
from memory.ledger import FencingToken
from memory.ledger.migrations import HEAD
from memory.roots import checked_path
from memory.settings import Settings
from memory.store.keys import SCHEMA_VERSION
from memory.store.unfinished import DONE, DRILL, KNOWLEDGE, PLACE, SNAPSHOT, RestoreMark, read_mark, restoring
from tasks.progress import announce, begin
from tasks.projected import of_namespace
from tasks.retry import retried
from tasks.workspace import Workspace, open_workspace

NAMED = 6
"""Things that are named where a target is not empty, or not what it should be."""
BESIDE = "-restored"
LONGEST_NAME = 32
"""Characters of a namespace's name."""


@dataclass(frozen=True, slots=True)
class Restore:
    """A snapshot that is to be restored: small plain values.

    Attributes
    ----------
    run_namespace
        Namespace whose run this is: the target's own, or that of which a drill is held.
    target
        Namespace that it is restored into.
    snapshot
        Folder of the snapshot.
    run_id, token
        The run, and the value of its right to write to the target.
    """

    run_namespace: str
    target: str
    snapshot: str
    run_id: str
    token: int

    @property
    def path(self) -> Path:
        """Folder of the snapshot."""
        return Path(self.snapshot)

    def manifest(self) -> Manifest:
        """What the snapshot holds."""
        return read_manifest(self.path)

    def held(self, workspace: Workspace) -> Workspace:
        """The target, on the servers of a workspace."""
        return workspace if workspace.namespace == self.target else of_namespace(workspace, self.target)

    @property
    def fencing_token(self) -> FencingToken:
        """The right to write to the target."""
        return FencingToken(self.target, self.token, self.run_id)


def policies_of(settings: Settings, namespace: str) -> Path:
    """Folder of a namespace's trained policies."""
    return settings.policies_path / namespace


def snapshot_of(settings: Settings, snapshot: str) -> Path:
    """The folder of a snapshot that a parameter names.

    Raises
    ------
    PathOutsideRootsError
        It lies under none of the folders that the configuration names, the backups' among them.
    """
    path = Path(snapshot).expanduser().absolute()
    if path.is_relative_to(settings.backups_path) and ".." not in path.parts:
        return path
    return checked_path(snapshot, settings, what="parameter snapshot")


def newest_of(settings: Settings, namespace: str) -> Path:
    """The newest snapshot of a namespace; SnapshotError where there is none."""
    return newest_snapshot(settings.backups_path / namespace)


def check_versions(manifest: Manifest, path: Path) -> None:
    """SnapshotError where a snapshot holds what this software does not know, or cannot bring up to date."""
    check_revision(manifest.ledger_schema, manifest.software, path)
    if manifest.record_schema != SCHEMA_VERSION:
        raise SnapshotError(
            f"{path} holds records of layout {manifest.record_schema}, and this software reads {SCHEMA_VERSION}.",
            remedy=f"Restore it with version {manifest.software} of the software.",
        )


def advance_past(run_namespace: str, target: str, manifest: Manifest) -> int:
    """Let the ledger grant higher tokens than any that the snapshot or the target's Redis has seen; returns that one.

    To be called before the right to write is acquired.
    """
    with restoring(target), open_workspace(run_namespace) as workspace:
        held = of_namespace(workspace, target)
        highest = max(manifest.highest_token, held.with_memory(lambda mem: mem.fence.highest()))
        workspace.ledger.fence.advance_past(highest)
        return highest


@retried()
def check_snapshot(restore: Restore) -> dict[str, Any]:
    """Read all files of the snapshot, and compare them with its manifest.

    Raises
    ------
    SnapshotError
        A file is damaged, cut off or missing, or software that is newer wrote it.
    """
    manifest = restore.manifest()
    check_versions(manifest, restore.path)
    check_files(restore.path, manifest, begin)
    return {
        "snapshot": restore.snapshot,
        "source": manifest.namespace,
        "cut": manifest.cut.isoformat(),
        "software": manifest.software,
        "ledger_schema": manifest.ledger_schema,
        "bytes": manifest.bytes,
        "redis": manifest.rows("redis"),
        "ledger": manifest.rows("ledger"),
        "missing": list(manifest.missing),
    }


@retried()
def look_at_target(restore: Restore) -> str:
    """See that the target is empty, or half-restored: ``empty``, ``resumed`` (the same snapshot) or ``other``.

    Raises
    ------
    SnapshotError
        Something else is there; what it is, is named.
    """
    with open_workspace(restore.run_namespace) as workspace:
        held = restore.held(workspace)
        mark = held.with_memory(lambda mem: read_mark(mem.link, mem.keys))
        if mark:
            return "resumed" if mark.get(SNAPSHOT) == restore.manifest().seal else "other"
        policies = policies_of(held.settings, restore.target)
        found = held.with_memory(lambda mem: held_in(mem, held.ledger, held.archive, policies))
        if found:
            raise SnapshotError(
                f"namespace {restore.target!r} is not empty: it has {_first_of(found, ', ')}.",
                remedy="Name a namespace in which there is nothing, such as --namespace "
                f"{restore.target[: LONGEST_NAME - len(BESIDE)]}{BESIDE}.",
            )
        return "empty"


@retried()
def mark_target(restore: Restore, found: str, *, drill: bool = False) -> dict[str, Any]:
    """Mark the target as half-restored, so that nobody takes it for whole; what another snapshot left there goes."""
    manifest = restore.manifest()
    fields = {SNAPSHOT: manifest.seal, PLACE: restore.snapshot} | ({DRILL: "1"} if drill else {})
    with open_workspace(restore.run_namespace) as workspace:
        held = restore.held(workspace)
        if found == "other":
            announce("dropping what the restore of another snapshot left")
            drop_filled(restore, held)

        async def mark(mem: MemoryConnection) -> None:
            await RestoreMark(mem.link, mem.keys, mem.fence, restore.token).begin(fields, anew=found == "other")

        held.with_memory(mark)
    return {"found": found}


def drop_filled(restore: Restore, held: Workspace, *, whole: bool = False) -> int:
    """Drop what a restore has put into its target, and return how many keys of Redis that were; see `drop_marked`."""
    policies = policies_of(held.settings, restore.target)
    drop = partial(
        drop_marked,
        ledger=held.ledger,
        archive=held.archive,
        policies=policies,
        token=restore.fencing_token,
        whole=whole,
    )
    return held.with_memory(lambda mem: drop(mem))


@retried()
def restore_ledger(restore: Restore) -> dict[str, int]:
    """Put the ledger's rows in, in one transaction; those of an older schema are brought up to date before."""
    manifest = restore.manifest()
    with open_workspace(restore.run_namespace) as workspace:
        part = "ledger"
        if _is_done(restore, workspace, part):
            return {"rows": 0}
        move = Move(
            source=manifest.namespace,
            target=restore.target,
            policies_from=manifest.policies,
            policies_to=str(policies_of(workspace.settings, restore.target)),
        )
        files = {manifest.files[path].part.partition("/")[2]: restore.path / path for path in manifest.paths("ledger")}
        with TemporaryDirectory(prefix="coinswarm-ledger-") as folder:
            if manifest.ledger_schema != HEAD:
                announce(f"bringing the ledger's rows from schema {manifest.ledger_schema} to {HEAD}")
                upgraded = upgraded_rows(
                    workspace.ledger, manifest.namespace, manifest.ledger_schema, files, Path(folder), begin
                )
                files = dict(upgraded.files)
                _note(restore, workspace, KNOWLEDGE, upgraded.digest)
            loaded = load_tables(workspace.ledger, restore.fencing_token, move, files, begin)
        _note(restore, workspace, f"{DONE}{part}", "1")
        return {"rows": sum(loaded.values())}


@retried()
def restore_files(restore: Restore) -> dict[str, int]:
    """Put the files of the archive and the trained policies in."""
    with open_workspace(restore.run_namespace) as workspace:
        counts = fill_archive(workspace.ledger, workspace.archive, restore.target, restore.path, begin)
        into = policies_of(workspace.settings, restore.target)
        return counts | {"policies": fill_policies(into, restore.path, restore.manifest())}


@retried()
def restore_keys(restore: Restore) -> dict[str, int]:
    """Put in what lies in Redis, file by file; files that are in are passed over."""
    manifest = restore.manifest()
    with open_workspace(restore.run_namespace) as workspace:
        held = restore.held(workspace)
        return held.with_memory(lambda mem: fill_redis(mem, restore.token, restore.path, manifest, begin))


@retried()
def restore_indexes(restore: Restore) -> dict[str, int]:
    """Build the indexes, and wait until they hold everything."""
    with open_workspace(restore.run_namespace) as workspace:
        return {
            "indexes": restore.held(workspace).with_memory(lambda mem: build_indexes(mem, restore.token, begin)),
        }


@retried()
def compare_restored(restore: Restore) -> dict[str, Any]:
    """Compare what was restored with the snapshot: digests, every key of Redis, and the answers to a few searches.

    Raises
    ------
    SnapshotError
        Something differs; the namespace stays marked as half-restored.
    """
    manifest = restore.manifest()
    differences: list[str] = []
    with open_workspace(restore.run_namespace) as workspace:
        held = restore.held(workspace)
        mark = held.with_memory(lambda mem: read_mark(mem.link, mem.keys))
        ledger_digest = workspace.ledger.digest(restore.target).digest
        if ledger_digest != mark.get(KNOWLEDGE, manifest.ledger_digest):
            differences.append("the knowledge in the ledger")

        async def compare(mem: MemoryConnection) -> int:
            now_ms = await server_ms(mem.link)
            if await mem.semantic.digest() != manifest.semantic_digest:
                differences.append("the knowledge in Redis")
            differences.extend(await compare_redis(mem, restore.path, manifest, now_ms, begin))
            sample = await compare_answers(mem, restore.path, manifest, now_ms, begin)
            differences.extend(sample.differences)
            return sample.questions

        questions = held.with_memory(compare)
    if differences:
        raise SnapshotError(
            f"what was restored differs from the snapshot: {_first_of(differences, '; ')}.",
            remedy="Look whether anything else writes to the namespace; then restore again, or use another snapshot.",
        )
    return {
        "ledger_digest": ledger_digest,
        "semantic_digest": manifest.semantic_digest,
        "searches": questions,
    }


@retried()
def end(restore: Restore) -> None:
    """Take the mark away: from now on it is a memory like any other."""
    with open_workspace(restore.run_namespace) as workspace:
        restore.held(workspace).with_memory(lambda mem: end_restore(mem, restore.token))


def _is_done(restore: Restore, workspace: Workspace, part: str) -> bool:
    mark = restore.held(workspace).with_memory(lambda mem: read_mark(mem.link, mem.keys))
    return f"{DONE}{part}" in mark


def _note(restore: Restore, workspace: Workspace, field: str, value: str) -> None:
    async def note(mem: MemoryConnection) -> None:
        await RestoreMark(mem.link, mem.keys, mem.fence, restore.token).note(field, value)

    restore.held(workspace).with_memory(note)


def _first_of(found: Sequence[str], between: str) -> str:
    """Some things in words, the first of them by name."""
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return between.join(found[:NAMED]) + more
