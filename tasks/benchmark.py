"""Measuring retrieval, and keeping the figures in the ledger."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from memory import MemoryConnection
from memory.ledger import BenchmarkMetric
from memory.retrieval.measure import RetrievalFigures, measure_retrieval
from memory.window import Window
from tasks.retry import JITTER, RETRIES, RETRY_DELAYS_S, is_transient
from tasks.workspace import open_workspace

PERCENTILES = (50, 95, 99)
KEPT_SAMPLES = 300
"""Latencies of each kind that are kept for the distribution in the report."""


@task(
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
)
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

        figures = workspace.with_memory(run)
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
