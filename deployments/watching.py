"""The same look again and again: a page that is drawn anew on a terminal, or one JSON object a line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import rich.console

from deployments.console import Console

Look = Callable[[], Mapping[str, Any]]
Show = Callable[[Mapping[str, Any], rich.console.Console], None]


def watched(console: Console, look: Look, show: Show, *, every_s: float, rounds: int | None = None) -> None:
    """Show what a look sees, every so many seconds, until interrupted (or for a number of rounds).

    The next round begins `every_s` after the one before began, or at once where that took longer.
    """
    try:
        while rounds is None or rounds > 0:
            begun = time.monotonic()
            seen = look()
            if console.out.is_terminal and not console.as_json:
                console.out.clear()
            console.result(seen, show)
            sys.stdout.flush()
            rounds = None if rounds is None else rounds - 1
            if rounds != 0:
                time.sleep(max(0.0, every_s - (time.monotonic() - begun)))
    except KeyboardInterrupt:
        return  # Which is how it is meant to end.
    except BrokenPipeError:
        # Who read along has gone, such as `head`; Python would try to flush once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
