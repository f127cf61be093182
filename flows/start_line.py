"""Learn everything again with a new encoder or algorithm, and let that take over in one step."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms.start_line import Parameters
from flows.rebuild_memory import in_utc
from memory.errors import ArchiveError, SealedWindowError, WindowError
from memory.window import Window
from tasks.folding import fold_dynamics
from tasks.groups import DYNAMICS, KNOWLEDGE
from tasks.lines import LinePlan, begin_line, encode_window, find_missing, plan_line
from tasks.publishing import publish
from tasks.reporting import leave_artifact
from tasks.retry import may_pass
from tasks.run_summaries import line_summary
from tasks.runner import configured_task_runner
from tasks.runs import LedgerRun, TaskContext, holding, ledger_run
from tasks.taking_over import take_over
from tasks.window_steps import commit_window, consolidate_window, fold_lines, summarise_parts


@flow(name="start_line", flow_run_name="line-{parameters.namespace}", task_runner=configured_task_runner())
def start_line(parameters: Parameters | None = None) -> dict[str, Any]:
    """Re-consolidate all archived windows into a new knowledge line while agents read the old one; then switch.

    Windows are learned some at a time (the setting `backfill_chunk`), between which other runs may pass: the nightly
    run keeps the old line complete. The line takes over when it lacks no window that can still be learned, in one step:
    every answer is wholly of one line. Killed anywhere, the same command goes on where it stopped.
    """
    parameters = parameters or Parameters()
    namespace = parameters.namespace
    plan = plan_line(namespace, parameters.encoder, parameters.of)
    left_out: dict[str, str] = {}
    states_left_out = learned = 0
    with ledger_run("start_line", parameters, namespace, window=plan.newest) as run:
        chunk, complete = run.workspace.settings.backfill_chunk, False
        while not complete:
            with holding(run, "start_line") as context:
                begin_line(context, plan)
                missing = find_missing(context, plan)
                left_out |= {window.name: "before its encoder" for window in missing.too_early}
                todo = [window for window in missing.windows if window.name not in left_out]
                for window in todo[:chunk]:
                    with run.steps.step("learn") as shown:
                        shown["window"] = window.name
                        problem, without = _learn(context, plan, window)
                        states_left_out += without
                        if problem is None:
                            learned += 1
                        else:
                            left_out[window.name] = problem
                # The last windows are folded before anybody else may add one.
                complete = len(todo) <= chunk
                if complete:
                    run.result |= _finish(context, run, plan, parameters)
        run.result |= {
            "line": plan.line,
            "before": plan.before,
            "windows_learned": learned,
            "windows_left_out": left_out,
            "states_without_features": states_left_out,
        }
        leave_artifact(run, "line", line_summary(run.result))
        return run.finished()


def _learn(context: TaskContext, plan: LinePlan, window: Window) -> tuple[str | None, int]:
    """Learn one window; why it cannot be learned (None where it was), and states that could not be encoded."""
    try:
        if plan.encoder is None:
            consolidate_window(context, window)
            return None, 0
        parts, without = encode_window(context, plan, window)
        if not parts:
            return "no state has the features that the encoder needs", without
        summarise_parts(context, window, parts)
        commit_window(context, parts)
        return None, without
    except (SealedWindowError, WindowError) as error:
        return error.message, 0
    except ArchiveError as error:
        if may_pass(error):
            raise
        return error.message, 0


def _finish(context: TaskContext, run: LedgerRun, plan: LinePlan, parameters: Parameters) -> dict[str, Any]:
    """Fold and publish the line, which nobody reads yet, and let it take over."""
    with run.steps.step("fold") as shown:
        counts = fold_lines(context, [plan.line])[plan.line]
        fold_dynamics(context, plan.line)
        shown["patterns"] = counts["patterns"]
    with run.steps.step("publish"):
        for what in (KNOWLEDGE, DYNAMICS):
            publish(context, plan.line, what)
    result: dict[str, Any] = {"patterns": counts["patterns"], "took_over": False}
    if parameters.take_over:
        with run.steps.step("take over") as shown:
            current_from = None if parameters.current_from is None else in_utc(parameters.current_from)
            shown |= take_over(context, plan, current_from)
            result |= {"took_over": True, **shown}
    return result
