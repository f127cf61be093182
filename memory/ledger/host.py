"""Who runs where: tells a process that has ended from one that is only silent."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def host_name() -> str:
    """Name of this host and of the space its process ids count in: containers of one name share no process ids."""
    return f"{socket.gethostname()}/{_process_space()}"


def is_gone(host: str, process_id: int) -> bool:
    """Whether a process is known to have ended; False for one of another host, about which nothing is known."""
    return host == host_name() and not _runs(process_id)


def _runs(process_id: int) -> bool:
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    # One that was killed and that its parent has not asked about keeps its number, and does nothing any more. The
    # name before its state may hold blanks and brackets.
    return text[text.rindex(")") + 2] not in "ZX"


def _process_space() -> str:
    # Where the kernel names none, no two processes count as neighbours but those of this one.
    try:
        return Path("/proc/self/ns/pid").readlink().name.removeprefix("pid:").strip("[]")
    except OSError:
        return f"process-{os.getpid()}"
