"""Digests: SHA-256 over canonical forms, so that equal content has equal digests everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any


def sha256_hex(data: bytes) -> str:
    """SHA-256 of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; timestamps as ISO 8601 in UTC, floats in their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain data."""
    return sha256_hex(canonical_json(value).encode())


def digest_of_items(digests: Mapping[str, str]) -> str:
    """SHA-256 over named digests, in the order of their names' code points."""
    return digest_of_lines(f"{key}\x1f{digests[key]}" for key in sorted(digests))


def digest_of_lines(lines: Iterable[str]) -> str:
    """SHA-256 over lines of text, in the order given; cost: one pass, constant memory."""
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode())
        total.update(b"\x1e")
    return total.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")
