"""The home: the one directory that holds everything the embedded servers know, and the locks on it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory.errors import EmbeddedServerError, HomeTooNewError

#: Layout of a home. Raised when an older version of the code could no longer use it.
HOME_VERSION = 1
#: Major version of the embedded Postgres: its files can be read by no other, so they lie under its number.
POSTGRES_MAJOR = 18
#: sun_path of a unix socket holds 108 bytes, one of them the closing zero (unix(7)).
SOCKET_PATH_LIMIT = 107
#: The longest name of a socket in the runtime directory; Postgres names its socket by port.
_LONGEST_SOCKET_NAME = "/.s.PGSQL.5432"
#: Paths that need no quoting in any of the servers' configuration files.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+-]+")
_OWNER_ONLY = 0o700


class FileLock:
    """A lock of the kernel on one file (flock), which ends with the last process that holds its descriptor.

    A child that inherits the descriptor holds the lock too. So a lock that is free proves that no server started under
    it is alive: no pid has to be trusted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @classmethod
    def on_directory(cls, path: Path) -> FileLock:
        """Open the lock on a directory itself, which also keeps systemd-tmpfiles from cleaning it up."""
        return cls.from_descriptor(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    @classmethod
    def from_descriptor(cls, path: Path, descriptor: int) -> FileLock:
        """Take over a descriptor that was inherited, with the lock it may hold."""
        lock = cls.__new__(cls)
        lock.path = path
        lock._descriptor = descriptor
        os.set_inheritable(descriptor, False)
        return lock

    @property
    def descriptor(self) -> int:
        """The file descriptor, for handing it to a child."""
        return self._descriptor

    def try_exclusive(self) -> bool:
        """Take the lock for this holder alone; False where anyone else has it."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take the lock together with other sharers; False where someone has it alone."""
        return self._try(fcntl.LOCK_SH)

    def unlock(self) -> None:
        """Give the lock back for every process that inherited it, and keep the file open."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def still_in_place(self) -> bool:
        """Return whether the path still leads to the locked file (not so once a home was removed or replaced)."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self._descriptor)
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    def close(self) -> None:
        """Close this process's descriptor. The lock goes on where a child holds a copy."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                return False
            raise
        return True


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file at ``path`` in one step, so that no reader ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in the file at ``path``, or None where there is no such file or no object in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@dataclass(frozen=True, slots=True)
class Home:
    """Names every path in a home. ``directory`` is absolute and free of symbolic links."""

    directory: Path

    @classmethod
    def at(cls, directory: Path | str) -> Home:
        """Name the home at ``directory``, which need not exist yet."""
        return cls(Path(directory).expanduser().resolve())

    @property
    def version_file(self) -> Path:
        return self.directory / "home.json"

    @property
    def run_file(self) -> Path:
        """What the running supervisor says about itself."""
        return self.directory / "run.json"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def locks(self) -> Path:
        return self.directory / "locks"

    @property
    def redis_data(self) -> Path:
        return self.directory / "redis"

    @property
    def postgres_data(self) -> Path:
        return self.directory / "postgres" / str(POSTGRES_MAJOR)

    @property
    def prefect_data(self) -> Path:
        return self.directory / "prefect"

    def log(self, name: str) -> Path:
        """The log of the server ``name``."""
        return self.logs / f"{name}.log"

    def lock(self, name: str) -> FileLock:
        """Open the lock ``name``; its directory must exist."""
        return FileLock(self.locks / f"{name}.lock")

    def process_record(self, name: str) -> Path:
        """Where the process of the server ``name`` is written down."""
        return self.locks / f"{name}.process.json"

    def create(self) -> None:
        """Create what is missing, and write down the version of a new home.

        Directories that exist keep their mode; those created here are for the owner alone.

        Raises
        ------
        HomeTooNewError
            The home was written by a newer version.
        EmbeddedServerError
            The directory cannot be created, or belongs to another user.
        """
        try:
            self.directory.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
            owner = self.directory.stat().st_uid
            if owner != os.geteuid():
                raise EmbeddedServerError(
                    f"The home {self.directory} belongs to uid {owner}, not to uid {os.geteuid()} who uses it.",
                    remedy="Run as its owner, or choose a home of your own with COINSWARM_HOME.",
                )
            self.check_version()
            for directory in (self.locks, self.logs):
                directory.mkdir(mode=_OWNER_ONLY, exist_ok=True)
        except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise EmbeddedServerError(
                f"The home {self.directory} cannot be used: {error}.",
                remedy="Choose a directory that you may write to with COINSWARM_HOME.",
            ) from error

    def stamp(self) -> None:
        """Write the version into a home that has none. Called by the one supervisor only."""
        if read_json(self.version_file) is None:
            write_json(self.version_file, {"version": HOME_VERSION, "postgres": POSTGRES_MAJOR})

    def check_version(self) -> None:
        """Raise HomeTooNewError where the home was written by a newer version, before anything in it is touched."""
        content = read_json(self.version_file)
        if content is None:
            return
        version = content.get("version")
        if not isinstance(version, int):
            raise EmbeddedServerError(
                f"{self.version_file} names no version of the home: {content!r}.",
                remedy="Restore the file from a backup, or choose an empty home with COINSWARM_HOME.",
            )
        if version > HOME_VERSION:
            raise HomeTooNewError(
                f"The home {self.directory} has version {version}; this installation knows up to {HOME_VERSION}.",
                remedy="Upgrade coinswarm-memory, or choose another home with COINSWARM_HOME.",
            )


def runtime_directory(home: Home, environment: Mapping[str, str]) -> Path:
    """Return the directory for the sockets of ``home``: the same each time, and short however long the home's path.

    It lies in XDG_RUNTIME_DIR, where that is the caller's own, else in the temporary directory.
    """
    name = "coinswarm-" + hashlib.sha256(os.fsencode(home.directory)).hexdigest()[:16]
    for base in _runtime_bases(environment):
        directory = base / name
        fits = len(os.fsencode(directory)) + len(_LONGEST_SOCKET_NAME) <= SOCKET_PATH_LIMIT
        if fits and _PLAIN_PATH.fullmatch(str(directory)):
            return directory
    raise EmbeddedServerError(  # /tmp always fits, so only a system without one comes here
        "There is no directory for the servers' sockets.", remedy="Set XDG_RUNTIME_DIR to a short path of your own."
    )


def _runtime_bases(environment: Mapping[str, str]) -> list[Path]:
    bases = []
    own = environment.get("XDG_RUNTIME_DIR", "")
    # After su or sudo the variable may still name the directory of another user.
    if own and Path(own).is_dir() and Path(own).stat().st_uid == os.geteuid() and os.access(own, os.W_OK):
        bases.append(Path(own))
    bases += [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108  # a private directory is made inside
    return [base for base in bases if base.is_dir()]


def make_private_directory(directory: Path) -> None:
    """Create ``directory`` for its owner alone, or take it over where it is already so.

    Raises
    ------
    EmbeddedServerError
        It is a link, or belongs to another user: someone else could then listen on our sockets' names.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=_OWNER_ONLY)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise EmbeddedServerError(
            f"{directory} is needed for the servers' sockets, but it is not a directory of uid {os.geteuid()} "
            f"(owner: uid {found.st_uid}).",
            remedy="Remove it, or set XDG_RUNTIME_DIR to a directory of your own.",
        )
    if stat.S_IMODE(found.st_mode) != _OWNER_ONLY:
        directory.chmod(_OWNER_ONLY)
