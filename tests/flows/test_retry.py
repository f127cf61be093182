"""A consolidation that failed half way resumes there, whoever starts it again and however."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from planted_partitions import SIZES, THIRD, lived
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry, Scheduled

import memory
from flows.consolidate_memories import Parameters, consolidate_memories
from memory.errors import StoreUnavailableError
from memory.learning.clustering import MarketStateClusterer
from memory.ledger import Ledger
from memory.window import Window
from tasks import consolidation

pytestmark = pytest.mark.usefixtures("prefect_server")

DAYS = [dt.date(2021, 6, 17) + dt.timedelta(days=number) for number in range(4)]


@pytest.fixture(scope="module")
def recorded(servers: Any) -> str:
    """A namespace with four days of experiences."""
    namespace = f"t-retry-{uuid.uuid4().hex[:12]}"

    async def store() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            for day in DAYS:
                report = await mem.episodic.add_many(lived(day))
                assert len(report.stored) == sum(SIZES)

    asyncio.run(store())
    return namespace


@pytest.fixture
def clustered(
    configured: str, recorded: str, as_jobs: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Sizes of the partitions that were clustered to the end; the environment is that of the namespace's jobs."""
    monkeypatch.setenv("COINSWARM_REDIS_URL", as_jobs(recorded))
    finished: list[int] = []
    fit = MarketStateClusterer.fit

    def counting_fit(self: MarketStateClusterer, vectors: Any, **options: Any) -> MarketStateClusterer:
        found = fit(self, vectors, **options)
        finished.append(len(vectors))
        return found

    monkeypatch.setattr(MarketStateClusterer, "fit", counting_fit)
    return finished


def fail_third(monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]) -> list[int]:
    """Let the third partition fail once, before it is clustered; returns what counts how often it was tried."""
    tried: list[int] = []
    fit = MarketStateClusterer.fit

    def failing_fit(self: MarketStateClusterer, vectors: Any, **options: Any) -> MarketStateClusterer:
        if len(vectors) == THIRD:
            tried.append(len(vectors))
            if len(tried) == 1:
                raise error()
        return fit(self, vectors, **options)

    monkeypatch.setattr(MarketStateClusterer, "fit", failing_fit)
    return tried


def defect() -> Exception:
    return RuntimeError("a defect in the third partition")


def test_a_task_that_is_tried_again_takes_up_the_partition_that_failed(
    recorded: str, clustered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolidation.summarise_patterns, "retry_delay_seconds", [0.0])
    tried = fail_third(monkeypatch, lambda: StoreUnavailableError("Redis was away.", remedy="Wait."))
    result = consolidate_memories(Parameters(namespace=recorded, date=DAYS[0]))
    assert result["states"] == sum(SIZES)
    assert (len(tried), sorted(clustered)) == (2, list(SIZES))


def test_a_flow_that_is_tried_again_takes_up_the_partition_that_failed(
    recorded: str, clustered: list[int], servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fail_third(monkeypatch, defect)
    patient = consolidate_memories.with_options(retries=1)
    result = patient(Parameters(namespace=recorded, date=DAYS[1]))
    assert (len(tried), sorted(clustered)) == (2, list(SIZES))
    with Ledger.open(servers.database_url) as ledger:
        runs = ledger.runs.list(recorded, flow="consolidate_memories", window=Window.of_date(DAYS[1]))
    assert sorted(run.status for run in runs) == ["FAILED", "SUCCEEDED"]
    assert len({run.flow_run_id for run in runs}) == 1
    assert result["window"] == DAYS[1].isoformat()


def test_a_run_retried_through_the_api_keeps_its_window_and_takes_up_the_partition_that_failed(
    recorded: str, clustered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fail_third(monkeypatch, defect)
    parameters = {"parameters": Parameters(namespace=recorded)}
    night = dt.datetime.combine(DAYS[2] + dt.timedelta(days=1), dt.time(3), tzinfo=dt.UTC)

    with get_client(sync_client=True) as client:
        # No date: the window is the last full day before the time that the run was scheduled for.
        scheduled = Scheduled(scheduled_time=night)
        created = client.create_flow_run(
            consolidate_memories, parameters={"parameters": {"namespace": recorded}}, state=scheduled
        )
        with pytest.raises(RuntimeError, match="a defect"):
            run_flow(consolidate_memories, flow_run=client.read_flow_run(created.id), parameters=parameters)
        assert client.read_flow_run(created.id).state.is_failed()
        # What Retry in the UI does.
        client.set_flow_run_state(created.id, AwaitingRetry(), force=True)
        result = run_flow(consolidate_memories, flow_run=client.read_flow_run(created.id), parameters=parameters)
        assert client.read_flow_run(created.id).state.is_completed()
    assert result["window"] == DAYS[2].isoformat()
    assert (len(tried), sorted(clustered)) == (2, list(SIZES))


def test_a_new_run_of_the_window_takes_up_the_partition_that_failed(
    recorded: str, clustered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fail_third(monkeypatch, defect)
    with pytest.raises(RuntimeError, match="a defect"):
        consolidate_memories(Parameters(namespace=recorded, date=DAYS[3]))
    assert sorted(clustered) == [size for size in SIZES if size != THIRD]
    consolidate_memories(Parameters(namespace=recorded, date=DAYS[3]))
    assert (len(tried), sorted(clustered)) == (2, list(SIZES))
