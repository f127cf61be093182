"""What `coinswarm up` looks at before it starts anything: the disk, and whether this home has one already."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from deployments.console import Console
from deployments.up_state import UpState, read_up
from memory.embedded.home import FileLock, Home
from memory.errors import CoinswarmError
from memory.settings import Settings

LEAST_FREE_BYTES = 256 * 2**20
"""Room that empty servers take, and a night's log with them; with less they fail in the middle of something."""
_PAUSE_S = 0.1


class UpError(CoinswarmError):
    """What `up` cannot do, or cannot go on with."""


def check_room(home: Home, free_bytes: int) -> None:
    """Raise UpError where a home's disk has less room than servers need to start."""
    if free_bytes < LEAST_FREE_BYTES:
        raise UpError(
            f"{free_bytes / 2**20:,.0f} MiB are free under {home.directory}; "
            f"the servers need {LEAST_FREE_BYTES / 2**20:,.0f}.",
            remedy="Make room, or choose a home on another disk with COINSWARM_HOME.",
        )


@contextmanager
def full_disk_told(home: Home) -> Iterator[None]:
    """Turn the error of a disk that has filled up while the block ran into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise UpError(
            f"the disk of the home {home.directory} is full.",
            remedy="Make room, or choose a home on another disk with COINSWARM_HOME.",
        ) from error


def first_up(lock: FileLock, settings: Settings, console: Console) -> UpState | None:
    """The `up` that is ready in the home; None where there is none, and this process holds its lock.

    Raises
    ------
    UpError
        Another one neither gets ready nor ends within the setting `start_timeout_s`.
    """
    deadline = time.monotonic() + settings.start_timeout_s
    said = ""
    while not lock.try_exclusive():
        found = read_up(settings.home)
        if found is not None and found.state == "ready":
            return found
        doing = f"the one with pid {found.pid} is {found.state}" if found else "another one begins or ends"
        if doing != said:
            said = doing
            console.say(f"Waiting for another coinswarm up: {doing}")
        if time.monotonic() > deadline:
            raise UpError(
                f"waited {settings.start_timeout_s:g} s for another coinswarm up in {settings.home}: {doing}.",
                remedy=f"Look at {Home.at(settings.home).log('up')}.",
            )
        time.sleep(_PAUSE_S)
    return None


def check_same(first: UpState, settings: Settings, port: int | None, *, with_worker: bool) -> None:
    """Raise UpError where the `up` that runs serves another namespace, on other ports, or carries nothing out."""
    serves = urlsplit(first.ui_url).port
    metrics = urlsplit(first.metrics_url).port
    if first.namespace != settings.namespace:
        differs = f"for the namespace {first.namespace!r}, not {settings.namespace!r}"
    elif port is not None and port != serves:
        differs = f"on port {serves}, not {port}"
    elif settings.metrics_port and settings.metrics_port != metrics:
        differs = f"with metrics on port {metrics}, not {settings.metrics_port}"
    elif with_worker and not first.worker:
        differs = "with --no-worker, so that nothing is carried out"
    else:
        return
    raise UpError(
        f"coinswarm up runs in {settings.home} already (pid {first.pid}), {differs}.",
        remedy=f"End it first (kill {first.pid}), or choose another home with COINSWARM_HOME.",
    )
