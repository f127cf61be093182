"""What the janitor removes, and that no knowledge goes with it, wherever it is killed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memory.errors import FencedOutError
from memory.keeping.expired import (
    ARCHIVED_FILES,
    ARCHIVES,
    CHECKPOINTS,
    DOCUMENTS,
    GENERATIONS,
    LOGS,
    POLICIES,
    REPORTS,
    RULES,
    SUMMARIES,
    Expired,
)
from memory.ledger import FencingToken
from tasks import janitor
from tasks.janitor import drop_expired

LATER = timedelta(days=1000)


def collected(days: Any, after: timedelta) -> dict[str, Expired]:
    """What has expired some time from now, but in Prefect, which this process does not talk to."""
    collector = janitor._Collector(days.workspace, datetime.now(UTC) + after)
    found = {**collector.of_the_ledger(), **collector.of_redis(), **collector.of_the_home()}
    return {what: found[what] for what in RULES if what in found and found[what].items}


def drop(days: Any, expired: Expired) -> int:
    return drop_expired.fn(days.context.fencing_token, expired)


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0123456789")
    return path


@pytest.fixture
def replaced(days: Any) -> Any:
    """A day that was consolidated again: other states in the same minutes, another archive, other summaries."""
    days.record(0)
    days.consolidate(0)
    days.record(0, agent="late", product="Q")
    days.consolidate(0)
    return days


@pytest.fixture
def used(replaced: Any) -> Any:
    """The same after what was learned was published, with what lies about in a home after a while."""
    replaced.fold()
    replaced.publish()
    home, name = replaced.workspace.settings.home, replaced.workspace.namespace
    for day in ("2021-06-17", "2021-06-18"):
        write(home / "reports" / f"nightly-{name}-{day}.html")
        write(home / "reports" / f"nightly-{name}-other-{day}.html")
    for log in ("redis.log", "redis.log.1"):
        write(home / "logs" / log)
    write(home / "archive" / name / "2021-06-17" / ".states-1.tmp")
    write(home / "policies" / name / "training-1.pt")
    write(home / "policies" / name / "p-1.pt")
    return replaced


def test_what_nothing_needs_goes_wherever_it_is_killed_and_the_knowledge_stays(used: Any) -> None:
    digests, home = used.digests(), used.workspace.settings.home
    assert collected(used, timedelta()) == {}
    # An archive that was replaced yesterday, and what a run staged that was killed, may be wanted still.
    assert collected(used, timedelta(days=29)) == {}
    found, files = collected(used, LATER), set(home.rglob("*"))
    assert {what: len(expired.items) for what, expired in found.items() if what != SUMMARIES} == {
        GENERATIONS: 1,
        ARCHIVES: 1,
        ARCHIVED_FILES: 3,
        REPORTS: 1,
        LOGS: 1,
        CHECKPOINTS: 1,
        POLICIES: 1,
    }
    assert len(found[SUMMARIES].items) > 0
    assert all(expired.size_bytes or what == ARCHIVES for what, expired in found.items())
    seen = []
    while left := collected(used, LATER):
        # A new janitor each time, which comes no further than the first step that the others did not do.
        expired = next(iter(left.values()))
        assert drop(used, expired) == len(expired.items) == len(found[expired.what].items)
        assert used.digests() == digests
        seen.append(expired.what)
    assert seen == [what for what in RULES if what in found]
    assert {path.name for path in files - set(home.rglob("*"))} == {
        Path(item).name for expired in found.values() for item in expired.items if "/" in item
    }
    assert list(used.ledger.damaged(used.line)) == []
    # All that is left is enough to learn it again.
    used.fold(refold=True)
    used.publish()
    assert used.digests() == digests


def test_what_is_wanted_again_meanwhile_stays(replaced: Any) -> None:
    found = collected(replaced, LATER)
    current = replaced.ledger.windows.current_generation(replaced.line, replaced.window(0))
    # Each is named by what stays: as if a night had come between collecting and dropping.
    for what in (GENERATIONS, SUMMARIES, ARCHIVES):
        every = Expired(what, "", tuple(str(number) for number in range(1, 5000)))
        drop(replaced, every)
    assert replaced.ledger.windows.current_generation(replaced.line, replaced.window(0)) == current
    assert replaced.ledger.windows.archives_of(replaced.line, replaced.window(0))
    kept = replaced.ledger.windows.archive_paths(replaced.workspace.namespace)
    assert drop(replaced, Expired(ARCHIVED_FILES, "", tuple(kept))) == 0
    assert found[ARCHIVED_FILES].items


def test_files_of_another_ledgers_archive_are_left_alone(days: Any) -> None:
    write(days.workspace.settings.home / "archive" / days.workspace.namespace / "2021-06-17" / "states-1.parquet")
    assert ARCHIVED_FILES not in collected(days, LATER)


def test_a_run_that_was_overtaken_drops_nothing(replaced: Any) -> None:
    found = collected(replaced, LATER)
    late = FencingToken(replaced.workspace.namespace, replaced.context.token - 1, "late")
    for what in (GENERATIONS, SUMMARIES, ARCHIVES):
        with pytest.raises(FencedOutError):
            drop_expired.fn(late, found[what])
    assert collected(replaced, LATER) == found


def test_runs_go_unless_something_learned_names_them_or_they_are_the_last_of_their_flow(days: Any) -> None:
    runs, name = days.ledger.runs, days.workspace.namespace
    days.record(0)
    days.consolidate(0)
    ended = [runs.start("record_experiences", name, {}, lease_s=600) for _ in range(3)]
    for run_id in ended:
        runs.finish(run_id, {"stored": 1})
    running = runs.start("record_experiences", name, {}, lease_s=600)
    found = collected(days, LATER)["runs"]
    assert set(found.items) == set(ended[:2])
    assert drop(days, found) == 2
    assert {run.run_id for run in runs.list(name)} == {ended[2], running, days.context.run_id}


def test_documents_of_a_killed_publication_are_removed(days: Any) -> None:
    encoder, version = days.line.split("/")[1:]
    days.ledger.lines.ensure(days.context.fencing_token, encoder, version)

    async def stage(mem: Any) -> None:
        staged = mem.keys.semantic_staged(days.line)
        await mem.link.execute("SADD", staged, f"{staged}:=mark:PATTERN:p-1:1")
        await mem.link.execute("HSET", f"{staged}:=mark:PATTERN:p-1:1", "body", "b")

    days.with_memory(stage)
    found = collected(days, timedelta())
    assert list(found) == [DOCUMENTS]
    assert drop(days, found[DOCUMENTS]) == 1
    assert collected(days, timedelta()) == {}


def test_a_path_outside_its_folder_is_refused(days: Any, tmp_path: Path) -> None:
    outside = write(tmp_path / "x.log.1")
    with pytest.raises(Exception, match="does not lie under"):
        drop(days, Expired(LOGS, "", (str(outside),)))
    assert outside.exists()
