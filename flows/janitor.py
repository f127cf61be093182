"""Remove what nothing needs any more: knowledge, and all that it is rebuilt from, stays."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows import FLOWS
from flows.forms.janitor import Parameters
from memory.keeping.expired import Expired
from memory.settings import Settings
from tasks.janitor import collect_expired, drop_expired
from tasks.reporting import leave_artifact
from tasks.run_summaries import janitor_summary
from tasks.runs import LedgerRun, ledger_run


@flow(name="janitor", flow_run_name="janitor-{parameters.namespace}")
def janitor(parameters: Parameters | None = None) -> dict[str, Any]:
    """Collect what expired by the settings `keep_...`, then drop it; the dry run is the same without the last step.

    It holds the namespace while it drops, so that two never meet, and neither meets a night. Killed anywhere, the next
    one removes the rest. No digest of the knowledge changes.
    """
    parameters = parameters or Parameters()
    with ledger_run("janitor", parameters, parameters.namespace, writes=not parameters.dry_run) as run:
        with run.steps.step("collect") as shown:
            now = dt.datetime.now(dt.UTC)
            found = collect_expired(parameters.namespace, list(FLOWS), now, Settings().namespace)
            shown["expired"] = sum(len(expired.items) for expired in found)
        dropped = {} if parameters.dry_run else _drop(run, found)
        run.result |= {
            "dry_run": parameters.dry_run,
            "expired": [{**expired.as_dict(), "dropped": dropped.get(expired.what, 0)} for expired in found],
            "number": sum(len(expired.items) for expired in found),
            "bytes": sum(expired.size_bytes or 0 for expired in found),
            "dropped": sum(dropped.values()),
        }
        leave_artifact(run, "janitor", janitor_summary(run.result, dropped))
        return run.finished()


def _drop(run: LedgerRun, found: Sequence[Expired]) -> dict[str, int]:
    """Drop what was collected, sort by sort; how much of each there still was."""
    dropped = {}
    for expired in found:
        with run.steps.step(f"drop {expired.what}") as shown:
            dropped[expired.what] = drop_expired(run.fencing_token, expired)
            shown["dropped"] = dropped[expired.what]
    return dropped
