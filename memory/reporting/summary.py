"""A night as an artifact of its run: markdown that a person reads in the Prefect UI, and rows for a table."""

from __future__ import annotations

from collections.abc import Mapping

from memory.records import PatternMemory
from memory.reporting import headlines, ranking, wording
from memory.reporting.artifacts import Link, Value, escaped, shown
from memory.reporting.data import ReportData

SUMMARY_PATTERNS = 10
"""Patterns in the markdown table, each with an artifact of its own; the report holds more."""

TABLE_PATTERNS = 50
"""Rows of the table artifact."""

SUMMARY_EVENTS = 20
"""Latest events of a pattern's story in its artifact."""


def markdown_summary(
    data: ReportData, report: Link | None = None, path: str = "", links: Mapping[str, Link] | None = None
) -> str:
    """The night on half a page of markdown: headline, regressions, figures, the strongest patterns, seconds a step.

    Parameters
    ----------
    report
        Link to the whole report, where it is served.
    path
        File of the report, named where it is not served.
    links
        Where to read more of a pattern, by its id.
    """
    links = links or {}
    facts = data.facts
    lines = [
        f"# What the memory learned on {wording.long_date(facts.window_start)}",
        "",
        f"Namespace **{escaped(facts.namespace)}**, window {wording.moment(facts.window_start)} to "
        f"{wording.moment(facts.window_end)} UTC, run {escaped(facts.run_id)}.",
        "",
    ]
    lines += [f"* **{sentence.heading}:** {escaped(sentence.text)}" for sentence in headlines.sentences(data)]
    lines += [f"* **Regression:** {escaped(text)}." for text in data.regressions]
    found = headlines.figures(data)
    if found:
        lines += ["", "| figure | value | remark |", "| --- | ---: | --- |"]
        lines += [f"| {escaped(f.label)} | {escaped(f.value)} | {escaped(f.remark)} |" for f in found]
    ranked = ranking.strongest(data.patterns, data.reference_horizon_minutes)[:SUMMARY_PATTERNS]
    if ranked:
        lines += ["", "## Strongest patterns", ""]
        lines += ["| | pattern | regime | best trade | shrunk net, bp | net, bp | 95 % gross, bp | q |"]
        lines += ["| ---: | --- | --- | --- | ---: | ---: | ---: | ---: |"]
        for rank, pattern in enumerate(ranked, 1):
            best = ranking.leading_outcome(pattern, data.reference_horizon_minutes)
            trade = f"{best.action.lower()} {wording.horizon(best.horizon_minutes)}" if best else wording.MISSING
            cells = (
                str(rank),
                f"{escaped(ranking.title(pattern))} {shown(links.get(pattern.pattern_id, pattern.pattern_id))}",
                escaped(wording.regime_name(pattern.regime)),
                escaped(trade),
                wording.basis_points(best.shrunk_net_mean if best else None),
                wording.basis_points(best.net_mean if best else None),
                wording.basis_points_interval(best.interval if best else None),
                escaped(wording.p_value(best.q_value if best else None)),
            )
            lines.append(f"| {' | '.join(cells)} |")
    if facts.steps:
        steps = ", ".join(f"{escaped(step.name)} {wording.duration(step.seconds)}" for step in facts.steps)
        lines += ["", f"Steps: {steps}."]
    if report is not None or path:
        lines += ["", shown(report) if report is not None else f"Report: {escaped(path)}"]
    return "\n".join(lines) + "\n"


def pattern_summary(data: ReportData, pattern: PatternMemory, report: Link | None = None) -> str:
    """One pattern on a page of markdown: what it is, what followed it, and what happened to it night by night."""
    lines = [
        f"# {escaped(ranking.title(pattern))}",
        "",
        escaped(pattern.description),
        "",
        f"{escaped(pattern.pattern_id)}: {escaped(pattern.status)}, {escaped(wording.regime_name(pattern.regime))}, "
        f"{wording.plural(pattern.support, 'occurrence')} in {wording.plural(pattern.windows_seen, 'night')}, "
        f"{escaped(wording.listing(sorted(pattern.product_ids)))}.",
        "",
    ]
    if pattern.outcomes:
        lines += ["| after | action | gross, bp | 95 % | net, bp | shrunk net, bp | q | n / blocks |"]
        lines += ["| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for outcome in pattern.outcomes:
            cells = (
                wording.horizon(outcome.horizon_minutes),
                escaped(outcome.action.lower()),
                wording.basis_points(outcome.gross_mean),
                wording.basis_points_interval(outcome.interval),
                wording.basis_points(outcome.net_mean),
                wording.basis_points(outcome.shrunk_net_mean),
                escaped(wording.p_value(outcome.q_value)),
                f"{outcome.n:,} / {outcome.blocks:,}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    events = data.lineage.get(pattern.pattern_id, ())
    if events:
        lines += ["| night | what happened | states | decided by |", "| --- | --- | ---: | --- |"]
        for event in events[-SUMMARY_EVENTS:]:
            what = f"{event.event} {event.other}".strip()
            told = (event.window_name, escaped(what), wording.count(event.states), escaped(event.note))
            lines.append(f"| {' | '.join(told)} |")
        lines.append("")
    if report is not None:
        lines.append(shown(report))
    return "\n".join(lines).rstrip() + "\n"


def table_rows(data: ReportData) -> list[dict[str, Value]]:
    """The strongest patterns as rows of a table artifact: plain values, returns in basis points, JSON-safe."""
    rows: list[dict[str, Value]] = []
    for rank, pattern in enumerate(
        ranking.strongest(data.patterns, data.reference_horizon_minutes)[:TABLE_PATTERNS], 1
    ):
        best = ranking.leading_outcome(pattern, data.reference_horizon_minutes)
        interval = best.interval if best else None
        rows.append(
            {
                "rank": rank,
                "pattern": pattern.pattern_id,
                "status": pattern.status,
                "regime": pattern.regime,
                "products": ", ".join(pattern.product_ids),
                "occurrences": pattern.support,
                "nights": pattern.windows_seen,
                "best trade": best.action if best else None,
                "horizon, min": best.horizon_minutes if best else None,
                "shrunk net, bp": _points(best.shrunk_net_mean if best else None),
                "net, bp": _points(best.net_mean if best else None),
                "gross low, bp": _points(interval.low if interval else None),
                "gross high, bp": _points(interval.high if interval else None),
                "q": best.q_value if best else None,
                "what": pattern.description,
            }
        )
    return rows


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else round(fraction * 1e4, 2)
