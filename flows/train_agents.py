"""Train a policy on what all agents lived through in some days, weekly."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.train_agents import Parameters
from tasks.recording import was_ever_recorded
from tasks.reporting import leave_artifact, nothing_yet
from tasks.run_summaries import training_summary
from tasks.runs import ledger_run

LOCK = "training"


@flow(name="train_agents", flow_run_name="train-{parameters.namespace}-{parameters.agent_id}")
def train_agents(parameters: Parameters | None = None) -> Any:
    """Share what is good enough, learn a policy for one agent, and note it in the ledger.

    Killed, the same command goes on from the last checkpoint and ends in the same policy; when it has ended, running it
    again finds the policy there. In a new home, where nothing was recorded yet, it completes and says so.
    """
    parameters = parameters or Parameters()
    parameters.check()
    # Needs torch: where that is not installed, the check has said so.
    from tasks.training import Training, train_policy

    window = parameters.window()
    start, end = parameters.span(window.end)
    with ledger_run("train_agents", parameters, parameters.namespace, window=window, lock=LOCK) as run:
        if not was_ever_recorded(parameters.namespace):
            run.result |= {"agent": parameters.agent_id}
            then = "policies learn from what agents lived through"
            return nothing_yet(run, "training", f"Training of {parameters.agent_id}", then)
        settings = parameters.model_dump(
            include={"memory_use", "counterfactual", "batch", "learning_rate", "steps", "max_states", "held_out_hours"}
            | {"publish", "device"}
        )
        seed = run.workspace.settings.seed if parameters.seed is None else parameters.seed
        training = Training(
            namespace=parameters.namespace,
            run_id=run.run_id,
            agent_id=parameters.agent_id,
            start=start,
            end=end,
            source=parameters.source,
            encoder=parameters.encoder,
            settings={**settings, "seed": seed},
        )
        with run.steps.step("train") as shown:
            run.result |= train_policy(training)
            shown |= {"states": run.result["states"], "steps": run.result["steps"]}
        leave_artifact(run, "training", training_summary(parameters.namespace, run.result))
        return run.finished()
