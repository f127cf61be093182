"""`coinswarm janitor`: what expired, by which rule, and what it takes; removed where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rich.console
from rich.table import Table

from deployments.console import Console, format_number
from deployments.running import run_flow

_UNITS = ("B", "kB", "MB", "GB", "TB")
_THOUSAND = 1000.0


def janitor(namespace: str | None, *, apply: bool, console: Console) -> dict[str, Any]:
    """Run the flow: a dry run, unless what it finds is to be removed."""
    return run_flow("janitor", None, None, None, [f"dry_run={str(not apply).lower()}"], namespace, console)


def show_janitor(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What, how many, how much and why."""
    if not result["expired"]:
        out.print("Nothing has expired.")
        return
    table = Table(title="What expired", title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("what", no_wrap=True)
    for title in ("number", "size", *(() if result["dry_run"] else ("removed",))):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("rule")
    for row in result["expired"]:
        removed = () if result["dry_run"] else (format_number(row["dropped"]),)
        table.add_row(row["what"], format_number(row["number"]), size_text(row["bytes"]), *removed, row["rule"])
    out.print(table)
    if result["dry_run"]:
        out.print("Nothing was removed: `coinswarm janitor --apply` does it.")


def size_text(size_bytes: int | None) -> str:
    """Bytes for people: three significant digits and a unit; empty where they are not known."""
    if size_bytes is None:
        return ""
    size, unit = float(size_bytes), 0
    while size >= _THOUSAND and unit < len(_UNITS) - 1:
        size, unit = size / _THOUSAND, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"
