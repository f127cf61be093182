"""`coinswarm export` and `import`: one agent's or product's experiences as files, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import rich.console
from rich.table import Table

from deployments.console import Console, format_number
from deployments.keeping import size_text
from deployments.local import load_settings
from memory import MemoryConnection
from memory.keeping.archived_experiences import ArchivedExperiences
from memory.keeping.export_folder import check_manifest, check_target
from memory.keeping.moving import export_experiences, import_experiences
from memory.keeping.selection import Selection
from memory.validation import validate_identifier
from tasks.progress import announce, begin
from tasks.workspace import open_workspace


def export(
    namespace: str | None,
    agent: str | None,
    product: str | None,
    span: tuple[datetime | None, datetime | None],
    encoder: str | None,
    out: Path,
    console: Console,
    *,
    archived: bool = True,
    as_of: datetime | None = None,
) -> dict[str, Any]:
    """Write the experiences of an agent, a product or both to a folder; `archived`: those that Redis has let go of too.

    ``missing`` names windows whose archive could not be read, and ``elsewhere`` counts, by encoder, windows that are
    archived in the vectors of another one only.
    """
    settings = load_settings(namespace)
    selection = Selection(agent, product, *span, encoder, as_of)
    check_target(out.absolute())
    with console.steps(f"Exporting to {out}"), open_workspace(settings.namespace) as workspace:
        kept = ArchivedExperiences(workspace.ledger, workspace.archive, settings.namespace) if archived else None

        async def write(mem: MemoryConnection) -> Any:
            return await export_experiences(mem, selection, out, begin, kept)

        manifest = workspace.with_memory(write)
        announce(f"{manifest.counts['experiences'] + manifest.counts['archived']:,} experiences")
    return {
        "path": str(out.absolute()),
        "namespace": manifest.namespace,
        "selection": dict(manifest.selection),
        **manifest.counts,
        "missing": list(manifest.missing),
        "elsewhere": {} if kept is None else kept.elsewhere,
        "files": len(manifest.files),
        "bytes": sum(file.bytes for file in manifest.files),
    }


def import_(namespace: str | None, folder: Path, as_agent: str | None, console: Console) -> dict[str, Any]:
    """Store what an export holds; `refused` says how many records were not taken, and why."""
    settings = load_settings(namespace)
    if as_agent is not None:
        validate_identifier(as_agent, "as_agent")
    check_manifest(folder)  # What cannot be read is said before any server starts.

    async def read(mem: MemoryConnection) -> Any:
        return await import_experiences(mem, folder, begin, as_agent=as_agent)

    with console.steps(f"Importing {folder}"), open_workspace(settings.namespace) as workspace:
        imported = workspace.with_memory(read)
        announce(f"{imported.stored:,} experiences stored, {imported.duplicates:,} were there")
    return {"namespace": settings.namespace, **asdict(imported)}


def show_export(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """Where it lies, how much it is, and what is not in it."""
    _show(result, ("experiences", "archived", "decisions", "files"), out)
    if result["archived"]:
        out.print("archived: Redis has let go of these; next states and what others did are not kept of them.")
    if lost := result["missing"]:
        out.print(
            f"Not in it: what only the archive held of {len(lost)} windows, such as {lost[0]}, whose files are missing "
            "or damaged (coinswarm doctor).",
            highlight=False,
            soft_wrap=True,
        )
    for encoder_id, windows in result["elsewhere"].items():
        out.print(
            f"Not in it: what only the archive held of {windows} windows, which it has in vectors of {encoder_id} "
            f"(--encoder {encoder_id}).",
            highlight=False,
            soft_wrap=True,
        )
    out.print(f"{size_text(result['bytes'])} in {result['path']}", highlight=False, soft_wrap=True)


def show_import(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What is new, what was there, and what was refused."""
    _show(result, ("stored", "duplicates", "decisions"), out)
    for encoder_id, state in result["encoders"].items():
        if state == "beside":
            out.print(
                f"Encoder {encoder_id} stands beside others in namespace {result['namespace']}: ask it with "
                f"memory.connect(encoder_id='{encoder_id}').",
                highlight=False,
                soft_wrap=True,
            )
    for reason, count in result["refused"].items():
        out.print(f"{count:,} refused: {reason}", markup=False, highlight=False, soft_wrap=True)


def _show(result: Mapping[str, Any], names: tuple[str, ...], out: rich.console.Console) -> None:
    table = Table(show_header=False, box=None)
    for name in names:
        table.add_row(name, format_number(result[name]))
    out.print(table)
