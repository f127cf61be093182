"""The list of a knowledge line's versions, and the stamp on it: one door through which both are written.

The manifest says which versions there are, what each holds (a digest) and until when it is valid. The stamp is a digest
of the manifest, which readers compare before they trust what they read earlier, and the time until which the past has
expired: of questions as of a time before that, the answer is no longer in Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from memory.errors import PastExpiredError
from memory.records import from_ms
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink
from memory.store.versions import Version, VersionKey, Versions

STAMP_BYTES = 16
SCAN_SIZE = 1000
"""Versions listed by one command: about a millisecond of the server's time."""
FIELDS_A_COMMAND = 500
"""Fields of the manifest that one command writes."""


class Stamp(NamedTuple):
    """Digest of a line's manifest; the end of the last version that expired, milliseconds since 1970, None without."""

    digest: str
    horizon_ms: int | None = None

    def encode(self) -> bytes:
        """The stamp as Redis keeps it."""
        return (self.digest if self.horizon_ms is None else f"{self.digest}:{self.horizon_ms}").encode()


def horizon_of(stamp: bytes | None) -> int | None:
    """Time that a stamp says the past has expired until, milliseconds since 1970; None where nothing has expired."""
    if stamp is None:
        return None
    _, _, horizon_ms = stamp.partition(b":")
    return int(horizon_ms) if horizon_ms else None


def check_past(stamp: bytes | None, as_of_ms: int | None, line: str) -> None:
    """PastExpiredError where what was known as of a time has left Redis, by the stamp of the line that was asked."""
    if as_of_ms is None:
        return
    horizon_ms = horizon_of(stamp)
    if horizon_ms is not None and as_of_ms < horizon_ms:
        asked, horizon = from_ms(as_of_ms).isoformat(), from_ms(horizon_ms).isoformat()
        raise PastExpiredError(
            f"what {line} knew as of {asked} has left Redis, which answers as of {horizon} and later.",
            remedy=f"Project it from the ledger into a namespace of its own: coinswarm run rebuild_memory --param "
            f"as_of={asked} --param into=NAME, and ask there; or raise COINSWARM_SEMANTIC_RETENTION_DAYS.",
        )


def stamp_of(versions: Versions, horizon_ms: int | None) -> Stamp:
    """The stamp of a list of versions."""
    digest = hashlib.blake2b(digest_size=STAMP_BYTES)
    for key in sorted(versions):
        digest.update(manifest_field(key).encode() + b"\x00" + manifest_value(versions[key]))
    return Stamp(digest.hexdigest(), horizon_ms)


def manifest_commands(keys: Keys, line: str, before: Versions, after: Versions, stamp: Stamp) -> list[Command]:
    """What leads from one list of versions to another, with the stamp: to be sent in one step, and nowhere else."""
    fields = [
        {manifest_field(key): manifest_value(version) for key, version in versions.items()}
        for versions in (before, after)
    ]
    return [
        *hash_commands(keys.semantic_manifest(line), *fields),
        ("SET", keys.semantic_stamp(line), stamp.encode()),
    ]


def hash_commands(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Command]:
    """What leads from some fields of a hash to others."""
    changed = [(name, after[name]) for name in sorted(after) if before.get(name) != after[name]]
    commands: list[Command] = []
    for start in range(0, len(changed), FIELDS_A_COMMAND):
        part = changed[start : start + FIELDS_A_COMMAND]
        commands.append(("HSET", key, *(item for pair in part for item in pair)))
    gone = sorted(before.keys() - after.keys())
    for start in range(0, len(gone), FIELDS_A_COMMAND):
        commands.append(("HDEL", key, *gone[start : start + FIELDS_A_COMMAND]))
    return commands


async def read_manifest(link: RedisLink, keys: Keys, line: str, kind: str | None = None) -> Versions:
    """All versions that a line lists (of one kind, where it is given), in small steps that make nobody wait.

    What is listed may change meanwhile: the stamp, read before and after, says whether it did.
    """
    fields: dict[bytes, bytes] = {}
    cursor = b"0"
    while True:
        cursor, flat = await link.execute(
            "HSCAN",
            keys.semantic_manifest(line),
            cursor,
            "MATCH",
            "*" if kind is None else f"{kind}:*",
            "COUNT",
            SCAN_SIZE,
        )
        fields.update(zip(flat[::2], flat[1::2], strict=True))
        if int(cursor) == 0:
            return decode_manifest(fields)


def decode_manifest(answer: Mapping[bytes, bytes]) -> Versions:
    """All versions of a line, as its manifest lists them."""
    versions: Versions = {}
    for name, value in answer.items():
        kind, memory_id, valid_from_ms = name.decode().split(":")
        digest, valid_to_ms = msgspec.msgpack.decode(value, type=tuple[bytes, int | None])
        versions[VersionKey(kind, memory_id, int(valid_from_ms))] = Version(digest, valid_to_ms)
    return versions


def manifest_field(key: VersionKey) -> str:
    """Name of a version in the manifest."""
    return f"{key.kind}:{key.memory_id}:{key.valid_from_ms}"


def manifest_value(version: Version) -> bytes:
    """What the manifest says of a version."""
    return msgspec.msgpack.encode((version.digest, version.valid_to_ms))
