"""The one process of a home that owns its servers: started by the first session, gone after the last.

``python -m memory.embedded.supervisor --home DIRECTORY`` runs it in the foreground. It needs no privileges, holds two
locks in the home (``supervisor`` always, ``users`` while it stops), and answers requests on a socket, one JSON object a
line: ``{"services": ["redis"]}`` waits until they are ready (``prefect_port`` beside it is for a Prefect server that
does not run yet), ``{"status": true}`` returns at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from memory.embedded.home import FileLock, Home, make_private_directory, runtime_directory
from memory.embedded.options import EmbeddedOptions
from memory.embedded.postgres_server import PostgresServer
from memory.embedded.prefect_server import PrefectServer
from memory.embedded.process import ProcessIdentity
from memory.embedded.redis_server import RedisServer
from memory.embedded.service import Service, State
from memory.embedded.wheels import find_programs
from memory.errors import CoinswarmError, EmbeddedServerError

logger = logging.getLogger("memory.embedded.supervisor")

#: How often servers are looked at while one of them starts or stops, and while nothing happens.
_BUSY_INTERVAL_S = 0.01
_IDLE_INTERVAL_S = 0.1
#: A request is one short line.
_REQUEST_LIMIT_BYTES = 65_536
#: How long to wait for the sockets' directory, which the supervisor of a removed home gives up when it notices.
_DIRECTORY_PATIENCE_S = 10.0


@dataclass(slots=True)
class _Client:
    """A connection on the control socket, and what it waits for."""

    connection: socket.socket
    received: bytes = b""
    wanted: list[str] = field(default_factory=list)


class Supervisor:
    """Owns the servers of one home.

    Parameters
    ----------
    home
        The home, whose ``supervisor`` lock the caller holds.
    options
        Settings of the servers.
    """

    def __init__(self, home: Home, options: EmbeddedOptions) -> None:
        self.home = home
        self.options = options
        self.runtime = runtime_directory(home, os.environ)
        self._users = home.lock("users")
        self._directory: FileLock | None = None
        self._stopping = False
        self._ending = False
        self._lonely_since: float | None = None
        self._services: dict[str, Service] = {}
        self._clients: dict[int, _Client] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve until nobody uses the home any more, or SIGTERM asks to stop."""
        self.home.stamp()
        self.home.run_file.unlink(missing_ok=True)
        with self._own_runtime_directory(), contextlib.closing(self._listen()) as listener:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            identity = ProcessIdentity.of(os.getpid())
            assert identity is not None
            identity.write(self.home.run_file, runtime_directory=str(self.runtime))
            logger.info("serving %s, sockets in %s", self.home.directory, self.runtime)
            try:
                while not self._is_over():
                    self._turn(listener)
            finally:
                self._stop_all(listener)
                self.home.run_file.unlink(missing_ok=True)
        logger.info("ended")

    # --- one turn of the loop ---------------------------------------------------------------------------------

    def _turn(self, listener: socket.socket) -> None:
        busy = any(not service.settled for service in self._services.values())
        for key, _ in self._selector.select(_BUSY_INTERVAL_S if busy else _IDLE_INTERVAL_S):
            if key.fileobj is listener:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    continue  # whoever came has left already
                connection.setblocking(False)
                self._clients[connection.fileno()] = _Client(connection)
                self._selector.register(connection, selectors.EVENT_READ)
            else:
                self._receive(self._clients[key.fd])
        for service in self._services.values():
            service.poll()
        for client in list(self._clients.values()):
            self._answer_if_settled(client)

    def _is_over(self) -> bool:
        if self._stopping:
            return True
        for lock in (self._users, self._directory):
            # A home may be removed; a runtime directory ends with its user's last login.
            if lock is not None and not lock.still_in_place():
                logger.warning("%s was removed", lock.path)
                return True
        if not self._users.try_exclusive():
            self._lonely_since = None
            return False
        now = time.monotonic()
        self._lonely_since = now if self._lonely_since is None else self._lonely_since
        if now - self._lonely_since >= self.options.linger_s:
            # The lock is kept to the end: whoever comes now waits, and then starts a supervisor of their own.
            return True
        self._users.unlock()
        return False

    def _stop_all(self, listener: socket.socket) -> None:
        """Stop Prefect, whose flows use the others, and then the others together; tell meanwhile how far that is."""
        self._ending = True
        for client in list(self._clients.values()):
            if client.wanted:
                self._drop(client)
        for names in (("prefect",), ("redis", "postgres")):
            services = [self._services[name] for name in names if name in self._services]
            for service in services:
                service.stop()
            while any(service.state is State.STOPPING for service in services):
                self._turn(listener)
        for client in list(self._clients.values()):
            self._drop(client)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature of handlers
        self._stopping = True

    # --- requests ---------------------------------------------------------------------------------------------

    def _receive(self, client: _Client) -> None:
        try:
            data = client.connection.recv(_REQUEST_LIMIT_BYTES)
        except OSError:
            data = b""
        client.received += data
        if not data or len(client.received) > _REQUEST_LIMIT_BYTES:
            self._drop(client)
            return
        if b"\n" not in client.received:
            return
        try:
            request = json.loads(client.received)
            if "status" in request:
                self._reply(client, {"ok": True, "status": self.status()})
                return
            if self._ending:
                self._drop(client)  # as if it had ended already: whoever asks waits, and starts another one
                return
            client.wanted = list(request["services"])
            for name in client.wanted:
                service = self._service(name)
                if isinstance(service, PrefectServer) and request.get("prefect_port") is not None:
                    service.ask_for_port(request["prefect_port"])
                service.request()
        except (ValueError, KeyError, TypeError) as error:
            self._reply(client, {"ok": False, "error": f"The request cannot be read: {error!r}", "remedy": ""})
        except CoinswarmError as error:
            self._reply(client, {"ok": False, "error": error.message, "remedy": error.remedy})

    def _service(self, name: str) -> Service:
        if name not in self._services:
            if name == "prefect":
                self._services[name] = PrefectServer(self.home, self.runtime, self.options)
            elif name == "redis":
                self._services[name] = RedisServer(self.home, self.runtime, self.options, find_programs())
            elif name == "postgres":
                self._services[name] = PostgresServer(self.home, self.runtime, self.options, find_programs())
            else:
                raise EmbeddedServerError(
                    f"There is no embedded server {name!r}.", remedy="Ask for redis, postgres or prefect."
                )
        return self._services[name]

    def _answer_if_settled(self, client: _Client) -> None:
        services = [self._services[name] for name in client.wanted]
        if not services:
            return
        failed = next((service for service in services if service.state is State.FAILED), None)
        if failed is not None:
            # A server that was refused before its start, as where its port is taken, has written none.
            log = failed.log if failed.log.exists() else self.home.log("supervisor")
            self._reply(client, {"ok": False, "error": failed.error, "remedy": f"See the whole log in {log}."})
        elif all(service.state is State.READY for service in services):
            urls = {service.name: service.url for service in services}
            self._reply(client, {"ok": True, "urls": urls, "linger_s": self.options.linger_s})

    def _reply(self, client: _Client, content: dict[str, Any]) -> None:
        # A client that has left meanwhile needs no answer.
        with contextlib.suppress(OSError):
            client.connection.sendall(json.dumps(content).encode() + b"\n")
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        del self._clients[client.connection.fileno()]
        client.connection.close()

    def status(self) -> dict[str, Any]:
        """Return what runs, as plain values."""
        return {
            name: {
                "state": service.state.value,
                "pid": service.pid,
                "version": service.version(),
                "url": service.url,
                "log": str(service.log),
            }
            for name, service in self._services.items()
        }

    # --- the sockets' directory -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _own_runtime_directory(self) -> Iterator[None]:
        """Create the directory, hold it alone, and remove it at the end."""
        self._directory = lock = self._lock_runtime_directory()
        try:
            yield
        finally:
            if lock.still_in_place():
                for path in self.runtime.iterdir():
                    path.unlink()
                self.runtime.rmdir()
            lock.close()

    def _lock_runtime_directory(self) -> FileLock:
        deadline = time.monotonic() + _DIRECTORY_PATIENCE_S
        while True:
            make_private_directory(self.runtime)
            # Its holder may remove it between any two of these steps.
            with contextlib.suppress(FileNotFoundError):
                lock = FileLock.on_directory(self.runtime)
                if lock.try_exclusive() and lock.still_in_place():
                    return lock
                lock.close()
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.runtime} is in use by the servers of another home that had this path.",
                    remedy=f"Stop the processes that hold it; `fuser -v {self.runtime}` names them.",
                )
            time.sleep(_IDLE_INTERVAL_S)

    def _listen(self) -> socket.socket:
        path = control_socket(self.runtime)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(64)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        return listener


def control_socket(runtime: Path) -> Path:
    """Where the supervisor listens."""
    return runtime / "control.sock"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a supervisor; 0 where it ended well or another one has the home."""
    parser = argparse.ArgumentParser(prog="memory.embedded.supervisor", description=__doc__)
    parser.add_argument("--home", required=True, type=Path, help="the home to serve")
    parser.add_argument("--options", default="{}", help="settings of the servers as JSON")
    parser.add_argument("--lock", type=int, help="inherited descriptor of the home's supervisor lock, held")
    parsed = parser.parse_args(arguments)

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    home = Home.at(parsed.home)
    try:
        home.create()
        if parsed.lock is None:
            lock = home.lock("supervisor")
        else:
            lock = FileLock.from_descriptor(home.locks / "supervisor.lock", parsed.lock)
        if not lock.try_exclusive():
            logger.info("another supervisor has %s", home.directory)
            return 0
        # The lock is not given back but ends with the process: who sees it free knows that nothing runs any more.
        Supervisor(home, EmbeddedOptions.from_json(parsed.options)).run()
    except (CoinswarmError, OSError) as error:
        logger.error("%s", error)  # the message is for the user who waits, and says it all
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
