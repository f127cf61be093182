"""Versions follow from what was published when, whatever the order of publishing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from memory.store.versions import (
    Change,
    History,
    Snapshot,
    Version,
    VersionKey,
    expire,
    republish,
    revise,
    snapshot_at,
)

EMPTY = History({}, ())
SNAPSHOTS = st.dictionaries(
    st.sampled_from(["a", "b", "c"]).map(lambda name: ("PATTERN", name)), st.sampled_from([b"1", b"2", b"3"])
)
PUBLISHED = st.dictionaries(st.integers(0, 8), SNAPSHOTS, max_size=9)


def in_order(published: dict[int, Snapshot]) -> History:
    history = EMPTY
    for time in sorted(published):
        history = republish(history, {time: published[time]})
    return history


@given(PUBLISHED, st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_any_order_of_publishing_gives_the_same_versions(published: dict[int, Snapshot], random: object) -> None:
    times = list(published)
    random.shuffle(times)  # type: ignore[attr-defined]
    history = EMPTY
    for time in times:
        history = republish(history, {time: published[time]})
    assert history == in_order(published)


@given(PUBLISHED)
@settings(max_examples=100)
def test_at_every_time_the_versions_hold_what_was_published_last(published: dict[int, Snapshot]) -> None:
    history = in_order(published)
    for time in range(10):
        past = [known for known in published if known <= time]
        expected = published[max(past)] if past else {}
        assert snapshot_at(history.versions, time) == expected


@given(PUBLISHED, st.integers(0, 8))
@settings(max_examples=100)
def test_publishing_the_same_again_changes_nothing(published: dict[int, Snapshot], time: int) -> None:
    history = in_order(published)
    if time in published:
        assert republish(history, {time: published[time]}) == history


@given(PUBLISHED, PUBLISHED, st.integers(0, 8))
@settings(max_examples=100)
def test_a_back_fill_ends_as_a_run_in_order(
    before: dict[int, Snapshot], again: dict[int, Snapshot], since: int
) -> None:
    again = {time: snapshot for time, snapshot in again.items() if time >= since}
    kept = {time: snapshot for time, snapshot in before.items() if time < since}
    assert republish(in_order(before), again, replace_from_ms=since) == in_order({**kept, **again})


def test_unchanged_content_keeps_its_version_and_changed_content_ends_it() -> None:
    a, b = ("PATTERN", "a"), ("PATTERN", "b")
    history = in_order({1: {a: b"1", b: b"1"}, 2: {a: b"1", b: b"2"}, 3: {a: b"1"}})
    assert history.versions == {
        VersionKey("PATTERN", "a", 1): Version(b"1", None),
        VersionKey("PATTERN", "b", 1): Version(b"1", 2),
        VersionKey("PATTERN", "b", 2): Version(b"2", 3),
    }


# --- changes -------------------------------------------------------------------------------------------------

CHANGES = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([b"1", b"2", None])), max_size=8).map(
    lambda changes: sorted(changes, key=lambda change: change[0])
)


def content_at(changes: list[Change], time: int) -> bytes | None:
    """What a memory holds at a time, by its changes."""
    return next((digest for at, digest in reversed(changes) if at <= time), None)


@given(CHANGES)
@settings(max_examples=100)
def test_versions_hold_at_every_time_what_the_last_change_brought(changes: list[Change]) -> None:
    versions = revise({}, changes, since_ms=None)
    for time in range(11):
        valid = [
            version.digest
            for begin, version in versions.items()
            if begin <= time and (version.valid_to_ms is None or version.valid_to_ms > time)
        ]
        assert valid == [digest for digest in [content_at(changes, time)] if digest is not None]
    ends = {version.valid_to_ms: version.digest for version in versions.values()}
    assert all(ends.get(begin) != version.digest for begin, version in versions.items())


@given(CHANGES, CHANGES, st.integers(0, 10))
@settings(max_examples=300)
def test_replacing_what_happened_from_a_time_on_gives_what_all_at_once_would_have(
    before: list[Change], after: list[Change], since: int
) -> None:
    whole = [change for change in before if change[0] < since] + [change for change in after if change[0] >= since]
    kept = {begin: version for begin, version in revise({}, before, since_ms=None).items() if begin < since}
    late = [change for change in after if change[0] >= since]
    assert revise(kept, late, since_ms=since) == revise({}, whole, since_ms=None)


@given(CHANGES, st.integers(-1, 11), st.integers(-1, 11))
@settings(max_examples=100)
def test_expiring_bit_by_bit_is_expiring_at_once(changes: list[Change], one: int, other: int) -> None:
    versions = {
        VersionKey("PATTERN", "a", begin): version for begin, version in revise({}, changes, since_ms=None).items()
    }
    first, early = expire(versions, min(one, other))
    second, late = expire(first, max(one, other))
    kept, until = expire(versions, max(one, other))
    assert second == kept
    assert max((time for time in (early, late) if time is not None), default=None) == until
    for time in range(-1 if until is None else until, 12):
        assert snapshot_at(kept, time) == snapshot_at(versions, time)
