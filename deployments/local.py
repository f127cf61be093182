"""The local stack that a command needs: embedded servers where none are configured, and Prefect's environment."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError
from pydantic_settings.exceptions import SettingsError as UnreadableError

from deployments.homes import home_problem
from deployments.results import check_place, local_environment
from memory import embedded
from memory.errors import CoinswarmError
from memory.secrets import mask, redacted
from memory.settings import Settings
from tasks.dask_address import check_scheduler

DRAIN_TIMEOUT_S = 5.0
PREFECT_TIMEOUT_S = 10.0
"""Longest wait for a configured Prefect server to say that it is there."""
EXTRA_LOGGERS = "coinswarm,memory,agents,tasks"
"""Loggers beside Prefect's own whose lines the UI shows with the run."""
LOGGING = {
    # Lines say what they are about, and hold no secret (`memory.logs`).
    "PREFECT_LOGGING_SETTINGS_PATH": str(Path(__file__).with_name("logging.json")),
    "PREFECT_LOGGING_EXTRA_LOGGERS": EXTRA_LOGGERS,
    # What is said outside of a run is for the terminal.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}
QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
"""Nothing on the terminal but what the command itself says; the UI has the logs all the same."""


SERVICES = ("redis", "postgres", "prefect")
_NAMES = {"redis": "Redis", "postgres": "Postgres", "prefect": "Prefect"}


class SettingsError(CoinswarmError):
    """A setting of the environment or of the command line that cannot be."""


class PrefectUnavailableError(CoinswarmError):
    """A configured Prefect server that does not answer."""


@dataclass(slots=True)
class Stack:
    """The servers that `local_stack` gave to this process.

    Attributes
    ----------
    settings
        What was asked for.
    started
        Those of redis, postgres and prefect that this home has for itself; the others are configured.
    environment
        Variables that this process has for Prefect. They hold a password: for the environment of children, and for
        nothing else.
    sessions
        Uses of the embedded servers, of which the last one counts; empty where all servers are configured.
    """

    settings: Settings
    started: tuple[str, ...]
    environment: dict[str, str]
    sessions: list[embedded.Session] = field(default_factory=list)

    @property
    def prefect_api_url(self) -> str:
        """Where Prefect's API is; it ends in /api."""
        return self.environment["PREFECT_API_URL"]

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors with which a child uses the embedded servers as long as it lives, also without this process."""
        return tuple(session.descriptor for session in self.sessions[-1:])

    def repair(self) -> None:
        """Have embedded servers started again whose supervisor was killed, or which it has given up.

        Raises
        ------
        EmbeddedServerError
            A server does not start, or Prefect's port was taken meanwhile.
        """
        known = self.prefect_api_url
        session = embedded.open_session(
            self.settings.home,
            self.started,
            timeout_s=self.settings.start_timeout_s,
            options=embedded.EmbeddedOptions(prefect_port=urlsplit(known).port if "prefect" in self.started else None),
        )
        # The ones before stay open: children hold their servers through them.
        self.sessions.append(session)

    def close(self) -> None:
        """End the use; returns when the servers have stopped, where nobody else uses them."""
        while self.sessions:
            self.sessions.pop().close(wait=not self.sessions)


def load_settings(namespace: str | None = None) -> Settings:
    """The settings of this process, with the namespace of the command line where one is given.

    Raises
    ------
    SettingsError
        A value that cannot be, with the variable that holds it; a home that cannot be used.
    """
    try:
        settings = Settings() if namespace is None else Settings(namespace=namespace)
    except UnreadableError as error:
        # Raised for what is no JSON, before any value is looked at; `learning` is the one field that is written so.
        raise SettingsError(
            f"COINSWARM_LEARNING is no JSON object ({error.__cause__}).",
            remedy=f"It sets: {Settings.model_fields['learning'].description}",
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        given = field == "namespace" and namespace is not None
        declared = Settings.model_fields[field]
        place = "--namespace" if given else f"COINSWARM_{field.upper()}"
        # A secret that is refused is not known as one yet, so that nothing would mask it.
        value = "" if SecretStr in (declared.annotation, *get_args(declared.annotation)) else f"={first['input']}"
        raise SettingsError(
            f"{place}{mask(value)}: {first['msg'].removeprefix('Value error, ')}.",
            remedy=f"It sets: {declared.description}",
        ) from error
    problem = home_problem(settings.home, embedded=None in (settings.redis_url, settings.database_url))
    if problem is not None:
        raise SettingsError(problem[0], remedy=problem[1])
    return settings


@contextmanager
def local_stack(
    settings: Settings,
    *,
    verbose: bool = False,
    prefect_port: int | None = None,
    services: Collection[str] = SERVICES,
) -> Iterator[Stack]:
    """Start what is not configured and let this process talk to it while the block runs.

    What is configured is asked first, so that nothing is started for a command that could not go on.

    Prefect reads its environment when it is first imported: enter this before importing a flow.

    Parameters
    ----------
    settings
        Where the home is, and which servers are configured.
    verbose
        Let Prefect's log through to the terminal.
    prefect_port
        Port of the embedded Prefect server, where it does not run yet.
    services
        Those of redis, postgres and prefect that are needed; a command that only talks to Prefect starts no other.

    Raises
    ------
    PrefectUnavailableError
        The configured Prefect server does not answer, or does not let this process in.
    ServerUnsuitableError, StoreUnavailableError
        Configured Redis or Postgres cannot be used, or does not answer.
    EmbeddedServerError
        An embedded server does not start.
    """
    if "prefect" in sys.modules:
        raise RuntimeError("Prefect was imported before its server was chosen; enter local_stack first")
    wanted = _not_configured(settings, services)
    environment = {
        **LOGGING,
        "COINSWARM_LOG_FILE": os.environ.get("COINSWARM_LOG_FILE") or str(settings.home / "logs" / "flows.log"),
        **local_environment(settings),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(settings.heartbeat_s),
        **({} if verbose else QUIET),
    }
    check_configured(settings, services)
    if settings.prefect_api_url is not None:
        environment["PREFECT_API_URL"] = settings.prefect_api_url
        if "prefect" in services:
            os.environ.update(environment)
            check_admission(settings.prefect_api_url)
    stack = Stack(settings, tuple(wanted), environment)
    if not wanted:
        os.environ.update(environment)
        yield stack
        return
    options = embedded.EmbeddedOptions(prefect_port=prefect_port)
    session = embedded.open_session(settings.home, wanted, timeout_s=settings.start_timeout_s, options=options)
    stack.sessions.append(session)
    try:
        if "prefect" in wanted:
            environment |= embedded.prefect_environment(settings.home, session.endpoints)
        os.environ.update(environment)
        try:
            yield stack
        finally:
            send_what_waits()
    finally:
        stack.close()


def check_places(settings: Settings) -> None:
    """Look that archive and results have places that can be, before anything is started for them.

    Raises
    ------
    ArchiveUnavailableError, ResultsError
        A URL of a protocol that is unknown here.
    """
    from memory.ledger import Archive

    Archive(settings.archive_location)
    check_place(settings)


def check_configured(settings: Settings, services: Collection[str] = SERVICES) -> None:
    """Ask those of some services that are configured whether they can be used; raises as `local_stack` does."""
    if settings.prefect_api_url is not None and "prefect" in services:
        check_prefect(settings.prefect_api_url)
    if "prefect" in services:
        check_scheduler(settings)
    redis_url = settings.redis_url if "redis" in services else None
    database_url = settings.database_url if "postgres" in services else None
    embedded.check_configured(
        None if redis_url is None else redis_url.get_secret_value(),
        None if database_url is None else database_url.get_secret_value(),
    )


def starting(settings: Settings, services: Collection[str] = SERVICES) -> str:
    """What `local_stack` is about to do, as a title: which servers it starts, or reaches where all are there.

    What is configured is asked before, so that nobody reads of a start that does not come; raises as `local_stack`
    does, and HomeTooNewError where the home was written by a newer version.
    """
    check_configured(settings, services)
    embedded_ones = _not_configured(settings, services)
    ready = {server.name for server in embedded.home_status(settings.home).servers if server.state == "ready"}
    away = [_NAMES[service] for service in embedded_ones if service not in ready]
    named = away or [_NAMES[service] for service in SERVICES if service in services]
    listed = f"{', '.join(named[:-1])} and {named[-1]}" if len(named) > 1 else named[0]
    return f"{'Starting' if away else 'Reaching'} {listed}"


def _not_configured(settings: Settings, services: Collection[str]) -> list[str]:
    """Those of some services that are embedded ones, in the order of `SERVICES`."""
    configured = {
        "redis": settings.redis_url,
        "postgres": settings.database_url,
        "prefect": settings.prefect_api_url,
    }
    return [service for service in SERVICES if configured[service] is None and service in services]


def check_prefect(api_url: str) -> None:
    """Raise PrefectUnavailableError unless a Prefect server answers at a URL that ends in /api."""
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=PREFECT_TIMEOUT_S):  # noqa: S310
            pass
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise PrefectUnavailableError(
            f"no Prefect server answers at {redacted(api_url)} ({mask(str(reason))}).",
            remedy="Check that it runs and that COINSWARM_PREFECT_API_URL ends in /api; unset it for an embedded one.",
        ) from error


def check_admission(api_url: str) -> None:
    """Raise PrefectUnavailableError unless the Prefect server of this process's environment lets it in.

    Prefect's own client asks: it knows of profiles and keys beside the variables. Importing it takes seconds, which
    whatever talks to Prefect takes once.
    """
    from deployments.up_prefect import prefect_client

    with prefect_client(redacted(api_url)) as client:
        client.api_version()


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
