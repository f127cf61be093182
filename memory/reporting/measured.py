"""What the report shows of speed and room: the charts over past runs and nights, with their readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memory.reporting import readings, wording
from memory.reporting.charts import storage, trends
from memory.reporting.charts.latency import LOOKS, latency_distribution, quantiles
from memory.reporting.charts.nights import NIGHTS_DRAWN
from memory.reporting.data import NightSizes, ReportData
from memory.reporting.readings import Drawn, drawn

MEDIAN, TAIL = ": p50", ": p95"
"""Ends of the names of latencies that are drawn together."""


@dataclass(frozen=True, slots=True)
class SizeRow:
    """One kind of memory after the last night: number and bytes, and what the last night added."""

    what: str
    number: int | None
    bytes: int | None
    added: int | None


def speed_context(data: ReportData) -> dict[str, Any]:
    """What the template needs of latencies: this run's, and those of past runs."""
    latencies = data.benchmark.latencies if data.benchmark else ()
    judged = [trend for trend in data.trends if trend.judged and trend.points]
    in_ms = {trend.metric: trend for trend in data.trends if trend.unit == "ms" and trend.points}
    panels = [drawn(trends.trend_panel(trend, number), readings.trend(trend)) for number, trend in enumerate(judged)]
    for number, (name, trend) in enumerate(in_ms.items()):
        if name.endswith(MEDIAN):
            kind = name.removesuffix(MEDIAN)
            chart = trends.latency_panel(kind, trend, in_ms.get(f"{kind}{TAIL}"), number)
            panels.append(drawn(chart, readings.latency_trend(trend)))
    return {
        "latency": drawn(
            latency_distribution(latencies) if latencies else None,
            readings.latency(latencies, lambda entry: quantiles(entry).tolist()) if latencies else "",
        ),
        "latency_rows": [(e, LOOKS[i % len(LOOKS)], quantiles(e).tolist()) for i, e in enumerate(latencies)],
        "trend_panels": [panel for panel in panels if panel is not None],
        "trend_looks": (trends.VALUE, trends.TAIL, trends.USUAL, trends.LIMIT, trends.REGRESSION),
        "runs_measured": max((len(trend.points) for trend in data.trends), default=0),
    }


def room_context(sizes: Sequence[NightSizes]) -> dict[str, Any]:
    """What the template needs of sizes."""
    panels: list[Drawn | None] = []
    kinds = storage.kinds_of(sizes[-NIGHTS_DRAWN:])
    if len(sizes) >= storage.LEAST_NIGHTS:
        panels = [
            drawn(
                storage.growth_panel(
                    sizes,
                    lambda night: night.documents.get("experiences"),
                    title="experiences, number",
                    name="documents",
                ),
                readings.growth(sizes, lambda night: night.documents.get("experiences", 0), "experiences"),
            ),
            drawn(
                storage.growth_panel(
                    sizes, lambda night: _in_megabytes(night.archive_bytes), title="archive, megabytes", name="archive"
                ),
                f"{readings.growth(sizes, lambda night: night.archive_bytes or 0)}.",
            ),
            drawn(
                storage.growth_panel(
                    sizes, lambda night: _in_megabytes(night.ledger_bytes), title="ledger, megabytes", name="ledger"
                ),
                f"{readings.growth(sizes, lambda night: night.ledger_bytes or 0)}, all namespaces together.",
            ),
        ]
    return {
        "redis_growth": drawn(storage.redis_growth(sizes), readings.redis_growth(sizes) if sizes else ""),
        "redis_layers": list(zip(kinds, storage.LAYERS, strict=False)),
        "growth_panels": [panel for panel in panels if panel is not None],
        "size_rows": size_rows(sizes),
        "size_nights": len(sizes),
        "size_text": wording.megabytes,
    }


def size_rows(sizes: Sequence[NightSizes]) -> list[SizeRow]:
    """Kinds in Redis, largest first, then archive and ledger, after the last night beside the one before."""
    if not sizes:
        return []
    last, before = sizes[-1], sizes[-2] if len(sizes) > 1 else None
    rows = [
        SizeRow(
            f"Redis: {kind}",
            last.documents.get(kind),
            size,
            None if before is None else size - before.redis_bytes.get(kind, 0),
        )
        for kind, size in sorted(last.redis_bytes.items(), key=lambda row: (-row[1], row[0]))
    ]
    for name, number, now, then in (
        (
            "archive",
            last.documents.get("archived files"),
            last.archive_bytes,
            None if before is None else before.archive_bytes,
        ),
        ("ledger, all namespaces", None, last.ledger_bytes, None if before is None else before.ledger_bytes),
    ):
        if now is not None:
            rows.append(SizeRow(name, number, now, None if then is None else now - then))
    return rows


def _in_megabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / storage.MEGABYTE
