"""Restore a snapshot into an empty namespace, on whatever servers are configured."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.restore_memory import Parameters
from memory.backup.manifest import read_manifest
from memory.settings import Settings
from memory.store.unfinished import restoring
from tasks.backup_summaries import restore_summary
from tasks.reporting import leave_artifact
from tasks.restoring import (
    Restore,
    advance_past,
    check_snapshot,
    check_versions,
    compare_restored,
    end,
    look_at_target,
    mark_target,
    restore_files,
    restore_indexes,
    restore_keys,
    restore_ledger,
    snapshot_of,
)
from tasks.runs import LedgerRun, ledger_run


@flow(name="restore_memory", flow_run_name="restore-{parameters.label}")
def restore_memory(parameters: Parameters) -> dict[str, Any]:
    """Put a snapshot back, compare every key and digest with it, and only then let anybody in.

    It goes into the namespace that it is of, or into one of another name, on whatever servers are configured. A restore
    that was killed is taken up by running it again; until it ends, connecting to the namespace is refused.
    """
    path = snapshot_of(Settings(), parameters.snapshot)
    manifest = read_manifest(path)
    check_versions(manifest, path)
    target = parameters.namespace or manifest.namespace
    parameters = parameters.model_copy(update={"namespace": target})
    with restoring(target):
        # A memory that is there is refused before a run in it is noted: nothing of its own has failed.
        look_at_target(Restore(target, target, str(path), "", 0))
        if not parameters.dry_run:
            advance_past(target, target, manifest)
        with ledger_run("restore_memory", parameters, target, writes=not parameters.dry_run) as run:
            token = 0 if parameters.dry_run else run.fencing_token.value
            restore = Restore(target, target, str(path), run.run_id, token)
            step = run.steps.step
            with step("look at the namespace") as shown:
                found = look_at_target(restore)
                shown |= {"found": found}
            with step("verify the snapshot"):
                run.result |= {"into": target, "dry_run": parameters.dry_run, **check_snapshot(restore)}
            if parameters.dry_run:
                leave_artifact(run, "restore", restore_summary(run.result, "It could be restored; nothing was changed"))
                return run.finished()
            fill(run, restore, found)
            with step("end"):
                end(restore)
            title = f"The snapshot was restored into {target}, and is equal to it"
            leave_artifact(run, "restore", restore_summary(run.result, title))
            return run.finished()


def fill(run: LedgerRun, restore: Restore, found: str, *, drill: bool = False) -> None:
    """All steps from an empty namespace to one that was compared with the snapshot, and is still marked."""
    step = run.steps.step
    with step("mark the namespace") as shown:
        shown |= mark_target(restore, found, drill=drill)
        run.result |= {"resumed": found == "resumed"}
    with step("restore the ledger") as shown:
        shown |= restore_ledger(restore)
    with step("restore files") as shown:
        shown |= restore_files(restore)
    with step("restore memories") as shown:
        shown |= restore_keys(restore)
        run.result |= {"expired": shown["expired"]}
    with step("build indexes") as shown:
        shown |= restore_indexes(restore)
    with step("compare"):
        run.result |= compare_restored(restore)
