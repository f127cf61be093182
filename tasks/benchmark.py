"""Measuring retrieval and sizes, keeping the figures in the ledger, and judging them by those of past runs."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memory import MemoryConnection
from memory.commands import command
from memory.errors import BenchmarkRegressionError
from memory.ledger import BenchmarkMetric, BenchmarkRecord
from memory.ledger.benchmark_history import CONFIRMED_BY, DOCUMENTS, JUDGED, SHARE, Comparison, Rules, compare
from memory.retrieval.measure import RetrievalFigures, measure_retrieval
from memory.settings import Settings
from memory.store.sizes import INDEXES, redis_sizes
from memory.window import Window
from tasks.retry import retried
from tasks.workspace import Workspace, open_workspace

PERCENTILES = (50, 95, 99)
JUDGED_PERCENTILE = 50
"""The median of 300 queries repeats from run to run; tails on shared cores vary by themselves, and are only shown."""
KEPT_SAMPLES = 300
"""Latencies of each kind that are kept for the distribution in the report."""
ROUND_TRIPS = "round trips"
"""Unit of latencies beside the round trip of the same run."""
BYTES, PIECES = "bytes", "documents"
"""Units of sizes."""
SIZE = "size: "
"""What the names of sizes begin with."""
REDIS = "redis, "
"""What the names of sizes in Redis begin with."""
RATE = "queries a second"
RECALL = "recall"


@retried()
def measure(namespace: str, run_id: str, window: Window, queries: int, agents: int) -> dict[str, Any]:
    """Measure latency, concurrency and recall on what the namespace holds, keep the figures, and judge them."""
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
        compared = keep_and_compare(workspace, run_id, window, metrics_of(figures))
    return {
        "documents": figures.documents,
        "recall": figures.recall,
        "queries_per_s": round(figures.queries_per_s, 1),
        "agents": figures.agents,
        "round_trip_ms": round(float(np.median(figures.round_trip_ms)), 4),
        "latencies_ms": {
            name: {f"p{percentile}": round(float(np.percentile(taken, percentile)), 3) for percentile in PERCENTILES}
            for name, taken in _series(figures).items()
        },
        "samples_ms": {
            name: np.round(taken[:: max(1, len(taken) // KEPT_SAMPLES)], 4).tolist()
            for name, taken in _series(figures).items()
        },
        "compared": [comparison_row(item) for item in compared],
        "regressions": [item.text() for item in compared if item.regressed],
    }


@retried()
def record_sizes(namespace: str, run_id: str, window: Window) -> dict[str, int]:
    """Note how much room the memory takes now: Redis by kind, documents, the archive, the ledger; bytes by part."""
    with open_workspace(namespace) as workspace:
        in_redis = workspace.with_memory(redis_sizes)
        archive = workspace.ledger.sizes.archive(namespace)
        sizes = {f"{REDIS}{kind}": size.bytes for kind, size in in_redis.items()}
        sizes |= {"archive": archive.bytes, "ledger": workspace.ledger.sizes.ledger_bytes()}
        numbers = {kind: size.number for kind, size in in_redis.items() if kind != INDEXES}
        numbers["archived files"] = archive.files
        details = {"window": window.name}
        metrics = [
            BenchmarkMetric(metric=f"{SIZE}{name}", value=float(value), unit=unit, details=details)
            for unit, found in ((BYTES, sizes), (PIECES, numbers))
            for name, value in found.items()
        ]
        workspace.ledger.benchmarks.record(namespace, run_id, machine_name(workspace.settings), metrics)
        return sizes


def keep_and_compare(
    workspace: Workspace, run_id: str, window: Window, metrics: Sequence[BenchmarkMetric]
) -> list[Comparison]:
    """Compare figures with those of past runs on this machine, and keep them."""
    ledger, namespace, machine = workspace.ledger, workspace.namespace, machine_name(workspace.settings)
    past = past_of(workspace, machine, run_id)
    noted = [
        BenchmarkMetric(
            metric=metric.metric,
            value=metric.value,
            unit=metric.unit,
            lower_is_better=metric.lower_is_better,
            details={**metric.details, "window": window.name},
        )
        for metric in metrics
    ]
    ledger.benchmarks.record(namespace, run_id, machine, noted)
    return compare(noted, past, rules_of(workspace.settings))


def past_of(workspace: Workspace, machine: str, run_id: str) -> list[BenchmarkRecord]:
    """Figures of other runs on a machine, oldest first; of more runs than are compared, since not all compare."""
    runs = 5 * workspace.settings.benchmark_runs
    found = workspace.ledger.benchmarks.recent(workspace.namespace, machine=machine, runs=runs)
    return [record for record in found if record.run_id != run_id]


def rules_of(settings: Settings) -> Rules:
    """When a figure is a regression, by the settings."""
    return Rules(
        factor=settings.benchmark_regression,
        drop=settings.benchmark_recall_drop,
        min_runs=settings.benchmark_min_runs,
        most_runs=settings.benchmark_runs,
        size_factor=settings.benchmark_size_factor,
    )


def check_regressions(namespace: str, window: Window, figures: Mapping[str, Any]) -> None:
    """Refuse figures that are worse than usual.

    Raises
    ------
    BenchmarkRegressionError
        Naming each of them with the median that it is compared with. It carries all figures.
    """
    found: Sequence[str] = figures["regressions"]
    if found:
        again = command(f"run benchmark_memory --date {window.name}", namespace)
        raise BenchmarkRegressionError(
            f"retrieval is worse than usual: {'; '.join(found)}.",
            remedy=f"Measure again with '{again}'; if it stays, see 'Benchmarks' in docs/operations.md. "
            "COINSWARM_BENCHMARK_REGRESSION and COINSWARM_BENCHMARK_RECALL_DROP set what counts as worse.",
            regressions=found,
            figures=figures,
        )


def comparison_row(item: Comparison) -> dict[str, Any]:
    """A comparison as plain values."""
    return {
        "metric": item.metric,
        "unit": item.unit,
        "value": round(item.value, 4),
        "median": round(item.median, 4),
        "limit": round(item.limit, 4),
        "runs": item.runs,
        "worse": round(item.worse, 4),
        "regressed": item.regressed,
    }


def machine_name(settings: Settings) -> str:
    """What tells this machine from others when figures are compared: the setting, else host, processor and cores."""
    if settings.benchmark_machine:
        return settings.benchmark_machine
    return f"{platform.node()} ({processor()}, {cores()} cores, {platform.machine()})"


def processor() -> str:
    """Model of the processor, as Linux or the platform names it."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown processor"


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def _busiest_encoder(mem: MemoryConnection, window: Window) -> str | None:
    """The encoder with the most experiences in a window; None where there is no encoder at all."""
    counts = {
        encoder_id: await mem.episodic.count(since=window.start, until=window.end, encoder_id=encoder_id)
        for encoder_id in await mem.encoders.ids()
    }
    return max(sorted(counts), key=lambda encoder_id: counts[encoder_id], default=None)


def _series(figures: RetrievalFigures) -> dict[str, Any]:
    return {**figures.latencies_ms, f"{figures.agents} agents at once": figures.concurrent_ms}


def metrics_of(figures: RetrievalFigures) -> list[BenchmarkMetric]:
    """What is kept of a measurement: latencies in milliseconds and in round trips, rate, recall.

    Judged are medians of latencies and the rate, both beside the round trip of the same run, and recall.
    """
    details = {DOCUMENTS: figures.documents, "top_k": figures.top_k}
    round_trip = float(np.median(figures.round_trip_ms))
    metrics = []
    for name, taken in _series(figures).items():
        for percentile in PERCENTILES:
            value = float(np.percentile(taken, percentile))
            metrics.append(BenchmarkMetric(metric=f"{name}: p{percentile}", value=value, unit="ms", details=details))
            if percentile == JUDGED_PERCENTILE and name in figures.latencies_ms:
                metrics.append(
                    BenchmarkMetric(
                        metric=f"{name}: p{percentile} beside a round trip",
                        value=value / round_trip,
                        unit=ROUND_TRIPS,
                        details={**details, JUDGED: True, CONFIRMED_BY: f"{name}: p{percentile}"},
                    )
                )
    with_agents = {**details, "agents": figures.agents}
    return [
        *metrics,
        BenchmarkMetric(metric="round trip: p50", value=round_trip, unit="ms", details=details),
        BenchmarkMetric(
            metric=RATE,
            value=figures.queries_per_s,
            unit="1/s",
            lower_is_better=False,
            details=with_agents,
        ),
        BenchmarkMetric(
            metric="queries a round trip",
            value=figures.queries_per_s * round_trip / 1000,
            unit="queries",
            lower_is_better=False,
            details={**with_agents, JUDGED: True, CONFIRMED_BY: RATE},
        ),
        BenchmarkMetric(
            metric=RECALL,
            value=figures.recall,
            unit=SHARE,
            lower_is_better=False,
            details={**details, "queries": figures.recall_queries, JUDGED: True},
        ),
    ]
