"""Count how regimes follow one another, and what each looks like."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.update_transitions import Parameters
from tasks.folding import fold_dynamics, lines_of
from tasks.groups import DYNAMICS
from tasks.lateness import lines_to_fold
from tasks.publishing import publish
from tasks.reporting import leave_artifact
from tasks.run_summaries import transitions_summary
from tasks.runs import TaskContext, ledger_run


@flow(name="update_transitions", flow_run_name="transitions-{parameters.namespace}")
def update_transitions(parameters: Parameters | None = None) -> dict[str, Any]:
    """Fold the transitions of a consolidated window into what is known of the regimes, and publish.

    The only writer of transitions and REGIME memories: agents announce regime changes, this flow counts them.
    """
    parameters = parameters or Parameters()
    window = parameters.window()
    with ledger_run("update_transitions", parameters, parameters.namespace, window=window, writes=True) as run:
        context = TaskContext.of(run)
        lines = lines_of(context)
        with run.steps.step("transitions") as shown:
            jumps = {line: fold_dynamics(context, line, parameters.refold) for line in lines_to_fold(context)}
            counted = sum(jumps.values())
            shown["changes of regime"] = counted
        with run.steps.step("publish regimes") as shown:
            for line in jumps:
                for name, count in publish(context, line, DYNAMICS).items():
                    shown[name] = shown.get(name, 0) + count
        run.result |= {"window": window.name, "transitions": counted}
        leave_artifact(run, "transitions", transitions_summary(context, lines, run.result))
        return run.finished()
