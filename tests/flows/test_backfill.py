"""A back-fill ends in the knowledge of nights run one by one, in whatever order, pieces and attempts it was done."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

import memory
from flows.backfill import Parameters, backfill
from flows.consolidate_memories import Parameters as ConsolidateParameters
from flows.consolidate_memories import consolidate_memories
from flows.update_transitions import Parameters as TransitionParameters
from flows.update_transitions import update_transitions
from memory.errors import MarketDataError
from memory.learning.clustering import MarketStateClusterer
from memory.ledger import Ledger
from memory.records import REGIMES, Action, EpisodicMemory, Regime, Side, to_ms
from memory.settings import Settings
from memory.window import Window, windows_between
from tasks.backfill_plan import plan_backfill
from tasks.backfilling import BackfillIncompleteError
from tasks.progress import STEPS_LOGGER
from tasks.workspace import open_workspace

pytestmark = pytest.mark.usefixtures("prefect_server")

DAYS = [dt.date(2021, 6, 17) + dt.timedelta(days=number) for number in range(3)]
SIZES = {day: 320 + number for number, day in enumerate(DAYS)}
"""States of each day; no two days have as many, which tells them apart."""
ENCODER = "enc"


def lived(day: dt.date) -> list[EpisodicMemory]:
    """One agent's minutes of a day: now around one place, now around another, the same two on all days."""
    centres = np.random.default_rng(0).standard_normal((2, 256))
    rng = np.random.default_rng(day.toordinal())
    start = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
    prices = 100 * np.exp(np.cumsum(rng.standard_normal(SIZES[day]) * 5e-4))
    found = []
    for minute, price in enumerate(prices):
        vector = centres[minute // 10 % 2] + 0.3 * rng.standard_normal(256)
        at = start + dt.timedelta(minutes=minute)
        found.append(
            EpisodicMemory(
                agent_id="scout",
                timestamp=at,
                state_vector=(vector / np.linalg.norm(vector)).astype(np.float32),
                action=Action(Side.BUY, 0.5),
                reward=float(rng.standard_normal() * 1e-4),
                product_id="BTC-USD",
                regime=Regime(REGIMES[0]),
                encoder_id=ENCODER,
                source="replay",
                run_id="r",
                known_at=at + dt.timedelta(minutes=1),
                price=float(price),
            )
        )
    return found


def fill(namespace: str, servers: Any, days: Sequence[dt.date] = DAYS) -> None:
    async def store() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            for day in days:
                report = await mem.episodic.add_many(lived(day))
                assert len(report.stored) == SIZES[day]

    asyncio.run(store())


def digests(namespace: str, servers: Any) -> tuple[str, str]:
    """Digest of all knowledge in the ledger and in Redis."""

    async def semantic() -> str:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return await mem.semantic.digest()

    with Ledger.open(servers.database_url) as ledger:
        return ledger.digest(namespace).digest, asyncio.run(semantic())


def run_night(namespace: str, day: dt.date) -> None:
    consolidate_memories(ConsolidateParameters(namespace=namespace, date=day))
    update_transitions(TransitionParameters(namespace=namespace, date=day))


@pytest.fixture(scope="module")
def night_by_night(servers: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Digests of all days, each consolidated by a night of its own, in order."""
    assert prefect_server
    namespace = f"t-nights-{uuid.uuid4().hex[:8]}"
    fill(namespace, servers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COINSWARM_HOME", str(tmp_path_factory.mktemp("nights")))
        patch.setenv("COINSWARM_REDIS_URL", servers.redis_url)
        patch.setenv("COINSWARM_DATABASE_URL", servers.database_url)
        for day in DAYS:
            run_night(namespace, day)
    return digests(namespace, servers)


@contextmanager
def on_announcement(text: str, call: Callable[[], None]) -> Iterator[None]:
    """Call a function when a run announces something with a text in it, in the thread that does; once."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nonlocal waiting
            if waiting and text in record.getMessage():
                waiting = False
                call()

    waiting, logger, listener = True, logging.getLogger(STEPS_LOGGER), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
    assert not waiting, f"nothing was announced with {text!r}"


def test_a_range_some_windows_at_once_ends_in_the_knowledge_of_its_nights_one_by_one(
    configured: str, servers: Any, night_by_night: tuple[str, str]
) -> None:
    fill(configured, servers)
    last = DAYS[-1] + dt.timedelta(days=1)
    planned = backfill(Parameters(namespace=configured, first=DAYS[0], last=last, dry_run=True))
    assert [row["plan"] for row in planned["windows"]] == ["new", "new", "new", "empty"]
    with Ledger.open(servers.database_url) as ledger:
        assert ledger.lines.list(configured) == []

    done = backfill(Parameters(namespace=configured, first=DAYS[0], last=last, parallel=2))
    assert digests(configured, servers) == night_by_night
    assert (done["done"], done["empty"], done["failed"]) == (3, 1, 0)
    assert [row["states"] for row in done["windows"]] == [*SIZES.values(), 0]
    assert done["patterns"] > 0
    assert done["windows_folded"] == len(DAYS)


@pytest.mark.slow
def test_two_worker_processes_of_a_dask_cluster_end_in_the_knowledge_of_threads(
    configured: str, servers: Any, night_by_night: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(configured, servers)

    def not_here(*_: Any, **__: Any) -> None:
        raise AssertionError("clustered in the flow's own process")

    monkeypatch.setattr(MarketStateClusterer, "fit", not_here)
    monkeypatch.setenv("COINSWARM_TASK_RUNNER", "dask")
    monkeypatch.setenv("COINSWARM_TASK_WORKERS", "2")
    assert backfill(Parameters(namespace=configured, first=DAYS[0], last=DAYS[-1]))["done"] == len(DAYS)
    assert digests(configured, servers) == night_by_night


#: Runs a back-fill of all days, one window a chunk, and kills itself as the kernel would when the second is announced.
DRIVER = """
import json, logging, os, signal, sys
wanted = json.loads(sys.argv[1])
from flows.backfill import Parameters, backfill
from tasks.progress import STEPS_LOGGER
from tasks.workspace import open_workspace

class Listener(logging.Handler):
    def emit(self, record):
        if wanted["until"] in record.getMessage():
            os.kill(os.getpid(), signal.SIGKILL)

logging.getLogger(STEPS_LOGGER).addHandler(Listener())
logging.getLogger(STEPS_LOGGER).setLevel(logging.INFO)
backfill(Parameters(**wanted["parameters"]))
"""


def killed_backfill(namespace: str, until: str, flow_processes: Any) -> None:
    """A back-fill in a process of its own that is killed at an announcement."""
    given = {"namespace": namespace, "first": DAYS[0].isoformat(), "last": DAYS[-1].isoformat(), "parallel": 1}
    code, said = flow_processes.run(DRIVER, {"parameters": given, "until": until}, COINSWARM_LEASE_S="2")
    assert code == -signal.SIGKILL, said


@pytest.mark.slow
def test_killed_in_the_middle_with_a_night_in_between_it_goes_on_and_ends_in_the_same_knowledge(
    configured: str,
    servers: Any,
    flow_processes: Any,
    night_by_night: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(configured, servers)
    monkeypatch.setenv("COINSWARM_BACKFILL_CHUNK", "1")
    killed_backfill(configured, f"{DAYS[1]} (2 of 3)", flow_processes)
    # A night that comes before the back-fill is started again folds what there is.
    run_night(configured, DAYS[2])

    again = backfill(Parameters(namespace=configured, first=DAYS[0], last=DAYS[-1]))
    assert digests(configured, servers) == night_by_night
    assert again["skipped"] == len(DAYS)
    with Ledger.open(servers.database_url) as ledger:
        assert sorted(run.status for run in ledger.runs.list(configured, flow="backfill")) == ["DEAD", "SUCCEEDED"]


def test_a_night_that_waits_passes_between_two_chunks(
    configured: str, servers: Any, night_by_night: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(configured, servers)
    monkeypatch.setenv("COINSWARM_BACKFILL_CHUNK", "1")
    monkeypatch.setenv("COINSWARM_TASK_WORKERS", "1")
    passed: list[str] = []

    def other_run() -> None:
        with Ledger.open(servers.database_url) as ledger:
            run_id = ledger.runs.start("nightly", configured, {}, lease_s=60)
            token = ledger.fence.acquire(configured, run_id, flow="nightly", lease_s=60, wait_s=60)
            (line,) = ledger.lines.list(configured)
            passed.extend(window.name for window, _ in ledger.windows.with_current(line.line))
            ledger.fence.release(token)
            ledger.runs.finish(run_id, {})

    other = threading.Thread(target=other_run)
    # The chunk is over, and still holds the namespace.
    with on_announcement("(1 of 3)", other.start):
        backfill(Parameters(namespace=configured, first=DAYS[0], last=DAYS[-1]))
    other.join()
    assert passed == [DAYS[0].isoformat()]
    assert digests(configured, servers) == night_by_night


def test_a_window_that_fails_is_named_after_the_others_were_published_and_the_next_attempt_does_it_alone(
    configured: str, servers: Any, night_by_night: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(configured, servers)
    fit, clustered = MarketStateClusterer.fit, []

    def failing_fit(self: MarketStateClusterer, vectors: Any, **options: Any) -> MarketStateClusterer:
        clustered.append(len(vectors))
        if len(vectors) == SIZES[DAYS[1]] and clustered.count(len(vectors)) == 1:
            raise RuntimeError("a defect of the second day")
        return fit(self, vectors, **options)

    monkeypatch.setattr(MarketStateClusterer, "fit", failing_fit)
    parameters = Parameters(namespace=configured, first=DAYS[0], last=DAYS[-1])
    with pytest.raises(BackfillIncompleteError, match=f"1 of 3 windows failed, first {DAYS[1]}: .*a defect"):
        backfill(parameters)
    with Ledger.open(servers.database_url) as ledger:
        (line,) = ledger.lines.list(configured)
        folded = {checkpoint.window.start.date() for checkpoint in ledger.folds.checkpoints(line.line, "patterns")}
    assert folded == {DAYS[0], DAYS[2]}

    clustered.append(SIZES[DAYS[1]])
    again = backfill(parameters)
    assert (again["done"], again["skipped"]) == (1, 2)
    assert digests(configured, servers) == night_by_night


def lose(namespace: str, day: dt.date, servers: Any) -> None:
    """Take all that Redis and the archive hold of a day."""
    with redis.Redis.from_url(servers.redis_url) as server:
        found = asyncio.run(_keys(namespace, day, servers))
        assert len(found) == SIZES[day]
        server.unlink(*found)
    archive = Path(Settings().archive_location.removeprefix("file://"))
    files = [path for path in archive.rglob("*.parquet") if day.isoformat() in str(path)]
    assert files
    for path in files:
        path.unlink()


async def _keys(namespace: str, day: dt.date, servers: Any) -> list[str]:
    window = Window.of_date(day)
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        return [
            f"{namespace}:episodic:{item.agent_id}:{item.product_id}:{to_ms(item.timestamp)}:{item.memory_id}"
            async for page in mem.episodic.read_window(window.start, window.end)
            for item in page
        ]


def test_late_records_other_settings_and_lost_input_are_each_found_and_named(
    configured: str, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(last: dt.date) -> list[str]:
        with open_workspace(configured) as workspace:
            windows = list(windows_between(DAYS[0], last))
            return [planned.describe() for planned in plan_backfill(workspace, windows, None)]

    async def store(late: EpisodicMemory) -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
            await mem.episodic.add(late)

    fill(configured, servers, DAYS[:2])
    backfill(Parameters(namespace=configured, first=DAYS[0], last=DAYS[1]))
    assert plan(DAYS[1]) == ["consolidated", "consolidated"]
    late = lived(DAYS[0])[0]
    late.agent_id = "latecomer"
    asyncio.run(store(late))
    assert plan(DAYS[1]) == ["late records", "consolidated"]
    monkeypatch.setenv("COINSWARM_COST_BP", "5")
    assert plan(DAYS[0]) == ["other settings", "other settings, beside the range"]

    lose(configured, DAYS[1], servers)
    done = backfill(Parameters(namespace=configured, first=DAYS[0], last=DAYS[0]))
    assert [row["outcome"] for row in done["windows"]] == ["done", "sealed"]
    assert "Redis no longer holds all of it" in done["windows"][1]["reason"]
    assert plan(DAYS[1]) == ["consolidated", "sealed"]


def test_a_market_is_replayed_in_windows_that_are_not_consolidated_and_of_which_it_has_candles(
    configured: str,
) -> None:
    range_ = {"namespace": configured, "first": dt.date(2021, 7, 10), "last": dt.date(2021, 7, 11)}
    given = {**range_, "record": True, "products": ["BTC-USDT"]}
    done = backfill(Parameters(**given))
    assert [row["outcome"] for row in done["windows"]] == ["done", "empty"]
    assert done["recorded"] == done["experiences"] > 0
    again = backfill(Parameters(**given))
    assert (again["skipped"], again["recorded"]) == (1, 0)
    with pytest.raises(MarketDataError, match="nowhere"):
        backfill(Parameters(**given, market="nowhere"))
