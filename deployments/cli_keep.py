"""Commands that keep and move memory: backups, exports, upgrades."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployments.console import Console, ExitCode
from deployments.options import Json, Namespace, NamespaceOption, Verbose, parsed_end, parsed_time

app = typer.Typer()


@app.command()
def janitor(
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove what expired; without it, only say what would go.")
    ] = False,
    namespace: Namespace = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what expired by the settings `keep_...` (old runs, replaced archives, reports, logs ...), or remove it."""
    from deployments import keeping

    console = Console(as_json=as_json, verbose=verbose)
    console.result(keeping.janitor(namespace, apply=apply, console=console), keeping.show_janitor)


@app.command()
def backup(
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder of snapshots, best on another disk; COINSWARM_BACKUP_URL.")
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Show what snapshots there are, and write none.")] = False,
    namespace: Namespace = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write a snapshot of the whole memory, while agents go on; the newest few are kept."""
    from deployments import backups

    console = Console(as_json=as_json, verbose=verbose)
    if only_list:
        console.result(backups.snapshots(namespace, to), backups.show_snapshots)
    else:
        console.result(backups.backup(namespace, to, console), backups.show_backup)


@app.command()
def restore(
    snapshot: Annotated[Path, typer.Argument(help="Folder of a snapshot: coinswarm backup --list.", metavar="DIR")],
    namespace: Annotated[
        str | None,
        NamespaceOption(help="Name of the memory to restore into; the snapshot's own where not given."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only verify it, and look whether it could be restored there.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Restore a snapshot into the namespace that it is of, or another one, on whatever servers are configured.

    Nothing may be in that namespace. All that was restored is compared with the snapshot before anybody is let in.
    """
    from deployments import backups

    console = Console(as_json=as_json, verbose=verbose)
    console.result(backups.restore(namespace, snapshot, dry_run, console), backups.show_restore)


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must not exist, or be empty.")],
    agent: Annotated[str | None, typer.Option("--agent", help="Experiences of this agent.")] = None,
    product: Annotated[str | None, typer.Option("--product", help="Experiences in this product.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="UTC time or date from which on.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="UTC time before which, or last date.")] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Whose vectors; the namespace's current encoder where not given.")
    ] = None,
    as_of: Annotated[str | None, typer.Option("--as-of", help="Only what was known at this UTC time.")] = None,
    archived: Annotated[
        bool,
        typer.Option("--archived/--no-archived", help="With what Redis has let go of, as far as the archive keeps it."),
    ] = True,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Write one agent's or product's experiences to a folder of Parquet files with a manifest."""
    from deployments import moving

    console = Console(as_json=as_json)
    span = (parsed_time(first, "--from"), parsed_end(last, "--to"))
    result = moving.export(
        *(namespace, agent, product, span, encoder, out, console),
        archived=archived,
        as_of=parsed_time(as_of, "--as-of"),
    )
    console.result(result, moving.show_export)


@app.command(name="import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder that `coinswarm export` wrote.", metavar="DIR")],
    as_agent: Annotated[
        str | None, typer.Option("--as-agent", help="Give the experiences to this agent, in runs named after theirs.")
    ] = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Store the experiences of an export, each once, under the same ids; exit code 1 where any was refused."""
    from deployments import moving

    console = Console(as_json=as_json)
    result = moving.import_(namespace, folder, as_agent, console)
    console.result(result, moving.show_import)
    if result["refused"]:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def upgrade(
    check: Annotated[
        bool, typer.Option("--check", help="Only say what would be done; exit code 1 if anything.")
    ] = False,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Bring what an older version of the software wrote up to date, while no run is under way."""
    from deployments import upgrading

    console = Console(as_json=as_json)
    result = upgrading.check(namespace, console) if check else upgrading.upgrade(namespace, console)
    console.result(result, upgrading.show_upgrade)
    if upgrading.is_left(result, check=check):
        raise typer.Exit(ExitCode.FAILED)
