"""A disk so small that it is full when a test wants it to be: a file system in memory, mounted for few to see.

Its holder is a process in namespaces of its own, in which it may mount without any rights outside. Whoever the holder
starts sees the disk, and so does a run that joins it; everybody else looks through the holder's view of the file
system (`SmallDisk.path`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

BALLAST = "ballast"
"""File that takes the room which a full disk does not have."""
BLOCK, PAGE = 65_536, 4096
"""What the ballast grows by."""
START = "start"
"""What the holder is told."""
_NAMESPACES = (("user", 0x10000000), ("mnt", 0x00020000))  # CLONE_NEWUSER, CLONE_NEWNS of linux/sched.h
_TIMEOUT_S = 60.0


class SmallDisk:
    """A mounted disk, and the process that holds it.

    Parameters
    ----------
    holder
        The process: it reads commands and answers each with a line.
    mounted
        Where those who see the disk find it.
    """

    def __init__(self, holder: subprocess.Popen[str], mounted: Path) -> None:
        self._holder = holder
        self._mounted = mounted
        self.said = self._answer()
        """What the holder said last: where the database is, where it has one."""

    @property
    def pid(self) -> int:
        """The holder, for `join`."""
        return self._holder.pid

    @property
    def path(self) -> Path:
        """The disk as everybody else can look at it."""
        return Path(f"/proc/{self.pid}/root{self._mounted}")

    def fill(self, *, leave: int = 0) -> None:
        """Leave no room, or that of some bytes."""
        ballast = self.path / BALLAST
        with ballast.open("ab", buffering=0) as file:
            for size in (BLOCK, PAGE):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        os.truncate(ballast, max(0, ballast.stat().st_size - leave))

    def make_room(self) -> None:
        """Give the room back."""
        (self.path / BALLAST).unlink()

    def start_database(self) -> None:
        """Have the database started again, where it has given up."""
        assert self._holder.stdin is not None
        print(START, file=self._holder.stdin, flush=True)
        self.said = self._answer()

    def close(self) -> None:
        """Let the holder end what it has started; the disk goes with it."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        try:
            self._holder.wait(_TIMEOUT_S)
        finally:
            self._holder.kill()
            self._holder.wait()
            if self._holder.stdout is not None:
                self._holder.stdout.close()

    def _answer(self) -> str:
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline()
        if not line:
            raise RuntimeError(f"the holder of the disk at {self._mounted} ended with {self._holder.wait()}")
        return line.rstrip("\n")


@contextmanager
def small_disk(mounted: Path, size_kb: int, *, database_home: Path | None = None) -> Iterator[SmallDisk]:
    """A disk of some KB; where a home is given, a Postgres of its own runs there, whose data lie on the disk.

    Raises
    ------
    PermissionError
        The kernel lets this process mount nothing, not even for itself.
    """
    refused = refusal()
    if refused is not None:
        raise PermissionError(errno.EPERM, refused)
    mounted.mkdir(mode=0o700, parents=True)
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, __file__, str(mounted), str(size_kb)]
    command += [] if database_home is None else [str(database_home)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    disk = None
    try:
        disk = SmallDisk(holder, mounted)
        yield disk
    finally:
        if disk is None:
            holder.kill()
            holder.wait()
        else:
            disk.close()


def refusal() -> str | None:
    """Why a process may not mount for itself here; None where it may."""
    if shutil.which("unshare") is None:
        return "there is no program 'unshare' (util-linux)"
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", tempfile.gettempdir()],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip() or "it may not mount" if tried.returncode else None


def join(holder: int) -> None:
    """See the disk of a holder from here on; for a process of one thread.

    Raises
    ------
    OSError
        The kernel refuses it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    opened = [(os.open(f"/proc/{holder}/ns/{name}", os.O_RDONLY), kind) for name, kind in _NAMESPACES]
    for descriptor, kind in opened:
        if libc.setns(descriptor, kind) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"setns: {os.strerror(error)}")
        os.close(descriptor)


# --- the holder -------------------------------------------------------------------------------------------------


def main(mounted: str, size_kb: str, database_home: str | None = None) -> None:
    """Mount a disk, and serve commands until nobody gives any more."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k,mode=0700", "none", mounted], check=True)
    with ExitStack() as sessions:
        print(mounted if database_home is None else _start(database_home, sessions), flush=True)
        for command in sys.stdin:
            assert (command, bool(database_home)) == (f"{START}\n", True)
            print(_start(str(database_home), sessions), flush=True)


def _start(home: str, sessions: ExitStack) -> str:
    """Start Postgres, also where its supervisor has given it up."""
    from memory import embedded

    database_url = sessions.enter_context(embedded.open_session(home, ("postgres",))).endpoints.database_url
    assert database_url is not None
    return database_url


if __name__ == "__main__":
    main(*sys.argv[1:])
