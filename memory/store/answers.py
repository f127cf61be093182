"""Answers of a Redis server, read: what it says of itself, and whether a search was whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory.embedded.checks import RedisFacts, parse_version, search_version
from memory.errors import StoreUnavailableError


def sections(info: Any) -> dict[str, str]:
    """The fields of an answer to INFO."""
    return dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)


def redis_facts(info: Any, modules: Sequence[Mapping[bytes, Any]], database: int) -> RedisFacts:
    """What a server is, by its answers to INFO and MODULE LIST, asked on the database of a number."""
    facts = sections(info)
    listed = {"modules": [{"name": _text(module[b"name"]), "ver": module[b"ver"]} for module in modules]}
    return RedisFacts(
        version=parse_version(facts.get("redis_version", "0")),
        search_version=search_version(listed),
        cluster=facts.get("cluster_enabled") == "1",
        database=database,
        maxmemory_policy=facts.get("maxmemory_policy", "unknown"),
        append_only=facts.get("aof_enabled") == "1",
    )


def check_complete(answer: Any) -> Any:
    """The answer of a search, or StoreUnavailableError where the server says that it is partial."""
    warnings = answer.get(b"warning") or answer.get("warning")
    if warnings:
        raise StoreUnavailableError(
            f"the search answered in part only: {', '.join(_text(warning) for warning in warnings)}.",
            remedy="Narrow the filter, use HNSW for large scopes, or raise COINSWARM_REDIS_TIMEOUT_S.",
        )
    return answer


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
