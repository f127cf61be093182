"""Is what is stored as it should be? How many records there are of each kind; their vectors and times to live.

All keys of the namespace are counted in one scan, which also leaves a sample to look into: keys come in the order of
their hashes, so the first ones are as good as drawn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from memory.records import UNIT_TOLERANCE, SemanticType, to_ms
from memory.store.codec import unpack_vector
from memory.store.collection import Collection, EpisodicCollection, SharedCollection
from memory.store.health_check import Check, OpenMemory, fail, ok, server_time, warn
from memory.store.indexes import IndexSchema
from memory.store.keys import TAG_SEPARATOR, source_tag

SCAN_LIMIT = 5_000_000
"""Keys of the server that are looked through at most: about ten seconds."""
SCAN_COUNT = 2000
"""Keys a step: about 0.5 ms of the server's time."""
SAMPLE = 1000
"""Records that are looked into: a fault of one in a hundred escapes once in 23,000 times."""
SHOWN = 3
COLLAPSED_SHARE = 0.1
"""Share of different moments that have the very same vector, above which an encoder says nothing. Markets that stand
still give some."""


@dataclass(slots=True)
class Census:
    """Keys of a namespace by kind, and the first of each.

    `complete` says whether all keys of the server were looked through.
    """

    counts: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[bytes]] = field(default_factory=dict)
    complete: bool = True

    def take(self, kind: str, key: bytes) -> None:
        """Count a key."""
        self.counts[kind] += 1
        sample = self.samples.setdefault(kind, [])
        if len(sample) < SAMPLE:
            sample.append(key)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of experiences: its name, what a person calls them, where they lie and how long they stay."""

    name: str
    noun: str
    collection: Collection
    retention: timedelta


async def check_records(mem: OpenMemory, census: Census) -> list[Check]:
    """All checks that look into a namespace's records."""
    found: list[Check] = []
    for kind in experience_kinds(mem):
        found += await _vectors(mem, kind, census)
    return found + await _expiry(mem, census)


def experience_kinds(mem: OpenMemory) -> tuple[Kind, Kind]:
    """What agents recorded, and what they shared."""
    settings = mem.settings
    return (
        Kind(
            "episodic",
            "experiences",
            EpisodicCollection(mem.keys, mem.indexes, settings.episodic_retention_days),
            timedelta(days=settings.episodic_retention_days),
        ),
        Kind(
            "shared",
            "shared experiences",
            SharedCollection(mem.keys, mem.indexes, settings.shared_retention_days),
            timedelta(days=settings.shared_retention_days),
        ),
    )


async def take_census(mem: OpenMemory, limit: int = SCAN_LIMIT) -> Census:
    """Count the namespace's keys by kind, looking through at most about `limit` keys of the server."""
    prefixes = {
        mem.keys.episodic_prefix.encode(): "episodic",
        mem.keys.shared_prefix.encode(): "shared",
        **{f"{mem.keys.semantic_prefix}{kind}:".encode(): f"semantic:{kind}" for kind in SemanticType},
    }
    census = Census()
    cursor, steps = b"0", 0
    while True:
        cursor, keys = await mem.link.execute("SCAN", cursor, "MATCH", f"{mem.keys.namespace}:*", "COUNT", SCAN_COUNT)
        for key in keys:
            for prefix, kind in prefixes.items():
                if key.startswith(prefix):
                    census.take(kind, key)
                    break
        steps += 1
        if int(cursor) == 0:
            return census
        if steps * SCAN_COUNT >= limit:
            census.complete = False
            return census


async def _vectors(mem: OpenMemory, kind: Kind, census: Census) -> list[Check]:
    """Whether a sample of vectors can be compared at all, and differ where the moments do."""
    keys = census.samples.get(kind.name, [])
    if not keys:
        return []
    name = f"{kind.name} vectors"
    bad: list[str] = []
    moments: dict[str, dict[tuple[str, int], bytes]] = {}
    looked_at = 0
    for encoder_id in await mem.indexes.encoder_ids():
        schema = await kind.collection.current_schema(encoder_id)
        if schema is None:
            continue
        fields = (schema.vector_field, "timestamp", "agent")
        for key, values in zip(keys, await mem.link.pipeline([("HMGET", key, *fields) for key in keys]), strict=True):
            packed, timestamp, agent = values
            if packed is None:
                continue
            looked_at += 1
            problem = _vector_problem(packed, schema)
            if problem:
                bad.append(f"{key.decode(errors='replace')} {problem}")
                continue
            identity = kind.collection.identify(key, {b"timestamp": timestamp, b"agent": agent or b""})
            moments.setdefault(encoder_id, {})[identity.product_id, identity.timestamp_ms] = packed
    if bad:
        return [
            fail(
                name,
                f"{len(bad):,} of {looked_at:,} cannot be compared: {'; '.join(bad[:SHOWN])}.",
                "Remove them (UNLINK) and record them again through mem.episodic, which refuses such vectors.",
            )
        ]
    for encoder_id, by_moment in moments.items():
        repeated = len(by_moment) - len(set(by_moment.values()))
        if len(by_moment) >= SAMPLE // 10 and repeated > COLLAPSED_SHARE * len(by_moment):
            return [
                warn(
                    name,
                    f"{repeated:,} of {len(by_moment):,} different moments have the same vector in {encoder_id}.",
                    "Check what the encoder is fed: features that never change say nothing.",
                )
            ]
    return [ok(name, f"{looked_at:,} looked at: finite and of length 1")]


def _vector_problem(packed: bytes, schema: IndexSchema) -> str:
    """What is wrong with a stored vector; empty where nothing is."""
    width = 4 if schema.vector_type == "FLOAT32" else 2
    if len(packed) != width * schema.dimension:
        return f"has {len(packed):,} bytes, not {width * schema.dimension:,}"
    vector = unpack_vector(packed, schema.vector_type)
    if not np.isfinite(vector).all():
        return "holds NaN or infinity"
    length = float(np.linalg.norm(vector))
    return "" if abs(length - 1.0) <= 2 * UNIT_TOLERANCE else f"has length {length:.4g}"


async def _expiry(mem: OpenMemory, census: Census) -> list[Check]:
    """Whether times to live are what they should be: long enough where the clock counts, none elsewhere."""
    now_ms = to_ms(await server_time(mem))
    live = source_tag("live").encode()
    early: list[str] = []
    endless = 0
    looked_at = 0
    for kind in experience_kinds(mem):
        retention_ms = kind.retention / timedelta(milliseconds=1)
        keys = census.samples.get(kind.name, [])
        answers: list[Any] = await mem.link.pipeline(
            [command for key in keys for command in (("PTTL", key), ("HMGET", key, "scope", "timestamp"))]
        )
        for key, left_ms, (scope, timestamp) in zip(keys, answers[::2], answers[1::2], strict=True):
            if scope is None or timestamp is None:
                continue
            looked_at += 1
            is_live = live in scope.split(TAG_SEPARATOR.encode())
            if left_ms == -1:
                endless += is_live
            elif not is_live or now_ms + left_ms < int(timestamp) + retention_ms:
                early.append(key.decode(errors="replace"))
    knowledge = [key for kind in SemanticType for key in census.samples.get(f"semantic:{kind}", [])]
    for key, left_ms in zip(knowledge, await mem.link.pipeline([("PTTL", key) for key in knowledge]), strict=True):
        looked_at += 1
        if left_ms >= 0:
            early.append(key.decode(errors="replace"))
    if early:
        return [
            fail(
                "expiry",
                f"{len(early):,} of {looked_at:,} will expire before their time, such as {early[0]}.",
                f"Nobody but the memory sets times to live: PERSIST {early[0]}, and find out who did.",
            )
        ]
    if endless:
        return [
            warn(
                "expiry",
                f"{endless:,} live experiences of {looked_at:,} have no time to live.",
                "Pruning removes them all the same; find out who wrote or PERSISTed them.",
            )
        ]
    return [ok("expiry", f"{looked_at:,} looked at: none expires before its time")]
