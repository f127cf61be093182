"""What an evaluation says follows from its intervals, also when memory does not help; the report shows all of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from agents.evaluation.assembly import Assembly
from agents.evaluation.folds import Fold
from agents.evaluation.jobs import Plan, Workshop
from agents.evaluation.metrics import TOTAL
from agents.evaluation.reporting import report_of
from agents.evaluation.settings import PERMUTED, POLICIES, WITH_MEMORY, WITHOUT_MEMORY, Cell, EvaluationSettings
from agents.evaluation.tracks import HOURS_A_DAY, Track
from agents.market import Market
from memory.errors import InvalidQueryError
from memory.reporting.evaluation import evaluation_markdown, evaluation_rows, render_evaluation, write_evaluation
from memory.reporting.evaluation_data import EvaluationReport, Figure

CELL, OTHER = Cell(15, 2.0), Cell(15, 0.0)
DAYS = 40
DAY_MS = 86_400_000


def drawn(contestant: str, seed: int | None, cell: Cell, first: int, gain: float) -> Track:
    """Forty days of noise, the same for all, and a gain an hour."""
    generator = np.random.default_rng([0 if seed is None else seed, first])
    net = generator.normal(0.0, 1e-3, DAYS * HOURS_A_DAY) + gain
    return Track(
        contestant=contestant,
        fold="f",
        cell=cell.name,
        seed=seed,
        days=[(first + day) * DAY_MS for day in range(DAYS)],
        net=net.tolist(),
        gross=net.tolist(),
        late_net=net.tolist(),
        turnover=[1.0] * DAYS,
        exposed=[1.0] * DAYS,
        return_ic={str(horizon): generator.normal(0, 0.1, DAYS).tolist() for horizon in (1, 5, 15, 60)},
    )


@pytest.fixture(scope="module")
def parts(
    market: Market, fold: Fold, settings: EvaluationSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, Workshop]:
    """A plan whose forecasts are real and whose track records the tests draw."""
    few = replace(settings, cells=(CELL, OTHER), resamples=60)
    plan = Plan.of(market, [fold], few, tmp_path_factory.mktemp("staged"))
    return plan, Workshop(market, plan)


Reported = Callable[..., EvaluationReport]


@pytest.fixture(scope="module")
def reported(parts: tuple[Plan, Workshop]) -> Reported:
    """Reports of tracks on which the policy with memory gains something an hour; each is made once."""
    plan, workshop = parts

    @cache
    def made(gain: float, **named: object) -> EvaluationReport:
        tracks = {
            cell: [
                drawn(name, seed, cell, 0, gain if name == WITH_MEMORY else 0.0)
                for name in plan.settings.policies(cell)
                for seed in plan.settings.seeds
            ]
            for cell in plan.settings.cells
        }
        assembly = Assembly(plan.settings, tracks, [workshop.prepared(0, 15)])
        values = {"market": "made", "conclusive": True, "final": False, "looks": 0, "run_id": "run", **named}
        return report_of(assembly, plan, **values)  # type: ignore[arg-type]

    return made


@pytest.mark.parametrize(
    ("gain", "heading", "verdict"),
    [(1e-5, "Memory helps", 1), (-1e-5, "Memory harms", -1), (0.0, "No gain from memory can be shown", 0)],
)
def test_the_answer_is_that_of_the_interval(reported: Reported, gain: float, heading: str, verdict: int) -> None:
    report = reported(gain)
    first = report.findings[0]
    assert (first.heading, first.verdict) == (heading, verdict)
    row = report.gains[0]
    assert (row.ours, row.theirs, row.cell) == (WITH_MEMORY, WITHOUT_MEMORY, CELL.name)
    assert row.figures[TOTAL].decided == verdict
    assert f"{100 * (row.figures[TOTAL].value or 0):+.1f} %" in first.text


def test_controls_and_other_cells_have_their_lines(reported: Reported) -> None:
    findings = {finding.heading: finding for finding in reported(1e-5).findings}
    assert findings["Is it what memory holds?"].verdict == 1
    assert "Better, beyond chance" in findings["Is it what memory holds?"].text
    assert OTHER.name in findings["At other costs and intervals"].text
    assert "undecided" in reported(0.0).findings[1].text


def test_too_little_says_so_first(reported: Reported) -> None:
    assert reported(1e-5, conclusive=False).findings[0].heading == "Too short to conclude"


def test_an_earlier_look_at_the_held_out_span_is_told_first(reported: Reported) -> None:
    assert "2 time(s) before" in reported(0.0, final=True, looks=2).findings[0].text


def test_the_number_of_what_was_tried_is_told(reported: Reported) -> None:
    report = reported(0.0)
    assert report.variants == len(POLICIES) + 2
    assert any(f"{report.variants} combinations" in finding.text for finding in report.findings)


def test_the_page_stands_alone_and_shows_every_contestant(reported: Reported) -> None:
    page = render_evaluation(reported(0.0))
    for name in (*POLICIES, CELL.name, OTHER.name, "What this says"):
        assert name in page
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert page.count('<svg class="chart"') + page.count('class="chart"') > 4
    assert page == render_evaluation(reported(0.0))


def test_names_from_data_are_text(reported: Reported) -> None:
    page = render_evaluation(reported(0.0, market="<b>bold</b>"))
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold" in page


def test_summary_and_rows_hold_what_the_page_holds(reported: Reported) -> None:
    report = reported(0.0)
    text = evaluation_markdown(report)
    assert all(finding.heading in text for finding in report.findings)
    rows = evaluation_rows(report)
    assert len(rows) == report.variants
    assert {"cell", "contestant", TOTAL, f"{TOTAL}, low", f"{TOTAL}, high"} <= rows[0].keys()
    assert PERMUTED in {row["contestant"] for row in rows}


def test_the_report_is_written_whole_under_a_safe_name(reported: Reported, tmp_path: Path) -> None:
    path = write_evaluation(reported(0.0), tmp_path, "evaluation-test.html")
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert [found.name for found in tmp_path.iterdir()] == ["evaluation-test.html"]
    with pytest.raises(InvalidQueryError):
        write_evaluation(reported(0.0), tmp_path, "../escape.html")


def test_a_figure_without_an_interval_decides_nothing() -> None:
    assert Figure(1.0).decided == 0
