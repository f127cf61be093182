"""Does memory help: the walk-forward evaluation of all contestants, weekly, and its report."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.evaluate_agents import Parameters
from tasks.evaluation import do_jobs, plan_evaluation, plan_text, write_evaluation_report
from tasks.progress import announce
from tasks.runs import ledger_run


@flow(name="evaluate_agents", flow_run_name="evaluate-{parameters.namespace}")
def evaluate_agents(parameters: Parameters | None = None) -> dict[str, Any]:
    """Evaluate policies with and without memory, controls, rules and agents on market history; writes no memory.

    Results are staged as they come under a key of all that they follow from: killed anywhere, the same command goes on
    where it stopped.
    """
    parameters = parameters or Parameters()
    parameters.check()
    with ledger_run("evaluate_agents", parameters, parameters.namespace) as run:
        step = run.steps.step
        with step("plan") as shown:
            evaluation = plan_evaluation(run.workspace.settings, **parameters.model_dump(exclude={"namespace"}))
            announce(plan_text(evaluation))
            if evaluation.looks:
                announce(f"the held-out span was looked at {evaluation.looks} time(s) before, otherwise than now")
            shown["key"] = evaluation.plan.key
        plan = evaluation.plan
        for name, jobs in (
            ("prepare", plan.prepare_jobs()),
            ("agents and rules", plan.fixed_jobs()),
            ("policies", plan.policy_jobs()),
        ):
            with step(name) as shown:
                shown |= do_jobs(evaluation, jobs, name)
        with step("report"):
            path, result = write_evaluation_report(evaluation, run.run_id)
        run.report_path = path
        run.result |= {
            "market": evaluation.market,
            "folds": [fold.name for fold in plan.folds],
            "final": evaluation.final,
            "looks_before": evaluation.looks,
            "key": plan.key,
            **result,
            "report": path,
        }
        return run.finished()
