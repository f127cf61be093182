"""How much room ledger and archive take."""

from __future__ import annotations

from dataclasses import replace

from memory.ledger import ArchivedFile, ArchiveReference, BenchmarkMetric, FencingToken, Ledger
from memory.window import Window


def reference(namespace: str, window: Window, states: ArchivedFile, experiences: ArchivedFile) -> ArchiveReference:
    return ArchiveReference(
        namespace=namespace,
        window=window,
        encoder_id="encoder-1",
        source="replay",
        content_digest="d",
        states=states,
        experiences=experiences,
    )


def test_each_archived_file_counts_once(ledger: Ledger, token: FencingToken, window: Window) -> None:
    assert ledger.sizes.archive(token.namespace).files == 0
    states = ArchivedFile(path=f"{token.namespace}/s", sha256="a" * 64, rows=1, bytes=100)
    experiences = ArchivedFile(path=f"{token.namespace}/e", sha256="b" * 64, rows=5, bytes=40)
    other = replace(experiences, path=f"{token.namespace}/f", sha256="c" * 64, bytes=7)
    for files in ((states, experiences), (states, other)):
        ledger.windows.save_archive(token, reference(token.namespace, window, *files))
    found = ledger.sizes.archive(token.namespace)
    assert (found.files, found.bytes) == (3, 147)
    assert ledger.sizes.archive(f"{token.namespace}-other").bytes == 0


def test_the_ledger_takes_room_and_more_with_more_rows(ledger: Ledger, namespace: str) -> None:
    before = ledger.sizes.ledger_bytes()
    details = {"text": "x" * 1000}
    metrics = [BenchmarkMetric(metric=str(row), value=1.0, unit="ms", details=details) for row in range(300)]
    ledger.benchmarks.record(namespace, f"run-{namespace}", "m", metrics)
    assert ledger.sizes.ledger_bytes() > before > 0


def test_recent_figures_are_those_of_the_latest_runs_oldest_first(ledger: Ledger, namespace: str) -> None:
    for run in range(4):
        machine = "other" if run == 3 else "m"
        metrics = [
            BenchmarkMetric(metric="p50", value=run, unit="ms"),
            BenchmarkMetric(metric="size: ledger", value=run, unit="bytes"),
        ]
        ledger.benchmarks.record(namespace, f"{namespace}-{run}", machine, metrics)
    recent = ledger.benchmarks.recent
    assert [(r.value, r.unit) for r in recent(namespace, machine="m", runs=2)] == [
        (1, "ms"),
        (1, "bytes"),
        (2, "ms"),
        (2, "bytes"),
    ]
    assert [r.value for r in recent(namespace, units=("bytes",))] == [0, 1, 2, 3]
    until = recent(namespace)[3].recorded_at
    assert [r.value for r in recent(namespace, units=("ms",), until=until)] == [0, 1]
    assert recent(f"{namespace}-other") == []
