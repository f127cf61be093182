"""The local stack that a command needs: embedded servers where none are configured, and Prefect's environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from memory import embedded
from memory.settings import Settings

DRAIN_TIMEOUT_S = 5.0
LOGGING = {"PREFECT_LOGGING_EXTRA_LOGGERS": "coinswarm", "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json"}
QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
"""Nothing on the terminal but what the command itself says; the UI has the logs all the same."""


@contextmanager
def local_stack(settings: Settings, *, verbose: bool = False) -> Iterator[None]:
    """Start what is not configured and let this process talk to it while the block runs.

    Prefect reads its environment when it is first imported: enter this before importing a flow.
    """
    if "prefect" in sys.modules:
        raise RuntimeError("Prefect was imported before its server was chosen; enter local_stack first")
    wanted = [
        service
        for service, configured in (
            ("redis", settings.redis_url),
            ("postgres", settings.database_url),
            ("prefect", settings.prefect_api_url),
        )
        if configured is None
    ]
    environment = {**LOGGING, **({} if verbose else QUIET)}
    if settings.prefect_api_url is not None:
        environment["PREFECT_API_URL"] = settings.prefect_api_url
    if not wanted:
        os.environ.update(environment)
        yield
        return
    with embedded.open_session(settings.home, wanted, timeout_s=120) as session:
        if "prefect" in wanted:
            environment |= embedded.prefect_environment(settings.home, session.endpoints)
        os.environ.update(environment)
        try:
            yield
        finally:
            send_what_waits()


def send_what_waits() -> None:
    """Let Prefect send the logs and events that wait in this process, while its server is still there.

    Otherwise it tries to when the process ends, against a server that has stopped, for a minute.
    """
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=DRAIN_TIMEOUT_S)
