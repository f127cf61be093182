"""Measure latency, concurrency and recall on real memories."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.benchmark_memory import Parameters
from tasks.benchmark import measure
from tasks.reporting import leave_benchmark_artifact
from tasks.runs import ledger_run


@flow(name="benchmark_memory", flow_run_name="benchmark-{parameters.namespace}")
def benchmark_memory(parameters: Parameters | None = None) -> dict[str, Any]:
    """Ask the memory for what is like the window's states, from one client and from many; compare with brute force."""
    parameters = parameters or Parameters()
    window = parameters.window()
    with ledger_run("benchmark_memory", parameters, parameters.namespace, window=window) as run:
        with run.steps.step("benchmark") as shown:
            figures = measure(parameters.namespace, run.run_id, window, parameters.queries, parameters.agents)
            shown |= {"recall": round(figures["recall"], 4), "queries/s": round(figures["queries_per_s"])}
        run.result |= {"window": window.name, **figures}
        leave_benchmark_artifact(run.result)
        return run.finished()
