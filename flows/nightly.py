"""The nightly job: drain, consolidate, transitions, prune, benchmark, report."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.benchmark_memory import benchmark_memory
from flows.consolidate_memories import consolidate_memories
from flows.forms.benchmark_memory import Parameters as BenchmarkParameters
from flows.forms.consolidate_memories import Parameters as ConsolidateParameters
from flows.forms.nightly import Parameters
from flows.forms.prune_memories import Parameters as PruneParameters
from flows.forms.record_experiences import Parameters as RecordParameters
from flows.forms.update_transitions import Parameters as TransitionParameters
from flows.prune_memories import prune_memories
from flows.record_experiences import record_experiences
from flows.update_transitions import update_transitions
from memory.errors import BenchmarkRegressionError
from tasks.recording import was_ever_recorded
from tasks.reporting import completed, nightly_result, nothing_yet, write_nightly_report
from tasks.runner import configured_task_runner
from tasks.runs import ledger_run


@flow(name="nightly", flow_run_name="nightly-{parameters.namespace}", task_runner=configured_task_runner())
def nightly(parameters: Parameters | None = None) -> Any:
    """Everything that one night needs. Running it again changes nothing unless experiences came in since.

    A night in a new home, where nothing was recorded yet, completes and says so. Once anything was, a window in which
    nobody lived fails: something that records has stopped.

    Retrieval that became slower fails the run of `benchmark_memory`, and not the night: its report and the message of
    its state name the figures.
    """
    parameters = parameters or Parameters()
    parameters.check()
    window = parameters.window()
    where: dict[str, Any] = {"namespace": parameters.namespace, "date": window.start.date()}
    with ledger_run("nightly", parameters, parameters.namespace, window=window) as run:
        step = run.steps.step
        with step("record"):
            market = parameters.model_dump(include={"market", "products", "encoder"})
            recorded = record_experiences(RecordParameters(**where, **market, source=parameters.source))
        if parameters.source == "inbox" and not was_ever_recorded(parameters.namespace):
            run.result |= {"window": window.name, "experiences": 0, "recording": recorded}
            return nothing_yet(
                run,
                "nightly",
                f"Night of {window.name}",
                "nights learn once agents have, or with --param source=market",
            )
        with step("consolidate"):
            consolidated = consolidate_memories(ConsolidateParameters(**where))
        with step("update transitions"):
            transitions = update_transitions(TransitionParameters(**where))
        with step("prune"):
            pruned = prune_memories(PruneParameters(**where))
        with step("benchmark") as shown:
            try:
                measured = benchmark_memory(BenchmarkParameters(**where, queries=parameters.queries))
            except BenchmarkRegressionError as regression:
                # The night's knowledge is published, and none of it would get better by running it again.
                measured = regression.figures
                shown["regressions"] = len(regression.regressions)
        run.result |= nightly_result(recorded, consolidated, transitions, pruned, measured)
        run.result |= {name: found for name, found in consolidated.items() if name.startswith("windows_")}
        with step("report"):
            run.report_path = write_nightly_report(parameters.namespace, run.run_id, window, run.finished())
        run.result["report"] = run.report_path
        result = run.finished()
    return completed(result, result["benchmark"]["regressions"])
