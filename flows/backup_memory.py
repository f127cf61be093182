"""Write a snapshot of a whole memory, while agents go on recording."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.backup_memory import Parameters
from memory.settings import Settings
from tasks.backing_up import (
    INBOX,
    Backup,
    begin_snapshot,
    drop_old_snapshots,
    seal_snapshot,
    snapshots_of,
    verify_snapshot,
    write_archived,
    write_at_cut,
    write_before,
    write_keys,
    write_ledger_rows,
    write_policy_files,
)
from tasks.backup_summaries import backup_summary
from tasks.reporting import leave_artifact
from tasks.runs import holding_also, ledger_run


@flow(name="backup_memory", flow_run_name="backup-{parameters.namespace}")
def backup_memory(parameters: Parameters | None = None) -> dict[str, Any]:
    """Write all that a memory holds, in Redis, ledger, archive and policies, as of one time; keep the newest few.

    No run that learns or forgets can be under way meanwhile; agents record and ask as ever. What they record after the
    cut is not in it. A run that was killed is taken up where it was, unless another run has held the memory since.
    """
    parameters = parameters or Parameters()
    namespace = parameters.namespace
    folder = snapshots_of(Settings(namespace=namespace), namespace, parameters.to)
    with ledger_run("backup_memory", parameters, namespace, writes=True) as run:
        token = run.fencing_token
        backup = Backup(namespace, run.run_id, token.value, str(folder))
        step = run.steps.step
        with step("begin") as shown:
            shown |= begin_snapshot(backup, token.previous)
            run.result |= {"resumed": shown["resumed"]}
        with step("read counters and mailboxes") as shown:
            shown |= write_before(backup)
        with holding_also(run, "backup_memory", f"{namespace}/{INBOX}"), step("take the cut, read streams") as shown:
            shown |= write_at_cut(backup)
        with step("read the ledger") as shown:
            shown |= write_ledger_rows(backup)
        with step("read memories") as shown:
            shown |= write_keys(backup)
        with step("copy the archive") as shown:
            shown |= write_archived(backup)
        with step("copy policies") as shown:
            shown |= write_policy_files(backup)
        with step("seal"):
            run.result |= seal_snapshot(backup)
        with step("verify") as shown:
            shown |= verify_snapshot(run.result["snapshot"])
        with step("drop old snapshots") as shown:
            keep = run.workspace.settings.backup_keep if parameters.keep is None else parameters.keep
            run.result |= {"dropped": drop_old_snapshots(backup, keep, run.result["snapshot"])}
            shown |= {"dropped": len(run.result["dropped"])}
        leave_artifact(run, "backup", backup_summary(run.result))
        return run.finished()
