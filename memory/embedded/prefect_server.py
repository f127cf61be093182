"""The embedded Prefect server, on its own SQLite, closed to everyone without its password."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import random
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from memory.embedded import prefect_program
from memory.embedded.home import Home, read_json, write_json
from memory.embedded.options import EmbeddedOptions
from memory.embedded.process import server_environment
from memory.embedded.service import Service, State, Step
from memory.errors import EmbeddedServerError

_HOST = "127.0.0.1"
_PROBE_TIMEOUT_S = 0.5
_LOOPBACK_TIMEOUT_S = 2.0
"""Longest wait for a connection within this machine, where nothing that is on its way gets lost."""
_USER = "coinswarm"
_SECRET_BYTES = 32
_LEAST_PORT = 20_000
"""Above those that well-known programs have, and that browsers refuse."""
_MOST_PORT = 65_536
_GIVEN_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUALLY_GIVEN_FROM = 32_768


class PrefectServer(Service):
    """``prefect server start`` as a child, never imported here; see :mod:`memory.embedded.prefect_program`."""

    name: ClassVar[str] = "prefect"
    # Ends the web server, its services and the connections to SQLite, whose write-ahead log is then folded in. After
    # SIGTERM the process ends without the last of these.
    stop_signal: ClassVar[int] = signal.SIGINT

    # It waits for open connections, such as that of a browser, for ever; its database needs no clean end.
    stop_patience_s: ClassVar[float] = 10.0

    def __init__(self, home: Home, runtime: Path, options: EmbeddedOptions) -> None:
        super().__init__(home, runtime, options)
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self._port}/api"

    def data_directory(self) -> Path:
        return self.home.prefect_data

    @property
    def _port_file(self) -> Path:
        return self.home.prefect_data / "port.json"

    def prepare(self) -> Iterator[Step]:
        self.home.prefect_data.mkdir(mode=0o700, exist_ok=True)
        make_secret(self.home)
        self._port = self._choose_port()
        if not is_free(self._port):
            taken, self._port = self._port, 0
            raise EmbeddedServerError(
                f"port {taken} of {_HOST} is taken by another program.",
                remedy="End that, or choose another port, or none: then a free one is found.",
            )
        write_json(self._port_file, {"port": self._port})
        return iter(())

    def ask_for_port(self, port: int) -> None:
        """Choose its port, where it does not run."""
        if self.state in {State.STOPPED, State.FAILED}:
            self.options = replace(self.options, prefect_port=port)
            self._port = 0

    def _choose_port(self) -> int:
        """Return the configured port, or the one of last time, which open browser pages know, or a free one."""
        if self._port:
            return self._port  # it died and is started again: its users know it there
        if self.options.prefect_port is not None:
            return self.options.prefect_port
        last = (read_json(self._port_file) or {}).get("port")
        if isinstance(last, int) and is_free(last):
            return last
        return free_port()

    def command(self) -> Sequence[str | Path]:
        words = ["server", "start", "--host", _HOST, "--port", str(self._port)]
        return [sys.executable, "-P", "-m", prefect_program.__name__, *words]

    def environment(self) -> Mapping[str, str]:
        # It listens on the loopback, where every local user, and every web page that one of them visits, can reach it:
        # so a password, requests from its own pages only, and tokens against forged ones.
        secret = read_secret(self.home)
        return server_environment(
            os.environ,
            PYTHONPATH=os.environ.get("PYTHONPATH", ""),
            PREFECT_HOME=str(self.home.prefect_data),
            PREFECT_SERVER_API_AUTH_STRING=secret,
            PREFECT_API_AUTH_STRING=secret,
            PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED="true",
            PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS=f"http://{_HOST}:{self._port},http://localhost:{self._port}",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_SERVER_UI_API_URL=self.url,
            # Alerts that it sends lead there.
            PREFECT_UI_URL=self.url.removesuffix("/api"),
            PREFECT_RESULTS_DEFAULT_SERIALIZER="json",
            # Its database would grow for ever. Runs are removed by a flow, which can show them first.
            PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED="events,orphans",
            # The default keeps leases in memory, and slots leak when the server restarts.
            PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE="prefect.server.concurrency.lease_storage.filesystem",
        )

    def version(self) -> str:
        return importlib.metadata.version("prefect")

    def is_ready(self) -> bool:
        with contextlib.closing(socket.socket(socket.AF_INET)) as connection:
            connection.settimeout(_PROBE_TIMEOUT_S)
            try:
                connection.connect((_HOST, self._port))
                connection.sendall(f"GET /api/health HTTP/1.0\r\nHost: {_HOST}\r\n\r\n".encode())
                return connection.recv(64).split(b"\r\n")[0].endswith(b"200 OK")
            except OSError:
                return False


def free_port() -> int:
    """Return a port on which nobody listens, and that the system gives to nobody who asks for any.

    Between this look and the moment when the server listens lie seconds, in which each connection that anybody opens
    takes one of those.

    Raises
    ------
    EmbeddedServerError
        All are taken.
    """
    first_given = int(_GIVEN_PORTS.read_text().split()[0]) if _GIVEN_PORTS.exists() else _USUALLY_GIVEN_FROM
    # Where the system gives all of them there is no better choice.
    ports = range(_LEAST_PORT, first_given if first_given > _LEAST_PORT else _MOST_PORT)
    for port in random.sample(ports, len(ports)):
        if is_free(port):
            return port
    raise EmbeddedServerError(
        f"no port of {_HOST} from {ports.start} to {ports.stop - 1} is free.", remedy="End what listens there."
    )


def is_free(port: int) -> bool:
    """Return whether nobody listens on ``port`` of the loopback."""
    with contextlib.closing(socket.socket(socket.AF_INET)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError:
            return False
        return True


def check_loopback() -> None:
    """Look that programs of this machine can reach each other on 127.0.0.1.

    A container or namespace without a network of its own has the interface, but down: binding succeeds there all the
    same, and a server would be waited for in vain.

    Raises
    ------
    EmbeddedServerError
        Nothing can be reached there.
    """
    with contextlib.closing(socket.socket(socket.AF_INET)) as listener:
        listener.bind((_HOST, 0))
        listener.listen(1)
        with contextlib.closing(socket.socket(socket.AF_INET)) as connection:
            connection.settimeout(_LOOPBACK_TIMEOUT_S)
            try:
                connection.connect(listener.getsockname())
            except OSError as error:
                raise EmbeddedServerError(
                    f"nothing on this machine can be reached at {_HOST} ({error.strerror or error}), where the "
                    "embedded Prefect server listens.",
                    remedy="Bring the loopback interface up (ip link set lo up), or set COINSWARM_PREFECT_API_URL to a "
                    "server elsewhere.",
                ) from error


def make_secret(home: Home) -> None:
    """Write a new random password, for its owner's eyes only, where the home has none."""
    path = secret_file(home)
    if path.exists():
        return
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{_USER}:{secrets.token_urlsafe(_SECRET_BYTES)}")
    temporary.replace(path)


def secret_file(home: Home) -> Path:
    """Return where ``user:password`` of the home's Prefect server lies, for its owner's eyes only."""
    return home.prefect_data / "auth-string"


def read_secret(home: Home) -> str:
    """Return ``user:password`` of the home's Prefect server."""
    return secret_file(home).read_text(encoding="utf-8")


def client_environment(home: Home, api_url: str) -> dict[str, str]:
    """Return the variables that a client of the home's Prefect server needs."""
    return {
        "PREFECT_API_URL": api_url,
        "PREFECT_API_AUTH_STRING": read_secret(home),
        "PREFECT_HOME": str(home.prefect_data),
        "PREFECT_UI_URL": api_url.removesuffix("/api"),
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        # Without this a client that cannot reach the server would quietly start one of its own.
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    }
