"""Which versions a publication opens and closes: pure bookkeeping, no Redis.

What was published at a time is a snapshot: for each memory the digest of its content. A version is a run of snapshots
in which a memory keeps its content; it is valid from the first of them until the next snapshot that lacks it or holds
other content. Replacing a snapshot in the middle therefore changes versions exactly as if it had been published so in
the first place.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MemoryKey = tuple[str, str]
"""Kind and memory id."""
Snapshot = Mapping[MemoryKey, bytes]
"""Digest of the content of each memory that was published at one time."""


class VersionKey(NamedTuple):
    """One version of a memory."""

    kind: str
    memory_id: str
    valid_from_ms: int


class Version(NamedTuple):
    """Digest of a version's content, and the end of its validity; None while it is current."""

    digest: bytes
    valid_to_ms: int | None


Versions = dict[VersionKey, Version]


class History(NamedTuple):
    """All versions of one kind, and the times at which the kind was published, ascending."""

    versions: Versions
    times: tuple[int, ...]


def snapshot_at(versions: Mapping[VersionKey, Version], time_ms: int) -> dict[MemoryKey, bytes]:
    """What was valid at a time."""
    return {
        (key.kind, key.memory_id): version.digest
        for key, version in versions.items()
        if key.valid_from_ms <= time_ms and (version.valid_to_ms is None or version.valid_to_ms > time_ms)
    }


Change = tuple[int, bytes | None]
"""From a time on (milliseconds since 1970) a memory has some content; None where it is not known any more."""


def revise(kept: Mapping[int, Version], changes: Sequence[Change], *, since_ms: int | None) -> dict[int, Version]:
    """The versions of one memory, by the time that they begin, after all that happened from a time on was replaced.

    Parameters
    ----------
    kept
        Its versions so far, those that begin at `since_ms` or later left out: they are replaced.
    changes
        What happens from `since_ms` on, in order of time; of several at one time the last counts.
    since_ms
        From when on the past is replaced; None for all of it (`kept` is empty then).
    """
    result: dict[int, Version] = {}
    begin: int | None = None
    content: bytes | None = None
    for time, version in kept.items():
        if since_ms is not None and (version.valid_to_ms is None or version.valid_to_ms >= since_ms):
            begin, content = time, version.digest  # What ended it is replaced: it goes on.
        else:
            result[time] = version
    for position, (time, digest) in enumerate(changes):
        overtaken = position + 1 < len(changes) and changes[position + 1][0] == time
        if overtaken or digest == content:
            continue
        if begin is not None and content is not None:
            result[begin] = Version(content, time)
        begin, content = time, digest
    if begin is not None and content is not None:
        result[begin] = Version(content, None)
    return result


def expire(versions: Mapping[VersionKey, Version], horizon_ms: int | None) -> tuple[Versions, int | None]:
    """The versions that are valid at some time after a horizon, and when the last of the others ended; None for none.

    Versions that stay keep the time that they began, however long ago.
    """
    if horizon_ms is None:
        return dict(versions), None
    kept: Versions = {}
    expired_until: int | None = None
    for key, version in versions.items():
        if version.valid_to_ms is not None and version.valid_to_ms <= horizon_ms:
            expired_until = version.valid_to_ms if expired_until is None else max(expired_until, version.valid_to_ms)
        else:
            kept[key] = version
    return kept, expired_until


def republish(history: History, snapshots: Mapping[int, Snapshot], *, replace_from_ms: int | None = None) -> History:
    """The history after some snapshots were published.

    Parameters
    ----------
    history
        What is there.
    snapshots
        By time of publication, in milliseconds. A snapshot that was published at that time before is replaced.
    replace_from_ms
        Drop all earlier snapshots from this time on, those that are not given again included.
    """
    given = dict(snapshots)
    kept = [time for time in history.times if replace_from_ms is None or time < replace_from_ms]
    times = sorted({*kept, *given})
    dropped = [time for time in history.times if replace_from_ms is not None and time >= replace_from_ms]
    changed = [*given, *dropped]
    if not changed:
        return history
    first = min(changed)
    # Before the last snapshot that precedes every change, nothing can differ.
    start = max(bisect_left(times, first) - 1, 0)
    origin = times[start] if times and times[start] < first else None
    untouched: Versions = {}
    open_versions: dict[MemoryKey, VersionKey] = {}
    digests: dict[VersionKey, bytes] = {}
    for key, version in history.versions.items():
        if origin is None or key.valid_from_ms > origin:
            continue
        if version.valid_to_ms is not None and version.valid_to_ms <= origin:
            untouched[key] = version
        else:
            open_versions[(key.kind, key.memory_id)] = key
            digests[key] = version.digest
    result = untouched
    for time in times:
        if origin is not None and time <= origin:
            continue
        snapshot = given[time] if time in given else snapshot_at(history.versions, time)
        for memory, key in list(open_versions.items()):
            if snapshot.get(memory) != digests[key]:
                result[key] = Version(digests[key], time)
                del open_versions[memory]
        for memory, digest in snapshot.items():
            if memory not in open_versions:
                key = VersionKey(*memory, time)
                open_versions[memory] = key
                digests[key] = digest
    result.update({key: Version(digests[key], None) for key in open_versions.values()})
    return History(result, tuple(times))
