"""Options that many commands share."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of flows and tasks.")]


def _named(value: Any) -> Any:
    """What names a memory, or memories: an empty name is refused, which is that of a shell's variable that is not set.

    Taken for none, it would let a command that restores or removes loose on another memory than was meant.
    """
    if value == "" or (isinstance(value, list) and "" in value):
        raise typer.BadParameter("it is empty: name a memory, or leave the option out.", param_hint="--namespace")
    return value


NamespaceOption = partial(typer.Option, "--namespace", "-n", callback=_named)
"""Declares an option that names a memory."""
Namespace = Annotated[str | None, NamespaceOption(help="Name of the memory; COINSWARM_NAMESPACE where not given.")]


def parsed_date(text: str | None, option: str) -> date | None:
    """A UTC date of the command line; None where none is given, a usage error where it is none."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date; write it like 2021-06-17.", param_hint=option) from None


def parsed_time(text: str | None, option: str) -> datetime | None:
    """A time of the command line, UTC where it names no offset; None where none is given, else a usage error."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a time; write it in UTC, like 2021-06-18T12:34.", param_hint=option
        ) from None


def parsed_end(text: str | None, option: str) -> datetime | None:
    """The end of a span, itself not part of it, as `parsed_time`; a date alone stands for the end of its day."""
    time = parsed_time(text, option)
    return time + timedelta(days=1) if time is not None and len(text or "") == len("2021-06-18") else time
