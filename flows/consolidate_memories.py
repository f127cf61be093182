"""Turn a window's experiences into semantic memory."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.consolidate_memories import Parameters
from memory.errors import SealedWindowError
from memory.window import Window
from tasks.consolidation import archive_window
from tasks.groups import KNOWLEDGE
from tasks.lateness import find_outdated, lines_to_fold
from tasks.publishing import publish
from tasks.reporting import leave_artifact
from tasks.run_summaries import consolidation_summary
from tasks.runner import configured_task_runner
from tasks.runs import LedgerRun, TaskContext, ledger_run
from tasks.taking_over import finish_take_over
from tasks.window_steps import commit_window, consolidate_window, fold_lines, summarise_parts


@flow(
    name="consolidate_memories",
    flow_run_name="consolidate-{parameters.namespace}",
    task_runner=configured_task_runner(),
)
def consolidate_memories(parameters: Parameters | None = None) -> dict[str, Any]:
    """Archive a window, cluster its states, fold what was found into the patterns, and publish.

    Running it again changes nothing unless experiences came in since; a run that stopped half way is taken up where it
    stopped. Earlier windows that late records or a change of settings made out of date are consolidated again first.
    Where a run was killed while a new line took over, that is completed too.
    """
    parameters = parameters or Parameters()
    window = parameters.window()
    with ledger_run("consolidate_memories", parameters, parameters.namespace, window=window, writes=True) as run:
        context, step = TaskContext.of(run), run.steps.step
        with step("archive") as shown:
            parts = archive_window(context, window)
            shown["states"] = sum(part.states for part in parts)
        with step("cluster") as shown:
            own = summarise_parts(context, window, parts)
            shown["clusters"] = own.clusters
        with step("commit"):
            commit_window(context, parts)
        again = _consolidate_outdated(context, run)
        with step("fold") as shown:
            folded = fold_lines(context, lines_to_fold(context), parameters.refold)
            shown["patterns"] = sum(counts["patterns"] for counts in folded.values())
        with step("publish") as shown:
            for line in folded:
                for name, count in publish(context, line, KNOWLEDGE).items():
                    shown[name] = shown.get(name, 0) + count
            taken_over = finish_take_over(context)
        run.result |= {
            "window": window.name,
            "experiences": own.experiences,
            "states": own.states,
            "clusters": own.clusters,
            "noise_share": own.noise / max(own.states, 1),
            **again,
            "lines_taken_over": taken_over,
            "lines": {line: folded[line] for line in own.lines},
        }
        leave_artifact(run, "consolidation", consolidation_summary(context, run.result))
        return run.finished()


def _consolidate_outdated(context: TaskContext, run: LedgerRun) -> dict[str, list[str]]:
    """Consolidate again what is out of date beside the run's window; names of windows, by what became of them."""
    with run.steps.step("look for late records") as shown:
        outdated = find_outdated(context)
        shown |= {"windows again": len(outdated.again), "waiting": len(outdated.waiting)}
    again, sealed = [], {window.name for window in outdated.sealed}
    for window in outdated.again:
        with run.steps.step("windows again") as shown:
            shown["window"] = window.name
            if _is_consolidated(context, window):
                again.append(window.name)
            else:
                sealed.add(window.name)
                shown["sealed"] = True
    return {
        "windows_again": again,
        "windows_waiting": [window.name for window in outdated.waiting],
        "windows_sealed": sorted(sealed),
    }


def _is_consolidated(context: TaskContext, window: Window) -> bool:
    """Consolidate a window again; False where its input is no longer to be had, which the ledger notes."""
    try:
        consolidate_window(context, window)
    except SealedWindowError:
        return False
    return True
