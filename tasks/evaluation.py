"""Evaluating whether memory helps: jobs in some processes, staged as they end, and the report."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from threadpoolctl import threadpool_limits

from agents.evaluation.assembly import Assembly
from agents.evaluation.folds import (
    FINAL_START,
    HISTORY_START,
    LEAST_TEST_DAYS,
    Fold,
    days,
    is_conclusive,
    months,
    walk_forward,
)
from agents.evaluation.jobs import Job, Plan, Workshop
from agents.evaluation.reporting import report_of
from agents.evaluation.settings import default_settings, sample_settings, short_settings
from agents.market import Market
from memory.records import to_ms
from memory.reporting.artifacts import Table, artifact_key, shown, table_cells, table_title
from memory.reporting.evaluation import evaluation_markdown, evaluation_rows, write_evaluation
from memory.reporting.evaluation_data import EvaluationReport, GainRow
from memory.settings import Settings
from tasks.markets import FIRST_TEST_MONTH, SAMPLE_MARKET, open_evaluated, open_market
from tasks.progress import announce, begin
from tasks.reporting import report_link
from tasks.retry import retried
from tasks.worker_processes import worker_processes
from tasks.workspace import open_workspace

SHORT_FIRST_TEST = datetime(2021, 6, 14, tzinfo=UTC)
SAMPLE_FIRST_TEST = datetime(2021, 6, 20, tzinfo=UTC)
SHORT_TEST_DAYS, SHORT_FOLDS = 1, 2
SAMPLE_TEST_DAYS, SAMPLE_FOLDS = 5, 4
MOST_WORKERS = 8
"""Processes where none are asked for: each holds some gigabytes."""
SECONDS_A_STEP = 0.0065
"""Of one gradient step of 256 transitions on one core; what memory steadies takes about twice that."""
SECONDS_A_DAY = 0.55
"""Of preparing a fold at all its intervals, by days of its past and test span."""
_BAR = 24


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation, as plain values.

    Attributes
    ----------
    namespace
        Whose home holds what is staged, and the report.
    market, products
        As `open_market` takes them.
    plan
        Folds, settings, and where results are staged.
    workers
        Processes; 1 works in the run's own.
    final, short
        As the flow's parameters say.
    looks
        Earlier looks at the held-out span, of a final evaluation.
    """

    namespace: str
    market: str
    products: tuple[str, ...] | None
    plan: Plan
    workers: int
    final: bool
    short: bool
    looks: int

    @property
    def conclusive(self) -> bool:
        """Whether there are enough folds of enough days; the held-out span has three of them by design."""
        folds = self.plan.folds
        return is_conclusive(folds) or (self.final and all(fold.test_days >= LEAST_TEST_DAYS for fold in folds))


def plan_evaluation(
    settings: Settings,
    *,
    market: str | None,
    products: Sequence[str] | None,
    short: bool,
    final: bool,
    whole_grid: bool,
    folds: int,
    seeds: int,
    steps: int | None,
    workers: int | None,
) -> Evaluation:
    """Choose market, folds and settings.

    Raises
    ------
    MarketDataError
        No such market, or one that does not hold the spans.
    """
    name, opened, historic = open_evaluated(settings, market, products, short=short, final=final)
    if short:
        chosen = short_settings()
        first = SHORT_FIRST_TEST if name == SAMPLE_MARKET else _later(opened.span[0], 4)
        start, edges = _midnight(first) - timedelta(days=3), days(first, SHORT_FOLDS, SHORT_TEST_DAYS)
    elif historic:
        chosen = default_settings(whole_grid=whole_grid)
        start = HISTORY_START
        edges = months(FINAL_START, 3) if final else months(FIRST_TEST_MONTH, folds)
    else:
        chosen = sample_settings()
        first = SAMPLE_FIRST_TEST if name == SAMPLE_MARKET else _later(opened.span[0], 10)
        start, edges = opened.span[0], days(first, min(folds, SAMPLE_FOLDS), SAMPLE_TEST_DAYS)
    if not short:
        chosen = replace(chosen, seeds=tuple(range(seeds)))
    chosen = chosen if steps is None else replace(chosen, steps=steps)
    parts = walk_forward(start, edges, embargo_minutes=chosen.embargo_minutes, purge_minutes=chosen.purge_minutes)
    folder = settings.home / "evaluation"
    plan = Plan.of(_until(opened, parts), parts, chosen, folder)
    return Evaluation(
        namespace=settings.namespace,
        market=name,
        products=None if products is None else tuple(products),
        plan=plan,
        workers=workers or (1 if short else min(os.cpu_count() or 1, MOST_WORKERS)),
        final=final,
        short=short,
        looks=_count_look(folder, plan.key) if final else 0,
    )


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _later(first: datetime, days_later: int) -> datetime:
    return _midnight(first) + timedelta(days=days_later)


def _until(market: Market, folds: Sequence[Fold]) -> Market:
    """The market's candles up to the end of the last test span: none after it is even read."""
    start, end = to_ms(folds[0].start), to_ms(max(fold.test_end for fold in folds))
    lead_ms = 86_400_000
    return Market(market.name, [candles.between(start - lead_ms, end) for candles in market.products.values()])


def _count_look(folder: Path, key: str) -> int:
    """Note a look at the held-out span; how many there were before. The same evaluation again is the same look."""
    path = folder / "looks.json"
    looks: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    earlier = len([known for known in looks if known != key])
    if key not in looks:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**looks, key: datetime.now(UTC).isoformat()}))
    return earlier


# --- work ------------------------------------------------------------------------------------------------------


def plan_text(evaluation: Evaluation) -> str:
    """What will be done, and about how long it takes."""
    plan, settings = evaluation.plan, evaluation.plan.settings
    trainings = settings.trainings(len(plan.folds))
    share = settings.batch / 256
    seconds = SECONDS_A_DAY * sum((fold.test_end - fold.start) / timedelta(days=1) for fold in plan.folds)
    seconds += trainings * settings.steps * SECONDS_A_STEP * share * 1.15
    spans = ", ".join(f"{fold.test_start:%Y-%m-%d} to {fold.test_end:%Y-%m-%d}" for fold in plan.folds)
    return (
        f"{evaluation.market}: test spans {spans}; {trainings} trainings of {settings.steps} steps (about "
        f"{settings.steps * SECONDS_A_STEP * share:.1f} s each), {len(settings.cells)} cells, "
        f"{len(settings.seeds)} seeds; about {max(seconds / evaluation.workers / 60, 0.1):.1f} minutes in "
        f"{evaluation.workers} process(es), if the processors are free"
    )


@retried()
def do_jobs(evaluation: Evaluation, jobs: Sequence[Job], what: str) -> dict[str, int]:
    """Do jobs that are not staged yet; results lie in the plan's folder, so a retry goes on where it was.

    Told to end, it ends at once: what the jobs under way did since they staged something last is lost.

    Returns
    -------
    Jobs, and how many of them were found staged: where all are, no process is started and no market read.
    """
    begun = time.perf_counter()
    to_do = [job for job in jobs if not evaluation.plan.is_done(job)]
    found = len(jobs) - len(to_do)
    # Closed here, and not when a traceback lets go of it: its processes must not outlive a run that is broken off.
    with threadpool_limits(limits=1), closing(_results(evaluation, to_do)) as results:
        for number, _ in enumerate(results, found + 1):
            spent = time.perf_counter() - begun
            filled = round(_BAR * number / len(jobs))
            left = spent / (number - found) * (len(jobs) - number)
            told = f"{number} of {len(jobs)}, about {left / 60:.0f} min left"
            begin(f"{what} [{'#' * filled}{'.' * (_BAR - filled)}] {told}")
            if number in {len(jobs) // 4, len(jobs) // 2, 3 * len(jobs) // 4}:
                announce(f"{what}: {told}")
    return {"jobs": len(jobs), "found": found}


def _results(evaluation: Evaluation, jobs: Sequence[Job]) -> Generator[Job]:
    """Jobs as they end; nothing is opened or started for none."""
    if not jobs:
        return
    if evaluation.workers == 1:
        workshop = Workshop(_open(evaluation), evaluation.plan)
        for job in jobs:
            workshop.do(job)
            yield job
        return
    with worker_processes(min(evaluation.workers, len(jobs)), _start_worker, evaluation) as pool:
        futures: dict[Future[None], Job] = {pool.submit(_do, job): job for job in jobs}
        for future in as_completed(futures):
            future.result()
            yield futures[future]


_WORKSHOPS: list[Workshop] = []
"""The workshop of a worker process."""


def _start_worker(evaluation: Evaluation) -> None:
    threadpool_limits(limits=1)
    _WORKSHOPS.append(Workshop(_open(evaluation), evaluation.plan))


def _do(job: Job) -> None:
    _WORKSHOPS[-1].do(job)


def _open(evaluation: Evaluation) -> Market:
    return _until(open_market(evaluation.market, evaluation.products), evaluation.plan.folds)


# --- report ----------------------------------------------------------------------------------------------------


@retried()
def write_evaluation_report(evaluation: Evaluation, run_id: str) -> tuple[str, dict[str, Any]]:
    """Put the staged results together, write the report, leave artifacts; its path, and the figures of the run."""
    plan = evaluation.plan
    workshop = Workshop(_open(evaluation), plan)
    tracks = {
        cell: [
            track
            for fold in range(len(plan.folds))
            for track in (
                *workshop.fixed(fold, cell),
                *(t for name in plan.settings.policies(cell) for t in workshop.policies(fold, cell, name)),
            )
        ]
        for cell in plan.settings.cells
    }
    prepared = [
        workshop.prepared(fold, interval) for fold in range(len(plan.folds)) for interval in plan.settings.intervals
    ]
    report = report_of(
        Assembly(plan.settings, tracks, prepared),
        plan,
        market=evaluation.market,
        conclusive=evaluation.conclusive,
        final=evaluation.final,
        looks=evaluation.looks,
        run_id=run_id,
    )
    with open_workspace(evaluation.namespace) as workspace:
        path = write_evaluation(report, workspace.settings.reports_path, report_file(evaluation))
        link = report_link(workspace.settings, str(path), "The report, with charts")
    create_markdown_artifact(
        key=artifact_key("evaluation", evaluation.namespace),
        markdown=f"{evaluation_markdown(report)}\n{shown(link if link is not None else f'Report: {path}')}\n",
        description="Does memory help",
    )
    table = Table("contestants", "Contestants by cell", evaluation_rows(report))
    create_table_artifact(
        key=artifact_key("evaluation-contestants", evaluation.namespace),
        table=table_cells(table),
        description=table_title(table),
    )
    return str(path), result_of(report)


def report_file(evaluation: Evaluation) -> str:
    """File name of the report: one for each sort of evaluation of a namespace."""
    sort = "-final" if evaluation.final else "-short" if evaluation.short else ""
    return f"evaluation-{evaluation.namespace}{sort}.html"


def result_of(report: EvaluationReport) -> dict[str, Any]:
    """What a run keeps of the report: findings, and figures by cell and contestant."""
    return {
        "conclusive": report.conclusive,
        "trainings": report.trainings,
        "variants": report.variants,
        "findings": [
            {"heading": finding.heading, "text": finding.text, "verdict": finding.verdict}
            for finding in report.findings
        ],
        "contestants": evaluation_rows(report),
        "gains": [_gain(gain) for gain in report.gains],
    }


def _gain(row: GainRow) -> Mapping[str, Any]:
    figures = {
        name: [figure.value, *([] if figure.interval is None else [figure.interval.low, figure.interval.high])]
        for name, figure in row.figures.items()
    }
    return {"cell": row.cell, "ours": row.ours, "theirs": row.theirs, **figures}
