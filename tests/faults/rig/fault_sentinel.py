"""A primary, a replica and Sentinels, as processes of a test's own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import redis

from memory.embedded.wheels import find_programs

SERVICE = "memory"
DOWN_AFTER_MS = 500
START_S = 20.0


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class WatchedRedis:
    """A primary with search, a replica of it, and two Sentinels that agree on failures.

    Attributes
    ----------
    password
        Of the servers; the Sentinels have none.
    """

    def __init__(self, directory: Path, password: str = "of-the-servers") -> None:
        self.password = password
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.servers = [free_port(), free_port()]
        self.sentinels = [free_port(), free_port()]

    @property
    def url(self) -> str:
        """URL of the service."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://:{self.password}@{hosts}/{SERVICE}"

    def start(self) -> None:
        """Start all of them, and wait until the Sentinels know each other and the replica."""
        programs = find_programs()
        for port in self.servers:
            folder = self._directory / str(port)
            folder.mkdir()
            follows = [] if port == self.servers[0] else ["--replicaof", "127.0.0.1", str(self.servers[0])]
            self._run(
                port,
                *(str(programs.redis_server), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
                *("--requirepass", self.password, "--masterauth", self.password, "--save", "", "--appendonly", "yes"),
                *("--repl-diskless-sync-delay", "0", "--loadmodule", str(programs.search_module), *follows),
            )
        for port in self.servers:
            self._wait(partial(self._answers, port))
        for port in self.sentinels:
            settings = self._directory / f"sentinel-{port}.conf"
            settings.write_text(
                f"port {port}\nbind 127.0.0.1\nsentinel monitor {SERVICE} 127.0.0.1 {self.servers[0]} 2\n"
                f"sentinel auth-pass {SERVICE} {self.password}\nsentinel down-after-milliseconds {SERVICE} "
                f"{DOWN_AFTER_MS}\nsentinel failover-timeout {SERVICE} 3000\n"
            )
            self._run(port, str(programs.redis_server), str(settings), "--sentinel")
        for port in self.sentinels:
            self._wait(partial(self._knows_all, port))

    def server(self, port: int) -> redis.Redis:
        """A client of one of the servers."""
        return redis.Redis(port=port, password=self.password, decode_responses=True)

    def primary(self) -> int:
        """Port of the server that the Sentinels call the primary."""
        with redis.Redis(port=self.sentinels[0]) as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def kill(self, port: int) -> None:
        """SIGKILL."""
        process = self._processes.pop(port)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End all that still run."""
        for port in list(self._processes):
            self.kill(port)

    async def until_primary_is(self, port: int) -> None:
        """Wait until the Sentinels have agreed on another primary."""
        async with asyncio.timeout(30):
            while await asyncio.to_thread(self.primary) != port:
                await asyncio.sleep(0.1)

    def _run(self, port: int, *command: str) -> None:
        self._processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _answers(self, port: int) -> bool:
        with self.server(port) as client:
            return bool(client.ping())

    def _knows_all(self, port: int) -> bool:
        with redis.Redis(port=port, decode_responses=True) as client:
            state = client.sentinel_master(SERVICE)
        return int(state["num-other-sentinels"]) == 1 and int(state["num-slaves"]) == 1

    @staticmethod
    def _wait(holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                if holds():
                    return
            except redis.RedisError:
                pass  # Not up yet.
            time.sleep(0.05)
        raise AssertionError("Redis and its Sentinels did not find each other")
