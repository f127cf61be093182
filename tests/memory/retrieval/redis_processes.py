"""A primary and its replicas: real redis-servers with search, which a test may kill, halt and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from memory.embedded.wheels import find_programs

_START_S = 20.0


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RedisProcess:
    """A redis-server with search on a port of 127.0.0.1."""

    def __init__(self, directory: Path, *, follows: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.follows = follows
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        programs = find_programs()
        following = [] if self.follows is None else ["--replicaof", f"127.0.0.1 {self.follows}"]
        self._process = subprocess.Popen(
            [
                *(str(programs.redis_server), "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--dir", str(self._directory), "--save", "", "--appendonly", "no"),
                *("--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"),
                *following,
                *("--loadmodule", str(programs.search_module)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait_for("PING", "PONG")

    def ask(self, *arguments: str) -> str:
        """Send a command on a connection of its own, and return the answer as it comes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            client.sendall(" ".join(arguments).encode() + b"\r\n")
            answer = client.recv(1 << 16).decode()
            if answer.startswith("$"):
                length = int(answer[1 : answer.index("\r\n")])
                while len(answer) < length:
                    answer += client.recv(1 << 16).decode()
            return answer

    def wait_for(self, command: str, text: str) -> None:
        """Wait until the answer to a command holds a text."""
        deadline = time.monotonic() + _START_S
        answer = ""
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                answer = self.ask(*command.split())
                if text in answer:
                    return
            time.sleep(0.01)
        raise AssertionError(f"{command} on port {self.port} did not answer {text}, but {answer!r}")

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def halt(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)


class Cluster:
    """A primary with replicas."""

    def __init__(self, directory: Path, replicas: int) -> None:
        self.primary = RedisProcess(directory / "primary")
        self.replicas = [RedisProcess(directory / f"replica-{n}", follows=self.primary.port) for n in range(replicas)]

    @property
    def urls(self) -> list[str]:
        """Of the replicas."""
        return [replica.url for replica in self.replicas]

    def heal(self) -> None:
        """Have all run, and all replicas follow the primary."""
        for server in (self.primary, *self.replicas):
            server.go_on()
            if not server.running:
                server.start()
        if "role:master" not in self.primary.ask("INFO", "replication"):
            self.primary.ask("REPLICAOF", "NO", "ONE")
        for replica in self.replicas:
            if f"master_port:{self.primary.port}" not in replica.ask("INFO", "replication"):
                replica.ask("REPLICAOF", "127.0.0.1", str(self.primary.port))
        for replica in self.replicas:
            replica.wait_for("INFO replication", "master_link_status:up")

    def stop(self) -> None:
        """End all."""
        for server in (self.primary, *self.replicas):
            server.kill()
