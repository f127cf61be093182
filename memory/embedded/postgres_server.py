"""The embedded Postgres that holds the ledger."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from memory.embedded.home import Home
from memory.embedded.options import EmbeddedOptions
from memory.embedded.process import program_version
from memory.embedded.service import Service, Step
from memory.embedded.wheels import Programs

#: The database and its owner.
DATABASE = "coinswarm"
_PORT = 5432  # names the socket only; nothing listens on the network
#: Line of postmaster.pid (counted from 0) with the server's state, and the word for "takes connections"
#: (src/include/utils/pidfile.h); pg_ctl reads the same.
_STATUS_LINE = 7
_STATUS_READY = "ready"
#: Who may connect: whoever can reach the socket, which lies in a directory that only its owner can enter. ``peer``
#: would say the same in more words, and fails where a uid has no name, as in user namespaces and many containers.
_ACCESS = "local all all trust\n"


class PostgresServer(Service):
    """postgres on a socket only. Its first start creates the cluster and the database."""

    name: ClassVar[str] = "postgres"
    # Fast shutdown: ends sessions, rolls back, writes a checkpoint. SIGTERM would wait for every client to leave.
    stop_signal: ClassVar[int] = signal.SIGINT

    def __init__(self, home: Home, runtime: Path, options: EmbeddedOptions, programs: Programs) -> None:
        super().__init__(home, runtime, options)
        self._programs = programs

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{DATABASE}@/{DATABASE}?host={quote(str(self.runtime))}&port={_PORT}"

    def data_directory(self) -> Path:
        return self.home.postgres_data

    @property
    def _socket_files(self) -> tuple[Path, Path]:
        name = f".s.PGSQL.{_PORT}"
        return self.runtime / name, self.runtime / f"{name}.lock"

    def prepare(self) -> Iterator[Step]:
        data = self.home.postgres_data
        if not data.exists():
            # Built beside its place and moved there when it is complete: a kill leaves nothing half made.
            new = data.with_name(f"{data.name}.new")
            if new.exists():
                shutil.rmtree(new)
            # Each of the thousand files is flushed once, at the end, rather than one by one in every step.
            initdb = self._programs.postgres_bin / "initdb"
            yield Step(
                [
                    initdb,
                    f"--pgdata={new}",
                    f"--username={DATABASE}",
                    "--auth=trust",
                    "--encoding=UTF8",
                    # Sorting and case come from Postgres itself, so that they are the same on every machine.
                    "--locale=C",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--no-instructions",
                    "--no-sync",
                    # The ledger is small: segments of 16 MB would be most of its disk.
                    "--wal-segsize=4",
                ]
            )
            # The stand-alone backend needs neither a socket nor a client.
            yield Step(
                [self._programs.postgres_bin / "postgres", "--single", "-D", new, "-c", "fsync=off", "template1"],
                input_text=f"CREATE DATABASE {DATABASE};\n",
            )
            yield Step([initdb, f"--pgdata={new}", "--sync-only", "--sync-method=syncfs"])
            new.rename(data)
        # We hold the lock on the data, so nobody is alive to whom these belong. Postgres alone could not tell: it would
        # take any process that now has the pid in postmaster.pid for itself, and refuse to start.
        (data / "postmaster.pid").unlink(missing_ok=True)
        for path in self._socket_files:
            path.unlink(missing_ok=True)
        (data / "pg_hba.conf").write_text(_ACCESS, encoding="utf-8")
        (data / "postgresql.conf").write_text(self.configuration(), encoding="utf-8")

    def configuration(self) -> str:
        """Return the text of postgresql.conf. What ALTER SYSTEM sets (postgresql.auto.conf) has the last word."""
        settings = {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": str(self.runtime),
            "unix_socket_permissions": "0700",
            # Durable: a commit that was acknowledged survives a crash of the machine.
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            # After a crash all files are flushed, in one call: one by one takes seconds on a busy disk.
            "recovery_init_sync_method": "syncfs",
            # For one machine with a small ledger. No replica reads it, so the log carries no more than recovery needs.
            "shared_buffers": f"{self.options.postgres_shared_buffers_mb}MB",
            "max_connections": "50",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "max_wal_size": "512MB",
            "wal_compression": "on",
            # Its queries are short; compiling them, or asking other processes to read, costs more than it saves.
            "jit": "off",
            "io_method": "sync",
            "max_parallel_workers_per_gather": "0",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "datestyle": "iso, ymd",
            "lc_messages": "C",
            "log_line_prefix": "%m [%p] ",
            "log_checkpoints": "off",
        }
        return "".join(f"{name} = '{value}'\n" for name, value in settings.items())

    def command(self) -> Sequence[str | Path]:
        return [self._programs.postgres_bin / "postgres", "-D", self.home.postgres_data]

    def version(self) -> str:
        return program_version(self._programs.postgres_bin / "postgres")

    def is_ready(self) -> bool:
        try:
            lines = (self.home.postgres_data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == _STATUS_READY

    def clean_up(self) -> None:
        for path in self._socket_files:
            path.unlink(missing_ok=True)
