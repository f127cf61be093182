"""What Linux knows about processes: identity beyond the pid, open files, and how servers are started."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory.embedded.home import read_json, write_json

_LAUNCHER = Path(__file__).with_name("launch.py")
#: Variables that the servers inherit. All others stay out, so that PGPORT, PREFECT_* or LD_PRELOAD of whoever comes
#: first cannot change what everyone uses.
_INHERITED = ("PATH", "HOME", "TMPDIR", "TZ", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")
#: At most this much of a log is read for its last lines.
_TAIL_BYTES = 16_384
#: A log that large is put aside at a start.
LOG_LIMIT_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int
    """Start since boot in clock ticks (field 22 of /proc/pid/stat)."""

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Identify the living process ``pid``; None where there is none (a zombie counts as gone)."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold blanks and brackets
        if fields[0] in {"Z", "X"}:
            return None
        return cls(pid, int(fields[19]))

    def is_alive(self) -> bool:
        """Return whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self

    def write(self, path: Path, **more: str) -> None:
        """Write the identity down, with what else is to be known about the process."""
        write_json(path, {"pid": self.pid, "start_ticks": self.start_ticks, "boot": _boot(), **more})

    @classmethod
    def read(cls, path: Path) -> ProcessIdentity | None:
        """Return what :meth:`write` wrote; None where nothing usable is there, or the machine was restarted since."""
        content = read_json(path)
        if content is None or content.get("boot") != _boot():
            return None
        pid, ticks = content.get("pid"), content.get("start_ticks")
        if isinstance(pid, int) and isinstance(ticks, int):
            return cls(pid, ticks)
        return None

    def signal(self, number: int) -> None:
        """Send a signal, where the process still runs."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def wake_and_signal(self, number: int) -> None:
        """Send a signal, and have a stopped process go on so that it can act on it."""
        self.signal(number)
        self.signal(signal.SIGCONT)


def _boot() -> str:
    """Identify the time since the machine was started, in which pid and start together name one process."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def has_open(pid: int, path: Path) -> bool:
    """Return whether the process ``pid`` holds the file at ``path`` open (False where it cannot be looked into)."""
    try:
        wanted = path.stat()
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            found = descriptor.stat()
        except OSError:
            continue  # closed meanwhile
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def processes_holding(path: Path) -> list[int]:
    """Return the pids of all processes, but this one, that hold the file at ``path`` open. Reads all of /proc."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(pid for pid in pids if pid != os.getpid() and has_open(pid, path))


def processes_with(variable: str, value: str) -> list[int]:
    """Return the pids of all processes, but this one, that were started with ``variable=value`` in their environment.

    Looks at those of this user alone, which are the only ones that may be looked into. Reads all of /proc.
    """
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(pid for pid in pids if pid != os.getpid() and variable_of(pid, variable) == value)


def variable_of(pid: int, variable: str) -> str | None:
    """Return a variable of the environment with which ``pid`` was started; None where it has none, or has ended."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    name = os.fsencode(variable) + b"="
    return next((os.fsdecode(entry[len(name) :]) for entry in entries if entry.startswith(name)), None)


def launcher(
    program: Sequence[str | os.PathLike[str]],
    *,
    unprivileged: bool = False,
    detach: bool = False,
    death_signal: int | None = None,
) -> list[str]:
    """Return the command line that starts ``program`` through launch.py."""
    command = [sys.executable, "-I", "-S", str(_LAUNCHER)]
    if unprivileged:
        command.append("--unprivileged")
    if detach:
        command.append("--detach")
    if death_signal is not None:
        command += ["--parent", str(os.getpid()), "--death-signal", str(int(death_signal))]
    return [*command, "--", *(os.fspath(part) for part in program)]


def server_environment(source: Mapping[str, str], **extra: str) -> dict[str, str]:
    """Return the environment for a server: the few inherited variables, a fixed locale and time zone, and ``extra``."""
    kept = {name: source[name] for name in _INHERITED if name in source}
    return kept | {"LC_ALL": "C", "PYTHONUTF8": "1"} | extra


def start_server(
    program: Sequence[str | os.PathLike[str]],
    *,
    input_text: str,
    log: Path,
    environment: Mapping[str, str],
    directory: Path,
    keep_open: Sequence[int],
    death_signal: int,
) -> subprocess.Popen[bytes]:
    """Start a child that is told by ``death_signal`` when this process ends, with its output in a file.

    ``keep_open`` are descriptors it inherits. Its input and output are files, never pipes, which would block it once
    nobody reads.
    """
    with tempfile.TemporaryFile() as source, log.open("ab") as output:
        source.write(input_text.encode())
        source.seek(0)
        return subprocess.Popen(
            launcher(program, death_signal=death_signal),
            stdin=source,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=directory,
            pass_fds=tuple(keep_open),
            # A session of its own keeps a terminal's Ctrl-C, meant for a user, away from it.
            start_new_session=True,
        )


def program_version(program: Path) -> str:
    """Return the version that the program names in its answer to ``--version``. Takes some milliseconds."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", answer)
    return found.group() if found else answer.strip()


def put_aside_if_large(log: Path) -> None:
    """Rename a log that has grown large, so that a new one begins; the one renamed before is dropped."""
    if log_size(log) > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))


def keep_log_small(log: Path) -> None:
    """Put a large log aside that a running process writes to, without asking it: copied, then begun anew.

    For processes that append (``O_APPEND``), as those of :func:`start_server` do. What they write between copy and cut
    is lost.
    """
    if log_size(log) > LOG_LIMIT_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def log_size(path: Path) -> int:
    """Return the size of a log in bytes, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(path: Path, *, since: int = 0, count: int = 8) -> str:
    """Return the last ``count`` lines that were written to the log at ``path`` after its first ``since`` bytes."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(since if since <= size else 0, size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return "(no log was written)"
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:]) if lines else "(the log is empty)"
