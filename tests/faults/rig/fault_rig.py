"""What the tests hold in their hands: a night, servers that can be struck, runs of flows against them, and digests."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import itertools
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fault_child
import pytest
import redis
from fault_moments import Moment
from fault_run import Outcome, Run, wait_for

import memory
from agents.fitting import default_encoder
from memory import embedded
from memory.embedded.service import RESTART_PERIOD_S, RESTARTS_ALLOWED
from memory.errors import CoinswarmError
from memory.ledger import Ledger
from memory.records import EpisodicMemory
from memory.window import Window
from tasks.recording import register_encoder

LEASE_S = 2.0
"""Lease of the runs: a stopped one is overtaken after so long."""
AGENTS = ("breakout", "random")
"""Whose night it is."""
WORK = (("consolidate", 0), ("consolidate", 1), ("transitions", 1))
"""What is run, in order: flows, and the day of each."""


@dataclass(frozen=True)
class Calm:
    """What the night ends in when nothing disturbs it.

    Attributes
    ----------
    first, both, whole
        Digests (ledger, Redis) after the first day was consolidated, after both were, after all of `WORK`.
    events, seconds
        How many events each run of `WORK` has, and how long it takes.
    namespace
        Where all of that is still to be found.
    """

    first: tuple[str, str]
    both: tuple[str, str]
    whole: tuple[str, str]
    events: tuple[int, ...]
    seconds: tuple[float, ...]
    namespace: str


@dataclass(frozen=True)
class Night:
    """A few hours of two days as two agents lived through them, in one product."""

    days: tuple[dt.date, dt.date]
    product: str
    lived: tuple[EpisodicMemory, ...]

    def of(self, *, agents: tuple[str, ...] | None = None, until: dt.time | None = None) -> list[EpisodicMemory]:
        """What some agents lived through, on each day until a time."""
        return [
            item
            for item in self.lived
            if (agents is None or item.agent_id in agents) and (until is None or item.timestamp.time() < until)
        ]


class Rig:
    """One home with servers of its own, and runs against them.

    Parameters
    ----------
    quiet
        Variables that every run has: where Prefect is, and how much it says.
    """

    def __init__(
        self, home: Path, endpoints: embedded.Endpoints, night: Night, folder: Path, quiet: dict[str, str]
    ) -> None:
        assert endpoints.redis_url is not None
        assert endpoints.database_url is not None
        self.home = home
        self.redis_url = endpoints.redis_url
        self.database_url = endpoints.database_url
        self.night = night
        self.folder = folder
        self.quiet = quiet
        self._context = multiprocessing.get_context("forkserver")
        self._logs = itertools.count()
        self._runs: list[Run] = []
        self._deaths: dict[str, deque[float]] = {}

    # --- runs --------------------------------------------------------------------------------------------------

    def start(
        self,
        flow: str,
        namespace: str,
        day: int,
        *,
        moment: Moment | None = None,
        action: str = "kill",
        removed: tuple[str, ...] = (),
        date: dt.date | None = None,
        environment: dict[str, str] | None = None,
        algorithm: str | None = None,
        disk: int | None = None,
        **parameters: Any,
    ) -> Run:
        """Begin a run of a flow on one of the two days (or another date); see `fault_child.Job`."""
        log = self.folder / f"run-{next(self._logs)}.log"
        ours, theirs = self._context.Pipe()
        job = fault_child.Job(
            flow=flow,
            namespace=namespace,
            date=date or self.night.days[day],
            environment=self.environment(namespace) | (environment or {}),
            log=str(log),
            moment=moment,
            action=action,
            removed=removed,
            parameters=parameters,
            algorithm=algorithm,
            disk=disk,
        )
        process = self._context.Process(target=fault_child.main, args=(job, theirs))
        process.start()
        theirs.close()
        run = Run(process, ours, log)
        self._runs.append(run)
        run.until_begun()
        return run

    def run(self, flow: str, namespace: str, day: int, **options: Any) -> Outcome:
        """A run from its beginning to its end."""
        return self.start(flow, namespace, day, **options).end()

    def close_runs(self) -> None:
        """End all runs that were begun."""
        while self._runs:
            self._runs.pop().close()

    def environment(self, namespace: str) -> dict[str, str]:
        """Variables of a run: each namespace has a home, and in it an archive, of its own."""
        return {
            "COINSWARM_HOME": str(self.folder / namespace),
            "COINSWARM_REDIS_URL": self.redis_url,
            "COINSWARM_DATABASE_URL": self.database_url,
            "COINSWARM_NAMESPACE": namespace,
            "COINSWARM_LEASE_S": str(LEASE_S),
            "COINSWARM_LOCK_WAIT_S": "30",
        }

    def archive_of(self, namespace: str) -> Path:
        """Folder in which the windows of a namespace are archived."""
        return self.folder / namespace / "archive"

    def with_ledger(self, database_url: str) -> Rig:
        """The same rig with its ledger elsewhere."""
        other = copy.copy(self)
        other.database_url = database_url
        return other

    # --- what is stored ----------------------------------------------------------------------------------------

    def fill(self, namespace: str, items: list[EpisodicMemory] | None = None) -> None:
        """Put experiences into a namespace, as a recording does: the whole night where none are given."""

        async def add() -> None:
            async with memory.connect(redis_url=self.redis_url, namespace=namespace) as mem:
                await register_encoder(mem, default_encoder())
                report = await mem.episodic.add_many(list(self.night.lived) if items is None else items)
                assert len(report.stored) == len(self.night.lived if items is None else items)

        asyncio.run(add())

    def digests(self, namespace: str, line: str | None = None) -> tuple[str, str]:
        """Digests of all knowledge in the ledger and in Redis, or of that of one line."""

        async def held() -> str:
            async with memory.connect(redis_url=self.redis_url, namespace=namespace) as mem:
                return await mem.semantic.digest(line=line)

        with Ledger.open(self.database_url) as ledger:
            return ledger.digest(namespace, None if line is None else [line]).digest, asyncio.run(held())

    def ask(self, namespace: str, question: Callable[[memory.MemoryConnection], Any]) -> Any:
        """The answer of a memory to a coroutine function."""

        async def call() -> Any:
            async with memory.connect(redis_url=self.redis_url, namespace=namespace) as mem:
                return await question(mem)

        return asyncio.run(call())

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger."""
        with Ledger.open(self.database_url) as opened:
            yield opened

    def progress(self, namespace: str, day: int) -> tuple[bool, bool, bool]:
        """Whether a day has a generation, is folded, and is noted as published."""
        window = Window.of_date(self.night.days[day])
        with Ledger.open(self.database_url) as ledger:
            lines = ledger.lines.list(namespace)
            if not lines:
                return False, False, False
            line = lines[0].line
            folds = [
                {checkpoint.window for checkpoint in ledger.folds.checkpoints(line, kind)}
                for kind in ("patterns", "published-knowledge")
            ]
            committed = ledger.windows.current_generation(line, window) is not None
            return committed, window in folds[0], window in folds[1]

    def known_to_redis(self, namespace: str) -> list[str]:
        """Names of all keys that hold knowledge of a namespace."""
        with redis.Redis.from_url(self.redis_url) as server:
            return sorted(name.decode() for name in server.scan_iter(match=f"{namespace}:semantic*", count=5000))

    # --- servers -----------------------------------------------------------------------------------------------

    def pid_of(self, server: str) -> int:
        """Process of `redis` or `postgres`."""
        (pid,) = [found.pid for found in embedded.home_status(self.home).servers if found.name == server]
        assert pid is not None
        return pid

    def kill(self, server: str) -> None:
        """End a server as the kernel would; its supervisor starts it again. Returns when it answers again."""
        before = self.pid_of(server)
        self.strike(server)
        wait_for(lambda: not Path(f"/proc/{before}").exists(), f"{server} to die")
        self.until_up()

    def strike(self, server: str) -> None:
        """End a server as the kernel would, and return at once."""
        self._deaths.setdefault(server, deque(maxlen=RESTARTS_ALLOWED - 1)).append(time.monotonic())
        os.kill(self.pid_of(server), signal.SIGKILL)

    def rest(self) -> None:
        """Wait until each server may be struck again: a supervisor gives up one that dies too often."""
        for deaths in self._deaths.values():
            if len(deaths) == deaths.maxlen:
                time.sleep(max(0.0, deaths[0] + RESTART_PERIOD_S - time.monotonic()))

    def until_up(self) -> None:
        """Wait until both servers answer."""
        wait_for(self._answer, "the servers to come back")

    def configure_redis(self, **settings: str) -> None:
        """Change settings of Redis; a restart of it forgets them."""
        with redis.Redis.from_url(self.redis_url) as server:
            for name, value in settings.items():
                server.config_set(name, value)

    def empty_redis(self, namespace: str) -> None:
        """Take everything of a namespace out of Redis."""
        with redis.Redis.from_url(self.redis_url) as server:
            keys = list(server.scan_iter(match=f"{namespace}:*", count=5000))
            assert keys
            server.unlink(*keys)

    def _answer(self) -> bool:
        try:
            with redis.Redis.from_url(self.redis_url, socket_timeout=2) as server:
                server.ping()
            with Ledger.open(self.database_url) as ledger:
                ledger.lines.list("t-nobody")
        except (redis.RedisError, CoinswarmError, OSError):
            return False
        return True


@contextmanager
def proof(removed: tuple[str, ...]) -> Iterator[None]:
    """What the block asserts holds; with a safeguard removed it must not, or the test proves nothing."""
    if not removed:
        yield
        return
    with pytest.raises(AssertionError):
        yield
