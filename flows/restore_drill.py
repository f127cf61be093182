"""Prove that the newest snapshot can be restored: into a namespace of its own, which is dropped again."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.restore_drill import Parameters
from flows.restore_memory import fill
from memory.backup.manifest import read_manifest
from memory.settings import Settings
from memory.store.keys import drill_namespace
from memory.store.unfinished import restoring
from tasks.backup_summaries import restore_summary
from tasks.projected import of_namespace
from tasks.reporting import leave_artifact
from tasks.restoring import (
    Restore,
    advance_past,
    check_snapshot,
    drop_restored,
    look_at_target,
    newest_of,
    snapshot_of,
)
from tasks.runs import holding_also, ledger_run


@flow(name="restore_drill", flow_run_name="drill-{parameters.namespace}")
def restore_drill(parameters: Parameters | None = None) -> dict[str, Any]:
    """Restore a snapshot beside the memory, compare it key by key, note how long that took, and drop it wholly.

    The memory itself is neither read nor held. What a drill left that was killed is dropped by the next one.
    """
    parameters = parameters or Parameters()
    namespace, settings = parameters.namespace, Settings(namespace=parameters.namespace)
    path = newest_of(settings, namespace) if parameters.snapshot is None else snapshot_of(settings, parameters.snapshot)
    manifest, target = read_manifest(path), drill_namespace(namespace)
    with restoring(target), ledger_run("restore_drill", parameters, namespace) as run:
        advance_past(namespace, target, manifest)
        with holding_also(run, "restore_drill", target) as token:
            of_namespace(run.workspace, target).raise_fence(token)
            restore = Restore(namespace, target, str(path), run.run_id, token.value)
            step = run.steps.step
            with step("verify the snapshot"):
                run.result |= check_snapshot(restore)
            with step("look at the namespace") as shown:
                found = look_at_target(restore)
                shown |= {"found": found}
            # Half of an earlier drill proves nothing about how long a whole one takes.
            fill(run, restore, "empty" if found == "empty" else "other", drill=True)
            with step("drop the namespace") as shown:
                shown |= {"keys": drop_restored(restore)}
        run.result |= {"restored_in_s": round(sum(run.steps.seconds.values()), 3)}
        leave_artifact(run, "drill", restore_summary(run.result, "The snapshot was restored, compared and dropped"))
        return run.finished()
