"""Restore semantic memory from the ledger: in place, or as of a time into a namespace of its own."""

from __future__ import annotations

import datetime as dt
from typing import Any

from prefect import flow

from flows.forms.rebuild_memory import Parameters
from tasks.groups import PUBLISHED
from tasks.publishing import publish
from tasks.rebuilding import (
    Rebuilding,
    advance_fence,
    compare_rebuilt,
    publish_lines,
    restore_encoders,
    right_to,
    settle_lines,
)
from tasks.reporting import leave_artifact
from tasks.run_summaries import rebuilding_summary
from tasks.runs import LedgerRun, TaskContext, ledger_run
from tasks.verification import DIFFERENT, SAME


@flow(name="rebuild_memory", flow_run_name="rebuild-{parameters.namespace}")
def rebuild_memory(parameters: Parameters | None = None) -> dict[str, Any]:
    """Publish all that the ledger knows again, restore encoders and current lines, and compare the result.

    For a Redis that was lost, emptied, damaged or restored from an older state. Access counters and experiences stay
    as they are. Running it again changes nothing; killed anywhere, it is completed by running it again.
    """
    parameters = parameters or Parameters()
    namespace, target = parameters.namespace, parameters.into or parameters.namespace
    advance_fence(namespace, target)
    # The ledger stands still while it is read: the source is held even where it is not written to.
    with (
        ledger_run("rebuild_memory", parameters, namespace, writes=True) as run,
        right_to(run, target, "rebuild_memory") as token,
    ):
        as_of = None if parameters.as_of is None else in_utc(parameters.as_of)
        lines = None if parameters.lines is None else tuple(parameters.lines)
        rebuilding = Rebuilding(namespace, target, token, as_of, lines)
        step = run.steps.step
        with step("encoders") as shown:
            shown |= restore_encoders(rebuilding)
            run.result |= shown
        with step("publish") as shown:
            shown |= publish_lines(rebuilding)
            run.result |= shown
        if lines is None or rebuilding.elsewhere:
            with step("lines") as shown:
                shown |= settle_lines(rebuilding)
                run.result |= shown
        if as_of is None and not rebuilding.elsewhere:
            with step("note what is published"):
                _note_published(run, lines)
        with step("compare") as shown:
            compared = compare_rebuilt(rebuilding, parameters.limit)
            shown["differences"] = compared["differences"]
        run.result |= {
            "into": target,
            "as_of": None if as_of is None else as_of.isoformat(),
            "status": DIFFERENT if compared["differences"] else SAME,
            **compared,
        }
        leave_artifact(run, "rebuild", rebuilding_summary(run.result))
        return run.finished()


def in_utc(time: dt.datetime) -> dt.datetime:
    """A time given without its zone is UTC's."""
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def _note_published(run: LedgerRun, lines: tuple[str, ...] | None) -> None:
    """Bring the ledger's notes on what Redis holds up to date; nothing is sent where they are."""
    ledger = run.workspace.ledger
    for record in ledger.lines.list(run.workspace.namespace):
        windows = ledger.windows.with_current(record.line)
        if windows and (lines is None or record.line in lines):
            context = TaskContext.of(run, window=windows[-1][0])
            for what in PUBLISHED:
                publish(context, record.line, what)
