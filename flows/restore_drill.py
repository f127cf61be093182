"""Prove that the newest snapshot can be restored: into a namespace of its own, which is dropped again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prefect import flow

from flows.forms.restore_drill import Parameters
from flows.restore_memory import fill
from memory.backup.manifest import read_manifest
from memory.errors import CoinswarmError
from memory.secrets import mask
from memory.settings import Settings
from memory.store.keys import drill_namespace
from memory.store.unfinished import restoring
from tasks.backup_summaries import drill_failure, restore_summary
from tasks.drills import drop_restored
from tasks.progress import announce
from tasks.projected import of_namespace
from tasks.reporting import leave_artifact
from tasks.restoring import (
    Restore,
    advance_past,
    check_snapshot,
    check_versions,
    look_at_target,
    newest_of,
    snapshot_of,
)
from tasks.runs import LedgerRun, holding_also, ledger_run

NOT_BEGUN = "Nothing had been restored."


@flow(name="restore_drill", flow_run_name="drill-{parameters.namespace}")
def restore_drill(parameters: Parameters | None = None) -> dict[str, Any]:
    """Restore a snapshot beside the memory, compare it key by key, note how long that took, and drop it wholly.

    The memory itself is neither read nor held. A drill that fails drops what it restored, too, and leaves word of what
    it found; what one left that was killed is dropped by the next one, or by the janitor.
    """
    parameters = parameters or Parameters()
    namespace, settings = parameters.namespace, Settings(namespace=parameters.namespace)
    path = newest_of(settings, namespace) if parameters.snapshot is None else snapshot_of(settings, parameters.snapshot)
    manifest, target = read_manifest(path), drill_namespace(namespace)
    check_versions(manifest, path)
    with restoring(target), ledger_run("restore_drill", parameters, namespace) as run:
        restore = Restore(namespace, target, str(path), run.run_id, 0)
        step = run.steps.step
        with _told(run, restore), step("verify the snapshot"):
            run.result |= check_snapshot(restore)
        advance_past(namespace, target, manifest)
        with holding_also(run, "restore_drill", target) as token:
            of_namespace(run.workspace, target).raise_fence(token)
            restore = replace(restore, token=token.value)
            with step("look at the namespace") as shown:
                found = look_at_target(restore)
                shown |= {"found": found}
            with _told(run, restore, filled=True):
                # Half of an earlier drill proves nothing about how long a whole one takes.
                fill(run, restore, "empty" if found == "empty" else "other", drill=True)
            with step("drop the namespace") as shown:
                shown |= {"keys": drop_restored(restore)}
        run.result |= {"restored_in_s": round(sum(run.steps.seconds.values()), 3)}
        leave_artifact(run, "drill", restore_summary(run.result, "The snapshot was restored, compared and dropped"))
        return run.finished()


@contextmanager
def _told(run: LedgerRun, restore: Restore, *, filled: bool = False) -> Iterator[None]:
    """Where the block fails: drop what it has restored, and leave word of why in the UI; the ledger notes it too.

    A drill that is told to end, ends: dropping a large memory would take longer than it is given.
    """
    try:
        yield
    except Exception as error:
        left = _dropped(run, restore) if filled else NOT_BEGUN
        summary = drill_failure(restore.snapshot, restore.manifest().cut.isoformat(), mask(str(error)), left)
        leave_artifact(run, "drill", summary)
        raise


def _dropped(run: LedgerRun, restore: Restore) -> str | None:
    """Drop what a drill that failed has restored; why it is still there, where that is so."""
    try:
        with run.steps.step("drop the namespace") as shown:
            shown |= {"keys": drop_restored(restore)}
    except CoinswarmError as hindrance:
        left = f"What the drill restored is still there ({mask(hindrance.message)}): the next drill drops it, or the "
        left += "janitor (coinswarm janitor --apply)."
        announce(left)
        return left
    return None
