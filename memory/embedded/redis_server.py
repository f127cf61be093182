"""The embedded Redis with search."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from memory.embedded.home import Home
from memory.embedded.options import EmbeddedOptions
from memory.embedded.process import program_version
from memory.embedded.service import Service, Step
from memory.embedded.wheels import Programs

#: What makes a Redis hold a memory: every write is in the log within a second of being acknowledged, nothing is evicted
#: (a full server refuses writes, which callers see). ``deployments/redis.conf`` holds the same for a server of one's
#: own.
DURABLE_DIRECTIVES: tuple[tuple[str, str], ...] = (
    ("appendonly", "yes"),
    ("appendfsync", "everysec"),
    # A crash of the machine may cut the last entry short; the rest is good.
    ("aof-load-truncated", "yes"),
    ("aof-use-rdb-preamble", "yes"),
    ("no-appendfsync-on-rewrite", "no"),
    # Snapshots beside the log would only cost memory and disk.
    ("save", ""),
    ("maxmemory-policy", "noeviction"),
    # Dropping an index or a key range must not stall searches.
    ("lazyfree-lazy-user-del", "yes"),
    ("lazyfree-lazy-expire", "yes"),
    ("lazyfree-lazy-server-del", "yes"),
    # A record's vector has 1 KiB: up to here its hash is kept in one piece of memory, 15 % smaller.
    ("hash-max-listpack-value", "2048"),
)
#: How the search module answers: the query language that knows KNN, and failure instead of part of an answer.
SEARCH_DIALECT = 2
#: Size to which the index's table of documents may grow before its entries share places; the module's own is a million,
#: half of what 90 days of five agents on three products need.
SEARCH_DOCUMENTS = 10_000_000
_PROBE_TIMEOUT_S = 0.5


class RedisServer(Service):
    """redis-server with the search module, on a socket only."""

    name: ClassVar[str] = "redis"

    def __init__(self, home: Home, runtime: Path, options: EmbeddedOptions, programs: Programs) -> None:
        super().__init__(home, runtime, options)
        self._programs = programs

    @property
    def socket_path(self) -> Path:
        """Where it listens."""
        return self.runtime / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket_path))}"

    def data_directory(self) -> Path:
        return self.home.redis_data

    @property
    def _configuration(self) -> Path:
        return self.runtime / "redis.conf"

    def prepare(self) -> Iterator[Step]:
        self.home.redis_data.mkdir(mode=0o700, exist_ok=True)
        self.socket_path.unlink(missing_ok=True)
        self._configuration.write_text(self.configuration(), encoding="utf-8", errors="surrogateescape")
        return iter(())

    def configuration(self) -> str:
        """Return the text of its configuration file."""
        search = (
            f"{quoted(str(self._programs.search_module))} TIMEOUT {self.options.search_timeout_ms} "
            f"ON_TIMEOUT FAIL DEFAULT_DIALECT {SEARCH_DIALECT} MAXDOCTABLESIZE {SEARCH_DOCUMENTS}"
        )
        directives = [
            # Nothing listens on the network, not even on the loopback.
            ("port", "0"),
            ("unixsocket", quoted(str(self.socket_path))),
            ("unixsocketperm", "700"),
            ("daemonize", "no"),
            ("logfile", '""'),
            ("dir", quoted(str(self.home.redis_data))),
            ("maxmemory", str(self.options.redis_maxmemory)),
            *((name, value or '""') for name, value in DURABLE_DIRECTIVES),
            ("loadmodule", search),
        ]
        return "".join(f"{name} {value}\n" for name, value in directives)

    def command(self) -> Sequence[str | Path]:
        return [self._programs.redis_server, self._configuration]

    def version(self) -> str:
        return program_version(self._programs.redis_server)

    def is_ready(self) -> bool:
        # While it reads its log it answers PING with -LOADING.
        return ping(self.socket_path) == b"+PONG"

    def clean_up(self) -> None:
        self.socket_path.unlink(missing_ok=True)
        self._configuration.unlink(missing_ok=True)


def quoted(text: str) -> str:
    """Quote one argument of a directive as redis.conf wants it: any byte but printable ASCII is written in hex."""
    parts = []
    for byte in text.encode("utf-8", errors="surrogateescape"):
        character = chr(byte)
        if character in '"\\':
            parts.append("\\" + character)
        elif " " <= character <= "~":
            parts.append(character)
        else:
            parts.append(f"\\x{byte:02x}")
    return '"' + "".join(parts) + '"'


def ping(path: Path) -> bytes | None:
    """Return the first line that the Redis on the socket at ``path`` answers to PING; None where nobody answers."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.settimeout(_PROBE_TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(256).split(b"\r\n")[0]
        except OSError:
            return None
