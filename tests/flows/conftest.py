"""Two short nights that flows can be tried on, and processes that run flows and may be killed."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import memory
from agents.baselines import baseline_agents
from agents.fitting import default_encoder
from agents.market import Market
from agents.simulation import simulate
from memory import embedded
from memory.embedded.session import Endpoints
from memory.ledger import Ledger
from memory.records import EpisodicMemory
from tasks.recording import register_encoder

FIRST, SECOND = dt.date(2021, 6, 17), dt.date(2021, 6, 18)
PRODUCT = "BTC-USDT"
OBSERVERS = ("breakout", "random")
"""Agents whose experiences are consolidated: two see the same states as five, and are stored sooner."""


#: Imports what flows need once, and forks a process for each program that it is told; says how each ended.
HOST = """
import json, os, sys, traceback
import flows.backfill, flows.reindex_memory

print("ready", flush=True)
for line in sys.stdin:
    told = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 0
        log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ.clear()
        os.environ.update(told["environment"])
        sys.argv = ["-c", *told["arguments"]]
        try:
            exec(compile(told["program"], "<program>", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
PROCESS_TIMEOUT_S = 120


@dataclass(frozen=True)
class FlowProcesses:
    """Runs programs in processes of their own, each a copy of one that has imported the flows: that takes 4 s alone."""

    host: subprocess.Popen[str]
    prefect: dict[str, str]
    folder: Path

    def run(self, program: str, told: dict[str, Any], **environment: str) -> tuple[int, str]:
        """Run a program that finds `told` in `sys.argv[1]` as JSON; its exit code, and the last that it wrote."""
        log = self.folder / f"{uuid.uuid4().hex}.log"
        quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
        order = {
            "program": program,
            "arguments": [json.dumps(told)],
            "environment": {**os.environ, **self.prefect, **quiet, **environment},
            "log": str(log),
        }
        assert self.host.stdin is not None
        print(json.dumps(order), file=self.host.stdin, flush=True)
        return int(self._answer()), log.read_text()[-2000:]

    def _answer(self) -> str:
        assert self.host.stdout is not None
        ready, _, _ = select.select([self.host.stdout], [], [], PROCESS_TIMEOUT_S)
        assert ready, f"nothing ended within {PROCESS_TIMEOUT_S} s"
        return self.host.stdout.readline().strip()


@pytest.fixture(scope="session")
def flow_processes(
    servers: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlowProcesses]:
    """Processes that run flows beside that of the tests, and may be killed."""
    prefect = embedded.prefect_environment(servers.home, Endpoints(None, None, prefect_server))
    host = subprocess.Popen(
        [sys.executable, "-c", HOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **prefect, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"},
        start_new_session=True,
    )
    with host:
        processes = FlowProcesses(host, prefect, tmp_path_factory.mktemp("flow-processes"))
        assert processes._answer() == "ready"
        yield processes
        os.killpg(host.pid, signal.SIGKILL)


SMALL_HOURS = 12
"""Of each day of the small world: 720 states, which are enough for a handful of patterns."""


@dataclass(frozen=True)
class SmallWorld:
    """Two short nights that were consolidated, with transitions, in a namespace and home of their own.

    Attributes
    ----------
    days
        The days; `end` is when the last of them ended.
    redis_digests
        Digest of all semantic memory after each of them.
    """

    namespace: str
    home: Path
    days: tuple[dt.date, ...]
    end: dt.datetime
    redis_digests: tuple[str, ...]
    servers: Any

    async def redis_digest(self, namespace: str) -> str:
        """Digest of all semantic memory of a namespace."""
        async with memory.connect(redis_url=self.servers.redis_url, namespace=namespace) as mem:
            return await mem.semantic.digest()

    async def line_digest(self, line: str) -> str:
        """Digest of one line in Redis."""
        async with memory.connect(redis_url=self.servers.redis_url, namespace=self.namespace) as mem:
            return await mem.semantic.digest(line=line)

    def digests(self) -> tuple[str, str]:
        """Digests of all knowledge in the ledger and in Redis."""
        with Ledger.open(self.servers.database_url) as ledger:
            return ledger.digest(self.namespace).digest, asyncio.run(self.redis_digest(self.namespace))


@cache
def small_experiences(
    day: dt.date, products: tuple[str, ...] = (PRODUCT,), hours: int = SMALL_HOURS
) -> tuple[EpisodicMemory, ...]:
    """What two agents live through in the first hours of a day; stored as often as one likes, and not to be changed."""
    market, agents = Market.sample("binance", products), [a for a in baseline_agents(0) if a.agent_id in OBSERVERS]
    start = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
    lived = simulate(market, start, start + dt.timedelta(days=1), agents, default_encoder()).experiences()
    return tuple(item for item in lived if item.timestamp < start + dt.timedelta(hours=hours))


async def record_small(
    namespace: str,
    redis_url: str,
    days: Sequence[dt.date],
    products: tuple[str, ...] = (PRODUCT,),
    hours: int = SMALL_HOURS,
) -> None:
    """Put what the two agents live through into a namespace, as a recording does."""
    async with memory.connect(redis_url=redis_url, namespace=namespace) as mem:
        await register_encoder(mem, default_encoder())
        experiences = [replace(item) for day in days for item in small_experiences(day, products, hours)]
        report = await mem.episodic.add_many(experiences)
        assert len(report.stored) == len(experiences)


@pytest.fixture(scope="session")
def consolidated_small(servers: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """The small world; use `small_world`, which is where its home and namespace are configured."""
    from flows.consolidate_memories import Parameters, consolidate_memories
    from flows.update_transitions import Parameters as TransitionParameters
    from flows.update_transitions import update_transitions

    assert prefect_server
    namespace, home = f"t-small-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("small")
    days = (FIRST, SECOND)
    world = SmallWorld(
        namespace, home, days, dt.datetime.combine(days[-1], dt.time(), tzinfo=dt.UTC) + dt.timedelta(1), (), servers
    )
    asyncio.run(record_small(namespace, servers.redis_url, days))
    digests = []
    with pytest.MonkeyPatch.context() as patch:
        _configure(patch, world)
        for day in days:
            consolidate_memories(Parameters(namespace=namespace, date=day))
            update_transitions(TransitionParameters(namespace=namespace, date=day))
            digests.append(asyncio.run(world.redis_digest(namespace)))
    return replace(world, redis_digests=tuple(digests))


@pytest.fixture
def small_world(consolidated_small: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    """Two short nights that were consolidated; a test that changes something undoes it."""
    _configure(monkeypatch, consolidated_small)
    return consolidated_small


@pytest.fixture
def small_world_digests(consolidated_small: SmallWorld, servers: Any) -> Callable[[], tuple[str, str]]:
    """Digests of the small world's one line, in the ledger and in Redis."""

    def read() -> tuple[str, str]:
        with Ledger.open(servers.database_url) as ledger:
            (record,) = ledger.lines.list(consolidated_small.namespace)
            digest = ledger.digest(consolidated_small.namespace, [record.line]).digest
        return digest, asyncio.run(consolidated_small.line_digest(record.line))

    return read


@pytest.fixture(scope="session")
def record(servers: Any) -> Callable[..., None]:
    """Records short days, as those of the small world, into a namespace; other products or hours where given."""

    def call(
        namespace: str, days: Sequence[dt.date], products: tuple[str, ...] = (PRODUCT,), hours: int = SMALL_HOURS
    ) -> None:
        asyncio.run(record_small(namespace, servers.redis_url, days, products, hours))

    return call


def _configure(patch: pytest.MonkeyPatch, world: SmallWorld) -> None:
    patch.setenv("COINSWARM_HOME", str(world.home))
    patch.setenv("COINSWARM_REDIS_URL", world.servers.redis_url)
    patch.setenv("COINSWARM_DATABASE_URL", world.servers.database_url)
    patch.setenv("COINSWARM_NAMESPACE", world.namespace)
