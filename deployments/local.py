"""The local stack that a command needs: embedded servers where none are configured, and Prefect's environment."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from memory import embedded
from memory.errors import CoinswarmError
from memory.settings import Settings

DRAIN_TIMEOUT_S = 5.0
PREFECT_TIMEOUT_S = 10.0
"""Longest wait for a configured Prefect server to say that it is there."""
LOGGING = {"PREFECT_LOGGING_EXTRA_LOGGERS": "coinswarm", "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json"}
QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
"""Nothing on the terminal but what the command itself says; the UI has the logs all the same."""


class SettingsError(CoinswarmError):
    """A setting of the environment or of the command line that cannot be."""


class PrefectUnavailableError(CoinswarmError):
    """A configured Prefect server that does not answer."""


def load_settings(namespace: str | None = None) -> Settings:
    """The settings of this process, with the namespace of the command line where one is given.

    Raises
    ------
    SettingsError
        A value that cannot be, with the variable that holds it.
    """
    try:
        return Settings() if namespace is None else Settings(namespace=namespace)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        given = field == "namespace" and namespace is not None
        place = "--namespace" if given else f"COINSWARM_{field.upper()}"
        raise SettingsError(
            f"{place}={first['input']}: {first['msg'].removeprefix('Value error, ')}.",
            remedy=f"It sets: {Settings.model_fields[field].description}",
        ) from error


@contextmanager
def local_stack(settings: Settings, *, verbose: bool = False) -> Iterator[None]:
    """Start what is not configured and let this process talk to it while the block runs.

    Prefect reads its environment when it is first imported: enter this before importing a flow.

    Raises
    ------
    PrefectUnavailableError
        The configured Prefect server does not answer.
    EmbeddedServerError
        An embedded server does not start.
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
        check_prefect(settings.prefect_api_url)
        environment["PREFECT_API_URL"] = settings.prefect_api_url
    if not wanted:
        os.environ.update(environment)
        yield
        return
    with embedded.open_session(settings.home, wanted, timeout_s=settings.start_timeout_s) as session:
        if "prefect" in wanted:
            environment |= embedded.prefect_environment(settings.home, session.endpoints)
        os.environ.update(environment)
        try:
            yield
        finally:
            send_what_waits()


def check_prefect(api_url: str) -> None:
    """Raise PrefectUnavailableError unless a Prefect server answers at a URL that ends in /api."""
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=PREFECT_TIMEOUT_S):  # noqa: S310
            pass
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise PrefectUnavailableError(
            f"no Prefect server answers at {api_url} ({reason}).",
            remedy="Check that it runs and that COINSWARM_PREFECT_API_URL ends in /api; unset it for an embedded one.",
        ) from error


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
