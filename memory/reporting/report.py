"""The nightly report: one self-contained HTML file, with no script and no reference to anything outside it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from memory.errors import InvalidQueryError
from memory.records import PatternMemory
from memory.reporting import headlines, ranking, readings, sections, theme, wording
from memory.reporting.charts.markets import regime_timeline
from memory.reporting.charts.nights import confirmation_history, pattern_history, predictors_of, scorecard_panel
from memory.reporting.charts.patterns import pattern_map, return_forest, volatility_forest
from memory.reporting.charts.strategies import sharpe_ratios
from memory.reporting.data import ReportData
from memory.reporting.measured import room_context, speed_context
from memory.reporting.page import templates, write_page
from memory.reporting.readings import Drawn, drawn
from memory.reporting.strip import pattern_strip
from memory.reporting.svg import drawing

PATTERNS_IN_FULL = 25
"""Patterns shown with all outcomes and their lineage; some 5 kB each."""

PATTERNS_LISTED = 300
"""Further patterns shown in a line each; the rest is counted, and `coinswarm patterns` lists it."""

PATTERNS_OPEN = 10
"""Patterns in view at once; the rest of those in full unfolds."""

FOREST_ROWS = 8
"""Patterns in each forest plot: what one glance takes in."""

DECISIONS_LISTED = 60
"""Prune decisions shown one by one, removals first; all of them are in the ledger."""

EVENTS_SHOWN = 40
"""Events of a pattern's lineage: its first, and the latest."""

TIMELINES = 12
"""Products whose price is drawn."""

_NAMESPACE = re.compile(r"[a-z0-9-]{1,32}")


def report_name(data: ReportData) -> str:
    """File name of a report, the same for every run of its window.

    Raises
    ------
    InvalidQueryError
        The namespace or the window's name would not make a safe file name.
    """
    facts = data.facts
    if not _NAMESPACE.fullmatch(facts.namespace):
        raise InvalidQueryError(
            f"namespace {facts.namespace!r} cannot name a report.",
            remedy="Use 1 to 32 of a-z, 0-9 and '-'.",
            argument="namespace",
        )
    try:
        date.fromisoformat(facts.window_name)
    except ValueError as error:
        raise InvalidQueryError(
            f"window {facts.window_name!r} cannot name a report.",
            remedy="Use the window's name, an ISO date such as 2021-06-17.",
            argument="window_name",
        ) from error
    return f"nightly-{facts.namespace}-{facts.window_name}.html"


def write_report(data: ReportData, folder: Path) -> Path:
    """Write the report of a night into a folder, replacing an earlier one of the same window in one step.

    Returns
    -------
    Path
        The file. A reader sees the old report or the new one, never a part.
    """
    name = report_name(data)
    return write_page(render_report(data), folder, name)


def render_report(data: ReportData) -> str:
    """The report as one HTML page; the same data give the same text. Cost: 1 to 2 s of one core, 0.5 to 1.2 MB."""
    with drawing():
        context = _context(data)
    return _environment().get_template("report.html.j2").render(context)


def _context(data: ReportData) -> dict[str, Any]:
    horizon = data.reference_horizon_minutes
    ranked = ranking.strongest(data.patterns, horizon)
    full, rest = ranked[:PATTERNS_IN_FULL], ranked[PATTERNS_IN_FULL:]
    rows = list(enumerate(ranked, 1))
    surest = ranking.surest_volatility(rows)
    links = {pattern.pattern_id: f"#{ranking.anchor(pattern.pattern_id)}" for pattern in full}
    base_of = sections.base_rate_lookup(data.base_rates)
    horizons = ranking.horizons_of(data.patterns)
    predictors = predictors_of(data.scorecards)
    columns = sections.scorecard_columns(data.scorecards)
    judged = {entry.pattern_id: entry for entry in data.judged}
    timelines = [path for path in data.prices if len(path.timestamp_ms)][:TIMELINES]
    decisions = sorted(data.pruning.decisions, key=lambda entry: not entry.removed) if data.pruning else []
    strip = pattern_strip(data.patterns, data.lineage, [night.window_name for night in data.nights])
    drawn_regimes = {name for path in timelines for name in path.regimes} | {p.regime for p in data.patterns}
    if data.states is not None:
        drawn_regimes.update(data.states.regimes)
    return {
        "data": data,
        "facts": data.facts,
        "figures": headlines.figures(data),
        "sentences": headlines.sentences(data),
        "regime_legend": sorted(drawn_regimes, key=sections.regime_order),
        "ranked": full,
        "opened": PATTERNS_OPEN,
        "rest": rest[:PATTERNS_LISTED],
        "unlisted": max(len(rest) - PATTERNS_LISTED, 0),
        "links": links,
        "judged": judged,
        "base_of": base_of,
        "lineage_of": lambda pattern: sections.story(data.lineage.get(pattern.pattern_id, ()), EVENTS_SHOWN),
        "strip_reach": _strip_reach(full, horizon),
        "leading": lambda pattern: ranking.leading_outcome(pattern, horizon),
        "horizons": horizons,
        "history": drawn(pattern_history(data.nights), readings.history(data.nights) if data.nights else ""),
        "confirmation": drawn(confirmation_history(data.nights), readings.confirmation(data.nights)),
        "strip": strip,
        "strip_reading": readings.strip(strip) if strip else "",
        "map": Drawn(
            tuple(pattern_map(data.patterns, data.states, links, horizon, wide=wide) for wide in (True, False)),
            readings.pattern_map(data.patterns),
        )
        if data.patterns
        else None,
        "return_forests": _present(
            drawn(
                return_forest(rows[:FOREST_ROWS], base_of, minutes),
                readings.returns(rows[:FOREST_ROWS], base_of, minutes),
            )
            for minutes in horizons
        ),
        "volatility_forests": _present(
            drawn(volatility_forest(surest[:FOREST_ROWS], minutes), readings.volatility(surest[:FOREST_ROWS], minutes))
            for minutes in horizons
        ),
        "predictors": theme.predictor_series(predictors),
        "scorecard_columns": columns,
        "scorecard_groups": sections.column_groups(columns),
        "scorecard_panels": _present(
            drawn(scorecard_panel(data.scorecards, *column), readings.scorecard(data.scorecards, *column))
            for column in columns
        ),
        "scorecard_rows": sections.scorecard_rows(data.scorecard.entries, predictors, columns)
        if data.scorecard
        else [],
        "pooled_rows": sections.scorecard_rows(data.pooled_scores, predictors, columns) if data.pooled_scores else [],
        "timelines": [
            Drawn(tuple(regime_timeline(path, index, wide=wide) for wide in (True, False)), readings.timeline(path))
            for index, path in enumerate(timelines)
        ],
        "transitions": sections.transition_tables(data.regimes),
        "strategies": sections.sorted_strategies(data.strategies),
        "strategy_regimes": sections.strategy_regimes(data.strategies),
        "strategy_chart": drawn(
            sharpe_ratios(data.strategies, data.sharpe_limit), readings.strategies(data.strategies, data.sharpe_limit)
        ),
        "random_share": sections.random_shares(decisions),
        "strategy_reach": sections.largest_mean(data.strategies),
        "correlations": sections.correlation_tables(data.correlations),
        "leads": sections.leads(data.correlations),
        "rules": sections.rule_counts(decisions),
        "decisions": decisions[:DECISIONS_LISTED],
        "decisions_unlisted": max(len(decisions) - DECISIONS_LISTED, 0),
        **speed_context(data),
        **room_context(data.sizes),
        "total_seconds": headlines.total_seconds(data),
    }


def _present(charts: Iterable[Drawn | None]) -> list[Drawn]:
    """The charts that had something to draw."""
    return [chart for chart in charts if chart is not None]


def _strip_reach(patterns: list[PatternMemory], horizon: int) -> float:
    """Half the span that the small interval strips of the table cover: nine in ten intervals fit."""
    ends = sorted(
        max(abs(outcome.gross_mean), abs(outcome.interval.low), abs(outcome.interval.high))
        for pattern in patterns
        if (outcome := ranking.leading_outcome(pattern, horizon)) is not None and outcome.interval is not None
    )
    return ends[int(0.9 * (len(ends) - 1))] if ends else 0.0


@cache
def _environment() -> Environment:
    environment = templates()
    environment.filters.update(
        number=wording.number,
        count=wording.count,
        percent=wording.percent,
        bp=wording.basis_points,
        bp_interval=wording.basis_points_interval,
        number_interval=wording.number_interval,
        percent_interval=wording.percent_interval,
        duration=wording.duration,
        ms=wording.milliseconds,
        horizon=wording.horizon,
        moment=wording.moment,
        long_date=wording.long_date,
        regime=wording.regime_name,
        p_value=wording.p_value,
        listing=wording.listing,
        short_id=wording.short_id,
        anchor=lambda pattern: ranking.anchor(pattern.pattern_id),
        title=ranking.title,
        gist=ranking.gist,
        megabytes=wording.megabytes,
        rule=sections.rule_text,
        regime_var=lambda name: theme.css_variable(theme.regime_colour(name)),
        colour_var=theme.css_variable,
    )
    environment.globals.update(
        plural=wording.plural,
        action_signs=theme.ACTION_SIGNS,
        action_vars={name: theme.css_variable(colour) for name, colour in theme.ACTION_COLOURS.items()},
        basis_of=sections.total_trades,
        certain_q=headlines.CERTAIN_Q,
        missing=wording.MISSING,
    )
    return environment
