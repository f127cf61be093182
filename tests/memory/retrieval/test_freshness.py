"""How fresh knowledge is said to be: now, as of a time, by line and kind."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from memory import Freshness, MemoryConnection, ReplayClock, SemanticType, Window, replaying
from memory.errors import InvalidQueryError
from memory.store.semantic import SemanticVersion

DAY = datetime(2021, 6, 17, tzinfo=UTC)
HOUR, NIGHT = timedelta(hours=1), timedelta(days=1)
ENCODER = "rff-1"
OLD, NEW = "ns/rff-1/1", "ns/rff-1/2"
PATTERN, REGIME = SemanticType.PATTERN, SemanticType.REGIME


def known(nights: int, lag: timedelta = timedelta()) -> dict[Window, datetime]:
    """The first so many windows, each known when it ended, or later."""
    windows = [Window.of_date(date(2021, 6, 17) + timedelta(days=night)) for night in range(nights)]
    return {window: window.end + lag for window in windows}


async def publish(
    mem: MemoryConnection, build: Any, windows: Any, *, line: str = OLD, since: datetime | None = None
) -> None:
    """Publish one pattern, known since the first window, with the windows of each kind that are published."""
    await mem.link.execute("SET", mem.keys.fence, 1)
    versions = [SemanticVersion(PATTERN, "p-1", DAY + NIGHT, build["pattern"]("p-1", line=line))] if not since else []
    await mem.semantic.publish_versions(
        versions, line=line, kinds=tuple(windows), token=1, since=since, horizon=None, windows=windows
    )


async def test_where_nothing_was_published_there_is_no_age(mem: MemoryConnection) -> None:
    found = await mem.freshness()
    assert isinstance(found, Freshness)
    assert (found.line, found.lines, found.window, found.known_at, found.age_s) == (None, (), None, None, None)
    assert (found.windows, found.by_kind) == (0, {})
    assert found.older_than(timedelta(days=10_000))
    assert (await mem.at(DAY).freshness()).age_s is None


async def test_the_newest_window_is_named_with_its_age_by_the_clock_given(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, build, {PATTERN: known(3, HOUR)})
    now = DAY + 3 * NIGHT + 5 * HOUR
    found = await mem.freshness(now=now)
    assert found.window == Window.of_date(date(2021, 6, 19))
    assert (found.known_at, found.age_s, found.asked_at) == (DAY + 3 * NIGHT + HOUR, 4 * 3600.0, now)
    assert (found.namespace, found.encoder_id, found.line, found.lines) == (mem.namespace, ENCODER, OLD, (OLD,))
    assert found.windows == 3
    assert (found.older_than(4 * HOUR), found.older_than(3 * HOUR)) == (False, True)


async def test_without_a_clock_the_age_is_counted_to_that_of_redis(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, build, {PATTERN: known(1)})
    found = await mem.freshness()
    seconds, _ = await mem.link.execute("TIME")
    assert abs((found.asked_at - datetime.fromtimestamp(int(seconds), UTC)).total_seconds()) < 60
    assert found.age_s == (found.asked_at - (DAY + NIGHT)).total_seconds()


async def test_as_of_a_time_later_windows_are_not_seen_and_the_age_is_that_of_then(
    mem: MemoryConnection, build: Any
) -> None:
    await publish(mem, build, {PATTERN: known(3, HOUR)})
    just_before = DAY + 2 * NIGHT + HOUR - timedelta(milliseconds=1)
    found = await mem.at(just_before).freshness()
    assert (found.window, found.windows) == (Window.of_date(date(2021, 6, 17)), 1)
    assert found.age_s == pytest.approx(86_400, abs=0.01)
    assert (await mem.freshness(as_of=just_before + timedelta(milliseconds=1))).windows == 2
    assert (await mem.at(DAY + NIGHT).freshness()).line is None
    with pytest.raises(InvalidQueryError):
        await mem.at(just_before).freshness(as_of=just_before + NIGHT)


async def test_a_window_that_changed_nothing_counts_as_published(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, build, {PATTERN: known(1)})
    await publish(mem, build, {PATTERN: known(2)}, since=DAY + 2 * NIGHT)
    assert len(await mem.semantic.versions("p-1", line=OLD)) == 1
    assert (await mem.freshness()).window == Window.of_date(date(2021, 6, 18))


async def test_a_kind_that_lags_behind_is_seen(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, build, {PATTERN: known(3), REGIME: known(1)})
    found = await mem.freshness()
    assert {kind: (newest.window, newest.windows) for kind, newest in found.by_kind.items()} == {
        PATTERN: (Window.of_date(date(2021, 6, 19)), 3),
        REGIME: (Window.of_date(date(2021, 6, 17)), 1),
    }
    assert found.windows == 3


async def test_windows_that_are_taken_back_are_gone(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, build, {PATTERN: known(3), REGIME: known(3)})
    await publish(mem, build, {PATTERN: known(2)}, since=DAY + 2 * NIGHT)
    found = await mem.freshness()
    assert {kind: newest.windows for kind, newest in found.by_kind.items()} == {PATTERN: 2, REGIME: 3}


async def test_it_is_the_line_that_is_read_or_was_read_then_that_counts(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, build, {PATTERN: known(2)})
    await publish(mem, build, {PATTERN: known(3)}, line=NEW)
    assert (await mem.freshness()).windows == 2
    await mem.semantic.take_over(NEW, ENCODER, current_from=DAY + 3 * NIGHT, token=1)
    found = await mem.freshness()
    assert (found.line, found.windows, found.lines) == (NEW, 3, (NEW,))
    past = await mem.at(DAY + 3 * NIGHT - HOUR).freshness()
    assert (past.line, past.windows, past.lines) == (OLD, 2, (OLD,))
    await mem.semantic.drop_line(NEW, 1)
    assert (await mem.freshness()).line == OLD


async def test_a_snapshot_counts_by_its_time_and_names_no_window(mem: MemoryConnection, build: Any) -> None:
    await mem.link.execute("SET", mem.keys.fence, 1)
    for night in (0, 1):
        await mem.semantic.publish(
            [build["pattern"]()], line=OLD, kinds=(PATTERN,), token=1, valid_from=DAY + night * NIGHT
        )
    found = await mem.freshness(now=DAY + 2 * NIGHT)
    assert (found.window, found.known_at, found.age_s, found.windows) == (None, DAY + NIGHT, 86_400.0, 2)


async def test_a_replay_must_bound_it(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, build, {PATTERN: known(3)})
    with replaying(ReplayClock(DAY + NIGHT)):
        with pytest.raises(InvalidQueryError):
            await mem.freshness()
        assert (await mem.at(DAY + NIGHT).freshness()).windows == 1


async def test_a_clock_without_a_zone_is_refused(mem: MemoryConnection) -> None:
    with pytest.raises(InvalidQueryError, match="now"):
        await mem.freshness(now=datetime(2021, 6, 17))
