"""Whether the Dask cluster that the settings name is there; without Prefect, so that it can be asked first."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from memory.errors import CoinswarmError
from memory.settings import Settings

_TIMEOUT_S = 5.0
_FORM = "tcp://HOST:8786, or tls:// where it has certificates"


class TaskRunnerError(CoinswarmError):
    """A task runner that is asked for and cannot be had."""


def check_scheduler(settings: Settings) -> None:
    """Connect once to the scheduler of the Dask cluster, where tasks are to run on one that is configured.

    Dask itself would look for it half a minute long, in the middle of the first run that submits a task. One round
    trip; five seconds at most.

    Raises
    ------
    TaskRunnerError
        The address cannot be read, or nobody listens there.
    """
    if settings.task_runner != "dask" or settings.dask_address is None:
        return
    address = settings.dask_address
    try:
        # Without a scheme Dask takes tcp.
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        place = parts.hostname, parts.port
    except ValueError:
        place = None, None
    if place[0] is None or place[1] is None:
        raise TaskRunnerError(
            f"COINSWARM_DASK_ADDRESS={address!r} names no host and port.", remedy=f"Write it as {_FORM}."
        )
    try:
        socket.create_connection((place[0], place[1]), timeout=_TIMEOUT_S).close()
    except OSError as error:
        raise TaskRunnerError(
            f"no Dask scheduler answers at {address} ({error.strerror or error}).",
            remedy="Start it (dask scheduler), set COINSWARM_DASK_ADDRESS to where it runs, or set "
            "COINSWARM_TASK_RUNNER=threads.",
        ) from error
