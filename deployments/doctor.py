"""`coinswarm doctor`: is all of it well? Redis, the memory in it, the ledger, the archive, the servers of the home.

Nothing is written. Embedded servers that hold data are started for it where they do not run, as for any command; a home
that was never used stays untouched. What cannot be reached is one finding, and the rest is looked at all the same.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import rich.console
import rich.text

import memory
from deployments.console import Console
from deployments.local import load_settings
from memory import embedded
from memory.embedded.home import Home
from memory.errors import CoinswarmError
from memory.learning import ALGORITHM_VERSION
from memory.ledger import Archive, Ledger
from memory.ledger.database import Database
from memory.ledger.host import is_gone
from memory.ledger.migrate import schema_revision
from memory.ledger.migrations import HEAD
from memory.settings import Settings
from memory.store.health import Check, CheckStatus, fail, ok, warn
from tasks.progress import Steps, begin

NIGHTLY_AGE = timedelta(hours=48)
"""A nightly job that last ran longer ago has missed a night."""
WINDOWS_LOOKED_AT = 7
"""Newest windows whose archived files are looked for."""
LEAST_DISK_SHARE = 0.05
"""Free share of the home's disk under which servers are about to stop taking writes."""
SESSION_TIMEOUT_S = 120.0
_ORDER = (CheckStatus.FAIL, CheckStatus.WARN, CheckStatus.OK)
_STYLES = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "bold red"}


@dataclass(slots=True)
class Findings:
    """What was found so far, and what later checks need of it.

    Attributes
    ----------
    checks
        In the order in which they are shown.
    experiences, highest_token
        What Redis holds, and the highest fencing token that it has seen; None where it could not be asked.
    """

    checks: list[Check] = field(default_factory=list)
    experiences: int | None = None
    highest_token: int | None = None


# --- the command -----------------------------------------------------------------------------------------------


def doctor(namespace: str | None, console: Console) -> dict[str, Any]:
    """Check everything, and say what was seen and what to do; `status` is the worst of all."""
    settings = load_settings(namespace)
    findings, steps = Findings(), Steps()
    with console.steps("Checking"), ExitStack() as stack:
        with steps.step("servers"):
            redis_url, database_url = _servers(settings, findings, stack)
        with steps.step("memory"):
            _memory(settings, redis_url, findings)
        with steps.step("ledger"):
            _ledger(settings, database_url, redis_url, findings)
        with steps.step("archive"):
            findings.checks += _attempt("archive", lambda: [_archive_place(settings)])
    counts = Counter(check.status for check in findings.checks)
    return {
        "namespace": settings.namespace,
        "home": str(settings.home),
        "status": next(status for status in _ORDER if counts[status]).value,
        "counts": {status.value: counts[status] for status in _ORDER},
        "checks": [asdict(check) for check in findings.checks],
    }


def show_checks(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """One line a check, and one more for what to do about it."""
    width = max(len(check["name"]) for check in result["checks"])
    for check in result["checks"]:
        status = CheckStatus(check["status"])
        line = rich.text.Text.assemble(
            (f"{status.value:<4}", _STYLES[status]), "  ", (f"{check['name']:<{width}}", "bold"), f"  {check['seen']}"
        )
        out.print(line, soft_wrap=True)
        if check["remedy"]:
            out.print(rich.text.Text(f"{'':<{width + 6}}  -> {check['remedy']}"), soft_wrap=True)
    counts = result["counts"]
    out.print(
        f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed: namespace {result['namespace']} in "
        f"{result['home']}",
        highlight=False,
        soft_wrap=True,
    )


def _attempt(name: str, look: Any) -> list[Check]:
    """The checks of a function, or one that says why there are none."""
    try:
        found: list[Check] = look()
    except CoinswarmError as error:
        return [fail(name, error.message, error.remedy)]
    except OSError as error:
        return [fail(name, f"{error.filename or ''}: {error.strerror or error}.", "Check the rights on it.")]
    return found


# --- servers ---------------------------------------------------------------------------------------------------


def _servers(settings: Settings, findings: Findings, stack: ExitStack) -> tuple[str | None, str | None]:
    """Where Redis and Postgres are; None for one that was never used, or does not start."""
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    database_url = settings.database_url.get_secret_value() if settings.database_url else None
    home = Home.at(settings.home)
    held = {"redis": home.redis_data, "postgres": home.postgres_data}
    missing = [name for name, url in (("redis", redis_url), ("postgres", database_url)) if url is None]
    wanted = [name for name in missing if held[name].is_dir()]
    if not missing:
        findings.checks.append(ok("servers", "Redis and Postgres are configured; no embedded ones are used"))
        return redis_url, database_url
    if not wanted:
        findings.checks.append(ok("servers", f"{settings.home} was not used yet; nothing was started"))
        return redis_url, database_url
    try:
        before = embedded.home_status(settings.home)
        session = stack.enter_context(embedded.open_session(settings.home, wanted, timeout_s=SESSION_TIMEOUT_S))
        status = embedded.home_status(settings.home)
    except CoinswarmError as error:
        findings.checks.append(fail("servers", " ".join(error.message.split()), error.remedy))
        return redis_url, database_url
    listed = ", ".join(f"{server.name} {server.version} {server.state}" for server in status.servers)
    seen = f"{listed}; {'they ran before' if before.servers else 'started for this'}"
    unwell = [server for server in status.servers if server.state != "ready"]
    if unwell:
        findings.checks.append(warn("servers", f"{seen}.", f"See {unwell[0].log}."))
    else:
        findings.checks.append(ok("servers", seen))
    findings.checks.append(_disk(settings.home))
    return redis_url or session.endpoints.redis_url, database_url or session.endpoints.database_url


def _disk(home: Path) -> Check:
    usage = shutil.disk_usage(home)
    seen = f"{usage.free / 2**30:,.1f} GiB of {usage.total / 2**30:,.1f} GiB free under {home}"
    if usage.free < LEAST_DISK_SHARE * usage.total:
        return warn("disk", f"{seen}.", "Free some, or move the home (COINSWARM_HOME): full disks stop all writes.")
    return ok("disk", seen)


# --- Redis -----------------------------------------------------------------------------------------------------


def _memory(settings: Settings, redis_url: str | None, findings: Findings) -> None:
    if redis_url is None:
        if all(check.status is not CheckStatus.FAIL for check in findings.checks):
            findings.checks.append(ok("redis", "nothing was recorded here yet"))
        return

    async def look() -> list[Check]:
        async with memory.connect(redis_url=redis_url, settings=settings) as mem:
            checks = await mem.health(begin)
            findings.experiences = await mem.episodic.count()
            findings.highest_token = await mem.fence.highest()
            return checks

    findings.checks += _attempt("redis", lambda: asyncio.run(look()))


# --- Postgres --------------------------------------------------------------------------------------------------


def _ledger(settings: Settings, database_url: str | None, redis_url: str | None, findings: Findings) -> None:
    if database_url is None:
        if all(check.status is not CheckStatus.FAIL for check in findings.checks):
            findings.checks += [ok("ledger", "nothing was learned here yet"), _never_ran(findings.experiences)]
        return
    findings.checks += _attempt("ledger", lambda: _ledger_checks(settings, database_url, redis_url, findings))


def _ledger_checks(settings: Settings, database_url: str, redis_url: str | None, findings: Findings) -> list[Check]:
    facts = embedded.check_database(database_url)
    database = Database.connect(database_url)
    try:
        with database.translated_errors(), database.engine.connect() as connection:
            revision = schema_revision(connection)
        seen = f"Postgres {facts.version // 10_000}.{facts.version % 10_000} at {database.display_url}"
        if revision is None:
            empty = ok("ledger", f"{seen}; it holds no ledger yet, the first flow creates it")
            return [empty, _never_ran(findings.experiences)]
        if revision != HEAD:
            newer = revision > HEAD
            remedy = "Upgrade the software." if newer else "The next flow migrates it; back it up before (pg_dump)."
            check = fail if newer else warn
            return [check("ledger", f"{seen}; its schema is {revision}, this software's {HEAD}.", remedy)]
        # Not Ledger.open, which would migrate.
        ledger = Ledger(database)
        return [
            ok("ledger", f"{seen}, schema {revision}"),
            *(_holder(ledger, name) for name in (settings.namespace, f"{settings.namespace}/inbox")),
            *_fence(ledger, settings.namespace, findings.highest_token),
            _nightly(ledger, settings.namespace, findings.experiences),
            *_attempt("knowledge", lambda: [_knowledge(ledger, settings, redis_url)]),
            *_attempt("archived windows", lambda: [_archived_windows(ledger, settings)]),
        ]
    finally:
        database.dispose()


def _holder(ledger: Ledger, name: str) -> Check:
    """Who has the right to write to the namespace, or to drain its inbox."""
    title = "inbox lock" if name.endswith("/inbox") else "lock"
    holder = ledger.fence.holder(name)
    if holder is None or holder.released:
        return ok(title, "free")
    who = (
        f"run {holder.run_id} ({holder.flow} on {holder.host}, process {holder.process_id}, since "
        f"{holder.acquired_at.isoformat(timespec='seconds')})"
    )
    if holder.expired or is_gone(holder.host, holder.process_id):
        return warn(title, f"left behind by {who}.", "Start the flow again: it takes the lock over and goes on.")
    return ok(title, f"held by {who}")


def _fence(ledger: Ledger, namespace: str, highest_token: int | None) -> list[Check]:
    """Whether Redis would refuse what the ledger's next runs write."""
    holder = ledger.fence.holder(namespace)
    granted = 0 if holder is None else holder.token
    if highest_token is None or highest_token <= granted:
        return []
    return [
        fail(
            "fence",
            f"Redis has seen token {highest_token}, the ledger granted {granted} at most: it is older than this Redis, "
            f"and its runs would be refused.",
            "coinswarm run rebuild_memory, where this ledger belongs to this Redis: it goes on with higher tokens, and "
            "publishes what this ledger knows.",
        )
    ]


def _knowledge(ledger: Ledger, settings: Settings, redis_url: str | None) -> Check:
    """Whether Redis holds each knowledge line as it was published last, and whether the right one is read."""
    records = ledger.lines.list(settings.namespace)
    if not records or redis_url is None:
        return ok("knowledge", "nothing was published yet")
    from tasks.publishing import PUBLISHED

    marks = {
        record.line: [ledger.folds.checkpoints(record.line, mark)[-1:] for mark, _ in PUBLISHED.values()]
        for record in records
    }
    published = {line: mark.stamp for line, found in marks.items() for of in found for mark in of if mark.stamp}

    async def held() -> dict[str, str | None]:
        async with memory.connect(redis_url=redis_url, settings=settings) as mem:
            return {line: await mem.semantic.stamp(line) for line in published}

    stamps = asyncio.run(held())
    lost = [line for line, stamp in published.items() if stamps[line] != stamp]
    if lost:
        return fail(
            "knowledge",
            f"Redis does not hold {', '.join(lost)} as it was published.",
            "coinswarm run rebuild_memory restores it from the ledger; coinswarm run verify_memory says what differs.",
        )
    leading = ledger.lines.current(settings.namespace)
    if leading is not None and leading.algorithm_version != ALGORITHM_VERSION:
        return warn(
            "knowledge",
            f"{leading.line} is read, and this software learns into a line of its own (version {ALGORITHM_VERSION}).",
            "coinswarm run start_line learns all windows again and lets that line take over.",
        )
    building = [record.line for record in records if record.state == "BUILDING"]
    if building:
        return warn(
            "knowledge", f"{', '.join(building)} is being built, and nobody reads it.", "coinswarm run start_line"
        )
    return ok("knowledge", f"Redis holds {len(published)} of {len(records)} lines, as they were published")


def _nightly(ledger: Ledger, namespace: str, experiences: int | None) -> Check:
    run = ledger.runs.last(namespace, "nightly")
    if run is None:
        return _never_ran(experiences)
    age = datetime.now(UTC) - run.started_at
    seen = f"window {run.window.name if run.window else 'unknown'}, started {_hours(age)} ago, {run.status.lower()}"
    again = f"coinswarm run nightly{f' --date {run.window.name}' if run.window else ''}"
    if run.status in ("FAILED", "DEAD"):
        return fail("nightly", f"{seen}: {' '.join((run.error or 'no reason is known').split())}", again)
    if run.status == "RUNNING" and is_gone(run.host, run.process_id):
        return fail("nightly", f"{seen}, but its process is gone.", again)
    if age > NIGHTLY_AGE:
        return warn("nightly", f"{seen}: a night was missed.", "coinswarm run nightly; check its schedule.")
    return ok("nightly", seen)


def _never_ran(experiences: int | None) -> Check:
    if experiences:
        return warn("nightly", f"never ran, and {experiences:,} experiences wait for it.", "coinswarm run nightly")
    return ok("nightly", "never ran; there is nothing to learn from yet")


def _hours(age: timedelta) -> str:
    return f"{age / timedelta(hours=1):,.1f} h"


# --- the archive -----------------------------------------------------------------------------------------------


def _archive_place(settings: Settings) -> Check:
    """Whether the archive can be reached and, where that shows without writing, written to."""
    archive = Archive(settings.archive_location)
    filesystem, root = fsspec.core.url_to_fs(settings.archive_location)
    if not isinstance(filesystem, fsspec.implementations.local.LocalFileSystem):
        try:
            there = filesystem.exists(root)
        except Exception as error:  # noqa: BLE001  (each store has errors of its own)
            return fail(
                "archive", f"{archive.display_url} cannot be reached: {error}.", "Check COINSWARM_ARCHIVE_URL and keys."
            )
        what = "reached" if there else "reached, and is empty"
        return ok("archive", f"{archive.display_url} can be {what}; whether it can be written to shows when it is")
    place = Path(root)
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        why = "may not be written to" if nearest.is_dir() else "is no folder"
        return fail(
            "archive",
            f"{archive.display_url} cannot be used: {nearest} {why}.",
            "Give this user the rights on it, or set COINSWARM_ARCHIVE_URL.",
        )
    return ok("archive", f"{archive.display_url}{'' if place.exists() else ', not there yet,'} can be written to")


def _archived_windows(ledger: Ledger, settings: Settings) -> Check:
    """Whether the files of the newest windows are where the ledger says."""
    archive = Archive(settings.archive_location)
    windows = {
        (window, line.encoder_id)
        for line in ledger.lines.list(settings.namespace)
        for window, _ in ledger.windows.with_current(line.line)
    }
    newest = sorted(windows, reverse=True)[:WINDOWS_LOOKED_AT]
    lost = [
        window.name
        for window, encoder_id in newest
        if not all(archive.exists(item) for item in ledger.windows.archives(settings.namespace, window, encoder_id))
    ]
    if lost:
        return fail(
            "archived windows",
            f"files of {', '.join(sorted(set(lost)))} are not under {archive.display_url}.",
            "Set COINSWARM_ARCHIVE_URL to where they are, or restore them: those windows cannot be learned from again.",
        )
    if not newest:
        return ok("archived windows", "none was consolidated yet")
    return ok("archived windows", f"files of the newest {len(newest)} of {len(windows)} are there")
