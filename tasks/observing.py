"""The state of a memory as plain facts: what `status`, the exporter of metrics and alerts show. Nothing is written.

Nothing here imports Prefect, so that looking takes tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import sqlalchemy as sa
from redis.exceptions import RedisError

from memory import Freshness, MemoryConnection
from memory.errors import AccessDeniedError, CoinswarmError
from memory.ledger import BenchmarkRecord, Holder, Ledger, LineRecord, RunRecord
from memory.records import SemanticType
from memory.store.answers import redis_facts, sections
from memory.store.health import server_time
from memory.store.tally import Tally, tally
from memory.window import Window
from tasks.workspace import Workspace

Value = TypeVar("Value")

REDIS, LEDGER = "redis", "ledger"
"""What is looked at: keys of `Observation.problems`."""
RETRIEVAL_UNITS = ("ms", "1/s", "share")
"""Units of a benchmark's figures of retrieval, beside which it keeps sizes."""
FAILED, DEAD, RUNNING, SUCCEEDED = "FAILED", "DEAD", "RUNNING", "SUCCEEDED"
ROUTINE = ("nightly", "backup_memory")
"""Flows that are missed where they ran day by day and do not any more."""
ROUTINE_DAYS = 3
"""Days between two runs of a rhythm, and between a window and the run that works on it: a weekend's downtime."""
_ROUTINE_RUNS = 20
"""Latest successful runs that are looked at: some may have been repeated by hand on one day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisState:
    """A Redis server, as it describes itself.

    Attributes
    ----------
    address
        Where it is, without user and password.
    version, search_version
        Such as 8.2.3; empty where the user may not ask, and of search where there is none.
    used_bytes, limit_bytes
        Memory that it uses, and may use (0: no limit).
    policy
        What it does when it is full; ``noeviction`` is what a memory needs.
    evicted
        Keys that it has evicted since it started.
    append_only
        Whether it keeps a log on its disk.
    clock_skew_s
        How far its clock and this host's differ at least, seconds.
    """

    address: str
    version: str = ""
    search_version: str = ""
    used_bytes: int = 0
    limit_bytes: int = 0
    policy: str = ""
    evicted: int = 0
    append_only: bool = False
    clock_skew_s: float = 0.0


@dataclass(frozen=True, slots=True)
class IndexState:
    """One index: its documents, records that it refused, whether it is still being built, its bytes and layout."""

    name: str
    documents: int
    failures: int
    building: bool
    bytes: int
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """What Redis holds of a namespace.

    Attributes
    ----------
    experiences
        By source (live, replay, backtest); while their encoder is changed, those of the fuller index.
    shared
        Experiences in the shared pool.
    semantic
        Memories that are known now, by kind, in all lines that are read.
    tally
        What lies in streams, and traces of decisions.
    dead_letters, dead_letters_received
        Those that are kept, and all that ever came.
    fencing_token
        The highest token that has written.
    freshness
        The newest knowledge that was published.
    """

    redis: RedisState
    encoder: str | None
    experiences: Mapping[str, int]
    shared: int
    semantic: Mapping[SemanticType, int]
    tally: Tally
    dead_letters: int
    dead_letters_received: int
    indexes: Sequence[IndexState]
    fencing_token: int
    freshness: Freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowState:
    """The latest runs of one flow, None where there is none, and how many there are in each status.

    Attributes
    ----------
    regular
        Whether it is missed when it does not run (`runs_regularly`); None of a flow of which that is not asked.
    """

    flow: str
    last: RunRecord
    succeeded: RunRecord | None
    failed: RunRecord | None
    runs: Mapping[str, int]
    regular: bool | None = None

    @property
    def has_failed(self) -> bool:
        """Whether its last run came to nothing; one whose process ended without a word did, whoever has noted it."""
        return self.last.status in (FAILED, DEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFacts:
    """What the ledger holds of a namespace.

    Attributes
    ----------
    address
        Where it is, without a password.
    version
        Of Postgres.
    size_bytes
        All of the ledger's tables, of all namespaces together.
    lines
        Knowledge lines.
    windows
        Windows that were consolidated, of any line, in order.
    stale, sealed
        Windows that are to be consolidated again, and those that cannot be; of lines that are fed, in order.
    flows
        By flow.
    fencing_token
        The highest token that was granted.
    holder
        Who holds the namespace now; None where nobody does.
    benchmark
        Figures of the latest benchmark of retrieval.
    archive_files, archive_bytes
        What the archive holds by the ledger's references.
    """

    address: str
    version: str
    revision: str | None
    size_bytes: int
    lines: Sequence[LineRecord]
    windows: Sequence[Window]
    stale: Sequence[Window]
    sealed: Sequence[Window]
    flows: Mapping[str, FlowState]
    fencing_token: int
    holder: Holder | None
    benchmark: Sequence[BenchmarkRecord]
    archive_files: int
    archive_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The state of a namespace.

    Attributes
    ----------
    memory, ledger
        What Redis and Postgres hold; None where they could not be asked.
    problems
        Why not, by what was asked (`REDIS`, `LEDGER`).
    observed_at
        By this host's clock.
    """

    namespace: str
    memory: MemoryFacts | None
    ledger: LedgerFacts | None
    problems: Mapping[str, CoinswarmError] = field(default_factory=dict)
    observed_at: datetime

    @property
    def live(self) -> bool:
        """Whether agents record here as they live: then knowledge that is old is too old; a replay's always is."""
        return self.memory is not None and (self.memory.experiences["live"] > 0 or bool(self.memory.tally.inboxes))


def observe(workspace: Workspace) -> Observation:
    """Look at a namespace. What cannot be asked is left out, with the reason.

    Cost: some 50 ms, and a look at the names of all keys of the server (`memory.store.tally`).
    """
    problems: dict[str, CoinswarmError] = {}
    return Observation(
        namespace=workspace.namespace,
        memory=attempted(REDIS, lambda: workspace.with_memory(observe_memory), problems),
        ledger=attempted(LEDGER, lambda: observe_ledger(workspace.ledger, workspace.namespace), problems),
        problems=problems,
        observed_at=datetime.now(UTC),
    )


def attempted(what: str, look: Callable[[], Value], problems: dict[str, CoinswarmError]) -> Value | None:
    """What a look gives; None where a server is away or refuses, with the reason noted under `what`."""
    try:
        return look()
    except CoinswarmError as error:
        problems[what] = error
    except RedisError as error:
        problems[what] = CoinswarmError(f"Redis refused: {error}.", remedy="Look into the server's log.")
    return None


# --- Redis -----------------------------------------------------------------------------------------------------


async def observe_memory(mem: MemoryConnection, *, known: Tally | None = None, most: str | None = None) -> MemoryFacts:
    """What Redis holds.

    Parameters
    ----------
    known
        What lies in streams, where that was counted lately: it takes a look at all keys.
    most
        The source of most experiences, where that is known from a look before: these need not be counted one by one.

    Raises
    ------
    StoreUnavailableError
        Redis went away.
    AccessDeniedError
        The user may not ask.
    """
    counts = [await mem.semantic.counts(line=line) for line in await mem.semantic.current_lines()]
    return MemoryFacts(
        redis=await observe_redis(mem),
        encoder=await mem.encoders.current(),
        experiences=await mem.episodic.count_by_source(most=most),
        shared=await mem.shared.count(),
        semantic={kind: sum(count[kind.value] for count in counts) for kind in SemanticType},
        tally=await tally(mem.link, mem.keys) if known is None else known,
        dead_letters=await mem.dead_letters.count(),
        dead_letters_received=await mem.dead_letters.received(),
        indexes=await _indexes(mem),
        fencing_token=await mem.fence.highest(),
        freshness=await mem.freshness(),
    )


async def observe_redis(mem: MemoryConnection) -> RedisState:
    """The server, by INFO, MODULE LIST and TIME; only its address where the user may not ask."""
    before = datetime.now(UTC)
    there = await server_time(mem)
    skew = max(before - there, there - datetime.now(UTC)).total_seconds()
    try:
        answer = await mem.link.execute("INFO", "server", "memory", "persistence", "stats", "cluster")
        modules = await mem.link.execute("MODULE", "LIST")
    except AccessDeniedError:
        return RedisState(address=mem.link.address, clock_skew_s=max(skew, 0.0))
    info, facts = sections(answer), redis_facts(answer, modules, 0)
    return RedisState(
        address=mem.link.address,
        version=_dotted(facts.version),
        search_version=_dotted(facts.search_version or ()),
        used_bytes=int(info["used_memory"]),
        limit_bytes=int(info["maxmemory"]),
        policy=facts.maxmemory_policy,
        evicted=int(info["evicted_keys"]),
        append_only=facts.append_only,
        clock_skew_s=max(skew, 0.0),
    )


async def _indexes(mem: MemoryConnection) -> list[IndexState]:
    """All indexes; those of a pair of agent and product have the layout of the index that they are a part of."""
    layouts = {schema.name: schema.layout for schema in await mem.episodic.schemas()}
    found = []
    for index in await mem.indexes.health():
        main = max((name for name in layouts if index.name == name or index.name.startswith(f"{name}:")), default=None)
        layout = "single" if main is None else layouts[main]
        found.append(IndexState(index.name, index.documents, index.failures, index.building, index.bytes, layout))
    return found


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# --- Postgres --------------------------------------------------------------------------------------------------


def observe_ledger(ledger: Ledger, namespace: str) -> LedgerFacts:
    """What the ledger holds of a namespace; some twenty queries.

    Raises
    ------
    StoreUnavailableError
        Postgres went away.
    """
    revision = ledger.schema_revision
    with ledger.transaction() as session:
        version: str = session.execute(sa.text("SHOW server_version")).scalar_one()
        lines = ledger.lines.list(namespace)
        states = [status for line in lines for status in ledger.windows.list(line.line)]
        fed = {line.line for line in lines if line.state == "LIVE"}
        holder = ledger.fence.holder(namespace)
        archive = ledger.sizes.archive(namespace)
        return LedgerFacts(
            address=ledger.display_url,
            version=version.partition(" ")[0],
            revision=revision,
            size_bytes=ledger.sizes.ledger_bytes(),
            lines=lines,
            windows=sorted({state.window for state in states if state.generation is not None}),
            stale=sorted({each.window for each in states if each.line in fed and each.stale_since is not None}),
            sealed=sorted({each.window for each in states if each.line in fed and each.sealed_since is not None}),
            flows=_flows(ledger, namespace),
            fencing_token=0 if holder is None else holder.token,
            holder=None if holder is None or holder.released or holder.left_behind else holder,
            benchmark=ledger.benchmarks.recent(namespace, units=RETRIEVAL_UNITS, runs=1),
            archive_files=archive.files,
            archive_bytes=archive.bytes,
        )


def _flows(ledger: Ledger, namespace: str) -> dict[str, FlowState]:
    succeeded, failed = ledger.runs.latest(namespace, SUCCEEDED), ledger.runs.latest(namespace, FAILED, DEAD)
    counts = ledger.runs.counts(namespace)
    return {
        flow: FlowState(
            flow=flow,
            last=last,
            succeeded=succeeded.get(flow),
            failed=failed.get(flow),
            runs=counts.get(flow, {}),
            regular=runs_regularly(ledger, namespace, flow) if flow in ROUTINE else None,
        )
        for flow, last in ledger.runs.latest(namespace).items()
    }


def runs_regularly(ledger: Ledger, namespace: str, flow: str) -> bool:
    """Whether a flow ran by a rhythm when it last succeeded, so that it is missed when it does not run.

    Its last two days with a success lie at most `ROUTINE_DAYS` apart, and what it worked on was as young: a replay of
    history works on windows that ended long ago, however often it is repeated.
    """
    succeeded = ledger.runs.list(namespace, flow=flow, status=SUCCEEDED, limit=_ROUTINE_RUNS)
    young = timedelta(days=ROUTINE_DAYS)
    days = {
        run.started_at.astimezone(UTC).date()
        for run in succeeded
        if run.window is None or run.started_at - run.window.end <= young
    }
    last, before = [*sorted(days, reverse=True), None, None][:2]
    return last is not None and before is not None and last - before <= young
