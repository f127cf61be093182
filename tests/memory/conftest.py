"""A Redis of one's own, for tests that kill, pause or empty it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory.embedded.wheels import find_programs

START_S = 20.0


class OwnRedis:
    """A redis-server, with search or without, that a test may kill and start again on the same data."""

    def __init__(self, directory: Path, *, search: bool = True) -> None:
        self._directory = directory
        self._search = search
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"

    def start(self, *arguments: str) -> None:
        """Start it, and wait until it answers."""
        programs = find_programs()
        module = ["--loadmodule", str(programs.search_module)] if self._search else []
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(str(programs.redis_server), "--port", "0", "--unixsocket", str(self.socket)),
                *("--dir", str(self._directory), "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                *arguments,
                *module,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                if client.recv(16).startswith((b"+PONG", b"-NOAUTH")):
                    return
            time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.kill()


@contextlib.contextmanager
def _running(*, search: bool) -> Iterator[OwnRedis]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = OwnRedis(Path(directory), search=search)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    """A running redis-server of the test's own."""
    with _running(search=True) as server:
        yield server


@pytest.fixture
def redis_without_search() -> Iterator[OwnRedis]:
    """A running redis-server without the search module."""
    with _running(search=False) as server:
        yield server
