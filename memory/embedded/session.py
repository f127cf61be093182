"""Sessions: how a process uses the embedded servers of a home."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from memory.embedded.home import FileLock, Home, read_json
from memory.embedded.launch import EXIT_NO_USER_NAMESPACE
from memory.embedded.options import EmbeddedOptions
from memory.embedded.prefect_server import check_loopback, client_environment
from memory.embedded.process import (
    ProcessIdentity,
    last_lines,
    launcher,
    log_size,
    put_aside_if_large,
    server_environment,
)
from memory.embedded.wheels import Locator, find_programs, installed_package
from memory.errors import EmbeddedServerError
from memory.secrets import remember

SERVICES = ("redis", "postgres", "prefect")
_POLL_INTERVAL_S = 0.01
#: A supervisor that ends this often under the hands of one session has a lasting reason.
_START_ATTEMPTS = 3
_STOP_PATIENCE_S = 60.0
_STATUS_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers are; None for one that was not asked for."""

    redis_url: str | None
    """For redis-py: ``unix:///run/.../redis.sock``."""
    database_url: str | None
    """For SQLAlchemy with psycopg 3: the database ``coinswarm``, whose owner the session is."""
    prefect_api_url: str | None
    """``http://127.0.0.1:<port>/api``; clients also need :func:`prefect_environment`."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server of a home."""

    name: str
    state: str
    pid: int | None
    version: str
    url: str
    log: Path


@dataclass(frozen=True, slots=True)
class HomeStatus:
    """What runs in a home."""

    directory: Path
    version: int | None
    """Layout version of the home, None where it was never used."""
    supervisor_pid: int | None
    """None where nothing runs."""
    runtime_directory: Path | None
    servers: tuple[ServerStatus, ...]


class Session:
    """One use of a home: as long as it is open, its servers run. Made by :func:`open_session`."""

    def __init__(self, home: Home, lock: FileLock, endpoints: Endpoints, linger_s: float) -> None:
        self.home = home.directory
        self.endpoints = endpoints
        self._home = home
        self._lock: FileLock | None = lock
        self._linger_s = linger_s

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def descriptor(self) -> int:
        """The descriptor of the session's lock: a child that inherits it keeps the servers up, also without us."""
        if self._lock is None:
            raise ValueError("This session is closed.")
        return self._lock.descriptor

    def close(self, *, wait: bool = True) -> None:
        """End the use. Where this was the last one, return when the servers have stopped.

        Not so with ``wait=False``, nor where the servers are to linger; they stop all the same.

        Raises
        ------
        EmbeddedServerError
            The servers did not stop within a minute.
        """
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        lock.unlock()
        try:
            if wait and self._linger_s == 0:
                _wait_until_stopped(self._home, lock)
        finally:
            lock.close()


def open_session(
    home: Path | str,
    services: Collection[str] = ("redis", "postgres"),
    *,
    timeout_s: float = 60.0,
    options: EmbeddedOptions | None = None,
    locate: Locator = installed_package,
) -> Session:
    """Use the embedded servers of ``home``: start those of ``services`` that do not run yet, and keep them running.

    A first start takes about one second for Redis and Postgres, ten with Prefect; a running server is found in some
    ten milliseconds. The session ends with :meth:`Session.close`, with its ``with`` block, or with the process, even by
    ``kill -9``. After the last session the servers stop, cleanly.

    Parameters
    ----------
    home
        Directory that holds the data; created, for the owner alone, where it is missing.
    services
        Some of ``redis``, ``postgres``, ``prefect``.
    timeout_s
        How long to wait for the servers. Redis reads all its data at a start: allow minutes for millions of memories.
    options
        Settings, which hold where this session is the one that starts the servers.
    locate
        How the installed packages with the servers are found.

    Raises
    ------
    UnsupportedPlatformError
        There are no servers for this platform, or they are not installed.
    HomeTooNewError
        The home was written by a newer version.
    EmbeddedServerError
        A server does not start (the message quotes its log), or not in time; the loopback interface is down.
    """
    wanted = tuple(dict.fromkeys(services))
    unknown = [name for name in wanted if name not in SERVICES]
    if unknown or not wanted:
        raise ValueError(f"services must be some of {', '.join(SERVICES)}, not {wanted!r}.")
    if {"redis", "postgres"} & set(wanted):
        find_programs(locate)
    if "prefect" in wanted:
        check_loopback()
    place = Home.at(home)
    place.create()
    lock = place.lock("users")
    try:
        reply = _Negotiation(place, lock, wanted, options or EmbeddedOptions(), timeout_s).run()
    except BaseException:
        lock.close()
        raise
    urls = reply["urls"]
    endpoints = Endpoints(urls.get("redis"), urls.get("postgres"), urls.get("prefect"))
    return Session(place, lock, endpoints, reply["linger_s"])


class _Negotiation:
    """Bring a home from whatever state it is in to one whose supervisor serves us."""

    def __init__(
        self, home: Home, users: FileLock, services: tuple[str, ...], options: EmbeddedOptions, timeout_s: float
    ) -> None:
        self.home = home
        self.users = users
        self.services = services
        self.options = options
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.starts = 0
        self.log_offset = log_size(home.log("supervisor"))

    def run(self) -> dict[str, Any]:
        """Return the supervisor's answer, with the URLs of the servers that are ready."""
        # The lock comes first: whoever holds it keeps a supervisor, also one that is about to be started, from ending.
        while not self.users.try_shared():
            self._pause("the servers that are stopping to end")
        while True:
            connection = connect_to_supervisor(self.home)
            if connection is None:
                self._start_supervisor_unless_there_is_one()
                self._pause("its supervisor to start")
                continue
            with contextlib.closing(connection):
                reply = self._ask(connection)
            if reply is None:  # it ended while we asked
                self._pause("its supervisor to come back")
            elif reply["ok"]:
                return reply
            else:
                raise EmbeddedServerError(reply["error"], remedy=reply["remedy"])

    def _ask(self, connection: socket.socket) -> dict[str, Any] | None:
        connection.settimeout(max(self.deadline - time.monotonic(), _POLL_INTERVAL_S))
        try:
            request = {"services": self.services, "prefect_port": self.options.prefect_port}
            return exchange(connection, request)
        except TimeoutError:
            raise self._too_late(f"{' and '.join(self.services)} to be ready", self.services) from None

    def _start_supervisor_unless_there_is_one(self) -> None:
        with contextlib.closing(self.home.lock("supervisor")) as lock:
            if not lock.try_exclusive():
                return  # it runs, and will answer soon, or it is ending
            if self.starts >= _START_ATTEMPTS:
                raise EmbeddedServerError(
                    f"The supervisor of {self.home.directory} ends at once; its log {self.home.log('supervisor')} ends "
                    f"with:\n{last_lines(self.home.log('supervisor'), since=self.log_offset)}",
                    remedy="Repair what the log names, and try again.",
                )
            self.starts += 1
            # It inherits the lock that is held already, so there is no moment in which two could start.
            start_supervisor(self.home, lock, self.options)

    def _pause(self, what: str) -> None:
        if time.monotonic() > self.deadline:
            raise self._too_late(what, ("supervisor",))
        time.sleep(_POLL_INTERVAL_S)

    def _too_late(self, what: str, logs: Collection[str]) -> EmbeddedServerError:
        tails = "\n".join(f"{self.home.log(name)} ends with:\n{last_lines(self.home.log(name))}" for name in logs)
        return EmbeddedServerError(
            f"The home {self.home.directory} waited {self.timeout_s:g} s for {what}.\n{tails}\n",
            remedy="Allow more (COINSWARM_START_TIMEOUT_S) where the log shows progress, else repair what it names.",
        )


def start_supervisor(home: Home, lock: FileLock, options: EmbeddedOptions) -> None:
    """Start a supervisor that outlives this process; it takes over ``lock``, which must be held alone."""
    program: list[str | Path] = [sys.executable, "-P", "-m", "memory.embedded.supervisor", "--home"]
    program += [home.directory, "--options", options.to_json(), "--lock", str(lock.descriptor)]
    # What its first user can import, it can: this package itself, the wheels with the servers, and Prefect.
    source = [str(Path(__file__).resolve().parents[2]), *(entry for entry in sys.path if Path(entry).is_absolute())]
    log = home.log("supervisor")
    put_aside_if_large(log)
    with log.open("ab") as output:
        result = subprocess.run(
            launcher(program, unprivileged=True, detach=True),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=server_environment(os.environ, PYTHONPATH=os.pathsep.join(source)),
            cwd=home.directory,
            pass_fds=(lock.descriptor,),
            check=False,
        )
    if result.returncode == EXIT_NO_USER_NAMESPACE:
        raise EmbeddedServerError(
            "Postgres does not run as root, and this system does not let root become someone else: "
            f"{last_lines(log, count=1)}",
            remedy="Run as an ordinary user, or allow user namespaces (user.max_user_namespaces; in a container also "
            "its seccomp profile), or set COINSWARM_REDIS_URL and COINSWARM_DATABASE_URL to servers of your own.",
        )
    if result.returncode != 0:
        raise EmbeddedServerError(
            f"The supervisor of {home.directory} could not be started; its log {log} ends with:\n{last_lines(log)}",
            remedy="Repair what the log names, and try again.",
        )


def connect_to_supervisor(home: Home) -> socket.socket | None:
    """Return a connection to the running supervisor of ``home``, or None where none answers."""
    content = read_json(home.run_file)
    if content is None:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(Path(content["runtime_directory"]) / "control.sock"))
    except OSError:
        connection.close()
        return None
    return connection


def exchange(connection: socket.socket, request: dict[str, Any]) -> dict[str, Any] | None:
    """Send one request to a supervisor and return its reply; None where it ended without one."""
    received = b""
    try:
        connection.sendall(json.dumps(request).encode() + b"\n")
        while not received.endswith(b"\n"):
            data = connection.recv(65_536)
            if not data:
                return None
            received += data
    except ConnectionError:
        return None
    reply: dict[str, Any] = json.loads(received)
    return reply


def _wait_until_stopped(home: Home, users: FileLock) -> None:
    """Return when the supervisor has ended, or someone else uses the home."""
    deadline = time.monotonic() + _STOP_PATIENCE_S
    with contextlib.closing(home.lock("supervisor")) as supervisor:
        while True:
            if supervisor.try_exclusive():
                return
            if users.try_exclusive():
                users.unlock()  # nobody is left, which the supervisor will see next
            elif users.try_shared():
                users.unlock()
                return  # another session shares it
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"The servers of {home.directory} did not stop within {_STOP_PATIENCE_S:g} s.",
                    remedy=f"See {home.log('supervisor')}.",
                )
            time.sleep(_POLL_INTERVAL_S)


def home_status(home: Path | str) -> HomeStatus:
    """Return what runs in ``home``, changing nothing. Takes some milliseconds.

    Raises
    ------
    HomeTooNewError
        The home was written by a newer version.
    """
    place = Home.at(home)
    place.check_version()
    content = read_json(place.version_file)
    version = content["version"] if content is not None else None
    run = read_json(place.run_file)
    identity = ProcessIdentity.read(place.run_file)
    connection = connect_to_supervisor(place)
    if run is None or identity is None or connection is None or not identity.is_alive():
        if connection is not None:
            connection.close()
        return HomeStatus(place.directory, version, None, None, ())
    with contextlib.closing(connection):
        connection.settimeout(_STATUS_PATIENCE_S)
        try:
            reply = exchange(connection, {"status": True})
        except TimeoutError:
            reply = None  # a supervisor that is stopped, or a machine that is
    servers = (reply or {}).get("status", {})
    return HomeStatus(
        directory=place.directory,
        version=version,
        supervisor_pid=identity.pid,
        runtime_directory=Path(run["runtime_directory"]),
        servers=tuple(
            ServerStatus(name, server["state"], server["pid"], server["version"], server["url"], Path(server["log"]))
            for name, server in servers.items()
        ),
    )


def prefect_environment(home: Path | str, endpoints: Endpoints) -> dict[str, str]:
    """Return the environment variables that a client of the home's Prefect server must set before it imports Prefect.

    They hold a password: pass them on as environment, never as arguments or in a log.
    """
    if endpoints.prefect_api_url is None:
        raise ValueError("These endpoints have no Prefect server: open the session with services that name 'prefect'.")
    environment = client_environment(Home.at(home), endpoints.prefect_api_url)
    secret = environment["PREFECT_API_AUTH_STRING"]
    for known in (secret, secret.partition(":")[2]):
        remember(known)
    return environment
