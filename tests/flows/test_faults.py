"""Runs that are killed, overtaken or robbed of Redis: doing it again ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import sqlalchemy as sa

import memory
from flows.update_transitions import Parameters as TransitionParameters
from flows.update_transitions import update_transitions
from memory import embedded
from memory.embedded.session import Endpoints
from memory.errors import NamespaceBusyError
from memory.learning.clustering import MarketStateClusterer
from memory.ledger import Ledger
from memory.ledger.models import StagedSummary
from memory.records import SemanticType
from memory.window import Window
from tasks.consolidation import PATTERNS

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

SHORT_LEASE_S = 2.0
DRIVER_TIMEOUT_S = 120


# --- a process that is killed ----------------------------------------------------------------------------------

#: Runs a flow, and kills itself as the kernel would: when a step has ended (a name on its own), or right before the
#: n-th statement to the ledger of a kind within a step. Steps are what flows announce through their logger.
DRIVER = """
import json, logging, os, re, signal, sys
wanted = json.loads(sys.argv[1])
import sqlalchemy as sa
from flows.consolidate_memories import Parameters, consolidate_memories
from tasks.progress import STEPS_LOGGER

step, seen = "", 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Listener(logging.Handler):
    def emit(self, record):
        global step
        name = record.getMessage().partition(":")[0]
        if not record.finished:
            step = name
        elif name == wanted["step"] and wanted["statement"] is None:
            die()

def before(connection, cursor, statement, parameters, context, many):
    global seen
    if step == wanted["step"] and wanted["statement"] and re.match(wanted["statement"], statement):
        seen += 1
        if seen == wanted["number"]:
            die()

logging.getLogger(STEPS_LOGGER).addHandler(Listener())
logging.getLogger(STEPS_LOGGER).setLevel(logging.INFO)
sa.event.listen(sa.Engine, "before_cursor_execute", before)
parameters = Parameters(namespace=wanted["namespace"], date=wanted["date"])
print("ready", flush=True)
sys.stdin.readline()
consolidate_memories(parameters)
"""


@dataclass(frozen=True)
class Moment:
    """When a run of the second day is killed, and how far its work must have come by then."""

    step: str
    statement: str | None = None
    number: int = 1
    committed: bool = False
    folded: bool = False
    published: bool = False

    def __str__(self) -> str:
        return f"in {self.step}" if self.statement else f"after {self.step}"


MOMENTS = (
    Moment("archive"),
    Moment("cluster", statement="INSERT INTO .*[^_]summaries", number=3),
    Moment("cluster"),
    Moment("commit", committed=True),
    Moment("fold", statement="INSERT INTO .*patterns", committed=True),
    Moment("fold", committed=True, folded=True),
    Moment("publish", statement="INSERT INTO .*fold_checkpoints", committed=True, folded=True, published=True),
    Moment("publish", committed=True, folded=True, published=True),
)


class Doomed:
    """A process that runs a consolidation of a day until its moment has come."""

    def __init__(self, namespace: str, day: dt.date, moment: Moment, servers: Any, prefect_server: str) -> None:
        wanted = {
            "namespace": namespace,
            "date": day.isoformat(),
            "step": moment.step,
            "statement": moment.statement,
            "number": moment.number,
        }
        prefect = embedded.prefect_environment(servers.home, Endpoints(None, None, prefect_server))
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **prefect,
                "COINSWARM_LEASE_S": str(SHORT_LEASE_S),
                "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            },
        )

    def run(self) -> None:
        """Let it run, and see it killed."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]
        _, errors = self.process.communicate("go\n", timeout=DRIVER_TIMEOUT_S)
        assert self.process.returncode == -signal.SIGKILL, errors

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True)
class Progress:
    """How far a day has come."""

    committed: bool
    folded: bool
    published: bool
    staged_patterns: int


def progress(namespace: str, day: dt.date, servers: Any) -> Progress:
    window = Window.of_date(day)
    with Ledger.open(servers.database_url) as ledger:
        (record,) = ledger.lines.list(namespace)
        with ledger.transaction() as session:
            staged = session.scalar(
                sa.select(sa.func.count()).where(
                    StagedSummary.line == record.line, StagedSummary.window == window, StagedSummary.kind == PATTERNS
                )
            )
        committed = ledger.windows.current_generation(record.line, window) is not None
        folded = any(checkpoint.window == window for checkpoint in ledger.folds.checkpoints(record.line, PATTERNS))

    async def newest() -> dt.datetime:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return max(known.valid_from for known in await mem.semantic.current(SemanticType.STRATEGY))

    return Progress(committed, folded, asyncio.run(newest()) >= window.end, staged or 0)


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_killed_consolidation_is_taken_up_where_it_stopped_and_ends_in_the_same_knowledge(
    moment: Moment,
    configured: str,
    servers: Any,
    prefect_server: str,
    nights: Any,
    undisturbed: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doomed = Doomed(configured, nights.second, moment, servers, prefect_server)
    try:
        nights.fill(configured, servers)
        nights.consolidate(configured, nights.first)
        doomed.run()
    finally:
        doomed.end()

    reached = progress(configured, nights.second, servers)
    assert (reached.committed, reached.folded, reached.published) == (
        moment.committed,
        moment.folded,
        moment.published,
    )
    with Ledger.open(servers.database_url) as ledger:
        dead = ledger.runs.last(configured, "consolidate_memories")
        assert dead is not None
        assert dead.status == "RUNNING"  # it could not say that it died

    clustered: list[int] = []
    fit = MarketStateClusterer.fit

    def counting_fit(self: MarketStateClusterer, vectors: Any, **options: Any) -> MarketStateClusterer:
        clustered.append(len(vectors))
        return fit(self, vectors, **options)

    monkeypatch.setattr(MarketStateClusterer, "fit", counting_fit)
    again = nights.consolidate(configured, nights.second)

    assert nights.digests(configured, servers) == undisturbed
    assert len(clustered) == progress(configured, nights.second, servers).staged_patterns - reached.staged_patterns
    with Ledger.open(servers.database_url) as ledger:
        found = ledger.runs.get(dead.run_id)
        assert found is not None
        assert found.status == "DEAD"
        living = ledger.runs.get(again["run_id"])
        assert living is not None
        assert living.status == "SUCCEEDED"
        holder = ledger.fence.holder(configured)
        assert holder is not None
        assert (holder.run_id, holder.released) == (again["run_id"], True)


# --- two at once -----------------------------------------------------------------------------------------------


@contextmanager
def holding(namespace: str, servers: Any) -> Iterator[Callable[[], bool]]:
    """Another run holds the namespace, until the function is called or the block ends."""
    with Ledger.open(servers.database_url) as ledger:
        run_id = ledger.runs.start("consolidate_memories", namespace, {}, lease_s=60)
        token = ledger.fence.acquire(namespace, run_id, flow="consolidate_memories", lease_s=60)
        yield lambda: ledger.fence.release(token)
        ledger.fence.release(token)
        ledger.runs.finish(run_id, {})


def test_a_consolidation_that_may_not_wait_fails_and_names_the_run_that_holds_the_namespace(
    configured: str, servers: Any, nights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.fill(configured, servers)
    monkeypatch.setenv("COINSWARM_LOCK_WAIT_S", "0")
    with holding(configured, servers):
        with Ledger.open(servers.database_url) as ledger:
            holder = ledger.fence.holder(configured)
        assert holder is not None
        with pytest.raises(NamespaceBusyError, match=holder.run_id):
            nights.consolidate(configured, nights.first)
    assert nights.consolidate(configured, nights.first)["experiences"] == nights.filled


def test_a_consolidation_waits_for_the_one_before_it_longer_than_its_own_lease_and_is_not_taken_for_dead(
    configured: str, servers: Any, nights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.fill(configured, servers)
    monkeypatch.setenv("COINSWARM_LEASE_S", str(SHORT_LEASE_S))
    waited_s = 2 * SHORT_LEASE_S
    with holding(configured, servers) as release:
        timer = threading.Timer(waited_s, release)
        timer.start()
        begun = time.monotonic()
        result = nights.consolidate(configured, nights.first)
        assert time.monotonic() - begun >= waited_s
        timer.join()
    with Ledger.open(servers.database_url) as ledger:
        run = ledger.runs.get(result["run_id"])
    assert run is not None
    assert run.status == "SUCCEEDED"


def test_two_consolidations_of_one_window_at_once_end_in_the_knowledge_of_one(
    configured: str, servers: Any, prefect_server: str, nights: Any, undisturbed: tuple[str, str]
) -> None:
    nights.fill(configured, servers)
    nights.consolidate(configured, nights.first)
    others = [Doomed(configured, nights.second, Moment("never"), servers, prefect_server) for _ in range(2)]
    try:
        for other in others:
            assert other.process.stdout is not None
            assert other.process.stdout.readline() == "ready\n"
        for other in others:
            assert other.process.stdin is not None
            other.process.stdin.write("go\n")
            other.process.stdin.flush()
        for other in others:
            _, errors = other.process.communicate(timeout=DRIVER_TIMEOUT_S)
            assert other.process.returncode == 0, errors
    finally:
        for other in others:
            other.end()
    assert nights.digests(configured, servers) == undisturbed
    with Ledger.open(servers.database_url) as ledger:
        runs = ledger.runs.list(configured, flow="consolidate_memories", window=Window.of_date(nights.second))
        assert [run.status for run in runs] == ["SUCCEEDED", "SUCCEEDED"]
        (record,) = ledger.lines.list(configured)
        assert len(ledger.windows.generations(record.line, Window.of_date(nights.second))) == 1


# --- Redis that lost everything --------------------------------------------------------------------------------


def test_knowledge_comes_back_from_the_ledger_after_redis_lost_all_keys(
    configured: str, servers: Any, nights: Any
) -> None:
    nights.fill(configured, servers)
    for day in (nights.first, nights.second):
        nights.consolidate(configured, day)
        update_transitions(TransitionParameters(namespace=configured, date=day))
    before = nights.digests(configured, servers)
    with redis.Redis.from_url(servers.redis_url) as server:
        keys = list(server.scan_iter(match=f"{configured}:*", count=5000))
        assert len(keys) > 2 * nights.filled
        server.unlink(*keys)
    assert asyncio.run(nights.semantic_digest(configured, servers)) != before[1]
    nights.consolidate(configured, nights.second)
    update_transitions(TransitionParameters(namespace=configured, date=nights.second))
    assert nights.digests(configured, servers) == before
