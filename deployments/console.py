"""How the command line speaks: tables and progress on a terminal, plain lines elsewhere, or one JSON object."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, TypeVar

import rich.console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tasks.progress import STEPS_LOGGER

Value = TypeVar("Value")

WIDEST = 1000
"""Characters of a line in a table that goes to no terminal."""
REPLACEMENT = "\ufffd"


class ExitCode(IntEnum):
    """Exit codes of the command line beside 0."""

    FAILED = 1
    USAGE = 2
    SHADOWED = 3
    INTERRUPTED = 130


class Console:
    """Output of one command: results go to stdout, everything else to stderr.

    Parameters
    ----------
    as_json
        Print the result as one JSON object and nothing else on stdout.
    verbose
        Let the logs of flows and tasks through.
    """

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.out = plain_console()
        self.err = plain_console(stderr=True)

    def result(self, value: Value, show: Callable[[Value, rich.console.Console], None]) -> None:
        """Print the result of the command."""
        if self.as_json:
            json.dump(value, sys.stdout, default=str, allow_nan=False)
            sys.stdout.write("\n")
        else:
            show(value, self.out)

    def say(self, text: str) -> None:
        """A line for the person who waits; a program that reads JSON waits in silence."""
        if not self.silent:
            self.err.print(text, highlight=False, markup=False, soft_wrap=True)

    @property
    def silent(self) -> bool:
        """Whether nobody watches: the result is for a program, and stderr leads to no terminal."""
        return self.as_json and not self.err.is_terminal

    @contextmanager
    def steps(self, title: str, total: int | None = None) -> Iterator[None]:
        """Show the steps that flows and tasks announce (`tasks.progress.step`) while the block runs."""
        if self.silent:
            yield
            return
        if self.err.is_terminal:
            with _TerminalSteps(self.err, title, total).listening():
                yield
        else:
            self.say(title)
            with _listening(_PlainSteps(self)):
                yield


def plain_console(**options: Any) -> rich.console.Console:
    """A console on which every text appears as it is: styles are given as such, never as tags in a text.

    Paths, names, rules and errors hold brackets and colons: `[red]` must not vanish, nor `:mailbox:` become a picture.

    Parameters
    ----------
    options
        Others of `rich.console.Console`.
    """
    return rich.console.Console(markup=False, emoji=False, **options)


class _PlainSteps(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "finished", False):
            self.console.say(f"  {record.getMessage()}")


class _TerminalSteps(logging.Handler):
    def __init__(self, console: rich.console.Console, title: str, total: int | None) -> None:
        super().__init__()
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.title = title
        self.task = self.progress.add_task(title, total=total)

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "finished", False):
            self.progress.console.print(f"  {record.getMessage()}", highlight=False, markup=False)
            self.progress.advance(self.task)
        else:
            self.progress.update(self.task, description=f"{self.title}: {record.getMessage()}")

    @contextmanager
    def listening(self) -> Iterator[None]:
        with self.progress, _listening(self):
            yield


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger(STEPS_LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def format_number(value: Any) -> str:
    """A number for people: thousands separated, four significant digits for fractions."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def print_table(out: rich.console.Console, table: Table) -> None:
    """Print a table: as wide as the terminal, or elsewhere, as into a file, so wide that no cell is broken."""
    if out.is_terminal:
        out.print(table)
        return
    before = out.width
    out.width = max(before, Measurement.get(out, out.options.update(width=WIDEST), table).maximum)
    try:
        out.print(table)
    finally:
        out.width = before


def printable(text: str) -> str:
    """Text without anything that a terminal would take for a command, on one line."""
    return "".join(character if character.isprintable() else REPLACEMENT for character in text)
