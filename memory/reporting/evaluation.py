"""The report of an evaluation: one self-contained HTML file, a summary in markdown, and rows for a table."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment

from memory.errors import InvalidQueryError
from memory.reporting import theme, wording
from memory.reporting.artifacts import escaped
from memory.reporting.charts.evaluation import equity_chart, gain_chart, looks_of, reliability_chart
from memory.reporting.evaluation_data import EvaluationReport, Figure
from memory.reporting.page import templates, write_page
from memory.reporting.svg import drawing

PERCENTAGES = frozenset(
    {
        "total return",
        "total return, filled a bar late",
        "total return before costs",
        "maximum drawdown",
        "share of time in a position",
    }
)
"""Figures that are shares of the notional or of the time; the others are plain numbers."""
_NAME = re.compile(r"[a-z0-9-]{1,64}\.html")


def write_evaluation(report: EvaluationReport, folder: Path, name: str) -> Path:
    """Write the report into a folder, replacing an earlier one of the name in one step; returns the file.

    Raises
    ------
    InvalidQueryError
        A name that is no plain file name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidQueryError(
            f"{name!r} cannot name a report.", remedy="Use a-z, 0-9 and '-', ending in .html.", argument="name"
        )
    return write_page(render_evaluation(report), folder, name)


def render_evaluation(report: EvaluationReport) -> str:
    """The report as one HTML page; the same data give the same text. Cost: about a second."""
    total, sharpe = "total return", "Sharpe"
    policies = [curve for curve in report.curves if curve.sort == "policy"]
    others = [curve for curve in report.curves if curve.sort != "policy"]
    with drawing():
        charts = {
            "policies": equity_chart(policies, report.breaks_ms, name="equity-policies") if policies else None,
            "others": equity_chart(others, report.breaks_ms, name="equity-others") if others else None,
            "gains": gain_chart(report.gains, total, name="gain-total", percent=True),
            "sharpe": gain_chart(report.gains, sharpe, name="gain-sharpe", percent=False),
            "sizing": gain_chart(report.sizing_gains, "error less", name="gain-sizing", percent=False),
            "reliability": [
                chart
                for outcome in ("volatility", "return")
                if (
                    chart := reliability_chart(
                        [curve for curve in report.reliability if curve.outcome == outcome],
                        name=f"reliability-{outcome}",
                    )
                )
            ],
        }
    context = {
        "report": report,
        "charts": charts,
        "looks": looks_of(list(dict.fromkeys(curve.name for curve in report.reliability))),
        "horizons": sorted({horizon for row in report.knowledge for horizon in row.by_horizon}),
    }
    return _environment().get_template("evaluation.html.j2").render(context)


def value_text(figure: Figure | None, name: str) -> str:
    """A figure in its unit; a dash where it is unknown."""
    if figure is None or figure.value is None:
        return wording.MISSING
    if name in PERCENTAGES:
        return f"{wording.number(100 * figure.value, 1)} %"
    return wording.number(figure.value, digits_of(name))


def interval_text(figure: Figure | None, name: str) -> str:
    """The interval of a figure in its unit; empty where there is none."""
    if figure is None or figure.interval is None:
        return ""
    low, high = figure.interval.low, figure.interval.high
    if name in PERCENTAGES:
        return f"{wording.number(100 * low, 1)} to {wording.number(100 * high, 1)}"
    return f"{wording.number(low, digits_of(name))} to {wording.number(high, digits_of(name))}"


def digits_of(name: str) -> int:
    """Decimals that a figure is worth."""
    return 3 if name.startswith(("IC", "error")) else 2


def evaluation_markdown(report: EvaluationReport) -> str:
    """Findings and the reference cell's table on a page of markdown."""
    lines = [f"# {escaped(report.title)}", "", escaped(report.lead), ""]
    lines += [f"* **{escaped(finding.heading)}:** {escaped(finding.text)}" for finding in report.findings]
    reference = report.cells[0]
    lines += ["", f"## {escaped(reference)}", "", f"| contestant | {' | '.join(report.metrics)} |"]
    lines.append(f"| --- | {' | '.join('---:' for _ in report.metrics)} |")
    for row in report.contestants[reference]:
        cells = [_cell(row.figures.get(name), name) for name in report.metrics]
        lines.append(f"| {escaped(row.name)} | {' | '.join(cells)} |")
    lines += [
        "",
        "## What memory adds",
        "",
        "| cell | comparison | total return | Sharpe |",
        "| --- | --- | ---: | ---: |",
    ]
    for gain in report.gains:
        figures = [_cell(gain.figures.get(name), name) for name in ("total return", "Sharpe")]
        lines.append(
            f"| {escaped(gain.cell)} | {escaped(gain.ours)} less {escaped(gain.theirs)} | {' | '.join(figures)} |"
        )
    return "\n".join(lines) + "\n"


def _cell(figure: Figure | None, name: str) -> str:
    interval = interval_text(figure, name)
    return value_text(figure, name) + (f" ({interval})" if interval else "")


def evaluation_rows(report: EvaluationReport) -> list[dict[str, str | float | None]]:
    """Contestants of all cells as rows of a table artifact: plain values, JSON-safe."""
    rows: list[dict[str, str | float | None]] = []
    for cell in report.cells:
        for row in report.contestants[cell]:
            shown: dict[str, str | float | None] = {"cell": cell, "contestant": row.name, "seeds": row.seeds}
            for name in report.metrics:
                figure = row.figures.get(name)
                shown[name] = None if figure is None or figure.value is None else round(figure.value, 6)
                if figure is not None and figure.interval is not None:
                    shown[f"{name}, low"] = round(figure.interval.low, 6)
                    shown[f"{name}, high"] = round(figure.interval.high, 6)
            rows.append(shown)
    return rows


@cache
def _environment() -> Environment:
    environment = templates()
    environment.filters.update(count=wording.count, horizon=wording.horizon, colour_var=theme.css_variable)
    environment.globals.update(
        value_text=value_text, interval_text=interval_text, missing=wording.MISSING, sign=verdict_sign
    )
    return environment


def verdict_sign(verdict: int) -> str:
    """Sign of a finding, beside its colour."""
    return {1: "▲", 0: "■", -1: "▼"}[verdict]
