"""`coinswarm status`: what the memory holds, which servers run, how the last runs ended."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import rich.console
from rich.table import Table

from deployments.console import format_number
from deployments.local import load_settings
from flows import FLOWS
from memory import embedded


def status(namespace: str | None) -> dict[str, Any]:
    """Servers, counts and last runs of a namespace."""
    from memory.records import SemanticType
    from tasks.workspace import open_workspace

    settings = load_settings(namespace)
    before = embedded.home_status(settings.home)
    with open_workspace(settings.namespace) as workspace:
        ledger = workspace.ledger

        async def held(mem: Any) -> dict[str, Any]:
            encoder = await mem.encoders.current()
            counts = [await mem.semantic.counts(line=line) for line in await mem.semantic.current_lines()]
            digests = [await mem.semantic.digest(line=line) for line in await mem.semantic.current_lines()]
            return {
                "experiences": await mem.episodic.count(),
                "semantic": {kind.value: sum(count[kind.value] for count in counts) for kind in SemanticType},
                "inbox": sum((await mem.inbox.length()).values()),
                "dead_letters": await mem.dead_letters.count(),
                "encoder": encoder,
                "digest": digests[0] if len(digests) == 1 else sha256("\n".join(digests).encode()).hexdigest(),
            }

        lines = ledger.lines.list(settings.namespace)
        windows = sorted({window for line in lines for window, _ in ledger.windows.with_current(line.line)})
        runs = [ledger.runs.last(settings.namespace, flow) for flow in FLOWS]
        return {
            "namespace": settings.namespace,
            "home": str(settings.home),
            "servers": [{"name": server.name, "state": server.state, "pid": server.pid} for server in before.servers],
            **workspace.with_memory(held),
            "lines": [line.line for line in lines],
            "ledger_digest": ledger.digest(settings.namespace).digest,
            "windows": len(windows),
            "newest_window": windows[-1].name if windows else None,
            "runs": [
                {
                    "flow": run.flow,
                    "status": run.status,
                    "window": run.window.name if run.window else None,
                    "started_at": run.started_at.isoformat(),
                    "error": run.error,
                    "run_id": run.run_id,
                }
                for run in runs
                if run is not None
            ],
        }


def show_status(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What the memory holds, and how the last runs ended."""
    servers = ", ".join(f"{server['name']} {server['state']}" for server in result["servers"]) or "none was running"
    out.print(f"Namespace {result['namespace']} in {result['home']}; servers: {servers}", highlight=False)
    held = Table(show_header=False, box=None)
    for name in ("experiences", "inbox", "dead_letters", "windows", "newest_window", "encoder"):
        held.add_row(name.replace("_", " "), format_number(result[name]))
    for kind, count in result["semantic"].items():
        held.add_row(f"{kind.lower()} memories", format_number(count))
    out.print(held)
    if result["runs"]:
        table = Table(title="Last runs", title_justify="left")
        for title in ("flow", "status", "window", "started", "error"):
            table.add_column(title)
        for run in result["runs"]:
            table.add_row(run["flow"], run["status"], run["window"], run["started_at"][:19], run["error"] or "")
        out.print(table)
