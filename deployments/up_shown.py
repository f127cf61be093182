"""What `coinswarm up` says once all is up, and what a second one says of the first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import rich.console
from rich.table import Table

from deployments.console import print_table
from deployments.local import LOGGING, QUIET
from deployments.up_prefect import DeploymentFacts, deployments_of, in_words, prefect_client
from deployments.up_state import UpState
from memory import embedded
from memory.embedded.home import Home
from memory.embedded.process import ProcessIdentity
from memory.settings import Settings

READY = "ready"


def shown(
    settings: Settings, state: UpState, deployments: Sequence[DeploymentFacts], *, already: bool
) -> dict[str, Any]:
    """What is up, as plain values: addresses, servers, deployments with their next runs. No secret is in it."""
    status = embedded.home_status(settings.home)
    running = {server.name: server for server in status.servers}
    configured = {
        "redis": settings.redis_url is not None,
        "postgres": settings.database_url is not None,
        "prefect": settings.prefect_api_url is not None,
    }
    servers = [
        {
            "name": name,
            "state": "configured" if is_configured else running[name].state if name in running else "stopped",
            "pid": running[name].pid if name in running and not is_configured else None,
        }
        for name, is_configured in configured.items()
    ]
    if state.worker:
        identity = ProcessIdentity.read(Home.at(settings.home).process_record("worker"))
        alive = identity is not None and identity.is_alive()
        servers.append(
            {
                "name": "worker",
                "state": READY if alive else "stopped",
                "pid": identity.pid if identity is not None and alive else None,
            }
        )
    parts = ["Redis", "Postgres", "Prefect", *(["the worker"] if state.worker else [])]
    summary = f"{', '.join(parts)} and {len(deployments)} deployments of the memory {state.namespace!r} are ready."
    off = [str(server["name"]) for server in servers if server["state"] not in {READY, "configured"}]
    if off:
        summary = f"coinswarm up runs (pid {state.pid}), but not ready: {', '.join(off)}."
    return {
        "state": "degraded" if off else READY,
        "summary": summary,
        "already_running": already,
        "pid": state.pid,
        "namespace": state.namespace,
        "home": str(settings.home),
        "ui": state.ui_url,
        "api": state.api_url,
        "login_file": state.login_file or None,
        "metrics": state.metrics_url or None,
        "pool": state.pool or None,
        "worker": state.worker or None,
        "logs": state.logs,
        "started_at": state.started_at.isoformat(),
        "servers": servers,
        "deployments": [
            {
                "name": item.name,
                "status": "READY" if item.ready else "NOT_READY",
                "scheduled": item.scheduled,
                "next_run": item.next_run.isoformat() if item.next_run is not None else None,
            }
            for item in deployments
        ],
    }


def found_up(settings: Settings, state: UpState) -> dict[str, Any]:
    """What the `up` that runs in the home has up, as its Prefect server says it.

    Raises
    ------
    PrefectUnavailableError
        The server does not answer just now.
    """
    environment = {**LOGGING, **QUIET, "PREFECT_API_URL": state.api_url}
    if settings.prefect_api_url is None:
        environment |= embedded.prefect_environment(settings.home, embedded.Endpoints(None, None, state.api_url))
    os.environ.update(environment)
    with prefect_client(state.api_url) as client:
        deployments = deployments_of(client, state.pool, state.namespace) if state.pool else []
    return shown(settings, state, deployments, already=True)


def show_up(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """Where the UI is, how to log in, and what runs next."""
    now = datetime.now(UTC)
    table = Table(show_header=False, box=None)
    table.add_row("UI", result["ui"])
    if result["login_file"]:
        table.add_row("log in", f"with the line in {result['login_file']}")
    if result["metrics"]:
        table.add_row("metrics", result["metrics"])
    table.add_row("logs", f"{result['logs']}; flows.log has those of the flows")
    out.print(table, highlight=False, soft_wrap=True)
    planned = Table(title="Next runs (UTC)", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for title in ("deployment", "next run", ""):
        planned.add_column(title)
    by_hand = 0
    for item in sorted(result["deployments"], key=lambda item: (item["next_run"] or "", item["name"])):
        if item["next_run"] is None:
            by_hand += 1
            continue
        at = datetime.fromisoformat(item["next_run"])
        planned.add_row(item["name"], f"{at:%Y-%m-%d %H:%M}", in_words(at, now))
    if planned.row_count:
        print_table(out, planned)
    if by_hand:
        out.print(f"By hand: {by_hand} more (Deployments > Run in the UI).", highlight=False)
    out.print(result["summary"], highlight=False, soft_wrap=True)
    if result["already_running"]:
        out.print(f"It was up already, since {result['started_at'][:16]} (pid {result['pid']}).", highlight=False)
    else:
        out.print("Ctrl-C ends all of it.", highlight=False)
