"""Is the server well? What it is, what it drops, what a crash would cost, how full it is, and what time it has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from redis.exceptions import RedisError

from memory.commands import command
from memory.embedded.checks import search_version
from memory.errors import AccessDeniedError
from memory.store.health_check import Check, OpenMemory, fail, info, ok, server_time, warn

FULL_SHARE = 0.95
"""Share of the memory's limit above which writes are about to be refused."""
HIGH_SHARE = 0.8
DAYS_AHEAD = 14
"""Days before a server is full at which to say so: time to order memory, or to prune."""
GROWTH_DAYS = 7
MAX_SKEW = timedelta(seconds=1)
"""Clocks that differ by more put `known_at` of live experiences into the wrong minute sooner or later."""
USAGE_SAMPLE = 100
_MS = timedelta(milliseconds=1)


async def check_server(mem: OpenMemory) -> list[Check]:
    """Which server it is, and that it is the primary."""
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


async def check_eviction(mem: OpenMemory) -> list[Check]:
    """Whether it drops memories when it is full."""
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


async def check_persistence(mem: OpenMemory) -> list[Check]:
    """What a crash, or a restart, would cost."""
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


async def check_memory_left(mem: OpenMemory) -> list[Check]:
    """How full it is, and how long it lasts at the pace of the last days."""
    facts = await info(mem, "memory")
    used, limit, machine = (int(facts[name]) for name in ("used_memory", "maxmemory", "total_system_memory"))
    each = await _bytes_a_memory(mem)
    daily = await _growth(mem)
    bound = limit or machine
    share = used / bound
    seen = f"{size_text(used)} of {size_text(bound)} ({share:.0%})"
    days = None
    if each is not None:
        seen += f", {each:,.0f} bytes an experience"
    if each is not None and daily:
        days = max(bound - used, 0) / (each * daily)
        seen += f", {daily:,.0f} a day: full in {days:,.0f} days without pruning"
    prune = command("run prune_memories", mem.keys.namespace)
    remedy = f"Raise maxmemory, prune ({prune}), or use FLOAT16 vectors."
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
    documents, indexed = await mem.episodic.count(at_least=True), 0
    prefix = mem.keys.episodic_index("")
    for index in await mem.indexes.health():
        if index.name.startswith(prefix):
            indexed += index.bytes
    sizes: list[int] = []
    for schema in await mem.episodic.schemas():
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
        counts.append(await mem.episodic.count(recorded_after=now - timedelta(days=days), at_least=True) / days)
    return max(counts)


async def check_clock(mem: OpenMemory) -> list[Check]:
    """Whether its clock agrees with this host's."""
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


async def _setting(mem: OpenMemory, name: str) -> str | None:
    """A setting of the server; None where this user may not ask, or the server knows none of that name."""
    try:
        answer = await mem.link.execute("CONFIG", "GET", name)
    except (AccessDeniedError, RedisError):
        return None
    value = answer.get(name.encode())
    return None if value is None else value.decode()


def size_text(number: int) -> str:
    """Bytes for people, in units of 1024."""
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"
