"""Options that many commands share."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of flows and tasks.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Name of the memory; COINSWARM_NAMESPACE where empty.")
]


def parsed_date(text: str | None, option: str) -> date | None:
    """A UTC date of the command line; None where none is given, a usage error where it is none."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date; write it like 2021-06-17.", param_hint=option) from None
