"""Structured logs: every line says which run, flow, namespace, window and partition it is about, and holds no secret.

What a line is about lies in a context variable (`log_context`), set where a run or task begins, so that whatever is
logged within carries it: also by libraries, and through Prefect's loggers. `COINSWARM_LOG_FORMAT` chooses lines for
people or one JSON object each. Prefect is configured by `deployments/logging.json`, which names what is here; a program
without Prefect calls `set_up_logging`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import logging.handlers
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memory.secrets import mask

FIELDS = ("flow", "namespace", "window", "partition", "task", "run_id")
"""What a line may be about, in the order in which it is shown."""
RUN_FIELDS = ("flow_run_name", "task_run_name", "flow_run_id", "task_run_id")
"""What Prefect's loggers add of their own."""
TEXT, JSON = "text", "json"
LOG_LIMIT_BYTES = 16 * 1024 * 1024
"""A log file that is larger is put aside when a process opens it; with the one put aside before, twice that is kept."""
PASSING_EVERY_S = 10.0
"""Of lines that say how far something has come, one in so many seconds is kept."""
_SHORT_ID = 8

_context: ContextVar[Mapping[str, str]] = ContextVar("coinswarm_log_context", default={})  # noqa: B039  (never changed)


@contextmanager
def log_context(**fields: str | None) -> Iterator[None]:
    """Within this block, and the tasks and threads that copy its context, log lines carry these fields.

    Parameters
    ----------
    fields
        Some of `FIELDS`; None takes one away. What an outer block says and this does not stays.
    """
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"log fields {unknown}: choose among {', '.join(FIELDS)}")
    merged = {**_context.get(), **fields}
    token = _context.set({name: value for name, value in merged.items() if value})
    try:
        yield
    finally:
        _context.reset(token)


def logged_fields() -> dict[str, str]:
    """What lines that are logged here and now are about."""
    return dict(_context.get())


class ContextFilter(logging.Filter):
    """Puts what a line is about into its record. To be put on handlers: a logger's filter sees its own records only."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Part of logging: completes the record, and lets it pass."""
        if not hasattr(record, "coinswarm"):
            record.coinswarm = logged_fields()
        return True


class PassingFilter(logging.Filter):
    """Lets a line through that says how far something has come (an attribute ``passing``) once in `PASSING_EVERY_S`.

    Who watches wants each of them, hundreds a second; a log is to show that the work goes on. All handlers that share
    a filter keep the same lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Part of logging."""
        if not getattr(record, "passing", False):
            return True
        kept: bool | None = getattr(record, "coinswarm_kept", None)
        if kept is None:
            now = time.monotonic()
            kept = now - self._kept_at >= PASSING_EVERY_S
            record.coinswarm_kept = kept
            if kept:
                self._kept_at = now
        return kept


class TextFormatter(logging.Formatter):
    """Lines for people: time, level, logger, message, and what it is about as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Part of logging."""
        text = f"{_time(record)} {record.levelname:<8} {record.name} | {record.getMessage()}"
        about = _about(record)
        if about:
            text += f" | {' '.join(f'{name}={_plain(value)}' for name, value in about.items())}"
        return mask("\n".join([text, *_appendix(self, record)]))


class UiFormatter(logging.Formatter):
    """Lines for the Prefect UI, which shows time, level and run itself: the message, and what else it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Part of logging."""
        about = {name: value for name, value in _fields(record).items() if name != "flow"}
        if "run_id" in about:
            about["run_id"] = about["run_id"][:_SHORT_ID]
        text = record.getMessage()
        if about:
            text += f"  [{' '.join(f'{name}={_plain(value)}' for name, value in about.items())}]"
        return mask("\n".join([text, *_appendix(self, record)]))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what it is about, and the error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Part of logging."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": mask(record.getMessage()),
            **_about(record),
            "process": record.process,
        }
        appendix = _appendix(self, record)
        if appendix:
            line["error"] = mask("\n".join(appendix))
        return json.dumps(line, ensure_ascii=False, default=str)


def line_formatter() -> logging.Formatter:
    """The formatter that COINSWARM_LOG_FORMAT names; text where it names none."""
    return JsonFormatter() if os.environ.get("COINSWARM_LOG_FORMAT", TEXT) == JSON else TextFormatter()


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log whose disk is full says so once, in a line, in place of a traceback for each line that is lost."""

    _is_told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name that logging calls)
        """Part of logging."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_told:
            self._is_told = True
            print(f"{self.baseFilename}: {error.strerror}; lines of the log are lost.", file=sys.stderr)


def file_handler() -> logging.Handler:
    """A handler that appends to the file that COINSWARM_LOG_FILE names; one that does nothing where it names none.

    Processes may share the file: lines are appended whole, and who finds it renamed opens the new one.
    """
    name = os.environ.get("COINSWARM_LOG_FILE")
    if not name:
        return logging.NullHandler()
    path = Path(name).expanduser()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _put_aside_if_large(path)
        return _LogFile(path, encoding="utf-8")
    except OSError as error:
        # A log that cannot be kept must not keep the work from being done.
        warnings.warn(f"COINSWARM_LOG_FILE={path} cannot be written to ({error.strerror}).", stacklevel=2)
        return logging.NullHandler()


def _put_aside_if_large(path: Path) -> None:
    """Rename a log that has grown large, once, however many processes find it so at the same time."""
    with path.open("ab") as found:
        if os.fstat(found.fileno()).st_size <= LOG_LIMIT_BYTES:
            return
        fcntl.flock(found, fcntl.LOCK_EX)
        # Whoever had the lock before has put this file aside, and what now has its name is new.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(found.fileno())):
            path.replace(path.with_suffix(f"{path.suffix}.1"))


def set_up_logging(level: int | str = logging.INFO) -> None:
    """Let this process log lines of that form to stderr, and to the file that COINSWARM_LOG_FILE names.

    For programs of agents and services. In a process that runs flows, Prefect sets logging up.
    """
    root = logging.getLogger()
    for handler in (logging.StreamHandler(), file_handler()):
        handler.setFormatter(line_formatter())
        handler.addFilter(ContextFilter())
        root.addHandler(handler)
    root.setLevel(level)


def _fields(record: logging.LogRecord) -> dict[str, str]:
    found: Mapping[str, str] = getattr(record, "coinswarm", None) or _context.get()
    return {name: found[name] for name in FIELDS if name in found}


def _about(record: logging.LogRecord) -> dict[str, str]:
    given = {name: getattr(record, name, None) for name in RUN_FIELDS}
    # Prefect's own word for what it does not know.
    return _fields(record) | {name: str(value) for name, value in given.items() if value and value != "<unknown>"}


def _appendix(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Traceback and stack of a record."""
    text = record.exc_text or (formatter.formatException(record.exc_info) if record.exc_info else "")
    stack = formatter.formatStack(record.stack_info) if record.stack_info else ""
    return [part for part in (text, stack) if part]


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: str) -> str:
    """A value without blanks, so that lines can be taken apart again."""
    return json.dumps(value, ensure_ascii=False) if any(letter.isspace() for letter in value) else value
