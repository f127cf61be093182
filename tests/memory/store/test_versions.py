"""Versions follow from what was published when, whatever the order of publishing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from memory.store.versions import History, Snapshot, Version, VersionKey, republish, snapshot_at

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
@settings(max_examples=200)
def test_any_order_of_publishing_gives_the_same_versions(published: dict[int, Snapshot], random: object) -> None:
    times = list(published)
    random.shuffle(times)  # type: ignore[attr-defined]
    history = EMPTY
    for time in times:
        history = republish(history, {time: published[time]})
    assert history == in_order(published)


@given(PUBLISHED)
@settings(max_examples=200)
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
@settings(max_examples=200)
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
