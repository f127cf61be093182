"""Turn a window's experiences into semantic memory."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from prefect import flow
from pydantic import Field

from flows.parameters import WindowParameters
from tasks.consolidation import archive_window, commit_generation, summarise_patterns, summarise_sequences
from tasks.folding import fold_line, publish_line
from tasks.runs import TaskContext, ledger_run


class Parameters(WindowParameters):
    """What to consolidate."""

    refold: bool = Field(
        default=False, description="Fold all windows again, although nothing changed since the last fold."
    )


@flow(name="consolidate_memories", flow_run_name="consolidate-{parameters.namespace}")
def consolidate_memories(parameters: Parameters | None = None) -> dict[str, Any]:
    """Archive a window, cluster its states, fold what was found into the patterns, and publish.

    Running it again changes nothing unless experiences came in since; a run that stopped half way is taken up where it
    stopped.
    """
    parameters = parameters or Parameters()
    window = parameters.window()
    with ledger_run("consolidate_memories", parameters, parameters.namespace, window=window, writes=True) as run:
        context = TaskContext.of(run)
        with run.steps.step("archive") as shown:
            parts = archive_window(context)
            shown |= {"states": sum(part.states for part in parts)}
        with run.steps.step("cluster") as shown:
            found = [
                summarise_patterns.submit(context, part, regime) for part in parts for regime in part.partitions
            ]
            sequences = [summarise_sequences.submit(context, part) for part in parts]
            counts = [future.result() for future in found]
            for future in sequences:
                future.result()
            shown |= {"clusters": sum(count["clusters"] for count in counts)}
        with run.steps.step("commit"):
            for _, line_parts in groupby(parts, key=lambda part: part.line):
                commit_generation(context, list(line_parts), {})
        with run.steps.step("fold") as shown:
            folded = [fold_line(context, line, parameters.refold) for line in sorted({part.line for part in parts})]
            shown |= {"patterns": sum(fold["patterns_current"] for fold in folded)}
        with run.steps.step("publish"):
            published = [publish_line(context, line) for line in sorted({part.line for part in parts})]
        run.result |= {
            "window": window.name,
            "experiences": sum(part.experiences for part in parts),
            "states": sum(part.states for part in parts),
            "clusters": sum(count["clusters"] for count in counts),
            "noise_share": sum(count["noise"] for count in counts) / max(sum(count["states"] for count in counts), 1),
            "lines": {fold["line"]: fold for fold in folded},
            "published": published,
        }
        return {**run.result, "seconds": run.steps.seconds, "run_id": run.run_id}
