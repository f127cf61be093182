"""A night as an artifact of its run: markdown that a person reads in the Prefect UI, and rows for a table."""

from __future__ import annotations

import re

from memory.reporting import headlines, ranking, wording
from memory.reporting.data import ReportData

SUMMARY_PATTERNS = 8
"""Patterns in the markdown table; the report holds more."""

TABLE_PATTERNS = 50
"""Rows of the table artifact."""

_MARKUP = re.compile(r"([\\`*_\[\]#|~])")


def escaped(text: str) -> str:
    """Text from data as literal text within a line of markdown: no markup, no HTML, no line break, no link."""
    flat = " ".join(text.split())
    safe = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", ":&#47;&#47;")
    return _MARKUP.sub(r"\\\1", safe)


def markdown_summary(data: ReportData) -> str:
    """The night on half a page of markdown: headline, figures, the strongest patterns, seconds a step."""
    facts = data.facts
    lines = [
        f"# What the memory learned on {wording.long_date(facts.window_start)}",
        "",
        f"Namespace **{escaped(facts.namespace)}**, window {wording.moment(facts.window_start)} to "
        f"{wording.moment(facts.window_end)} UTC, run {escaped(facts.run_id)}.",
        "",
    ]
    lines += [f"* **{sentence.heading}:** {escaped(sentence.text)}" for sentence in headlines.sentences(data)]
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
                escaped(ranking.title(pattern)),
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
    return "\n".join(lines) + "\n"


def table_rows(data: ReportData) -> list[dict[str, str | int | float | None]]:
    """The strongest patterns as rows of a table artifact: plain values, returns in basis points, JSON-safe."""
    rows: list[dict[str, str | int | float | None]] = []
    for rank, pattern in enumerate(
        ranking.strongest(data.patterns, data.reference_horizon_minutes)[:TABLE_PATTERNS], 1
    ):
        best = ranking.leading_outcome(pattern, data.reference_horizon_minutes)
        interval = best.interval if best else None
        rows.append(
            {
                "rank": rank,
                "pattern": pattern.pattern_id,
                "what": pattern.description,
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
            }
        )
    return rows


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else round(fraction * 1e4, 2)
