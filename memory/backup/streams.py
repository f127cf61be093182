"""Streams as rows, up to a time: their entries, and how they stand with the groups that read them.

An entry's id begins with the server's time at which it was added, so a stream can be read as it was at a time of the
near past: what was added later is left out, and not counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from memory.backup.rows import ENTRY, STREAM, KeyRow
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink

PAGE = 500
"""Entries, or entries in hand, of one command."""
NOBODY = "restoring"
"""Group by which a stream that has no entries and no groups comes into being."""


class Group(msgspec.Struct, frozen=True):
    """A group of consumers: what was handed out last, how many that makes, who reads, and what each has in hand.

    `pending` holds id, consumer and deliveries of each entry that is not acknowledged.
    """

    name: bytes
    last_id: bytes
    entries_read: int | None
    consumers: list[bytes]
    pending: list[tuple[bytes, bytes, int]]


class State(msgspec.Struct, frozen=True):
    """How a stream stands beside its entries."""

    last_id: bytes
    entries_added: int
    max_deleted_id: bytes
    groups: list[Group]


@dataclass(frozen=True, slots=True)
class StreamHead:
    """How one stream stood when it was looked at; `delivered` is when each entry in hand was handed out."""

    key: bytes
    expires_ms: int | None
    state: State
    delivered: Mapping[tuple[bytes, bytes], int]

    def in_hand(self) -> set[bytes]:
        """Ids of the entries that are handed out and not acknowledged."""
        return {entry for group in self.state.groups for entry, _, _ in group.pending}

    def row(self, there: Collection[bytes]) -> KeyRow:
        """The row that follows those of the entries.

        Parameters
        ----------
        there
            Those of `in_hand` that the stream holds. The others were trimmed or deleted while somebody had them in
            hand: there is nothing left to hand out again, and no server takes them back.
        """
        groups = [
            msgspec.structs.replace(group, pending=[item for item in group.pending if item[0] in there])
            for group in self.state.groups
        ]
        fields = [
            (group + b":" + entry, b"%d" % when)
            for (group, entry), when in sorted(self.delivered.items())
            if entry in there
        ]
        packed = msgspec.msgpack.encode(msgspec.structs.replace(self.state, groups=groups))
        return KeyRow(self.key, STREAM, self.expires_ms, packed, fields)


_states = msgspec.msgpack.Decoder(State)


async def read_head(link: RedisLink, keys: Keys, key: bytes, cut_ms: int | None) -> StreamHead | None:
    """How a stream (by its key without the namespace) stands, as of a time; None where there is none.

    Cost: a few round trips, and what was added since that time, which the server lists.
    """
    name = f"{keys.namespace}:".encode() + key
    if not await link.execute("EXISTS", name):
        return None  # Asked of a key that is not there, XINFO is refused.
    added_since = ("XRANGE", name, "+", "-") if cut_ms is None else ("XRANGE", name, cut_ms + 1, "+")
    ask: list[Command] = [("PEXPIRETIME", name), ("TIME",), added_since]
    ask += [("XINFO", "STREAM", name), ("XINFO", "GROUPS", name)]
    expires_ms, clock, later, info, groups = await link.pipeline(ask, transaction=True)
    now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
    last_id, deleted = info[b"last-generated-id"], info[b"max-deleted-entry-id"]
    if later:
        newest = await link.execute("XREVRANGE", name, cut_ms, "-", "COUNT", 1)
        known = [b"0-0", *(entry for entry, _ in newest), *([deleted] if _by_then(deleted, cut_ms) else [])]
        last_id = max(known, key=_place)
    delivered: dict[tuple[bytes, bytes], int] = {}
    found = [await _group(link, name, group, last_id, now_ms, delivered) for group in groups]
    return StreamHead(
        key=key,
        expires_ms=None if expires_ms < 0 else expires_ms,
        state=State(
            last_id=last_id,
            entries_added=int(info[b"entries-added"]) - len(later),
            max_deleted_id=min(deleted, last_id, key=_place),
            groups=found,
        ),
        delivered=delivered,
    )


async def _group(
    link: RedisLink,
    name: bytes,
    group: Mapping[bytes, Any],
    last_id: bytes,
    now_ms: int,
    delivered: dict[tuple[bytes, bytes], int],
) -> Group:
    own = group[b"name"]
    consumers = await link.execute("XINFO", "CONSUMERS", name, own)
    pending: list[tuple[bytes, bytes, int]] = []
    start: bytes = b"-"
    while page := await link.execute("XPENDING", name, own, start, last_id, PAGE):
        for entry, consumer, idle_ms, times in page:
            pending.append((entry, consumer, int(times)))
            delivered[own, entry] = now_ms - int(idle_ms)
        start = b"(" + page[-1][0]
    return Group(
        name=own,
        last_id=min(group[b"last-delivered-id"], last_id, key=_place),
        entries_read=group[b"entries-read"],
        consumers=sorted(consumer[b"name"] for consumer in consumers),
        pending=pending,
    )


async def read_stream(link: RedisLink, keys: Keys, head: StreamHead) -> AsyncIterator[list[KeyRow]]:
    """The entries of a stream up to where its head says that it ends, page by page, oldest first; then its own row."""
    name = f"{keys.namespace}:".encode() + head.key
    in_hand = head.in_hand()
    there: set[bytes] = set()
    start: bytes = b"-"
    while page := await link.execute("XRANGE", name, start, head.state.last_id, "COUNT", PAGE):
        yield [
            KeyRow(head.key, ENTRY, None, entry, list(zip(fields[::2], fields[1::2], strict=True)))
            for entry, fields in page
        ]
        there.update(entry for entry, _ in page if entry in in_hand)
        start = b"(" + page[-1][0]
    yield [head.row(there)]


def entry_commands(name: bytes, row: KeyRow) -> Iterator[Command]:
    """What adds an entry to a stream that has those before it."""
    yield ("XADD", name, row.value, *(part for pair in row.fields for part in pair))


def head_commands(name: bytes, row: KeyRow) -> Iterator[Command]:
    """What lets a stream with its entries stand as it did: ids go on where they stopped, what is in hand still is."""
    state = _states.decode(row.value or b"")
    delivered = dict(row.fields)
    yield ("XGROUP", "CREATE", name, NOBODY, "0", "MKSTREAM")
    yield ("XGROUP", "DESTROY", name, NOBODY)
    yield (
        *("XSETID", name, state.last_id, "ENTRIESADDED", state.entries_added),
        *("MAXDELETEDID", state.max_deleted_id),
    )
    for group in state.groups:
        read = () if group.entries_read is None else ("ENTRIESREAD", group.entries_read)
        yield ("XGROUP", "CREATE", name, group.name, group.last_id, *read)
        for consumer in group.consumers:
            yield ("XGROUP", "CREATECONSUMER", name, group.name, consumer)
        for entry, consumer, times in group.pending:
            when = delivered[group.name + b":" + entry]
            yield (
                *("XCLAIM", name, group.name, consumer, 0, entry, "TIME", int(when)),
                *("RETRYCOUNT", times, "FORCE", "JUSTID"),
            )
    if row.expires_ms is not None:
        yield ("PEXPIREAT", name, row.expires_ms)


def _place(entry_id: bytes) -> tuple[int, int]:
    high, _, low = entry_id.partition(b"-")
    return int(high), int(low or 0)


def _by_then(entry_id: bytes, cut_ms: int | None) -> bool:
    return cut_ms is None or _place(entry_id)[0] <= cut_ms
