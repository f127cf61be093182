"""Count how regimes follow one another, and what each looks like."""

from __future__ import annotations

from typing import Any

from prefect import flow
from pydantic import Field

from flows.parameters import WindowParameters
from tasks.folding import fold_dynamics, lines_of
from tasks.publishing import DYNAMICS, publish
from tasks.reporting import leave_transition_artifact
from tasks.runs import TaskContext, ledger_run


class Parameters(WindowParameters):
    """Which window to count."""

    refold: bool = Field(default=False, description="Fold all windows again, although nothing changed.")


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
            counted = sum(fold_dynamics(context, line, parameters.refold) for line in lines)
            shown["changes of regime"] = counted
        with run.steps.step("publish regimes") as shown:
            for line in lines:
                shown |= publish(context, line, DYNAMICS)
        run.result |= {"window": window.name, "transitions": counted}
        leave_transition_artifact(context, lines)
        return run.finished()
