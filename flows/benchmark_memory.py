"""Measure latency, concurrency and recall on real memories."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.benchmark_memory import Parameters
from tasks.benchmark import check_regressions, measure, record_sizes
from tasks.reporting import leave_artifact
from tasks.run_summaries import benchmark_summary
from tasks.runs import ledger_run


@flow(name="benchmark_memory", flow_run_name="benchmark-{parameters.namespace}")
def benchmark_memory(parameters: Parameters | None = None) -> dict[str, Any]:
    """Ask the memory for what is like the window's states, from one client and from many; compare with brute force.

    Its figures are kept, and compared with the median of past runs on the same machine: where one is worse by more
    than the settings allow, the run fails and names it. How much room the memory takes is noted beside.
    """
    parameters = parameters or Parameters()
    window = parameters.window()
    with ledger_run("benchmark_memory", parameters, parameters.namespace, window=window) as run:
        with run.steps.step("sizes") as shown:
            sizes = record_sizes(parameters.namespace, run.run_id, window)
            shown |= {"MB": round(sum(sizes.values()) / 1e6, 1)}
        with run.steps.step("benchmark") as shown:
            figures = measure(parameters.namespace, run.run_id, window, parameters.queries, parameters.agents)
            shown |= {"recall": round(figures["recall"], 4), "queries/s": round(figures["queries_per_s"])}
        run.result |= {"window": window.name, "sizes": sizes, **figures}
        leave_artifact(run, "benchmark", benchmark_summary(run.result))
        check_regressions(parameters.namespace, window, run.finished())
        return run.finished()
