"""`coinswarm deploy`: what this install declares, on a Prefect server or in a file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich.console
from rich.table import Table

from deployments.console import Console, print_table
from deployments.local import check_places, load_settings, local_stack, starting
from deployments.registry import deployments, extras_left_out, told_unscheduled, unscheduled
from deployments.retrying import prefect_command
from deployments.work_pools import check_reach, checked_pool, checked_type, template


def deploy(
    namespace: str | None, pool: str | None, pool_type: str, template_path: Path | None, console: Console
) -> dict[str, Any]:
    """Register work pool, deployments, limits and automations on the Prefect server; what was done, as plain values.

    Raises what `deploying.register` does; what can be known without a server is said before one is started.
    """
    settings = load_settings(namespace)
    kind = checked_type(pool_type)
    name = checked_pool(pool, kind)
    check_reach(settings, kind, template(kind, template_path))
    check_places(settings)
    services = ("prefect",)
    with (
        console.steps(starting(settings, services)),
        local_stack(settings, verbose=console.verbose, services=services) as stack,
    ):
        from deployments.deploying import register

        console.say("Registering deployments")
        done = register(settings, pool=name, pool_type=kind, template_path=template_path)
        server = stack.prefect_api_url
    left_out = extras_left_out(settings, in_containers=kind != "process")
    crons = {each.full_name: each.cron for each in deployments(settings.namespace, left_out=left_out)}
    return {
        "namespace": settings.namespace,
        "server": server,
        "embedded": settings.prefect_api_url is None,
        "pool": done.pool,
        "pool_type": done.pool_type,
        "worker": f"{prefect_command(settings, server)} worker start --pool {shlex.quote(done.pool)} --type {kind}",
        "deployments": {name: {"id": str(found), "cron": crons[name]} for name, found in done.deployments.items()},
        "not_scheduled": unscheduled(left_out),
        "remark": told_unscheduled(settings, "coinswarm deploy", in_containers=kind != "process"),
        "automations": {name: str(found) for name, found in done.automations.items()},
        "alerts": settings.webhook_url is not None,
        "created": done.created,
        "changed": done.changed,
        "removed": done.removed,
    }


def write(path: Path, namespace: str | None) -> dict[str, Any]:
    """Write all deployments of a namespace to a file for `prefect deploy --all`; no server is needed."""
    from deployments.prefect_file import render

    settings = load_settings(namespace)
    text = render(settings.namespace)
    before = path.read_text(encoding="utf-8") if path.exists() else None
    if text != before:
        path.write_text(text, encoding="utf-8")
    return {"path": str(path), "namespace": settings.namespace, "changed": text != before}


def show_deployed(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What is on the server, and what had to be done for it."""
    table = Table(box=None)
    for heading in ("deployment", "runs by itself (UTC)", ""):
        table.add_column(heading)
    marks = {**dict.fromkeys(result["created"], "new"), **dict.fromkeys(result["changed"], "changed")}
    for name, entry in result["deployments"].items():
        table.add_row(name, entry["cron"] or "by hand", marks.get(name, ""))
    print_table(out, table)
    for name in result["automations"]:
        told = f"automation '{name}' {marks.get(f'automation {name!r}', '')}".rstrip()
        out.print(told, highlight=False, markup=False, soft_wrap=True)
    for name in result["removed"]:
        out.print(f"removed: {name}", highlight=False, markup=False, soft_wrap=True)
    if not (result["created"] or result["changed"] or result["removed"]):
        out.print("Everything was in place.", highlight=False)
    if result["remark"]:
        out.print(result["remark"], highlight=False, markup=False, soft_wrap=True)
    if not result["alerts"]:
        out.print("No alerts: COINSWARM_WEBHOOK_URL is not set.", highlight=False)
    if result["embedded"]:
        out.print("The Prefect server of this home has them; `coinswarm up` runs it, with a worker.", highlight=False)
    else:
        out.print(f"A worker carries them out: {result['worker']}", highlight=False, markup=False, soft_wrap=True)


def show_written(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """Where the file is, and whether it was written."""
    what = "written" if result["changed"] else "is as it should be"
    out.print(f"{result['path']}: {what}", highlight=False, soft_wrap=True)
