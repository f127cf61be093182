"""Consolidate a range of dates: windows in any order, some at once; fold and publish once, at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from prefect import flow

from flows.forms.backfill import Parameters
from memory.ledger.fence import POLL_S
from tasks.backfill_plan import PlannedWindow, plan_backfill
from tasks.backfilling import Chunk, Replay, Tally
from tasks.folding import fold_dynamics
from tasks.groups import DYNAMICS, KNOWLEDGE
from tasks.lateness import lines_to_fold
from tasks.markets import open_encoder, open_market
from tasks.progress import announce
from tasks.publishing import publish
from tasks.reporting import leave_artifact
from tasks.run_summaries import backfill_summary
from tasks.runner import configured_task_runner
from tasks.runs import LedgerRun, TaskContext, holding, ledger_run
from tasks.taking_over import finish_take_over
from tasks.window_steps import fold_lines

PAUSE_S = 2 * POLL_S
"""Between chunks: whoever waits for the namespace looks at least once meanwhile, and finds it free."""
HELD_SHARE = 0.5
"""Of the time that a run waits for the namespace: longer than that no chunk goes on beginning windows."""


@flow(name="backfill", flow_run_name="backfill-{parameters.namespace}", task_runner=configured_task_runner())
def backfill(parameters: Parameters) -> dict[str, Any]:
    """Consolidate all windows of a range that are not, then fold and publish once.

    Windows are consolidated in chunks (the settings `backfill_chunk` and `lock_wait_s` bound them), between which
    another run, such as the nightly one, may pass. A window without data is counted and no error; one that fails is
    reported in the end, after what the others brought was published. Killed anywhere, the same command goes on where
    it stopped; the knowledge in the end is that of nights run one by one. Where a run was killed while a new line took
    over, that is completed too.
    """
    parameters.check()
    windows = parameters.windows()
    with ledger_run("backfill", parameters, parameters.namespace, window=windows[-1]) as run:
        step, settings = run.steps.step, run.workspace.settings
        with step("plan") as shown:
            market = open_market(parameters.market_name, parameters.products) if parameters.record else None
            if market is not None:
                # A bad one is refused here, not a night.
                open_encoder(parameters.encoder, parameters.market_name, settings)
            plan = plan_backfill(run.workspace, windows, market)
            due = [planned for planned in plan if planned.is_due]
            shown |= {"windows": len(plan), "to consolidate": len(due)}
        run.result |= {
            "first": windows[0].name,
            "last": windows[-1].name,
            "dry_run": parameters.dry_run,
            "to_consolidate": len(due),
        }
        if parameters.dry_run:
            run.result["windows"] = _shown(plan)
            leave_artifact(run, "backfill", backfill_summary(run.result))
            return run.finished()
        tally = Tally(len(plan))
        tally.skip(plan)
        tally.show()
        _consolidate(run, deque(due), parameters, tally)
        run.result |= tally.result()
        run.result |= _fold(run)
        leave_artifact(run, "backfill", backfill_summary(run.result))
        tally.check()
        return run.finished()


def _shown(plan: Sequence[PlannedWindow]) -> list[dict[str, str]]:
    """Announce what would be done; the same as rows."""
    for planned in plan:
        announce(f"{planned.window.name}: {planned.describe()}")
    return [{"window": planned.window.name, "plan": planned.describe()} for planned in plan]


def _consolidate(run: LedgerRun, queue: deque[PlannedWindow], parameters: Parameters, tally: Tally) -> None:
    """Consolidate the windows of the queue, chunk by chunk, and hold the namespace for each chunk alone."""
    settings = run.workspace.settings
    chunk = Chunk(
        windows=settings.backfill_chunk,
        seconds=HELD_SHARE * settings.lock_wait_s if settings.lock_wait_s else None,
        parallel=min(parameters.parallel or settings.task_workers, settings.task_workers),
    )
    products = None if parameters.products is None else tuple(parameters.products)
    replay = Replay(parameters.market_name, products, parameters.encoder)
    while queue:
        with holding(run, "backfill") as context, run.steps.step("consolidate") as shown:
            with closing(chunk.run(context, queue, replay)) as outcomes:
                for outcome in outcomes:
                    tally.add(outcome)
                    run.steps.check()
            shown["windows left"] = len(queue)
        if queue:
            time.sleep(PAUSE_S)


def _fold(run: LedgerRun) -> dict[str, Any]:
    """Fold and publish all lines, once; also what a run that was killed had consolidated."""
    with holding(run, "backfill") as context:
        with run.steps.step("fold") as shown:
            lines = lines_to_fold(context)
            folded = fold_lines(context, lines)
            for line in lines:
                fold_dynamics(context, line)
            shown["patterns"] = sum(counts["patterns"] for counts in folded.values())
        with run.steps.step("publish") as shown:
            shown |= _publish(context, lines)
            taken_over = finish_take_over(context)
    return {
        "patterns": sum(counts["patterns"] for counts in folded.values()),
        "windows_folded": sum(counts["windows_folded"] for counts in folded.values()),
        "lines_taken_over": taken_over,
        "lines": folded,
    }


def _publish(context: TaskContext, lines: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in lines:
        for what in (KNOWLEDGE, DYNAMICS):
            for name, count in publish(context, line, what).items():
                counts[name] = counts.get(name, 0) + count
    return counts
