"""What is known of the `coinswarm up` of a home: who it is, where it serves, how far it is. Holds no secret."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from memory.embedded.home import FileLock, Home, read_json
from memory.embedded.process import ProcessIdentity

Phase = Literal["starting", "ready", "stopping"]
LOCK = "up"
"""The lock of a home that its one `up` holds."""


@dataclass(frozen=True, slots=True)
class UpState:
    """The `up` of a home.

    Attributes
    ----------
    pid
        Its process.
    state
        How far it is.
    namespace
        Name of the memory whose deployments it carries out.
    ui_url, api_url
        Where Prefect's pages and its API are; empty while it starts.
    login_file
        The file that holds what the pages ask for; empty where Prefect is configured, or open.
    metrics_url
        Where Prometheus finds figures.
    pool, worker
        Names of the work pool and of the worker; empty while it starts, or without a worker.
    logs
        Folder of the logs.
    started_at
        When it was started, UTC.
    """

    pid: int
    state: Phase
    namespace: str
    ui_url: str
    api_url: str
    login_file: str
    metrics_url: str
    pool: str
    worker: str
    logs: str
    started_at: datetime


_TEXTS = ("namespace", "ui_url", "api_url", "login_file", "metrics_url", "pool", "worker", "logs")


def up_file(home: Path | str) -> Path:
    """Where an `up` writes down what it is."""
    return Home.at(home).directory / "up.json"


def up_lock(home: Path | str) -> FileLock:
    """Open the lock of a home that its one `up` holds, whose end, however it comes, gives it back."""
    return Home.at(home).lock(LOCK)


def write_up(home: Path | str, state: UpState) -> None:
    """Write down what this process is. Readers see all of it or what was there before."""
    identity = ProcessIdentity.of(state.pid)
    if identity is None:
        raise ProcessLookupError(f"there is no process {state.pid}")
    texts = {name: getattr(state, name) for name in _TEXTS}
    identity.write(up_file(home), state=state.state, started_at=state.started_at.isoformat(), **texts)


def read_up(home: Path | str) -> UpState | None:
    """The `up` that runs in a home; None where none does, whatever one that was killed has left. Costs two small reads.

    It says what `up` does, not that all is well: `state` is "ready" also while a server that was killed comes back.
    """
    identity = ProcessIdentity.read(up_file(home))
    content = read_json(up_file(home))
    if identity is None or content is None or not identity.is_alive():
        return None
    try:
        started_at = datetime.fromisoformat(content["started_at"]).astimezone(UTC)
        texts = {name: str(content[name]) for name in _TEXTS}
        return UpState(pid=identity.pid, state=content["state"], started_at=started_at, **texts)
    except (KeyError, TypeError, ValueError):
        return None  # written by another version


def forget_up(home: Path | str) -> None:
    """Remove what an `up` that ends has written down."""
    up_file(home).unlink(missing_ok=True)
