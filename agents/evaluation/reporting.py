"""The report of an evaluation as plain data: everything that `memory.reporting.evaluation` shows."""

from __future__ import annotations

from collections.abc import Sequence

from agents.evaluation.assembly import Assembly
from agents.evaluation.conclusions import conclude
from agents.evaluation.contestants import Prepared
from agents.evaluation.jobs import Plan
from agents.evaluation.learner_settings import GAMMA, HALF_LIFE_DECISIONS
from agents.evaluation.metrics import CALMAR, DRAWDOWN, EXPOSED, GROSS, LATE, SHARPE, SORTINO, TOTAL, TURNOVER
from memory.reporting.evaluation_data import EvaluationReport, Finding, FoldRow

SHOWN = (TOTAL, LATE, GROSS, SHARPE, SORTINO, CALMAR, DRAWDOWN, TURNOVER, EXPOSED)
"""Figures of the tables, in order."""


def report_of(
    assembly: Assembly, plan: Plan, *, market: str, conclusive: bool, final: bool, looks: int, run_id: str
) -> EvaluationReport:
    """All that the report shows. Cost: about a second a cell and contestant at 1,000 resamples.

    Parameters
    ----------
    assembly, plan
        Staged results, and what was planned.
    market
        Name of the market.
    conclusive
        Whether there is enough to conclude from.
    final, looks
        Whether this is the held-out span, and how often it was looked at before.
    run_id
        The run in the ledger.
    """
    settings = plan.settings
    contestants = {cell.name: assembly.contestants(cell) for cell in settings.cells}
    gains, knowledge = assembly.gains(), assembly.knowledge()
    sizing, sizing_gains = assembly.sizing()
    variants = sum(len(rows) for rows in contestants.values())
    findings = conclude(
        conclusive=conclusive,
        reference=settings.reference.name,
        cells=[cell.name for cell in settings.cells],
        contestants=contestants,
        gains=gains,
        knowledge=knowledge,
        sizing=sizing,
        sizing_gains=sizing_gains,
        variants=variants,
    )
    if looks:
        findings.insert(
            0,
            Finding(
                "Not the first look",
                f"The held-out span was evaluated {looks} time(s) before with other settings or software: what is best "
                "here may be so because it was chosen.",
            ),
        )
    folds = fold_rows(plan, assembly.prepared)
    first, last = plan.folds[0], plan.folds[-1]
    return EvaluationReport(
        title="Does memory help?",
        lead=f"{market}, tested from {first.test_start:%Y-%m-%d} to {last.test_end:%Y-%m-%d} in {len(plan.folds)} "
        f"folds, each prepared with nothing later than {settings.embargo_minutes} minutes before its test span.",
        market=market,
        conclusive=conclusive,
        final=final,
        findings=findings,
        folds=folds,
        cells=[cell.name for cell in settings.cells],
        contestants=contestants,
        gains=gains,
        knowledge=knowledge,
        sizing=sizing,
        sizing_gains=sizing_gains,
        curves=assembly.curves(),
        breaks_ms=assembly.breaks(),
        reliability=assembly.reliability(),
        facts=facts_of(plan, run_id),
        metrics=SHOWN,
        trainings=settings.trainings(len(plan.folds)),
        variants=variants,
        explored=settings.explored,
    )


def fold_rows(plan: Plan, prepared: Sequence[Prepared]) -> list[FoldRow]:
    """Spans and sizes of the folds at the reference interval."""
    interval = plan.settings.reference.interval_minutes
    by_fold = {item.fold: item for item in prepared if item.interval_minutes == interval}
    return [
        FoldRow(
            name=fold.name,
            known_until=f"{fold.known_until:%Y-%m-%d %H:%M}",
            test=f"{fold.test_start:%Y-%m-%d} to {fold.test_end:%Y-%m-%d}",
            test_days=fold.test_days,
            training_states=by_fold[fold.name].training_states,
            memory_states=by_fold[fold.name].memory_states,
            test_states=by_fold[fold.name].test_states,
            encoder_id=by_fold[fold.name].encoder_id,
        )
        for fold in plan.folds
    ]


def facts_of(plan: Plan, run_id: str) -> dict[str, str]:
    """What the figures rest on, in words."""
    settings = plan.settings
    others = [cell.name for cell in settings.cells[1:]]
    return {
        "Reference": f"{settings.reference.name}: everyone meets here.",
        "Further cells": "; ".join(others)
        + (": policies with and without memory, ridge, and the agents, with the same seeds." if others else "none."),
        "Trainings": f"{settings.trainings(len(plan.folds))} of {settings.steps} steps with {settings.batch} "
        f"transitions; {len(settings.seeds)} paired seeds; rewards {HALF_LIFE_DECISIONS:g} decisions ahead count half "
        f"(discount {GAMMA:.3f}).",
        "Memory": f"at most {settings.memory_states:,} states of the past; policies see "
        f"{2 * settings.policy_memories} of them, forecasts {settings.neighbours}; "
        + ("only of the state's regime." if settings.same_regime else "of any regime."),
        "As of": f"training states see what was known {settings.embargo_minutes} minutes before their UTC day, test "
        f"states what was known {settings.embargo_minutes} minutes before the test span; outcomes of the past end "
        "before that too (purge).",
        "Intervals": f"{100 * settings.confidence:.0f} %, from {settings.resamples:,} resamples of blocks of "
        f"{settings.block_days} days and of seeds, the same for all; rank correlations: mean over days, Student's t.",
        "Ratios": "of daily returns, 365 a year, at constant notional; drawdown of the hourly curve; no interest.",
        "Trading": "decisions at the bar's end, at its close or mid; the fee is a side's; half the spread where there "
        "are quotes; open positions are sold at the end of each fold. Shorts cost no fee beyond.",
        "Run": f"{run_id}, staged as {plan.key}.",
    }
