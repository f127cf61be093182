"""The local stack that a command needs: embedded servers where none are configured, and Prefect's environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from memory import embedded
from memory.settings import Settings

QUIET = {"PREFECT_LOGGING_LEVEL": "WARNING", "PREFECT_LOGGING_SERVER_LEVEL": "WARNING"}


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
    environment = {"PREFECT_RESULTS_DEFAULT_SERIALIZER": "json", **({} if verbose else QUIET)}
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
        yield
