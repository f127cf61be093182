"""Measuring retrieval, and keeping the figures in the ledger."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from memory import MemoryConnection
from memory.ledger import BenchmarkMetric
from memory.retrieval.measure import RetrievalFigures, measure_retrieval
from memory.window import Window
from tasks.retry import retried
from tasks.workspace import open_workspace

PERCENTILES = (50, 95, 99)
KEPT_SAMPLES = 300
"""Latencies of each kind that are kept for the distribution in the report."""


@retried()
def measure(namespace: str, run_id: str, window: Window, queries: int, agents: int) -> dict[str, Any]:
    """Measure latency, concurrency and recall on what the namespace holds, and keep the figures."""
    with open_workspace(namespace) as workspace:

        async def run(mem: MemoryConnection) -> RetrievalFigures:
            return await measure_retrieval(
                mem,
                window.start,
                window.end,
                queries=queries,
                agents=agents,
                random_state=workspace.settings.seed,
            )

        # A window may hold another encoder's experiences than the namespace's current one.
        encoder_id = workspace.with_memory(lambda mem: _busiest_encoder(mem, window))
        figures = workspace.with_memory(run, encoder_id=encoder_id)
        metrics = _metrics(figures)
        workspace.ledger.benchmarks.record(namespace, run_id, machine_name(), metrics)
    return {
        "documents": figures.documents,
        "recall": figures.recall,
        "queries_per_s": round(figures.queries_per_s, 1),
        "agents": figures.agents,
        "latencies_ms": {
            name: {f"p{percentile}": round(float(np.percentile(taken, percentile)), 3) for percentile in PERCENTILES}
            for name, taken in _series(figures).items()
        },
        "samples_ms": {
            name: np.round(taken[:: max(1, len(taken) // KEPT_SAMPLES)], 4).tolist()
            for name, taken in _series(figures).items()
        },
    }


def machine_name() -> str:
    """What tells this machine from others when figures are compared."""
    return f"{platform.node()}-{platform.machine()}"


async def _busiest_encoder(mem: MemoryConnection, window: Window) -> str | None:
    """The encoder with the most experiences in a window; None where there is no encoder at all."""
    counts = {
        encoder_id: await mem.episodic.count(since=window.start, until=window.end, encoder_id=encoder_id)
        for encoder_id in await mem.encoders.ids()
    }
    return max(sorted(counts), key=lambda encoder_id: counts[encoder_id], default=None)


def _series(figures: RetrievalFigures) -> dict[str, Any]:
    return {**figures.latencies_ms, f"{figures.agents} agents at once": figures.concurrent_ms}


def _metrics(figures: RetrievalFigures) -> list[BenchmarkMetric]:
    details = {"documents": figures.documents, "top_k": figures.top_k}
    metrics = [
        BenchmarkMetric(
            metric=f"{name}: p{percentile}",
            value=float(np.percentile(taken, percentile)),
            unit="ms",
            details=details,
        )
        for name, taken in _series(figures).items()
        for percentile in PERCENTILES
    ]
    metrics.append(
        BenchmarkMetric(
            metric="queries a second",
            value=figures.queries_per_s,
            unit="1/s",
            lower_is_better=False,
            details={**details, "agents": figures.agents},
        )
    )
    metrics.append(
        BenchmarkMetric(
            metric="recall",
            value=figures.recall,
            unit="share",
            lower_is_better=False,
            details={**details, "queries": figures.recall_queries},
        )
    )
    return metrics
