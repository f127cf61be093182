"""Turn a window's experiences into semantic memory."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from prefect import flow
from pydantic import Field

from flows.parameters import WindowParameters
from tasks.consolidation import archive_window, commit_generation, summarise_patterns, summarise_sequences
from tasks.folding import fold_knowledge
from tasks.publishing import KNOWLEDGE, publish
from tasks.reporting import leave_consolidation_artifact
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
        context, step = TaskContext.of(run), run.steps.step
        with step("archive") as shown:
            parts = archive_window(context)
            shown["states"] = sum(part.states for part in parts)
        with step("cluster") as shown:
            clustered = [
                summarise_patterns.submit(context, part, regime) for part in parts for regime in part.partitions
            ]
            others = [summarise_sequences.submit(context, part) for part in parts]
            found = [future.result() for future in clustered]
            for future in others:
                future.result()
            shown["clusters"] = sum(count["clusters"] for count in found)
        with step("commit"):
            lines = {line: list(group) for line, group in groupby(parts, key=lambda part: part.line)}
            for line_parts in lines.values():
                commit_generation(context, line_parts)
        with step("fold") as shown:
            folded = {line: fold_knowledge(context, line, parameters.refold) for line in lines}
            shown["patterns"] = sum(counts["patterns"] for counts in folded.values())
        with step("publish") as shown:
            for line in lines:
                shown |= publish(context, line, KNOWLEDGE)
        run.result |= {
            "window": window.name,
            "experiences": sum(part.experiences for part in parts),
            "states": sum(part.states for part in parts),
            "clusters": sum(count["clusters"] for count in found),
            "noise_share": sum(count["noise"] for count in found) / max(sum(count["states"] for count in found), 1),
            "lines": folded,
        }
        leave_consolidation_artifact(run.result)
        return run.finished()
