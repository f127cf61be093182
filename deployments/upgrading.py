"""`coinswarm upgrade`: what another version of the software left, what would be done about it, and doing it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import rich.console
from rich.table import Table

import memory
from deployments.console import Console
from deployments.local import load_settings
from memory import embedded
from memory.embedded.home import Home
from memory.keeping.errors import KeepingError
from memory.keeping.export_folder import VERSION as EXPORT_VERSION
from memory.keeping.upgrades import (
    BY_HAND,
    CURRENT,
    NEWER,
    PENDING,
    Finding,
    ledger_database,
    look_at_home,
    look_at_ledger,
    look_at_lines,
    look_at_packages,
    look_at_prefect,
    look_at_redis,
    migrate_ledger,
    worst,
)
from memory.ledger import Ledger
from memory.settings import Settings
from tasks.learning import learning_of
from tasks.progress import announce, begin
from tasks.workspace import open_servers

BACKUP_FIRST = "coinswarm backup"


def check(namespace: str | None, console: Console) -> dict[str, Any]:
    """Look at all parts, change nothing, and say what would be done, and what to back up first."""
    settings = load_settings(namespace)
    with console.steps("Looking at what is stored"):
        return _told(_look(settings), done=[])


def upgrade(namespace: str | None, console: Console) -> dict[str, Any]:
    """Bring up to date what can be, while no run is under way; what is current already is left alone.

    Raises
    ------
    KeepingError
        Something was written by newer software, or a run is under way. Nothing was changed.
    """
    settings = load_settings(namespace)
    done: list[str] = []
    with console.steps("Upgrading"):
        findings = _look(settings)
        newer = next((finding for finding in findings if finding.state == NEWER), None)
        if newer is not None:
            raise KeepingError(
                f"{newer.part} is {newer.found}, and this version of the software knows {newer.wanted}.",
                remedy=newer.todo,
            )
        pending = {finding.part for finding in findings if finding.state == PENDING}
        if "ledger" in pending:
            begin("migrating the ledger")
            with open_servers(settings) as (_, database_url), ledger_database(database_url) as database:
                if migrate_ledger(database):
                    done.append("ledger")
        if "prefect database" in pending:
            begin("migrating Prefect's database")
            with embedded.open_session(settings.home, ("prefect",), timeout_s=settings.start_timeout_s):
                done.append("prefect database")
        for part in done:
            announce(f"{part}: brought up to date")
        return _told(_look(settings), done)


def is_left(result: Mapping[str, Any], *, check: bool) -> bool:
    """Whether something is left to do: for a check anything at all, for an upgrade what it should have done."""
    return result["status"] != CURRENT if check else result["status"] in (PENDING, NEWER)


def show_upgrade(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """Part by part, and what comes first."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in ("part", "found", "wanted", "state"):
        table.add_column(title, overflow="fold")
    for finding in result["findings"]:
        table.add_row(finding["part"], finding["found"], finding["wanted"], finding["state"])
    out.print(table)
    for finding in result["findings"]:
        if finding["todo"]:
            out.print(f"{finding['part']}: {finding['todo']}.", markup=False, highlight=False, soft_wrap=True)
    for part in result["done"]:
        out.print(f"{part}: brought up to date.")
    if result["status"] == CURRENT:
        out.print("Everything is as this version wants it.")
    elif result["back_up_first"]:
        text = f"Back up first: {', '.join(result['back_up_first'])} (`{BACKUP_FIRST}`); then `coinswarm upgrade`."
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def _told(findings: list[Finding], done: list[str]) -> dict[str, Any]:
    return {
        "status": worst(findings),
        "findings": [finding.as_dict() for finding in findings],
        "back_up_first": [finding.part for finding in findings if finding.state == PENDING],
        "done": done,
    }


def _look(settings: Settings) -> list[Finding]:
    """All parts; those behind something that is newer are not looked at."""
    from memory.backup.manifest import FORMAT as SNAPSHOT_FORMAT

    begin("software")
    home = look_at_home(settings.home)
    snapshots = Finding("snapshots", f"format {SNAPSHOT_FORMAT}", f"format {SNAPSHOT_FORMAT}, older are read")
    exports = Finding("exports", f"version {EXPORT_VERSION}", f"version {EXPORT_VERSION}, older are read")
    findings = [*look_at_packages(), home, snapshots, exports]
    if home.state in (NEWER, BY_HAND):
        return findings
    if settings.prefect_api_url is None:
        findings.append(look_at_prefect(settings.home))
    if not Home.at(settings.home).version_file.exists() and None in (settings.redis_url, settings.database_url):
        return findings  # Nothing was ever stored: looking must not create a home.
    begin("Redis and the ledger")
    with open_servers(settings) as (redis_url, database_url):
        findings += _of_ledger(settings, database_url)
        findings.append(asyncio.run(_of_redis(settings, redis_url)))
    return findings


def _of_ledger(settings: Settings, database_url: str) -> list[Finding]:
    with ledger_database(database_url) as database:
        schema = look_at_ledger(database)
    if schema.state != CURRENT or schema.found != schema.wanted:
        return [schema]
    with Ledger.open(database_url) as ledger:
        lines = look_at_lines(ledger, settings.namespace)
        return [schema, *lines, *_of_windows(ledger, settings)]


def _of_windows(ledger: Ledger, settings: Settings) -> list[Finding]:
    """Windows of the line that is read whose settings of learning are other than those of now."""
    leading = ledger.lines.current(settings.namespace)
    if leading is None:
        return []
    wanted = learning_of(settings).digest
    held = [status.settings_hash for status in ledger.windows.list(leading.line) if status.settings_hash is not None]
    other = sum(found != wanted for found in held)
    todo = "the next nights learn these windows again, from the archive, by themselves" if other else ""
    found = f"{other} of {len(held)} windows with others" if other else f"those of {len(held)} windows"
    return [Finding("settings of learning", found, wanted[:12], BY_HAND if other else CURRENT, todo)]


async def _of_redis(settings: Settings, redis_url: str) -> Finding:
    async with memory.connect(redis_url=redis_url, settings=settings) as mem:
        return await look_at_redis(mem)
