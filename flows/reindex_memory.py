"""Change how experiences are indexed, or what they are encoded with, while they are used."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.reindex_memory import Parameters
from tasks.reindexing import (
    Change,
    abandon_changes,
    begin_change,
    build_index,
    clean_records,
    fill_index,
    plan_changes,
    retire_index,
    swap_index,
    wait_for_clients,
)
from tasks.reporting import leave_artifact
from tasks.run_summaries import reindexing_summary
from tasks.runs import LedgerRun, ledger_run


@flow(name="reindex_memory", flow_run_name="reindex-{parameters.namespace}")
def reindex_memory(parameters: Parameters | None = None) -> dict[str, Any]:
    """Build the index anew beside the old one, swap it in, and remove the old one; without a moment of downtime.

    A run that was stopped is taken up where it was, and running it again changes nothing, except that a new encoder
    catches up with what was recorded in the old one since.
    """
    parameters = parameters or Parameters()
    with ledger_run("reindex_memory", parameters, parameters.namespace, writes=True) as run:
        token = run.fencing_token.value
        if parameters.abandon:
            with run.steps.step("abandon"):
                run.result |= {"changes": [], "abandoned": abandon_changes(parameters.namespace, token)}
        else:
            with run.steps.step("plan"):
                changes = plan_changes(
                    parameters.namespace,
                    token,
                    parameters.encoder,
                    parameters.layout,
                    parameters.algorithm,
                    parameters.vector_type,
                )
            found = [_carry_out(run, change, parameters) for change in changes]
            done = [item for item in found if item is not None]
            run.result |= {
                "indexed_anew": len(done),
                "given_a_vector": sum(item["converted"] for item in done),
                "refused": sum(sum(item["refused"].values()) for item in done),
                "changes": done,
                "abandoned": [],
            }
        leave_artifact(run, "reindexing", reindexing_summary(run.result))
        return run.finished()


def _carry_out(run: LedgerRun, change: Change, parameters: Parameters) -> dict[str, Any] | None:
    """One change, step by step; None where there is nothing to change."""
    with run.steps.step("begin") as shown:
        begun = begin_change(change)
        if begun is None:
            return None
        shown |= begun
    with run.steps.step("fill") as shown:
        filled = fill_index(change)
        shown |= {"experiences": filled["experiences"], "given a vector": filled["converted"]}
    with run.steps.step("build") as shown:
        shown |= build_index(change)
    with run.steps.step("swap"):
        swapped = swap_index(change)
    remove_old = parameters.remove_old if parameters.remove_old is not None else change.successor_id is None
    if remove_old:
        wait_for_clients(run, parameters.grace_s)
        with run.steps.step("drop the old index"):
            retire_index(change)
        wait_for_clients(run, parameters.grace_s)
        with run.steps.step("remove the old vectors"):
            clean_records(change)
    return {
        "of": change.family,
        "change": begun["change"],
        **filled,
        **swapped,
        "removed_old": remove_old,
        "knowledge": knowledge_of(change),
    }


def knowledge_of(change: Change) -> str:
    """What becomes of semantic memory, in a sentence."""
    if change.successor_id is None:
        return "Semantic memory stays as it is."
    return (
        f"Patterns of {change.successor_id} are a knowledge line of their own: `coinswarm run start_line` learns them "
        "from the archive and lets them take over; until then those of the old encoder are all there are."
    )
