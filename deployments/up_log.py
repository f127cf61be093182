"""Where `coinswarm up` writes down what it says, beside the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from deployments.console import Console
from memory.embedded.process import LOG_LIMIT_BYTES

LOGGER = "coinswarm.up"
_WATCH = "memory.embedded"
"""What the watch over a child writes to."""


@contextmanager
def kept_log(path: Path, console: Console) -> Iterator[None]:
    """Keep what is said while the block runs, and what the watch over the worker says, in a file that stays small.

    On the terminal is the first line of what the watch warns of; the lines of the worker's log that follow are in the
    file.
    """
    kept = RotatingFileHandler(path, maxBytes=LOG_LIMIT_BYTES, backupCount=1, encoding="utf-8")
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    said = _FirstLines(console)
    own, watch = logging.getLogger(LOGGER), logging.getLogger(_WATCH)
    watch.addHandler(said)
    for each in (own, watch):
        each.setLevel(logging.INFO)
        each.addHandler(kept)
    try:
        yield
    finally:
        watch.removeHandler(said)
        for each in (own, watch):
            each.removeHandler(kept)
        kept.close()


class _FirstLines(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().splitlines()[0].partition("; its log ")[0]
        self.console.say(f"{datetime.now(UTC):%H:%M:%S} {text}.")
