"""Whether a home can be used, told before anything is started in it; nothing is written to find out."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
KERNEL_FILESYSTEMS = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "devpts"})
"""What the kernel shows as files: nothing can be kept there, whatever the rights say."""


def home_problem(home: Path, *, embedded: bool) -> tuple[str, str] | None:
    """What keeps this user from using a home, and what to do about it; None where nothing does.

    Parameters
    ----------
    home
        An absolute path, which need not exist.
    embedded
        Whether servers are to run in it: they serve nobody but the owner.
    """
    # Not Path.exists, which raises where a folder on the way may not be looked into.
    nearest = next(place for place in (home, *home.parents) if os.path.exists(place))  # noqa: PTH110
    elsewhere = "Set COINSWARM_HOME to a folder that can, or that is there."
    if not nearest.is_dir():
        return f"the home {home} cannot be made: {nearest} is no folder.", elsewhere
    if not os.access(nearest, os.X_OK | (os.R_OK if nearest == home else 0)):
        return _closed(home, nearest)
    kind = filesystem_of(nearest)
    if kind in KERNEL_FILESYSTEMS:
        return f"the home {home} cannot be made: {nearest} is of the kernel ({kind}), and keeps no files.", elsewhere
    if nearest != home:
        if not os.access(nearest, os.W_OK):
            return f"the home {home} cannot be made: this user may not write in {nearest}.", elsewhere
        return None
    owner = home.stat().st_uid
    if embedded and owner != os.geteuid():
        return (
            f"the home {home} belongs to {_name(owner)}, and this is {_name(os.geteuid())}: its servers are for its "
            "owner alone.",
            f"Run as {_name(owner)}, or set COINSWARM_HOME to a home of your own, or COINSWARM_REDIS_URL and "
            "COINSWARM_DATABASE_URL to servers that both reach.",
        )
    return None


def _closed(home: Path, place: Path) -> tuple[str, str]:
    """Of a home that cannot be looked into, or lies behind a folder that cannot."""
    found = place.stat()
    where = "it" if place == home else str(place)
    return (
        f"the home {home} cannot be read: {where} belongs to {_name(found.st_uid)} (mode "
        f"{stat.S_IMODE(found.st_mode):04o}), and this is {_name(os.geteuid())}.",
        f"Run as {_name(found.st_uid)}, or set COINSWARM_HOME to a home of your own.",
    )


def filesystem_of(place: Path) -> str:
    """Kind of the file system that a path lies on, such as ``ext4``; empty where the kernel does not say."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    resolved, found = place.resolve(), {}
    for line in lines:
        # proc(5): ... mount point, options, any number of optional fields, a hyphen, kind, source, options.
        mounted, _, rest = line.partition(" - ")
        point = Path(mounted.split()[4].replace("\\040", " "))
        if resolved.is_relative_to(point):
            found[len(point.parts)] = rest.split()[0]
    return found[max(found)] if found else ""


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
