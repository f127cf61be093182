"""Staged summaries and generations: resumable, complete, idempotent."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from memory.errors import ConflictingRecordError, FencedOutError, IncompleteGenerationError
from memory.ledger import (
    Archive,
    ArchivedSpanRow,
    ClusterRow,
    FencingToken,
    GenerationRecord,
    Ledger,
    ManifestEntry,
    SummaryRecord,
)
from memory.tables import WindowData
from memory.window import Window

NOON = datetime(2021, 6, 18, 12, tzinfo=UTC)


def stage(
    ledger: Ledger, token: FencingToken, line: str, window: Window, key: str = "k", payload: bytes = b"x", **more: Any
) -> SummaryRecord:
    named = {"kind": "patterns", "input_digest": "i", "settings_hash": "s"} | more
    return ledger.staging.stage(token, line, window, partition_key=key, payload=payload, **named)


def entry(summary: SummaryRecord) -> ManifestEntry:
    return ManifestEntry(kind=summary.kind, partition_key=summary.partition_key, digest=summary.digest)


def commit(
    ledger: Ledger, token: FencingToken, line: str, window: Window, *payloads: bytes, **more: Any
) -> GenerationRecord:
    """Stages one summary a payload, and commits them."""
    summaries = [
        stage(ledger, token, line, window, f"k{index}", payload, input_digest=f"i-{payload.hex()}")
        for index, payload in enumerate(payloads)
    ]
    return ledger.windows.commit_generation(
        token, line, window, settings_hash="s", entries=[entry(summary) for summary in summaries], **more
    )


def test_a_staged_summary_is_found_by_what_it_was_computed_from(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    staged = stage(ledger, token, line, window, payload=b"\x00summary", columns={"states": 4320})
    named = {"kind": "patterns", "partition_key": "k"}
    assert ledger.staging.find(line, window, **named, input_digest="i", settings_hash="s") == staged
    head = ledger.staging.find_head(line, window, **named, input_digest="i", settings_hash="s")
    assert head is not None
    assert (head.digest, head.columns) == (staged.digest, staged.columns)
    assert ledger.staging.find_head(line, window, **named, input_digest="other", settings_hash="s") is None
    assert staged.payload == b"\x00summary"
    assert staged.columns == {"states": 4320}
    assert ledger.staging.find(line, window, **named, input_digest="other", settings_hash="s") is None
    assert ledger.staging.find(line, window, **named, input_digest="i", settings_hash="other") is None


def test_staging_again_keeps_one_summary_with_its_clusters(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    clusters = [
        ClusterRow(cluster=number, states=10, support=3, broad=False, member_digest=f"m{number}", attributes={"n": 1})
        for number in range(3)
    ]
    first = stage(ledger, token, line, window, clusters=clusters)
    assert stage(ledger, token, line, window, clusters=clusters) == first
    assert ledger.staging.clusters(line, window, first.digest) == clusters


def test_another_summary_from_the_same_input_is_refused(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    stage(ledger, token, line, window, payload=b"one")
    with pytest.raises(ConflictingRecordError, match="pure function"):
        stage(ledger, token, line, window, payload=b"two")


def test_partitions_are_staged_in_parallel(ledger: Ledger, token: FencingToken, line: str, window: Window) -> None:
    keys = [f"k{index}" for index in range(8)]
    threads = [threading.Thread(target=stage, args=(ledger, token, line, window, key)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [
        ledger.staging.find(line, window, kind="patterns", partition_key=key, input_digest="i", settings_hash="s")
        for key in keys
    ]
    assert all(found)


def test_a_committed_generation_is_current_with_its_summaries(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    one, two = stage(ledger, token, line, window, "b", b"1"), stage(ledger, token, line, window, "a", b"2")
    other = stage(ledger, token, line, window, "pooled", b"3", kind="transitions")
    absent = ManifestEntry(kind="patterns", partition_key="c", digest=None)
    generation = ledger.windows.commit_generation(
        token,
        line,
        window,
        settings_hash="s",
        entries=[entry(one), entry(two), entry(other), absent],
        recorded_cut=NOON,
        counts={"experiences": 21600},
    )
    current = ledger.windows.current_generation(line, window)
    assert current is not None
    assert current.generation == generation
    assert (generation.number, generation.recorded_cut, generation.counts) == (1, NOON, {"experiences": 21600})
    assert current.of_kind("patterns") == (two, one)
    assert current.of_kind("transitions") == (other,)
    assert current.absent == (absent,)


def test_a_generation_with_a_missing_summary_is_refused_and_nothing_becomes_current(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    staged = stage(ledger, token, line, window)
    missing = ManifestEntry(kind="patterns", partition_key="not-there", digest=staged.digest)
    with pytest.raises(IncompleteGenerationError, match="lacks 1 of 2 summaries: patterns 'not-there'"):
        ledger.windows.commit_generation(token, line, window, settings_hash="s", entries=[entry(staged), missing])
    assert ledger.windows.current_generation(line, window) is None
    assert ledger.windows.list(line) == []


def test_a_manifest_that_names_a_partition_twice_is_refused(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    staged = stage(ledger, token, line, window)
    with pytest.raises(IncompleteGenerationError, match="twice"):
        ledger.windows.commit_generation(token, line, window, settings_hash="s", entries=[entry(staged), entry(staged)])


def test_committing_the_same_again_keeps_the_generation_and_the_latest_cut(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    first = commit(ledger, token, line, window, b"1", b"2", recorded_cut=NOON)
    later = commit(ledger, token, line, window, b"1", b"2", recorded_cut=NOON.replace(hour=13))
    earlier = commit(ledger, token, line, window, b"1", b"2", recorded_cut=NOON)
    assert (first.number, later.number) == (1, 1)
    assert later.recorded_cut == earlier.recorded_cut == NOON.replace(hour=13)
    assert len(ledger.windows.generations(line, window)) == 1


def test_other_content_makes_a_new_generation_and_the_first_one_again_is_number_one(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    numbers = [commit(ledger, token, line, window, payload).number for payload in (b"1", b"2", b"1")]
    assert numbers == [1, 2, 1]
    current = ledger.windows.current_generation(line, window)
    assert current is not None
    assert current.summaries[0].payload == b"1"


def test_the_manifest_does_not_depend_on_order_namespace_or_run(ledger: Ledger, namespace: str, window: Window) -> None:
    digests = []
    for suffix, order in (("-a", (b"1", b"2")), ("-b", (b"1", b"2"))):
        token = ledger.fence.acquire(namespace + suffix, f"run{suffix}", flow="nightly", lease_s=60)
        line = ledger.lines.ensure(token, "encoder-1", "1")
        staged = [stage(ledger, token, line, window, f"k{index}", payload) for index, payload in enumerate(order)]
        entries = [entry(summary) for summary in staged][:: 1 if suffix == "-a" else -1]
        generation = ledger.windows.commit_generation(token, line, window, settings_hash="s", entries=entries)
        digests.append(generation.manifest_digest)
    assert digests[0] == digests[1]


def test_an_overtaken_run_cannot_commit(ledger: Ledger, namespace: str, window: Window) -> None:
    token = ledger.fence.acquire(namespace, "run-1", flow="nightly", lease_s=0.1)
    line = ledger.lines.ensure(token, "encoder-1", "1")
    staged = stage(ledger, token, line, window)
    ledger.fence.acquire(namespace, "run-2", flow="nightly", lease_s=60, wait_s=10)
    with pytest.raises(FencedOutError):
        ledger.windows.commit_generation(token, line, window, settings_hash="s", entries=[entry(staged)])
    assert ledger.windows.with_current(line) == []


def test_windows_come_in_order_of_time_however_they_were_filled(ledger: Ledger, token: FencingToken, line: str) -> None:
    days = [Window.of_date(date(2021, 6, day)) for day in (19, 17, 18)]
    for day in days:
        commit(ledger, token, line, day, b"1")
    assert [window.name for window, _ in ledger.windows.with_current(line)] == [
        "2021-06-17",
        "2021-06-18",
        "2021-06-19",
    ]
    assert [status.window for status in ledger.windows.list(line, first=days[2])] == [days[2], days[0]]


def test_a_stale_window_keeps_its_reason_until_it_is_consolidated_again(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    commit(ledger, token, line, window, b"1")
    ledger.windows.mark_stale(token, line, window, "12 records came late")
    ledger.windows.mark_stale(token, line, window, "another reason")
    (status,) = ledger.windows.stale(line)
    assert (status.window, status.stale_reason, status.generation) == (window, "12 records came late", 1)
    commit(ledger, token, line, window, b"2")
    assert ledger.windows.stale(line) == []


def test_discarding_drops_only_what_no_generation_uses(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    commit(ledger, token, line, window, b"1")
    stage(ledger, token, line, window, "left over")
    assert ledger.staging.discard(token, line) == 1
    current = ledger.windows.current_generation(line, window)
    assert current is not None
    assert len(current.summaries) == 1


def test_a_generation_names_the_archives_that_it_was_computed_from(
    ledger: Ledger,
    token: FencingToken,
    line: str,
    window: Window,
    tmp_path: Path,
    make_window_data: Callable[..., WindowData],
) -> None:
    archive = Archive(f"file://{tmp_path}")
    replay = archive.write(token.namespace, window, make_window_data())
    live = archive.write(token.namespace, window, make_window_data(source="live"))
    for _ in range(2):
        generation = commit(ledger, token, line, window, b"1", archives=[replay, live])
    assert generation.manifest["archives"] == [
        ["encoder-1", "live", live.content_digest],
        ["encoder-1", "replay", replay.content_digest],
    ]
    assert ledger.windows.archives(token.namespace, window, "encoder-1") == [live, replay]


def test_the_latest_archive_of_a_source_counts(
    ledger: Ledger,
    token: FencingToken,
    window: Window,
    tmp_path: Path,
    make_window_data: Callable[..., WindowData],
) -> None:
    archive = Archive(f"file://{tmp_path}")
    references = [archive.write(token.namespace, window, make_window_data(seed)) for seed in (1, 2)]
    ids = [ledger.windows.save_archive(token, reference) for reference in references]
    assert ledger.windows.save_archive(token, references[0]) == ids[0]
    assert ledger.windows.archives(token.namespace, window, "encoder-1") == [references[1]]


def test_the_digest_of_files_that_were_archived_before_is_brought_up_to_date(
    ledger: Ledger, token: FencingToken, window: Window, make_window_data: Callable[..., WindowData], tmp_path: Path
) -> None:
    archived = Archive(f"file://{tmp_path}").write(token.namespace, window, make_window_data())
    first = ledger.windows.save_archive(token, dataclasses.replace(archived, content_digest="of an earlier version"))
    assert ledger.windows.save_archive(token, archived) == first
    (found,) = ledger.windows.archives(token.namespace, window, archived.encoder_id)
    assert found.content_digest == archived.content_digest


def test_a_generation_keeps_naming_what_it_was_computed_from(
    ledger: Ledger,
    token: FencingToken,
    line: str,
    window: Window,
    tmp_path: Path,
    make_window_data: Callable[..., WindowData],
) -> None:
    """Between archiving a window again and committing what came out, folds go by the former archive."""
    archive = Archive(f"file://{tmp_path}")
    live = archive.write(token.namespace, window, make_window_data(source="live"))
    first, second = (archive.write(token.namespace, window, make_window_data(seed)) for seed in (1, 2))
    assert ledger.windows.archives_of(line, window) == []
    commit(ledger, token, line, window, b"1", archives=[first, live])
    ledger.windows.save_archive(token, second)
    assert ledger.windows.archives_of(line, window) == [live, first]
    assert ledger.windows.archives(token.namespace, window, "encoder-1") == [live, second]
    commit(ledger, token, line, window, b"2", archives=[second, live])
    assert ledger.windows.archives_of(line, window) == [live, second]


def test_an_archive_comes_back_with_all_that_is_known_of_it(
    ledger: Ledger, token: FencingToken, window: Window, make_window_data: Callable[..., WindowData], tmp_path: Path
) -> None:
    archived = Archive(f"file://{tmp_path}").write(
        token.namespace, window, make_window_data(), derived_from="encoder-0"
    )
    ledger.windows.save_archive(token, archived)
    assert ledger.windows.archives(token.namespace, window, "encoder-1") == [archived]
    assert archived.known_at_max is not None


def test_spans_tell_of_each_window_and_encoder_what_is_archived(
    ledger: Ledger,
    token: FencingToken,
    line: str,
    window: Window,
    tmp_path: Path,
    make_window_data: Callable[..., WindowData],
) -> None:
    """Rows of the latest archive of each source; the latest cut of any line; archived or consolidated too."""
    archive = Archive(f"file://{tmp_path}")
    later = Window.containing(window.end)
    replay, more = (archive.write(token.namespace, window, make_window_data(states=states)) for states in (20, 30))
    live = archive.write(token.namespace, window, make_window_data(states=10, source="live"))
    commit(ledger, token, line, window, b"1", archives=[replay, live], recorded_cut=NOON)
    ledger.windows.save_archive(token, more)
    ledger.windows.save_archive(token, archive.write(token.namespace, later, make_window_data(states=5)))
    other = ledger.lines.ensure(token, "encoder-1", "2")
    commit(ledger, token, other, window, b"1", archives=[more, live], recorded_cut=NOON.replace(hour=13))
    first = ArchivedSpanRow(
        window=window, encoder_id="encoder-1", rows=80, recorded_cut=NOON.replace(hour=13), consolidated=True
    )
    second = ArchivedSpanRow(window=later, encoder_id="encoder-1", rows=10, recorded_cut=None, consolidated=False)
    assert ledger.windows.spans(token.namespace) == [first, second]
    assert ledger.windows.spans(token.namespace, until=window.end) == [first]
    assert ledger.windows.spans(f"{token.namespace}-other") == []


def test_a_sealed_window_stays_so_until_it_is_consolidated_again(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    def status() -> tuple[bool, str | None]:
        (found,) = ledger.windows.list(line)
        return found.sealed_since is not None, found.sealed_reason

    commit(ledger, token, line, window, b"1")
    assert status() == (False, None)
    for reason in ("its archive is lost", "another reason"):
        ledger.windows.seal(token, line, window, reason)
    assert status() == (True, "its archive is lost")
    ledger.windows.unseal(token, line, window)
    assert status() == (False, None)
    ledger.windows.seal(token, line, window, "lost again")
    commit(ledger, token, line, window, b"1")
    assert status() == (False, None)
