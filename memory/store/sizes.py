"""How much of Redis each kind of a namespace's keys takes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink

SCAN_COUNT = 1000
"""Keys a step: some 0.3 ms of the server each."""

SAMPLE = 100
"""Keys of a kind whose size is asked for; the others are taken to be like them."""

EXPERIENCES, SHARED, SEMANTIC = "experiences", "shared experiences", "semantic memory"
INDEXES = "indexes"
OTHER = "other"
KINDS: dict[str, str] = {
    "episodic": EXPERIENCES,
    "shared_episodic": SHARED,
    "semantic": SEMANTIC,
    "semantic_manifest": SEMANTIC,
    "semantic_publications": SEMANTIC,
    "semantic_staged": SEMANTIC,
    "semantic_stamp": SEMANTIC,
    "memory_aliases": SEMANTIC,
    "access": "access counters",
    "decision": "decision traces",
    "inbox": "inboxes",
    "messages": "messages",
    "message_ids": "messages",
    "message_senders": "messages",
    "mailbox": "messages",
    "mailbox_leases": "messages",
    "dead_letters": "dead letters",
    "dead_letter_digests": "dead letters",
}
"""What is counted together, by the second part of a key; all others are `OTHER`."""


class OpenMemory(Protocol):
    """What is asked for its sizes: an open connection."""

    link: RedisLink
    keys: Keys
    indexes: Indexes


@dataclass(frozen=True, slots=True)
class KindSize:
    """Keys of one kind, or documents of the indexes, and bytes: an estimate from a sample where there are many."""

    number: int
    bytes: int


async def redis_sizes(mem: OpenMemory) -> dict[str, KindSize]:
    """Size of each kind of a namespace's keys, and of its indexes (`INDEXES`), most bytes first.

    Vectors lie in the keys and, once more, in the indexes. What a server keeps beside (replicas, the log's buffers,
    other namespaces) is in neither.

    Notes
    -----
    Cost: one pass over the names of all keys of the server, a thousand a step (a second for three million), between
    which others are answered; and the size of a hundred keys a kind.
    """
    chooser = random.Random(0)  # noqa: S311 - a sample, no secret
    counts: dict[str, int] = {}
    samples: dict[str, list[bytes]] = {}
    prefix = f"{mem.keys.namespace}:".encode()
    cursor = 0
    while True:
        cursor, names = await mem.link.execute("SCAN", cursor, "MATCH", f"{mem.keys.namespace}:*", "COUNT", SCAN_COUNT)
        for name in names:
            kind = KINDS.get(name[len(prefix) :].split(b":", 1)[0].decode(), OTHER)
            counts[kind] = seen = counts.get(kind, 0) + 1
            sample = samples.setdefault(kind, [])
            if len(sample) < SAMPLE:
                sample.append(name)
            elif (place := chooser.randrange(seen)) < SAMPLE:
                sample[place] = name
        cursor = int(cursor)
        if not cursor:
            break
    sizes = {kind: KindSize(counts[kind], await _bytes(mem, counts[kind], sample)) for kind, sample in samples.items()}
    indexes = await mem.indexes.health()
    if indexes:
        sizes[INDEXES] = KindSize(sum(item.documents for item in indexes), sum(item.bytes for item in indexes))
    return dict(sorted(sizes.items(), key=lambda row: (-row[1].bytes, row[0])))


async def _bytes(mem: OpenMemory, number: int, sample: list[bytes]) -> int:
    """Bytes of all keys of a kind, from those of some."""
    answers = await mem.link.pipeline([("MEMORY", "USAGE", name) for name in sample])
    # A key may have gone since its name was read.
    found = [int(answer) for answer in answers if answer is not None]
    return round(number * sum(found) / len(found)) if found else 0
