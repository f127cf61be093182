"""Commands of the one who operates it: servers, deployments, rights and metrics."""

from __future__ import annotations

import typer

app = typer.Typer()
