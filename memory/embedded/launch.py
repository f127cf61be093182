"""Start one program with the rights and the ties that an embedded server needs, then become it.

Run as a file (``python -I -S launch.py ... -- program arguments``), so it imports nothing but the standard library and
costs about 20 ms. A program of its own rather than ``preexec_fn``: user namespaces can only be entered by a process
with one thread, and code between fork and exec of a threaded program may deadlock.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import signal
import sys
from pathlib import Path

#: Exit status that tells the caller that the kernel refused a user namespace.
EXIT_NO_USER_NAMESPACE = 77
#: Exit status of a program whose parent was gone before it could be tied to it.
EXIT_PARENT_GONE = 78

_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def user_to_become(uid: int) -> int | None:
    """Return the uid to map this process to, or None where it can run as it is.

    Postgres refuses to run as root, and ``initdb`` refuses a user without an entry in the password database (usual in
    containers that run under an arbitrary uid). In both cases the process is mapped to some other user that exists.
    """
    known = {entry.pw_uid for entry in pwd.getpwall()}
    if uid != 0 and uid in known:
        return None
    others = sorted(known - {0})
    return others[0] if others else 1


def enter_user_namespace(target: int) -> None:
    """Appear as user and group ``target`` from here on, with no capability outside.

    Files keep their owner on disk, so nothing needs to be chowned, and no parent directory needs to be opened up.

    Raises
    ------
    OSError
        Where the kernel or a seccomp filter forbids user namespaces.
    """
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unshare(CLONE_NEWUSER): {os.strerror(error)}")
    # The kernel wants setgroups off before an unprivileged process may write its group map (user_namespaces(7)).
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{target} {uid} 1\n")
    Path("/proc/self/gid_map").write_text(f"{target} {gid} 1\n")


def die_with_parent(parent: int, signal_number: int) -> None:
    """Have the kernel send ``signal_number`` to this process when its parent ends, however that happens."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_PDEATHSIG): {os.strerror(error)}")
    if os.getppid() != parent:  # it ended before the request was in place
        raise SystemExit(EXIT_PARENT_GONE)


def forget_signal_choices() -> None:
    """Give every signal its default effect: a shell's background jobs ignore SIGINT, which would be inherited."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main(arguments: list[str]) -> None:
    """Prepare this process as the options say, and replace it by the program that follows ``--``."""
    parser = argparse.ArgumentParser(prog="launch.py")
    parser.add_argument("--unprivileged", action="store_true", help="run as a user that is not root")
    parser.add_argument("--detach", action="store_true", help="leave the caller's session and process group")
    parser.add_argument("--parent", type=int, help="pid of the process to end with")
    parser.add_argument("--death-signal", type=int, help="what to be sent when that process ends")
    parser.add_argument("program", nargs="+")
    options = parser.parse_args(arguments)

    if options.unprivileged:
        target = user_to_become(os.geteuid())
        if target is not None:
            try:
                enter_user_namespace(target)
            except OSError as error:
                print(f"The kernel refuses a user namespace: {error}", file=sys.stderr)
                raise SystemExit(EXIT_NO_USER_NAMESPACE) from error
    if options.detach:
        if os.fork() > 0:
            os._exit(0)
        os.setsid()
    if options.parent is not None:
        die_with_parent(options.parent, options.death_signal)
    forget_signal_choices()
    os.execv(options.program[0], options.program)  # noqa: S606  # replaces this process on purpose


if __name__ == "__main__":
    main(sys.argv[1:])
