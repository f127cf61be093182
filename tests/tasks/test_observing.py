"""The state of a memory as facts: what Redis and the ledger hold, and what cannot be asked."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

import memory
from memory import Action, EpisodicMemory, SemanticType, Side, Window
from memory.ledger import BenchmarkMetric, FencingToken, Ledger, ManifestEntry
from tasks.observing import LEDGER, REDIS, Observation, observe
from tasks.workspace import open_workspace

DAY = datetime(2021, 6, 17, tzinfo=UTC)
WINDOW = Window.of_date(DAY.date())
ENCODER = "rff-1"


def experience(minute: int, source: str = "replay") -> EpisodicMemory:
    vector = np.zeros(256, np.float32)
    vector[minute] = 1.0
    return EpisodicMemory(
        agent_id="momentum",
        timestamp=DAY + timedelta(minutes=minute),
        state_vector=vector,
        action=Action(Side.BUY),
        reward=0.1,
        product_id="BTC-USD",
        regime="QUIET",
        source=source,
        encoder_id=ENCODER,
        known_at=DAY + timedelta(minutes=minute + 1),
    )


def record(servers: Any, namespace: str, experiences: list[EpisodicMemory]) -> None:
    async def run() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            await mem.encoders.register(ENCODER, fitted_until=DAY - timedelta(days=1), definition={})
            report = await mem.episodic.add_many(experiences)
            assert len(report.stored) == len(experiences)

    asyncio.run(run())


def seen(namespace: str) -> Observation:
    with open_workspace(namespace) as workspace:
        return observe(workspace)


@pytest.fixture
def token(ledger: Ledger, configured: str) -> FencingToken:
    run_id = ledger.runs.start("consolidate_memories", configured, {}, window=WINDOW, lease_s=60)
    return ledger.fence.acquire(configured, run_id, flow="consolidate_memories", lease_s=60)


def test_an_empty_namespace_has_nothing_and_no_problem(configured: str) -> None:
    found = seen(configured)
    assert found.problems == {}
    assert found.memory is not None
    assert found.ledger is not None
    assert sum(found.memory.experiences.values()) == found.memory.dead_letters == found.memory.fencing_token == 0
    assert (found.memory.encoder, found.memory.indexes, found.memory.freshness.line) == (None, [], None)
    assert (found.ledger.windows, found.ledger.flows, found.ledger.benchmark, found.ledger.holder) == ([], {}, [], None)
    assert found.ledger.size_bytes > 0
    assert found.memory.redis.version.count(".") == 2
    assert found.memory.redis.used_bytes > 0
    assert not found.live


def test_experiences_are_counted_by_source_and_indexes_named(servers: Any, configured: str) -> None:
    record(servers, configured, [experience(0), experience(1), experience(2, "live")])
    found = seen(configured)
    assert found.memory is not None
    assert dict(found.memory.experiences) == {"live": 1, "replay": 2, "backtest": 0}
    assert found.memory.encoder == ENCODER
    episodic = next(index for index in found.memory.indexes if ":episodic:" in index.name)
    assert (episodic.documents, episodic.failures, episodic.layout) == (3, 0, "single")
    assert found.live


def test_each_flow_has_its_last_run_last_success_and_last_failure(ledger: Ledger, configured: str) -> None:
    ids = [ledger.runs.start("nightly", configured, {}, window=WINDOW, lease_s=60) for _ in range(3)]
    ledger.runs.finish(ids[0], {})
    ledger.runs.fail(ids[1], "first")
    ledger.runs.fail(ids[2], "second")
    other = ledger.runs.start("verify_memory", configured, {}, lease_s=60)
    facts = seen(configured).ledger
    assert facts is not None
    assert list(facts.flows) == ["nightly", "verify_memory"]
    nightly, verify = facts.flows.values()
    assert (nightly.last.run_id, nightly.has_failed) == (ids[2], True)
    assert nightly.succeeded is not None
    assert nightly.failed is not None
    assert (nightly.succeeded.run_id, nightly.failed.error) == (ids[0], "second")
    assert nightly.runs == {"FAILED": 2, "SUCCEEDED": 1}
    assert (verify.last.run_id, verify.succeeded, verify.failed, verify.has_failed) == (other, None, None, False)


def test_a_run_and_a_holder_whose_process_is_gone_are_not_taken_for_alive(
    ledger: Ledger, configured: str, token: FencingToken
) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait(timeout=30)
    with ledger.transaction() as session:
        for table in ("runs", "fences"):
            session.execute(
                sa.text(f"UPDATE {table} SET process_id = :gone WHERE namespace = :namespace"),
                {"gone": ended.pid, "namespace": configured},
            )
    facts = seen(configured).ledger
    assert facts is not None
    (flow,) = facts.flows.values()
    assert (flow.last.status, flow.has_failed, flow.failed, flow.runs) == ("DEAD", True, flow.last, {"DEAD": 1})
    assert (facts.holder, facts.fencing_token) == (None, token.value)


def test_windows_tokens_and_who_holds_the_namespace(ledger: Ledger, configured: str, token: FencingToken) -> None:
    line = ledger.lines.ensure(token, ENCODER, "1")
    later = Window.of_date(DAY.date() + timedelta(days=1))
    for window in (WINDOW, later):
        ledger.windows.commit_generation(
            token,
            line,
            window,
            settings_hash="s",
            entries=[ManifestEntry(kind="patterns", partition_key="p", digest=None)],
        )
    ledger.windows.mark_stale(token, line, WINDOW, "late records")
    ledger.windows.seal(token, line, later, "its archive is lost")
    facts = seen(configured).ledger
    assert facts is not None
    assert (facts.windows, facts.stale, facts.sealed) == ([WINDOW, later], [WINDOW], [later])
    assert (facts.fencing_token, [each.line for each in facts.lines]) == (token.value, [line])
    assert facts.holder is not None
    assert facts.holder.run_id == token.run_id
    ledger.fence.release(token)
    released = seen(configured).ledger
    assert released is not None
    assert (released.holder, released.fencing_token) == (None, token.value)


def test_the_latest_benchmark_of_retrieval_counts_whatever_else_was_measured(ledger: Ledger, configured: str) -> None:
    runs = [ledger.runs.start("benchmark_memory", configured, {}, lease_s=60) for _ in range(2)]
    for value, run_id in zip((1.0, 2.0), runs, strict=True):
        ledger.benchmarks.record(
            configured, run_id, "machine", [BenchmarkMetric(metric="by agent: p99", value=value, unit="ms")]
        )
    ledger.benchmarks.record(
        configured, "sizes", "machine", [BenchmarkMetric(metric="size: redis", value=9.0, unit="bytes")]
    )
    facts = seen(configured).ledger
    assert facts is not None
    assert [(figure.metric, figure.value) for figure in facts.benchmark] == [("by agent: p99", 2.0)]


def test_a_redis_that_is_away_leaves_the_ledger_and_says_why(configured: str, ledger: Ledger, tmp_path: Any) -> None:
    with open_workspace(configured) as workspace:
        found = observe(replace(workspace, redis_url=f"unix://{tmp_path}/nobody.sock"))
    assert found.memory is None
    assert found.ledger is not None
    assert set(found.problems) == {REDIS}
    assert "COINSWARM_REDIS_URL" in found.problems[REDIS].remedy


def test_a_ledger_that_is_away_leaves_the_memory(configured: str, ledger: Ledger, tmp_path: Any) -> None:
    from memory.ledger.database import Database

    away = Ledger(Database.connect(f"postgresql://nobody@/coinswarm?host={tmp_path}"))
    with open_workspace(configured) as workspace, away:
        found = observe(replace(workspace, ledger=away))
    assert found.ledger is None
    assert found.memory is not None
    assert set(found.problems) == {LEDGER}


def test_kinds_of_semantic_memory_are_all_named(configured: str) -> None:
    found = seen(configured).memory
    assert found is not None
    assert dict(found.semantic) == dict.fromkeys(SemanticType, 0)
