"""Writing snapshots: what each step of `backup_memory` does, and where it goes on after a kill.

Every step finds what is there already: parts that are whole are kept as long as nobody else has held the namespace
since, and Redis is in the same life; else the snapshot is begun anew, with a cut of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory import MemoryConnection
from memory.backup.capture import cut_now
from memory.backup.keyspace import AFTER, AT, BEFORE, Section
from memory.backup.manifest import Manifest, check_files, read_manifest, sealed, software_version
from memory.backup.snapshots import Partial, Progress, drop_old, list_snapshots, set_aside, written_to
from memory.backup.writing import (
    LEDGER_DIGEST,
    SEMANTIC_DIGEST,
    part_of,
    write_archive,
    write_ledger,
    write_policies,
    write_section,
    write_streams,
)
from memory.errors import SnapshotError
from memory.roots import checked_path
from memory.settings import Settings
from memory.store.keys import SCHEMA_VERSION
from tasks.progress import announce, begin
from tasks.retry import retried
from tasks.workspace import Workspace, open_workspace

INBOX = "inbox"
"""The part of a namespace that a drain holds: while it is held, nothing leaves an inbox."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A snapshot that is to be written: small plain values.

    Attributes
    ----------
    namespace
        Name of the memory.
    run_id, token
        The run, and the value of its right to write to the namespace.
    folder
        Of the memory's snapshots.
    """

    namespace: str
    run_id: str
    token: int
    folder: str

    def partial(self) -> Partial:
        """The snapshot under way, which an earlier step began."""
        found = Partial.find(Path(self.folder))
        if found is None or found.progress.token != self.token:
            raise SnapshotError(
                f"the snapshot under way in {self.folder} is not the one that this run began.",
                remedy="Start the backup again, and let one write to a folder at a time.",
            )
        return found


def snapshots_of(settings: Settings, namespace: str, to: str | None) -> Path:
    """Folder of a memory's snapshots: in the one that is named, or in that of the settings.

    Raises
    ------
    PathOutsideRootsError
        The folder that is named lies under none of those that the configuration names.
    """
    root = settings.backups_path if to is None else checked_path(to, settings, what="parameter to", writing=True)
    return root / namespace


@retried()
def begin_snapshot(backup: Backup, held_before: int) -> dict[str, Any]:
    """Take up the snapshot that a run left which was killed, or begin anew.

    Parameters
    ----------
    held_before
        Token of whoever held the namespace before this run (`FencingToken.previous`): what lies there goes on only
        where that one wrote it.
    """
    folder = Path(backup.folder)
    with open_workspace(backup.namespace) as workspace:
        knowledge = workspace.ledger.digest(backup.namespace).digest
        life = workspace.with_memory(lambda mem: mem.link.server_life())
        partial = Partial.find(folder)
        if partial is not None and _goes_on(partial, backup, held_before, life, knowledge):
            kept = partial.keep_whole_files()
            if all(partial.is_done(part_of(section)) for section in (*BEFORE, *AT)):
                partial.progress.token = backup.token
                partial.save()
                announce(f"going on with the snapshot of {partial.progress.cut_ms}: {kept} files are whole")
                return {"resumed": True, "files": kept}
        Partial.begin(folder, Progress(namespace=backup.namespace, life=life, token=backup.token, knowledge=knowledge))
        return {"resumed": False, "files": 0}


def _goes_on(partial: Partial, backup: Backup, held_before: int, life: str, knowledge: str) -> bool:
    """Whether what a run left is of the memory as it still is, but for what agents recorded since."""
    progress = partial.progress
    mine = progress.token == backup.token  # This task is tried again.
    return (
        progress.namespace == backup.namespace
        and (mine or progress.token == held_before)
        and bool(life)
        and (progress.life, progress.knowledge) == (life, knowledge)
    )


@retried()
def write_before(backup: Backup) -> dict[str, int]:
    """Write what does not say when it was written: it is read before the cut."""
    return _sections(backup, BEFORE)


@retried()
def write_at_cut(backup: Backup) -> dict[str, int]:
    """Take the cut, and write the streams as of it. To be called while nothing is drained from the inboxes."""
    partial = backup.partial()
    with open_workspace(backup.namespace) as workspace, written_to(backup.folder):

        async def write(mem: MemoryConnection) -> dict[str, int]:
            if not all(partial.is_done(part_of(section)) for section in AT):
                partial.progress.cut_ms = await cut_now(mem.link)
                partial.save()
            return {str(section): await write_streams(mem.link, mem.keys, partial, section, begin) for section in AT}

        return workspace.with_memory(write)


@retried()
def write_ledger_rows(backup: Backup) -> dict[str, int]:
    """Write the ledger's rows as of one moment. Right after the cut: the namespace is held, so knowledge stands still.

    Raises
    ------
    SnapshotError
        Knowledge has changed since the snapshot was begun.
    """
    partial = backup.partial()
    with open_workspace(backup.namespace) as workspace, written_to(backup.folder):
        rows = write_ledger(workspace.ledger, backup.namespace, partial, begin)
        if partial.progress.facts[LEDGER_DIGEST] != partial.progress.knowledge:
            raise SnapshotError(
                f"the knowledge of {backup.namespace!r} changed while the snapshot was written.",
                remedy="Something wrote to the ledger without holding the namespace; start the backup again.",
            )
        return {"rows": rows}


@retried()
def write_keys(backup: Backup) -> dict[str, int]:
    """Write what lies in Redis up to the cut, in small steps."""
    counts = _sections(backup, [section for section in AFTER if section is not Section.OTHER])
    partial = backup.partial()
    with open_workspace(backup.namespace) as workspace, written_to(backup.folder):

        async def rest(mem: MemoryConnection) -> int:
            # Whoever registers an encoder holds nothing: what the digest is of must be what was read.
            while partial.progress.facts.get(SEMANTIC_DIGEST) != (digest := await mem.semantic.digest()):
                partial.forget(part_of(Section.ENCODERS))
                await write_section(mem.link, mem.keys, partial, Section.ENCODERS)
                partial.progress.facts[SEMANTIC_DIGEST] = digest
                partial.save()
            return await write_streams(mem.link, mem.keys, partial, Section.OTHER, begin)

        return counts | {str(Section.OTHER): workspace.with_memory(rest)}


@retried()
def write_archived(backup: Backup) -> dict[str, int]:
    """Write the files of the archive that the ledger names; those that the snapshot before has are linked."""
    partial = backup.partial()
    before = [item for item in list_snapshots(Path(backup.folder)) if item.manifest is not None][-1:]
    known = [(item.path, item.manifest.files) for item in before if item.manifest is not None]
    with open_workspace(backup.namespace) as workspace, written_to(backup.folder):
        files = write_archive(
            workspace.ledger, workspace.archive, backup.namespace, partial, known[0] if known else None, begin
        )
        return {"files": files, "missing": len(partial.progress.missing)}


@retried()
def write_policy_files(backup: Backup) -> dict[str, int]:
    """Write the trained policies."""
    with open_workspace(backup.namespace) as workspace, written_to(backup.folder):
        return {"files": write_policies(_policies(workspace), backup.partial(), begin)}


def _policies(workspace: Workspace) -> Path:
    return workspace.settings.policies_path / workspace.namespace


@retried()
def seal_snapshot(backup: Backup) -> dict[str, Any]:
    """Write the manifest, and give the snapshot its name; returns where it lies and what it holds."""
    folder = Path(backup.folder)
    partial = Partial.find(folder)
    for item in list_snapshots(folder) if partial is None else ():
        if item.manifest is not None and item.manifest.highest_token == backup.token:
            return _told(item.path, item.manifest)  # This task is tried again.
    partial = backup.partial()
    with open_workspace(backup.namespace) as workspace, written_to(backup.folder):
        highest = workspace.with_memory(lambda mem: mem.fence.highest())
        revision = workspace.ledger.schema_revision or ""
        progress = partial.progress
        manifest = Manifest(
            format=progress.format,
            software=software_version(),
            ledger_schema=revision,
            record_schema=SCHEMA_VERSION,
            namespace=backup.namespace,
            cut_ms=progress.cut_ms,
            highest_token=max(highest, backup.token),
            files=dict(sorted(progress.files.items())),
            ledger_digest=progress.facts[LEDGER_DIGEST],
            semantic_digest=progress.facts[SEMANTIC_DIGEST],
            policies=str(_policies(workspace)),
            missing=progress.missing,
        )
    manifest = sealed(manifest)
    with written_to(backup.folder):
        return _told(partial.commit(manifest), manifest)


def _told(path: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "snapshot": str(path),
        "cut": manifest.cut.isoformat(),
        "bytes": manifest.bytes,
        "files": len(manifest.files),
        "redis": manifest.rows("redis"),
        "ledger": manifest.rows("ledger"),
        "missing": list(manifest.missing),
        "ledger_digest": manifest.ledger_digest,
        "semantic_digest": manifest.semantic_digest,
    }


@retried()
def verify_snapshot(snapshot: str) -> dict[str, int]:
    """Read a snapshot's files back, and compare them with what was written.

    Raises
    ------
    SnapshotError
        One is not what was written: the disk is failing. The snapshot loses its name, and stays beside the others.
    """
    path = Path(snapshot)
    try:
        manifest = read_manifest(path)
        return {"files": len(manifest.files), "bytes": check_files(path, manifest, begin)}
    except SnapshotError as error:
        aside = set_aside(path)
        raise SnapshotError(
            f"the snapshot could not be read back ({error.message}); it lies at {aside}.",
            remedy="Check the disk; older snapshots were kept. Then write another: coinswarm backup.",
        ) from error


@retried()
def drop_old_snapshots(backup: Backup, keep: int, written: str) -> list[str]:
    """Drop all but the newest `keep` snapshots, `written` among them, which was verified just now; returns which."""
    return [path.name for path in drop_old(Path(backup.folder), keep, Path(written))]


def _sections(backup: Backup, sections: Sequence[Section]) -> dict[str, int]:
    partial = backup.partial()
    with open_workspace(backup.namespace) as workspace, written_to(backup.folder):

        async def write(mem: MemoryConnection) -> dict[str, int]:
            return {
                str(section): await write_section(mem.link, mem.keys, partial, section, begin) for section in sections
            }

        return workspace.with_memory(write)


def describe_snapshots(folder: Path) -> list[dict[str, Any]]:
    """The snapshots of a memory for people and programs, newest first."""
    found = []
    for item in reversed(list_snapshots(folder)):
        if item.manifest is None:
            found.append({"snapshot": str(item.path), "problem": item.problem})
        else:
            found.append({**_told(item.path, item.manifest), "software": item.manifest.software})
    return found
