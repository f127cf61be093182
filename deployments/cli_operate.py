"""Commands of the one who operates it: servers, deployments, rights and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployments.console import Console
from deployments.options import Json, Namespace, NamespaceOption, Verbose

app = typer.Typer()


@app.command()
def up(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the Prefect UI on this machine; the last one, or a free one."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of metrics for Prometheus, 0 for a free one; COINSWARM_METRICS_PORT, or 9464, or a free one.",
        ),
    ] = None,
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Carry out what is scheduled, or only look: servers and UI.")
    ] = True,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Everything on this machine until Ctrl-C: Redis, Postgres, Prefect with its UI, deployments, and their worker."""
    from deployments import up as everything

    everything.up(namespace, port, Console(as_json=as_json), metrics_port=metrics_port, with_worker=worker)


@app.command()
def acl(
    agents: Annotated[
        list[str] | None, typer.Option("--agent", "-a", help="An agent that gets a user of its own; may be repeated.")
    ] = None,
    passwords: Annotated[
        Path | None, typer.Option(help="Folder of the passwords, a file each; acl/ in the home where not given.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Give the users to the configured Redis servers, and write their URLs.")
    ] = False,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Users of Redis for jobs, readers and each agent: prints lines for an ACL file, with hashes of their passwords."""
    from deployments import acl as rights

    console = Console(as_json=as_json)
    console.result(rights.acl(agents or (), namespace, passwords, console, apply=apply), rights.show_acl)


@app.command()
def deploy(
    pool: Annotated[str | None, typer.Option(help="Work pool; coinswarm, or coinswarm-TYPE, where not given.")] = None,
    pool_type: Annotated[str, typer.Option("--type", help="What runs it: process, docker or kubernetes.")] = "process",
    template: Annotated[
        Path | None, typer.Option(help="Base job template of the pool; the project's own where not given.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write a file for `prefect deploy --all` instead, such as prefect.yaml.")
    ] = None,
    namespace: Namespace = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Bring work pool, deployments with their schedules and limits, and automations to the Prefect server."""
    from deployments import deploy as deploying

    console = Console(as_json=as_json, verbose=verbose)
    if write is not None:
        console.result(deploying.write(write, namespace), deploying.show_written)
    else:
        result = deploying.deploy(namespace, pool, pool_type, template, console)
        console.result(result, deploying.show_deployed)


@app.command()
def metrics(
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on, 0 for a free one; COINSWARM_METRICS_PORT, or 9464, where not given.",
        ),
    ] = None,
    address: Annotated[
        str,
        typer.Option(help="Address to listen on. There is no password: let only a network that you trust reach it."),
    ] = "127.0.0.1",
    namespace: Annotated[
        list[str] | None,
        NamespaceOption(help="Memory to tell about, may be repeated; COINSWARM_NAMESPACE if none."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics once, and end.")] = False,
) -> None:
    """Serve metrics for Prometheus until interrupted. No server is started for it, and none is kept from stopping."""
    from deployments import metrics as exporter

    if once:
        print(exporter.metrics_once(namespace or ()), end="")
    else:
        exporter.metrics(namespace or (), port, address, Console())
