"""Where the servers are, for commands that only look: nothing that was never used is started, or created.

Embedded servers that hold data are started where they do not run, as for any command. A Prefect server is not.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.up_state import Phase, read_up
from memory import embedded
from memory.embedded.home import Home
from memory.embedded.service import State
from memory.embedded.session import HomeStatus
from memory.errors import CoinswarmError
from memory.secrets import redacted
from memory.settings import Settings

SESSION_TIMEOUT_S = 120.0
READY, CONFIGURED, DOWN, UNUSED = "ready", "configured", "down", "unused"
"""States of a server beside those of `memory.embedded.service.State`: named by a URL; not running; never used."""
STARTING = State.STARTING.value
ON_ITS_WAY = frozenset({STARTING, State.PREPARING.value, State.REPAIRING.value})
"""States of a server that will be ready if it is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """One server: Redis, Postgres or Prefect.

    Attributes
    ----------
    state
        `READY` or another state of an embedded server, `CONFIGURED`, `DOWN` or `UNUSED`; whoever asks a server that is
        configured says `READY` or `DOWN` instead.
    address
        Without user and password; empty where there is none.
    version
        Empty where it is not known.
    pid, log
        Of an embedded one.
    """

    name: str
    state: str
    address: str = ""
    version: str = ""
    pid: int | None = None
    log: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Where the servers are.

    Attributes
    ----------
    redis_url, database_url, prefect_api_url
        With passwords; None for one that is not there.
    servers
        Redis, Postgres and Prefect, in this order.
    ran_before
        Whether embedded servers ran before they were asked for.
    started
        Whether embedded servers run now.
    problem
        Why embedded servers did not start.
    up
        How far the home's `coinswarm up` is; None where none runs.
    """

    redis_url: str | None
    database_url: str | None
    prefect_api_url: str | None
    servers: tuple[ServerState, ...]
    ran_before: bool = False
    started: bool = False
    problem: CoinswarmError | None = None
    up: Phase | None = None

    @classmethod
    def nowhere(cls, settings: Settings, problem: CoinswarmError) -> Reached:
        """Where the home cannot be looked into: only what is configured."""
        urls = {
            "redis": settings.redis_url.get_secret_value() if settings.redis_url else None,
            "postgres": settings.database_url.get_secret_value() if settings.database_url else None,
            "prefect": settings.prefect_api_url,
        }
        return cls(
            redis_url=urls["redis"],
            database_url=urls["postgres"],
            prefect_api_url=urls["prefect"],
            servers=tuple(
                ServerState(
                    name=name,
                    state=DOWN if url is None else CONFIGURED,
                    address="" if url is None else redacted(url),
                )
                for name, url in urls.items()
            ),
            problem=problem,
        )

    def server(self, name: str) -> ServerState:
        """One of the servers."""
        return next(server for server in self.servers if server.name == name)


def reach(settings: Settings, stack: ExitStack, *, start: bool = True) -> Reached:
    """Find the servers; embedded ones stay up until `stack` ends.

    Parameters
    ----------
    start
        Start embedded Redis and Postgres that hold data and do not run. False to find what runs, and to keep none of it
        running.

    Raises
    ------
    HomeTooNewError
        The home was written by a newer version.
    """
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    database_url = settings.database_url.get_secret_value() if settings.database_url else None
    home = Home.at(settings.home)
    held = {"redis": home.redis_data, "postgres": home.postgres_data}
    configured = {"redis": redis_url, "postgres": database_url, "prefect": settings.prefect_api_url}
    wanted = [name for name, place in held.items() if configured[name] is None and place.is_dir()]
    before = embedded.home_status(settings.home)
    up = read_up(settings.home)
    is_starting = up is not None and up.state == "starting"
    problem = None
    if start and wanted:
        try:
            stack.enter_context(embedded.open_session(settings.home, wanted, timeout_s=SESSION_TIMEOUT_S))
        except CoinswarmError as error:
            problem = error
    status = embedded.home_status(settings.home)
    running = {server.name: server for server in status.servers}
    urls = {
        name: configured[name] or (running[name].url if name in running and running[name].state == READY else None)
        for name in configured
    }
    return Reached(
        redis_url=urls["redis"],
        database_url=urls["postgres"],
        prefect_api_url=urls["prefect"],
        servers=tuple(
            _state(name, configured[name], status, used=_used(home, name), is_starting=is_starting)
            for name in configured
        ),
        ran_before=bool(before.servers),
        started=bool(status.servers),
        problem=problem,
        up=None if up is None else up.state,
    )


def as_asked(
    server: ServerState, problem: CoinswarmError | None, *, address: str = "", version: str = ""
) -> ServerState:
    """A server's state after it was asked: where it is configured, that alone tells whether it is there."""
    state = server.state
    if problem is not None:
        state = DOWN
    elif state == CONFIGURED and version:
        state = READY
    return replace(server, state=state, address=address or server.address, version=version or server.version)


def _used(home: Home, name: str) -> bool:
    return {"redis": home.redis_data, "postgres": home.postgres_data, "prefect": home.prefect_data}[name].is_dir()


def _state(name: str, configured: str | None, status: HomeStatus, *, used: bool, is_starting: bool) -> ServerState:
    if configured is not None:
        return ServerState(name=name, state=CONFIGURED, address=redacted(configured))
    found = next((server for server in status.servers if server.name == name), None)
    if found is None or found.pid is None:
        # One that `coinswarm up` has not come to yet is about to be there.
        return ServerState(name=name, state=STARTING if is_starting else DOWN if used else UNUSED)
    return ServerState(
        name=name,
        state=found.state,
        address=redacted(found.url),
        version=found.version,
        pid=found.pid,
        log=found.log,
    )
