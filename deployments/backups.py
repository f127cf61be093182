"""`coinswarm backup` and `coinswarm restore`: snapshots written, listed, tried and put back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich.console
from rich.table import Table

from deployments.console import Console, format_number, print_table
from deployments.local import load_settings, local_stack

_MB = 1_000_000


def backup(namespace: str | None, to: Path | None, console: Console) -> dict[str, Any]:
    """Write a snapshot of a memory; into the folder that is named, or that of the settings."""
    from memory.roots import trust

    if to is not None:
        trust(to)
    values = {} if to is None else {"to": str(to.expanduser().absolute())}
    return _run("backup_memory", namespace, values, console, "Writing a snapshot")


def restore(namespace: str | None, snapshot: Path, dry_run: bool, console: Console) -> dict[str, Any]:
    """Restore a snapshot into an empty namespace, the snapshot's own by default, or only look whether that can be."""
    from memory.backup.manifest import read_manifest
    from memory.roots import trust

    folder = snapshot.expanduser().absolute()
    manifest = read_manifest(folder)  # What cannot be read is said before any server starts.
    trust(folder)
    into = manifest.namespace if namespace is None else namespace
    title = f"Looking at a snapshot of {manifest.namespace}" if dry_run else f"Restoring into {into}"
    return _run("restore_memory", into, {"snapshot": str(folder), "dry_run": dry_run}, console, title)


def snapshots(namespace: str | None, to: Path | None) -> dict[str, Any]:
    """The snapshots of a memory, newest first; no server is needed."""
    from tasks.backing_up import describe_snapshots

    settings = load_settings(namespace)
    folder = (settings.backups_path if to is None else to.expanduser().absolute()) / settings.namespace
    return {"namespace": settings.namespace, "folder": str(folder), "snapshots": describe_snapshots(folder)}


def _run(flow: str, namespace: str | None, values: Mapping[str, Any], console: Console, title: str) -> dict[str, Any]:
    settings = load_settings(namespace)
    from flows import load, parameters_of

    parameters = parameters_of(flow)(namespace=settings.namespace, **values)
    parameters.check()
    with console.steps(title), local_stack(settings, verbose=console.verbose):
        call, _ = load(flow)
        return call(parameters)


def show_backup(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """Where the snapshot lies, and what it holds."""
    out.print(f"Snapshot as of {_moment(result['cut'])}: {result['snapshot']}", highlight=False, soft_wrap=True)
    if not any(result["redis"].values()):
        namespace = Path(result["snapshot"]).parent.name
        out.print(
            f"It holds no memories: there are none in the namespace '{namespace}'.", highlight=False, soft_wrap=True
        )
    out.print(_contents(result))
    _show_missing(result, out)
    if result["dropped"]:
        out.print(
            f"Dropped, beyond those that are kept: {', '.join(result['dropped'])}", highlight=False, soft_wrap=True
        )


def show_restore(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What was restored, or could be."""
    from tasks.backup_summaries import schema_notes

    into, source = result["into"], result["source"]
    if result["dry_run"]:
        out.print(
            f"The snapshot of {source} as of {_moment(result['cut'])} is whole, and could be restored into {into}.",
            highlight=False,
            soft_wrap=True,
        )
    else:
        out.print(
            f"{into} holds what {source} held as of {_moment(result['cut'])}: every key, both digests and "
            f"{result['searches']} searches are equal.",
            highlight=False,
            soft_wrap=True,
        )
    out.print(_contents(result))
    _show_missing(result, out)
    for note in schema_notes(result["ledger_schema"]):
        out.print(note, highlight=False, soft_wrap=True)
    if result.get("expired"):
        out.print(f"{result['expired']:,} keys had expired since and were left out.", highlight=False)


def show_snapshots(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """A line for each snapshot, newest first."""
    if not result["snapshots"]:
        out.print(f"No snapshots of {result['namespace']} in {result['folder']}.", highlight=False, soft_wrap=True)
        return
    # A folder is there to be copied into a command: names under the one that is named first, so that lines stay short.
    out.print(f"Snapshots of {result['namespace']} in {result['folder']}", highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("folder", "as of (UTC)", "experiences", "MB", "software"):
        table.add_column(title, overflow="fold", no_wrap=title == "folder")
    for item in result["snapshots"]:
        if "problem" in item:
            table.add_row(Path(item["snapshot"]).name, "", "", "", item["problem"])
            continue
        experiences = format_number(item["redis"].get("episodic", 0))
        megabytes = f"{item['bytes'] / _MB:,.1f}"
        table.add_row(
            Path(item["snapshot"]).name, item["cut"][:19].replace("T", " "), experiences, megabytes, item["software"]
        )
    print_table(out, table)


def _moment(cut: str) -> str:
    """A cut, as it is told in JSON, for people."""
    return f"{cut[:19].replace('T', ' ')} UTC"


def _contents(result: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    for name, count in result["redis"].items():
        table.add_row(f"{name} (keys)", format_number(count))
    table.add_row("ledger (rows)", format_number(sum(result["ledger"].values())))
    table.add_row("megabytes", f"{result['bytes'] / _MB:,.1f}")
    return table


def _show_missing(result: Mapping[str, Any], out: rich.console.Console) -> None:
    from tasks.backup_summaries import missing_notes

    for note in missing_notes(result["missing"]):
        out.print(note, highlight=False, soft_wrap=True)
