"""Is this memory well? Checks of its Redis that read and never write, each with what was seen and what to do.

`check_memory` runs them all. A check that cannot be made (a restricted user, a server that went away meanwhile) says
so, and the others go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from redis.exceptions import RedisError

from memory.embedded.checks import search_version
from memory.errors import AccessDeniedError, CoinswarmError
from memory.records import from_ms
from memory.settings import Settings
from memory.store.dead_letters import DeadLetters
from memory.store.encoders import EncoderRegistry
from memory.store.episodic import EpisodicStore
from memory.store.inbox import DEFAULT_IDLE, GROUP, Inbox
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.messages import Messages
from memory.store.scan import Reader, select

FULL_SHARE = 0.95
"""Share of the memory's limit above which writes are about to be refused."""
HIGH_SHARE = 0.8
DAYS_AHEAD = 14
"""Days before a server is full at which to say so: time to order memory, or to prune."""
GROWTH_DAYS = 7
MAX_SKEW = timedelta(seconds=1)
"""Clocks that differ by more put `known_at` of live experiences into the wrong minute sooner or later."""
BACKLOG_AGE = timedelta(hours=26)
"""The inbox is drained every night; an entry this old has missed one."""
USAGE_SAMPLE = 100
REASONS_SHOWN = 3
REASONS_SAMPLE = 1000
_MS = timedelta(milliseconds=1)


class CheckStatus(StrEnum):
    """How a check turned out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes
    ----------
    name
        What was looked at.
    status
        ``fail`` is for what loses memories, hides them, or keeps the memory from working; ``warn`` for what may lead
        there.
    seen
        What was found.
    remedy
        What to do about it, in one line; empty where all is well.
    """

    name: str
    status: CheckStatus
    seen: str
    remedy: str = ""


def ok(name: str, seen: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, CheckStatus.OK, seen)


def warn(name: str, seen: str, remedy: str) -> Check:
    """A check that found what may lead to harm."""
    return Check(name, CheckStatus.WARN, seen, remedy)


def fail(name: str, seen: str, remedy: str) -> Check:
    """A check that found harm."""
    return Check(name, CheckStatus.FAIL, seen, remedy)


class OpenMemory(Protocol):
    """What is needed of an open memory: `memory.MemoryConnection` has it."""

    @property
    def link(self) -> RedisLink: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def indexes(self) -> Indexes: ...
    @property
    def encoders(self) -> EncoderRegistry: ...
    @property
    def reader(self) -> Reader: ...
    @property
    def episodic(self) -> EpisodicStore: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def messages(self) -> Messages: ...
    @property
    def dead_letters(self) -> DeadLetters: ...


MemoryCheck = Callable[[OpenMemory], Awaitable[list[Check]]]
Announce = Callable[[str], None]


async def check_memory(mem: OpenMemory, announce: Announce = lambda _: None) -> list[Check]:
    """Check the Redis of an open memory, and the memory in it; nothing is written.

    Parameters
    ----------
    mem
        An open memory.
    announce
        Is told what is looked at next.

    Returns
    -------
    list of Check
        In a fixed order. Cost: some milliseconds, and a scan of all keys of the server in small steps (about a second
        a million), up to `health_records.SCAN_LIMIT` keys.
    """
    from memory.store.health_indexes import check_indexes
    from memory.store.health_messages import check_messages
    from memory.store.health_records import check_records, take_census

    async def contents(mem: OpenMemory) -> list[Check]:
        census = await take_census(mem)
        return [*await check_indexes(mem, census), *await check_records(mem, census)]

    found: list[Check] = []
    checks: Sequence[tuple[str, MemoryCheck]] = (
        ("redis", _server),
        ("eviction", _eviction),
        ("persistence", _persistence),
        ("memory", _memory),
        ("clock", _clock),
        ("indexes and records", contents),
        ("inbox", _inbox),
        ("messages", check_messages),
        ("dead letters", _dead_letters),
    )
    for name, check in checks:
        announce(name)
        try:
            found += await check(mem)
        except AccessDeniedError as error:
            found.append(warn(name, f"this user may not ask: {error.message}", error.remedy))
        except CoinswarmError as error:
            found.append(fail(name, error.message, error.remedy))
        except RedisError as error:
            found.append(fail(name, f"the server refused: {error}.", "Look into the server's log."))
    return found


async def info(mem: OpenMemory, *sections: str) -> dict[str, str]:
    """Sections of the server's INFO as one dictionary."""
    answer = (await mem.link.execute("INFO", *sections)).decode()
    return dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)


async def _setting(mem: OpenMemory, name: str) -> str | None:
    """A setting of the server; None where this user may not ask, or the server knows none of that name."""
    try:
        answer = await mem.link.execute("CONFIG", "GET", name)
    except (AccessDeniedError, RedisError):
        return None
    value = answer.get(name.encode())
    return None if value is None else value.decode()


# --- the server ------------------------------------------------------------------------------------------------


async def _server(mem: OpenMemory) -> list[Check]:
    facts = await info(mem, "server", "replication", "cluster")
    modules = [
        {"name": module[b"name"].decode(), "ver": module[b"ver"]} for module in await mem.link.execute("MODULE", "LIST")
    ]
    search = search_version({"modules": modules}) or ()
    seen = (
        f"Redis {facts['redis_version']} with search {'.'.join(map(str, search))} at {mem.link.address}, up "
        f"{timedelta(seconds=int(facts['uptime_in_seconds']))}"
    )
    if facts.get("cluster_enabled") == "1":
        seen += ", a cluster"
    if facts.get("role") != "master":
        return [fail("redis", f"{seen}; it is a replica.", "Let COINSWARM_REDIS_URL name the primary.")]
    return [ok("redis", seen)]


async def _eviction(mem: OpenMemory) -> list[Check]:
    facts = await info(mem, "memory", "stats")
    policy, evicted = facts["maxmemory_policy"], int(facts["evicted_keys"])
    seen = f"maxmemory-policy {policy}, {evicted:,} keys evicted since it started"
    if policy != "noeviction":
        return [
            fail(
                "eviction",
                f"{seen}: when full, it drops memories without a word.",
                "CONFIG SET maxmemory-policy noeviction, and write the same into redis.conf.",
            )
        ]
    if evicted:
        return [warn("eviction", f"{seen}: memories were lost.", "Record or restore what is missing.")]
    return [ok("eviction", seen)]


async def _persistence(mem: OpenMemory) -> list[Check]:
    facts = await info(mem, "persistence")
    rewrite = facts.get("aof_last_bgrewrite_status", "ok")
    snapshot = facts.get("rdb_last_bgsave_status", "ok")
    durable = "CONFIG SET appendonly yes, and write it into redis.conf (deployments/redis.conf has all of it)."
    if facts["aof_enabled"] != "1":
        points = await _setting(mem, "save")
        if points:
            return [warn("persistence", f"snapshots only (save {points}): a crash loses what came since.", durable)]
        return [fail("persistence", "neither log nor snapshots: a restart loses everything.", durable)]
    fsync = await _setting(mem, "appendfsync")
    seen = f"append-only log, fsync {fsync or 'unknown'}, {int(facts.get('aof_current_size', 0)):,} bytes"
    if facts.get("aof_last_write_status") != "ok":
        return [fail("persistence", f"{seen}; its last write failed.", "Free space on the server's disk; see its log.")]
    if fsync == "no":
        return [
            warn(
                "persistence",
                f"{seen}: the machine's crash may lose half a minute.",
                "CONFIG SET appendfsync everysec, and write the same into redis.conf.",
            )
        ]
    if "err" in (rewrite, snapshot):
        which = "rewrite of the log" if rewrite == "err" else "snapshot"
        return [
            warn("persistence", f"{seen}; the last {which} failed.", "Free disk and memory for a fork; see its log.")
        ]
    return [ok("persistence", f"{seen}; last write and rewrite ok")]


async def _memory(mem: OpenMemory) -> list[Check]:
    facts = await info(mem, "memory")
    used, limit, machine = (int(facts[name]) for name in ("used_memory", "maxmemory", "total_system_memory"))
    each = await _bytes_a_memory(mem)
    daily = await _growth(mem)
    bound = limit or machine
    share = used / bound
    seen = f"{_size(used)} of {_size(bound)} ({share:.0%})"
    days = None
    if each is not None:
        seen += f", {each:,.0f} bytes an experience"
    if each is not None and daily:
        days = max(bound - used, 0) / (each * daily)
        seen += f", {daily:,.0f} a day: full in {days:,.0f} days without pruning"
    remedy = "Raise maxmemory, prune (coinswarm run prune_memories), or use FLOAT16 vectors."
    if share >= FULL_SHARE:
        return [fail("memory", f"{seen}; writes are about to be refused.", remedy)]
    if share >= HIGH_SHARE or (days is not None and days < DAYS_AHEAD):
        return [warn("memory", f"{seen}.", remedy)]
    if not limit:
        return [
            warn(
                "memory",
                f"{seen}; without maxmemory the machine runs out, and kills it.",
                "CONFIG SET maxmemory to what the machine can spare, and write the same into redis.conf.",
            )
        ]
    return [ok("memory", seen)]


async def _bytes_a_memory(mem: OpenMemory) -> float | None:
    """Mean size of an experience, its share of the indexes included; None where there is none."""
    documents, indexed = 0, 0
    prefix = mem.keys.episodic_index("")
    for index in await mem.indexes.health():
        if index.name.startswith(prefix):
            indexed += index.bytes
    sizes: list[int] = []
    for schema in await mem.episodic.schemas():
        documents += await mem.reader.count(schema, select())
        answer = await mem.link.execute("FT.SEARCH", schema.name, "*", "NOCONTENT", "LIMIT", 0, USAGE_SAMPLE)
        names = [row[b"id"] for row in answer[b"results"]]
        usage = await mem.link.pipeline([("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names])
        sizes += [size for size in usage if size is not None]
    if not sizes or not documents:
        return None
    return sum(sizes) / len(sizes) + indexed / documents


async def _growth(mem: OpenMemory) -> float:
    """Experiences recorded a day lately: of the last day, or of the last days' mean where that is more."""
    now = await server_time(mem)
    counts = []
    for days in (1, GROWTH_DAYS):
        counts.append(await mem.episodic.count(recorded_after=now - timedelta(days=days)) / days)
    return max(counts)


async def server_time(mem: OpenMemory) -> datetime:
    """The server's clock."""
    seconds, microseconds = await mem.link.execute("TIME")
    return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(microseconds))


async def _clock(mem: OpenMemory) -> list[Check]:
    before = datetime.now(UTC)
    there = await server_time(mem)
    return [judge_clock(before, there, datetime.now(UTC))]


def judge_clock(before: datetime, there: datetime, after: datetime) -> Check:
    """Whether a server's clock agrees with this host's, which was read before and after asking for it."""
    # Somewhere between sending and receiving: what lies outside of that is skew.
    skew = max(before - there, there - after, timedelta(0))
    if skew > MAX_SKEW:
        return warn(
            "clock",
            f"the server's clock ({there.isoformat(timespec='milliseconds')}) and this host's differ by "
            f"{skew.total_seconds():.1f} s.",
            "Let both follow one time server (NTP): arrivals are dated by the server's clock.",
        )
    return ok("clock", f"server and host agree within {(skew + (after - before)) / _MS:.0f} ms")


# --- what waits ------------------------------------------------------------------------------------------------


async def _inbox(mem: OpenMemory) -> list[Check]:
    lengths = {agent: length for agent, length in (await mem.inbox.length()).items() if length}
    if not lengths:
        return [ok("inbox", "empty")]
    streams = [mem.keys.inbox(agent) for agent in lengths]
    firsts = await mem.link.pipeline([("XRANGE", stream, "-", "+", "COUNT", 1) for stream in streams])
    times = [from_ms(int(first[0][0].split(b"-")[0])) for first in firsts if first]
    idle = await _left_behind(mem, streams)
    age = await server_time(mem) - min(times)
    largest = max(lengths, key=lambda agent: (lengths[agent], agent))
    seen = (
        f"{sum(lengths.values()):,} entries of {len(lengths)} agents (most: {largest}, {lengths[largest]:,}), "
        f"the oldest {_age(age)} old"
    )
    remedy = "Drain it: coinswarm run record_experiences."
    if idle:
        return [warn("inbox", f"{seen}; a drain left {idle:,} of them behind.", remedy)]
    if age > BACKLOG_AGE:
        return [warn("inbox", f"{seen}: no drain came by for a night.", remedy)]
    return [ok("inbox", seen)]


async def _left_behind(mem: OpenMemory, streams: Sequence[str]) -> int:
    """Entries that a drain took and neither acknowledged nor gave back for so long that it must be gone."""
    groups = await mem.link.pipeline([("XINFO", "GROUPS", stream) for stream in streams])
    drained = [stream for stream, found in zip(streams, groups, strict=True) if found]
    idle_ms = int(DEFAULT_IDLE / _MS)
    commands = [("XPENDING", stream, GROUP, "IDLE", idle_ms, "-", "+", REASONS_SAMPLE) for stream in drained]
    return sum(len(pending) for pending in await mem.link.pipeline(commands))


async def _dead_letters(mem: OpenMemory) -> list[Check]:
    count = await mem.dead_letters.count()
    if not count:
        return [ok("dead letters", "none")]
    reasons = (await mem.dead_letters.reasons(REASONS_SAMPLE))[:REASONS_SHOWN]
    listed = "; ".join(f"{times:,} x {field}, such as: {reason}" for field, times, reason in reasons)
    full = count >= mem.settings.dead_letter_limit
    seen = f"{count:,}{', as many as are kept: older ones are gone' if full else ''} ({listed})"
    return [warn("dead letters", seen, "Correct the cause, then 'coinswarm deadletters retry --all'.")]


# --- words -----------------------------------------------------------------------------------------------------


def _size(number: int) -> str:
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def _age(age: timedelta) -> str:
    hours = age / timedelta(hours=1)
    return f"{hours:,.0f} h" if hours >= 1 else f"{age / timedelta(minutes=1):.0f} min"


def facts_of(value: Any) -> dict[str, Any]:
    """A map of an answer with names as text."""
    return {name.decode() if isinstance(name, bytes) else str(name): item for name, item in value.items()}
