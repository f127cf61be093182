"""Forget what is old and archived; list what the fold pruned and why."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.prune_memories import Parameters
from tasks.folding import lines_of
from tasks.pruning import forget_experiences, forget_shared, list_pruned, preview_pruned
from tasks.reporting import leave_artifact
from tasks.run_summaries import pruning_summary
from tasks.runs import TaskContext, ledger_run


@flow(name="prune_memories", flow_run_name="prune-{parameters.namespace}")
def prune_memories(parameters: Parameters | None = None) -> dict[str, Any]:
    """Remove experiences past their retention whose window is archived, and shared ones past theirs.

    Ages count from the window's end. Patterns and strategies are pruned by the fold itself; this flow lists its
    decisions for the window. The dry run is the same without the last step: of a window that was not consolidated yet,
    it says what the fold would let go of what is known before.
    """
    parameters = parameters or Parameters()
    window = parameters.window()
    with ledger_run("prune_memories", parameters, parameters.namespace, window=window, writes=True) as run:
        context = TaskContext.of(run)
        if not parameters.dry_run:
            lines_of(context)  # Ages count from a window that is known: never from a date that nothing was learned of.
        with run.steps.step("prune") as shown:
            decisions = preview_pruned(context) if parameters.dry_run else list_pruned(context)
            removed = {
                **forget_experiences(context, parameters.dry_run),
                **forget_shared(context, parameters.dry_run),
            }
            what = "that would go" if parameters.dry_run else "gone"
            shown |= {
                f"patterns and strategies {what}": len(decisions["pruned"]),
                f"experiences {what}": removed["forgotten_experiences"],
                f"shared {what}": removed["forgotten_shared"],
            }
        run.result |= {"window": window.name, "dry_run": parameters.dry_run, **decisions, **removed}
        leave_artifact(run, "pruning", pruning_summary(run.result))
        return run.finished()
