"""`coinswarm status`: which servers run, what the memory holds, what ran last and runs next, and what failed.

Nothing is written, and what cannot be asked is said to be down; the rest is shown all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import rich.console
from rich.table import Table

from deployments.console import format_number, print_table
from deployments.local import load_settings
from deployments.looking import Sight, look_around
from deployments.reaching import ServerState, reach
from deployments.retrying import Failure, failures, lost_failure, prefect_command, seconds_of
from deployments.up_state import read_up
from memory.ledger import Ledger, RunRecord
from memory.ledger.database import Database
from memory.settings import Settings
from memory.store.health_server import size_text
from tasks.observing import FlowState, LedgerFacts, MemoryFacts

SHOWN_FAILURES = 5
SHOWN_INDEXES = 6
_NEVER = "never"
_ENDED = {"DEAD": "died"}
"""How a run ended, in words other than its status."""


def status(namespace: str | None, *, digest: bool = False) -> dict[str, Any]:
    """Everything that is shown, as plain values.

    Parameters
    ----------
    namespace
        That of the settings where None.
    digest
        Add the digests of all knowledge in Redis and in the ledger, which takes a read of all of it.
    """
    settings = load_settings(namespace)
    with ExitStack() as stack:
        sight = look_around(settings, stack)
        found = _as_values(settings, sight)
        if digest:
            found |= _digests(settings, sight)
        return found


@contextmanager
def kept_running(namespace: str | None) -> Iterator[None]:
    """Embedded servers that a look would start stay up while the block runs, for the looks in it to find."""
    with ExitStack() as stack:
        reach(load_settings(namespace), stack)
        yield


def _as_values(settings: Settings, sight: Sight) -> dict[str, Any]:
    ledger, memory = sight.observation.ledger, sight.observation.memory
    last = [] if ledger is None else [flow.last for flow in ledger.flows.values()]
    prefect = prefect_command(settings, sight.reached.prefect_api_url)
    failed = [
        *(lost_failure(run, settings.namespace, prefect) for run in sight.lost_runs),
        *failures(last, sight.prefect.from_deployments, prefect),
    ]
    next_runs = {} if sight.prefect.state is None else sight.prefect.state.next_runs()
    flows = {} if ledger is None else ledger.flows
    return {
        "namespace": settings.namespace,
        "home": str(settings.home),
        "observed_at": sight.observation.observed_at.isoformat(timespec="seconds"),
        "up": _up(settings.home),
        "servers": [_server(server) for server in sight.servers],
        "problems": {name: str(error) for name, error in sight.problems.items()},
        "memory": None if memory is None else _memory(memory),
        "ledger": None if ledger is None else _ledger(ledger),
        "knowledge": None if memory is None else _knowledge(memory, settings),
        "flows": [
            _flow(name, flows.get(name), next_runs.get(name)) for name in sorted(flows.keys() | next_runs.keys())
        ],
        "failures": [_failure(failure) for failure in failed],
        "disk": disk_use(settings.home),
    }


# --- as plain values -------------------------------------------------------------------------------------------


def _server(server: ServerState) -> dict[str, Any]:
    return {**asdict(server), "log": None if server.log is None else str(server.log)}


def _up(home: Path) -> dict[str, Any] | None:
    """The `coinswarm up` of a home; None where none runs."""
    found = read_up(home)
    if found is None:
        return None
    return {
        "pid": found.pid,
        "state": found.state,
        "namespace": found.namespace,
        "ui": found.ui_url or None,
        "metrics": found.metrics_url or None,
        "since": found.started_at.isoformat(timespec="seconds"),
    }


def _memory(memory: MemoryFacts) -> dict[str, Any]:
    tally, redis = memory.tally, memory.redis
    return {
        "encoder": memory.encoder,
        "experiences": sum(memory.experiences.values()),
        "experiences_by_source": dict(memory.experiences),
        "shared": memory.shared,
        "semantic": {kind.value: count for kind, count in memory.semantic.items()},
        "decisions": tally.decisions,
        "messages": tally.messages,
        "inbox": sum(tally.inboxes.values()),
        "inboxes": dict(tally.inboxes),
        "inbox_oldest": None if tally.oldest_entry is None else tally.oldest_entry.isoformat(timespec="seconds"),
        "dead_letters": memory.dead_letters,
        "used_bytes": redis.used_bytes,
        "limit_bytes": redis.limit_bytes,
        "indexes": [asdict(index) for index in memory.indexes],
        "fencing_token": memory.fencing_token,
    }


def _knowledge(memory: MemoryFacts, settings: Settings) -> dict[str, Any]:
    fresh = memory.freshness
    return {
        "line": fresh.line,
        "lines": list(fresh.lines),
        "window": None if fresh.window is None else fresh.window.name,
        "known_at": None if fresh.known_at is None else fresh.known_at.isoformat(timespec="seconds"),
        "age_s": fresh.age_s,
        "windows": fresh.windows,
        "too_old": fresh.age_s is not None and fresh.older_than(timedelta(hours=settings.knowledge_max_age_h)),
        "live": memory.experiences["live"] > 0 or bool(memory.tally.inboxes),
    }


def _ledger(ledger: LedgerFacts) -> dict[str, Any]:
    holder = ledger.holder
    return {
        "schema": ledger.revision,
        "bytes": ledger.size_bytes,
        "lines": [line.line for line in ledger.lines],
        "windows": len(ledger.windows),
        "newest_window": ledger.windows[-1].name if ledger.windows else None,
        "stale": [window.name for window in ledger.stale],
        "sealed": [window.name for window in ledger.sealed],
        "archive_files": ledger.archive_files,
        "archive_bytes": ledger.archive_bytes,
        "held_by": None if holder is None else f"run {holder.run_id} ({holder.flow} on {holder.host})",
        "benchmark": {figure.metric: figure.value for figure in ledger.benchmark},
    }


def _flow(name: str, flow: FlowState | None, next_run: datetime | None) -> dict[str, Any]:
    return {
        "flow": name,
        "last": None if flow is None else _run(flow.last),
        "last_success": None if flow is None or flow.succeeded is None else _run(flow.succeeded),
        "next": None if next_run is None else next_run.astimezone(UTC).isoformat(timespec="seconds"),
        "runs": {} if flow is None else dict(flow.runs),
    }


def _run(run: RunRecord) -> dict[str, Any]:
    seconds = seconds_of(run)
    return {
        "run_id": run.run_id,
        "flow_run_id": run.flow_run_id,
        "status": run.status,
        "window": run.window.name if run.window else None,
        "started_at": run.started_at.isoformat(timespec="seconds"),
        "seconds": None if seconds is None else round(seconds, 1),
        "error": run.error,
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "flow": failure.flow,
        "run_id": failure.run_id,
        "flow_run_id": failure.flow_run_id,
        "status": failure.status,
        "window": failure.window,
        "started_at": failure.at.isoformat(timespec="seconds"),
        "seconds": None if failure.seconds is None else round(failure.seconds, 1),
        "error": failure.reason,
        "retry": list(failure.commands),
        "part_of": failure.part_of,
    }


def _digests(settings: Settings, sight: Sight) -> dict[str, Any]:
    """Digests of all knowledge: of the ledger, and of Redis, line by line where several are read."""
    import asyncio

    import memory

    found: dict[str, Any] = {"digest": None, "ledger_digest": None}
    if sight.observation.memory is not None and sight.reached.redis_url is not None:
        lines = sight.observation.memory.freshness.lines

        async def read(redis_url: str) -> list[str]:
            async with memory.connect(redis_url=redis_url, settings=settings) as mem:
                return [await mem.semantic.digest(line=line) for line in lines]

        digests = asyncio.run(read(sight.reached.redis_url))
        found["digest"] = digests[0] if len(digests) == 1 else sha256("\n".join(digests).encode()).hexdigest()
    if sight.observation.ledger is not None and sight.reached.database_url is not None:
        # Not Ledger.open, which would migrate: what was observed has this software's schema.
        with Ledger(Database.connect(sight.reached.database_url)) as ledger:
            found["ledger_digest"] = ledger.digest(settings.namespace).digest
    return found


def disk_use(home: Path) -> dict[str, int]:
    """Bytes under a home by its top folders, largest first; empty where there is no home. About 10 us a file."""
    if not home.is_dir():
        return {}
    sizes = {entry.name: _size(entry) for entry in os.scandir(home)}
    return dict(sorted(((name, size) for name, size in sizes.items() if size), key=lambda item: (-item[1], item[0])))


def _size(entry: os.DirEntry[str]) -> int:
    # Servers write meanwhile: what goes between being listed and being looked at has no size any more.
    try:
        if not entry.is_dir(follow_symlinks=False):
            return entry.stat(follow_symlinks=False).st_blocks * 512
        return sum(_size(inside) for inside in os.scandir(entry))
    except FileNotFoundError:
        return 0


# --- as a page -------------------------------------------------------------------------------------------------


def show_status(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """Servers, memory, knowledge, flows, and what failed with what to do about it."""
    out.print(f"Namespace {result['namespace']} in {result['home']}", highlight=False, soft_wrap=True)
    _show_servers(result, out)
    if result["memory"] is not None:
        _show_memory(result["memory"], out)
    if result["ledger"] is not None:
        _show_ledger(result["ledger"], out)
    if result["knowledge"] is not None:
        out.print(f"Knowledge: {knowledge_line(result['knowledge'])}", highlight=False, markup=False, soft_wrap=True)
    if result["flows"]:
        _show_flows(result["flows"], out)
    memory, ledger = result["memory"], result["ledger"]
    if (
        memory is not None
        and ledger is not None
        and not (memory["experiences"] or ledger["windows"] or result["flows"])
    ):
        out.print(
            f"Nothing was ever run or recorded in '{result['namespace']}'; --namespace names another memory.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if result["disk"]:
        used = ", ".join(f"{name} {size_text(size)}" for name, size in result["disk"].items())
        total = size_text(sum(result["disk"].values()))
        out.print(f"Disk: {total} in the home ({used})", highlight=False, markup=False, soft_wrap=True)
    for name in ("digest", "ledger_digest"):
        if name in result:
            out.print(f"{name.replace('_', ' ')}: {result[name]}", highlight=False, markup=False, soft_wrap=True)
    _show_failures(result["failures"], out)


def _show_servers(result: Mapping[str, Any], out: rich.console.Console) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for server in result["servers"]:
        table.add_row(server["name"], server["state"], server["version"], server["address"])
    if result["up"] is not None:
        up = result["up"]
        table.add_row("coinswarm up", up["state"], f"pid {up['pid']}, {up['namespace']}", up["ui"] or "")
        if up["metrics"]:
            table.add_row("metrics", "", "", up["metrics"])
    print_table(out, table)
    if result["up"] is not None and result["up"]["state"] == "starting":
        out.print("coinswarm up is starting: what is not there yet will be in a minute (--watch 5).", highlight=False)
    for name, problem in result["problems"].items():
        out.print(f"{name}: {problem}", highlight=False, markup=False, soft_wrap=True)


def _show_memory(memory: Mapping[str, Any], out: rich.console.Console) -> None:
    held = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    sources = ", ".join(f"{source} {count:,}" for source, count in memory["experiences_by_source"].items() if count)
    held.add_row("experiences", format_number(memory["experiences"]), sources)
    held.add_row("shared", format_number(memory["shared"]), "")
    for kind, count in memory["semantic"].items():
        held.add_row(f"{kind.lower()} memories", format_number(count), "")
    for name in ("decisions", "messages", "inbox", "dead_letters"):
        held.add_row(name.replace("_", " "), format_number(memory[name]), "")
    limit = f"of {size_text(memory['limit_bytes'])}" if memory["limit_bytes"] else ""
    held.add_row("Redis memory", size_text(memory["used_bytes"]), limit)
    held.add_row("encoder", str(memory["encoder"] or "none"), "")
    for index in memory["indexes"][:SHOWN_INDEXES]:
        seen = f"{index['layout']}, {size_text(index['bytes'])}"
        seen += f", {index['failures']:,} refused" if index["failures"] else ""
        seen += ", being built" if index["building"] else ""
        held.add_row(f"index {index['name']}", format_number(index["documents"]), seen)
    more = len(memory["indexes"]) - SHOWN_INDEXES
    if more > 0:
        held.add_row("more indexes", format_number(more), "")
    print_table(out, held)


def _show_ledger(ledger: Mapping[str, Any], out: rich.console.Console) -> None:
    held = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    held.add_row("windows", format_number(ledger["windows"]), f"newest {ledger['newest_window'] or 'none'}")
    for name in ("stale", "sealed"):
        if ledger[name]:
            held.add_row(f"{name} windows", format_number(len(ledger[name])), ", ".join(ledger[name][-5:]))
    held.add_row("ledger", size_text(ledger["bytes"]), f"schema {ledger['schema']}")
    held.add_row("archive", size_text(ledger["archive_bytes"]), f"{ledger['archive_files']:,} files")
    if ledger["held_by"]:
        held.add_row("held by", ledger["held_by"], "")
    print_table(out, held)


def _show_flows(flows: Sequence[Mapping[str, Any]], out: rich.console.Console) -> None:
    table = Table(title="Flows", title_justify="left")
    for title in ("flow", "last run", "window", "started (UTC)", "took", "last success", "next run"):
        table.add_column(title)
    for flow in flows:
        last, success = flow["last"], flow["last_success"]
        table.add_row(
            flow["flow"],
            _NEVER if last is None else last["status"],
            "" if last is None else last["window"] or "",
            "" if last is None else _short(last["started_at"]),
            "" if last is None or last["seconds"] is None else f"{last['seconds']:,.1f} s",
            _NEVER if success is None else _short(success["started_at"]),
            "" if flow["next"] is None else _short(flow["next"]),
        )
    print_table(out, table)


def _show_failures(failed: Sequence[Mapping[str, Any]], out: rich.console.Console) -> None:
    for failure in failed[:SHOWN_FAILURES]:
        window = f" of {failure['window']}" if failure["window"] else ""
        ended = _ENDED.get(failure["status"], failure["status"].lower())
        text = f"{failure['flow']}{window} {ended} at {_short(failure['started_at'])}: "
        out.print(f"{text}{failure['error']}", style="red", highlight=False, markup=False, soft_wrap=True)
        if failure["part_of"]:
            out.print(f"  -> a part of {failure['part_of']}", highlight=False, markup=False, soft_wrap=True)
        for command in failure["retry"]:
            out.print(f"  -> {command}", highlight=False, markup=False, soft_wrap=True)
    if len(failed) > SHOWN_FAILURES:
        out.print(f"{len(failed) - SHOWN_FAILURES} more: --json has all.", highlight=False)


def knowledge_line(knowledge: Mapping[str, Any]) -> str:
    """How fresh knowledge is, in words."""
    if knowledge["age_s"] is None:
        return "nothing was published yet"
    window = f"of {knowledge['window']}, " if knowledge["window"] else ""
    seen = f"{window}known for {age_text(knowledge['age_s'])} ({knowledge['windows']:,} windows in {knowledge['line']})"
    if not knowledge["live"]:
        return f"{seen}; history only, nothing is recorded live"
    return f"{seen}; too old" if knowledge["too_old"] else seen


def age_text(seconds: float) -> str:
    """A span of time for people: the two largest units at most."""
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = seconds / 3600
    return f"{hours:,.1f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def _short(time: str) -> str:
    return time[:16].replace("T", " ")
