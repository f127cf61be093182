"""Turn a window's experiences into semantic memory."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from prefect import flow
from pydantic import Field

from flows.parameters import WindowParameters
from tasks.consolidation import (
    archive_window,
    commit_generation,
    find_outdated,
    summarise_patterns,
    summarise_sequences,
)
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
    stopped. Earlier windows that late records or a change of settings made out of date are consolidated again first.
    """
    parameters = parameters or Parameters()
    window = parameters.window()
    with ledger_run("consolidate_memories", parameters, parameters.namespace, window=window, writes=True) as run:
        context, step = TaskContext.of(run), run.steps.step
        with step("archive") as shown:
            own = archive_window(context, window)
            lines = sorted({part.line for part in own})
            outdated = find_outdated(context, lines)
            others = [part for each in outdated for part in archive_window(context, each) if part.line in lines]
            parts = [*own, *others]
            shown |= {"states": sum(part.states for part in own), "windows again": len(outdated)}
        with step("cluster") as shown:
            clustered = [
                summarise_patterns.submit(context, part, regime) for part in parts for regime in part.partitions
            ]
            sequences = [summarise_sequences.submit(context, part) for part in parts]
            counted = [future.result() for future in clustered]
            for future in sequences:
                future.result()
            found = counted[: sum(len(part.partitions) for part in own)]
            shown["clusters"] = sum(count["clusters"] for count in found)
        with step("commit"):
            for _, group in groupby(parts, key=lambda part: (part.window, part.line)):
                commit_generation(context, list(group))
        with step("fold") as shown:
            folded = {line: fold_knowledge(context, line, parameters.refold) for line in lines}
            shown["patterns"] = sum(counts["patterns"] for counts in folded.values())
        with step("publish") as shown:
            for line in lines:
                shown |= publish(context, line, KNOWLEDGE)
        run.result |= {
            "window": window.name,
            "experiences": sum(part.experiences for part in own),
            "states": sum(part.states for part in own),
            "clusters": sum(count["clusters"] for count in found),
            "noise_share": sum(count["noise"] for count in found) / max(sum(count["states"] for count in found), 1),
            "windows_again": [each.name for each in outdated],
            "lines": folded,
        }
        leave_consolidation_artifact(run.result)
        return run.finished()
