"""`coinswarm doctor` on the ledger: its server, who holds the namespace, what ran, what was published and archived."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa

import memory
from deployments.examination import Examination, attempt, hours
from deployments.retrying import reason_of, retry_command
from memory import embedded
from memory.commands import command
from memory.learning import ALGORITHM_VERSION
from memory.ledger import Archive, Ledger, RunRecord
from memory.ledger.database import Database
from memory.ledger.migrate import schema_revision
from memory.ledger.migrations import HEAD
from memory.settings import Settings
from memory.store.days import first_and_last_day
from memory.store.health import Check, fail, judge_clock, ok, warn
from memory.window import Window
from tasks.groups import PUBLISHED
from tasks.leftovers import find_leftovers
from tasks.observing import runs_regularly
from tasks.workspace import Workspace

NIGHTLY_AGE = timedelta(hours=48)
"""A nightly job that last ran longer ago has missed a night."""
BACKUP_AGE = timedelta(hours=50)
"""A daily backup that last succeeded longer ago has failed more than once."""
WINDOWS_LOOKED_AT = 7
"""Newest windows whose archived files are looked for."""
LEFTOVER_BYTES = 1 << 30
"""Room that dead runs may have taken before somebody should clear it."""
NIGHTLY, BACKUP = "nightly", "backup_memory"


def check_ledger(case: Examination) -> list[Check]:
    """Everything that the ledger can tell."""
    database_url = case.reached.database_url
    if database_url is None:
        if case.reached.problem is not None:
            return []
        return [ok("ledger", "nothing was learned here yet"), *attempt("nightly", lambda: [never_ran(case)])]
    return attempt("ledger", lambda: _of_database(case, database_url))


def _of_database(case: Examination, database_url: str) -> list[Check]:
    facts = embedded.check_database(database_url)
    database = Database.connect(database_url)
    try:
        with database.translated_errors(), database.engine.connect() as connection:
            revision = schema_revision(connection)
        seen = f"Postgres {facts.version // 10_000}.{facts.version % 10_000} at {database.display_url}"
        if revision is None:
            empty = ok("ledger", f"{seen}; it holds no ledger yet, the first flow creates it")
            case.last_runs = {}
            return [empty, *attempt("nightly", lambda: [never_ran(case)])]
        if revision != HEAD:
            newer = revision > HEAD
            remedy = "Upgrade the software." if newer else "The next flow migrates it; back it up before (pg_dump)."
            check = fail if newer else warn
            return [check("ledger", f"{seen}; its schema is {revision}, this software's {HEAD}.", remedy)]
        # Not Ledger.open, which would migrate.
        ledger, settings = Ledger(database), case.settings
        case.last_runs = ledger.runs.latest(settings.namespace)
        return [
            ok("ledger", f"{seen}, schema {revision}"),
            _clock(ledger),
            *(_holder(ledger, name) for name in (settings.namespace, f"{settings.namespace}/inbox")),
            *_fence(ledger, settings.namespace, case.highest_token),
            *attempt("nightly", lambda: [_nightly(case, ledger)]),
            *_failed_flows(ledger, settings.namespace),
            _backup(ledger, settings.namespace, case.live),
            *attempt("knowledge", lambda: _knowledge(case, ledger)),
            *attempt("archived windows", lambda: [_archived_windows(ledger, settings)]),
            *attempt("leftovers", lambda: _leftovers(case, ledger)),
        ]
    finally:
        database.dispose()


def _clock(ledger: Ledger) -> Check:
    """Leases are counted by Postgres's clock."""
    before = datetime.now(UTC)
    with ledger.transaction() as session:
        there: datetime = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return replace(judge_clock(before, there.astimezone(UTC), datetime.now(UTC)), name="ledger clock")


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
    if holder.left_behind:
        run = ledger.runs.get(holder.run_id)
        again = (None if run is None else retry_command(run)) or f"Start {holder.flow} again"
        return warn(title, f"left behind by {who}.", f"{again}: it takes the lock over and goes on.")
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
            f"{command('run rebuild_memory', namespace)}, where this ledger belongs to this Redis: it goes on with "
            "higher tokens, and publishes what this ledger knows.",
        )
    ]


# --- what ran --------------------------------------------------------------------------------------------------


def _nightly(case: Examination, ledger: Ledger) -> Check:
    namespace = case.settings.namespace
    run = ledger.runs.last(namespace, NIGHTLY)
    if run is None:
        lines = ledger.lines.list(namespace)
        return never_ran(case, [window for line in lines for window, _ in ledger.windows.with_current(line.line)])
    age = datetime.now(UTC) - run.started_at
    seen = f"window {run.window.name if run.window else 'unknown'}, started {hours(age)} ago, {run.status.lower()}"
    tonight = command("run nightly", namespace)
    if run.status in ("FAILED", "DEAD"):
        return fail("nightly", f"{seen}: {reason_of(run)}", retry_command(run) or tonight)
    if age > NIGHTLY_AGE and runs_regularly(ledger, namespace, NIGHTLY):
        return warn("nightly", f"{seen}: a night was missed.", f"{tonight}; check its schedule.")
    return ok("nightly", seen)


def never_ran(case: Examination, learned: Sequence[Window] = (), *, today: date | None = None) -> Check:
    """What waits for a first night, and the command that learns from all of it.

    Parameters
    ----------
    learned
        Windows that were consolidated by another flow.
    today
        The UTC day that is not over yet; that of this host's clock where None.
    """
    redis_url, today = case.reached.redis_url, datetime.now(UTC).date() if today is None else today
    if not case.experiences or redis_url is None:
        return ok("nightly", "never ran; there is nothing to learn from yet")
    days = _days(case.settings, redis_url, today)
    if days is None:
        return ok("nightly", "never ran; no experience is of a day until today")
    first, last = days[0], min(days[1], today - timedelta(days=1))
    if learned:
        first = max(first, max(window.end for window in learned).date())
    if last < first:
        todays = f"the experiences of {today} wait for the night after it"
        return ok("nightly", f"never ran; {todays if days[1] == today else 'other flows learned what there is'}")
    span = f"{first}" if first == last else f"{first} to {last}"
    what = "run nightly" if first == today - timedelta(days=1) else f"run backfill --from {first} --to {last}"
    return warn(
        "nightly",
        f"never ran, and of {case.experiences:,} experiences those of {span} wait for it.",
        command(what, case.settings.namespace),
    )


def _days(settings: Settings, redis_url: str, today: date) -> tuple[date, date] | None:
    async def look() -> tuple[date, date] | None:
        async with memory.connect(redis_url=redis_url, settings=settings, replica_urls=()) as mem:
            return await first_and_last_day(mem.episodic, today)

    return asyncio.run(look())


def _failed_flows(ledger: Ledger, namespace: str) -> list[Check]:
    """The other flows whose last run failed."""
    last = ledger.runs.latest(namespace)
    night = last.get(NIGHTLY)
    failed = [
        run
        for run in last.values()
        if run.status in ("FAILED", "DEAD") and run.flow != NIGHTLY and not _was_part_of(night, run)
    ]
    if not failed:
        return [ok("flows", f"the last runs of {len(last)} flows" if last else "none ran yet")]
    return [
        warn(
            "flows",
            f"{run.flow}: {run.status.lower()}: {reason_of(run)}",
            retry_command(run) or command("status", namespace),
        )
        for run in failed
    ]


def _was_part_of(night: RunRecord | None, run: RunRecord) -> bool:
    """Whether a run failed in a night that failed with it, which is a finding of its own."""
    return (
        night is not None
        and night.status in ("FAILED", "DEAD")
        and (night.host, night.process_id) == (run.host, run.process_id)
        and night.started_at < run.started_at
    )


def _backup(ledger: Ledger, namespace: str, live: int | None) -> Check:
    """Whether what cannot be recorded again is saved."""
    run, again = ledger.runs.last(namespace, BACKUP, "SUCCEEDED"), command("backup", namespace)
    if run is None:
        if live:
            return warn("backup", f"none was made, and {live:,} live experiences are kept here.", again)
        return ok("backup", "none was made; nothing was recorded live")
    age = datetime.now(UTC) - run.started_at
    if live and age > BACKUP_AGE:
        return warn("backup", f"the last one is {hours(age)} old.", f"{again}; check its schedule.")
    return ok("backup", f"the last one is {hours(age)} old")


# --- what is known ---------------------------------------------------------------------------------------------


def _knowledge(case: Examination, ledger: Ledger) -> list[Check]:
    """Whether Redis holds each knowledge line as it was published last, and whether the right one is read."""
    settings, redis_url = case.settings, case.reached.redis_url
    records = ledger.lines.list(settings.namespace)
    if not records or redis_url is None:
        return [ok("knowledge", "nothing was published yet")]
    if case.experiences is None:
        return []  # That Redis could not be asked is a finding already.
    marks = {
        record.line: [ledger.folds.checkpoints(record.line, mark)[-1:] for mark, _ in PUBLISHED.values()]
        for record in records
    }
    published = {line: mark.stamp for line, found in marks.items() for of in found for mark in of if mark.stamp}
    stamps = _stamps(settings, redis_url, list(published))
    lost = [line for line, stamp in published.items() if stamps[line] != stamp]
    if lost:
        return [
            fail(
                "knowledge",
                f"Redis does not hold {', '.join(lost)} as it was published.",
                f"{command('run rebuild_memory', settings.namespace)} restores it from the ledger; "
                f"{command('run verify_memory', settings.namespace)} says what differs.",
            )
        ]
    leading, start = ledger.lines.current(settings.namespace), command("run start_line", settings.namespace)
    if leading is not None and leading.algorithm_version != ALGORITHM_VERSION:
        return [
            warn(
                "knowledge",
                f"{leading.line} is read, and this software learns into a line of its own (version "
                f"{ALGORITHM_VERSION}).",
                f"{start} learns all windows again and lets that line take over.",
            )
        ]
    building = [record.line for record in records if record.state == "BUILDING"]
    if building:
        return [warn("knowledge", f"{', '.join(building)} is being built, and nobody reads it.", start)]
    return [ok("knowledge", f"Redis holds {len(published)} of {len(records)} lines, as they were published")]


def _stamps(settings: Settings, redis_url: str, lines: Sequence[str]) -> dict[str, str | None]:
    async def held() -> dict[str, str | None]:
        async with memory.connect(redis_url=redis_url, settings=settings, replica_urls=()) as mem:
            return {line: await mem.semantic.stamp(line) for line in lines}

    return asyncio.run(held())


# --- what is archived, and what was left behind ----------------------------------------------------------------


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


def _leftovers(case: Examination, ledger: Ledger) -> list[Check]:
    """What dead runs left behind; not looked for while somebody writes, whose work would be taken for it."""
    settings, redis_url = case.settings, case.reached.redis_url
    if redis_url is None or case.experiences is None:
        return []
    holder = ledger.fence.holder(settings.namespace)
    if holder is not None and not holder.released:
        return [ok("leftovers", "not looked for: a run holds the namespace")]
    found = find_leftovers(Workspace(settings, redis_url, ledger, Archive(settings.archive_location)))
    if not found:
        return [ok("leftovers", "dead runs left nothing behind")]
    size = sum(leftover.size_bytes or 0 for leftover in found)
    listed = ", ".join(f"{leftover.number:,} {leftover.what}" for leftover in found)
    seen = f"{listed}, {size / 2**20:,.0f} MiB: no harm, only room"
    if size > LEFTOVER_BYTES:
        janitor = command("janitor", settings.namespace)
        return [warn("leftovers", f"{seen}.", f"{janitor} shows what may go, with --apply it does.")]
    return [ok("leftovers", seen)]
