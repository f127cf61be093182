"""Compare what agents are told with what the ledger says, and name every difference."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.verify_memory import Parameters
from flows.rebuild_memory import in_utc
from tasks.reporting import leave_artifact
from tasks.run_summaries import verification_summary
from tasks.runs import ledger_run
from tasks.verification import verify


@flow(name="verify_memory", flow_run_name="verify-{parameters.namespace}")
def verify_memory(parameters: Parameters | None = None) -> dict[str, Any]:
    """Compare semantic memory in Redis, field by field, with the projection of the ledger; writes nothing to either.

    Also looked at: whether folds and publications follow from the newest generations, and whether the archive holds
    what the ledger notes. What runs that died left behind is counted beside, as information. While another run writes
    there is nothing to compare: it fails, naming that run.
    """
    parameters = parameters or Parameters()
    with ledger_run("verify_memory", parameters, parameters.namespace) as run:
        with run.steps.step("verify") as shown:
            run.result |= verify(
                parameters.namespace,
                digest=parameters.digest,
                as_of=None if parameters.as_of is None else in_utc(parameters.as_of),
                into=parameters.into,
                limit=parameters.limit,
            )
            shown["differences"] = run.result["differences"]
        title = f"Memory is {run.result['status']}"
        leave_artifact(run, "verification", verification_summary(title, run.result))
        return run.finished()
