"""Commands that keep and move memory: backups, exports, upgrades."""

from __future__ import annotations

import typer

app = typer.Typer()
