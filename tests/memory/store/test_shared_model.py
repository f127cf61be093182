"""The shared pool, filled by many at once and asked as a plain list would be."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import Action, EpisodicMemory, MemoryConnection, Side
from tests.memory.store.pooling import DAY, RETENTION, shared, steps

# --- many, and many at once ------------------------------------------------------------------------------------


SHARE = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
import numpy as np
import memory
from memory import Action, EpisodicMemory, Side

url, namespace, agent = sys.argv[1:]
DAY = datetime(2021, 6, 17, tzinfo=UTC)

def make(step, agent_id):
    vector = np.random.default_rng(step).standard_normal(256).astype(np.float32)
    return EpisodicMemory(
        agent_id=agent_id, timestamp=DAY + timedelta(minutes=step), state_vector=vector / np.linalg.norm(vector),
        action=Action(Side.BUY), reward=0.5, product_id="BTC-USD", regime="QUIET", source="replay", run_id="r",
        step=step, known_at=DAY + timedelta(minutes=step + 1), quality=0.9)

async def main():
    async with memory.connect(redis_url=url, namespace=namespace, encoder_id="rff-1") as mem:
        print("ready", flush=True)
        sys.stdin.readline()
        records = [make(step, who) for step in range(400) for who in ("both", agent)]
        report = await mem.shared.add_shared_experiences(records)
        print(len(report.stored), len(report.duplicates), len(report.rejections))

asyncio.run(main())
"""


async def test_two_processes_that_share_at_once_leave_each_experience_once(servers: Any, mem: MemoryConnection) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SHARE), servers.redis_url, mem.namespace]
    processes = [
        subprocess.Popen([*command, agent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for agent in ("one", "two")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        answers = await asyncio.gather(
            *(asyncio.to_thread(process.communicate, "go\n", timeout=60) for process in processes)
        )
    finally:
        for process in processes:
            process.kill()
            process.wait()
    counts = np.array([[int(number) for number in answer.split()] for answer, _ in answers])
    assert counts.sum(axis=0).tolist() == [1200, 400, 0]
    assert await mem.shared.count() == 1200
    assert [await mem.shared.count(agent_id=agent) for agent in ("both", "one", "two")] == [400, 400, 400]


def drawn_vectors(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """States that lie in clumps, as markets do."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((60, 256))
    drawn = centres[rng.integers(0, 60, count)] + 0.5 * rng.standard_normal((count, 256))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.slow
async def test_a_pool_of_twenty_thousand_is_searched_exactly(mem: MemoryConnection, make: Any) -> None:
    count, agents, products = 20_000, ("a", "b", "c", "d", "e"), ("BTC-USD", "ETH-USD")
    vectors = drawn_vectors(count, 1)
    records = [
        make(
            step,
            state_vector=vectors[step],
            next_state_vector=None,
            agent_id=agents[step % 5],
            product_id=products[step % 2],
            quality=0.7 + 0.3 * ((step * 7) % 100) / 100,
        )
        for step in range(count)
    ]
    report = await mem.shared.add_shared_experiences(records)
    assert len(report.stored) == count
    agent = np.arange(count) % 5
    product = np.arange(count) % 2
    as_of = DAY + timedelta(minutes=15_000)
    known = np.arange(count) + 1 <= 15_000
    for question in drawn_vectors(25, 2):
        similarity = vectors @ question
        for asked, mask in (
            ({}, np.ones(count, bool)),
            ({"exclude_agent_id": "a"}, agent != 0),
            ({"product_id": "ETH-USD", "exclude_agent_id": "b"}, (product == 1) & (agent != 1)),
            ({"product_id": "BTC-USD", "exclude_agent_id": "c", "as_of": as_of}, (product == 0) & (agent != 2) & known),
        ):
            hits = await mem.shared.retrieve_shared_experiences(question, **asked)
            best = np.argsort(-np.where(mask, similarity, -2.0))[:10]
            assert steps(hits) == set(best.tolist())


# --- against a model -------------------------------------------------------------------------------------------


TIMES = st.integers(0, 60 * 24).map(lambda hours: DAY + timedelta(hours=hours))
AGENTS = ("a", "a.b", "A")
PRODUCTS = ("BTC-USD", "BTC")


@st.composite
def offered(draw: st.DrawFn) -> list[tuple[EpisodicMemory, datetime | None]]:
    records = []
    for step in range(draw(st.integers(1, 20))):
        timestamp = draw(TIMES)
        vector = np.random.default_rng(step).standard_normal(256).astype(np.float32)
        records.append(
            (
                EpisodicMemory(
                    agent_id=draw(st.sampled_from(AGENTS)),
                    timestamp=timestamp,
                    state_vector=vector / np.linalg.norm(vector),
                    action=Action(Side.HOLD),
                    reward=draw(st.sampled_from([-0.5, 0.0, 0.25])),
                    product_id=draw(st.sampled_from(PRODUCTS)),
                    regime=draw(st.sampled_from(["QUIET", "VOLATILE"])),
                    source=draw(st.sampled_from(["backtest", "replay"])),
                    step=step,
                    known_at=timestamp + timedelta(hours=draw(st.integers(0, 48))),
                    quality=draw(st.sampled_from([None, 0.0, 0.69, 0.7, 0.71, 1.0])),
                ),
                draw(st.none() | TIMES),
            )
        )
    return records


QUESTIONS = st.fixed_dictionaries(
    {},
    optional={
        "product_id": st.sampled_from(PRODUCTS),
        "regime": st.sampled_from(["QUIET", "VOLATILE"]),
        "exclude_agent_id": st.sampled_from(AGENTS),
        "since": TIMES,
        "as_of": TIMES,
        "min_reward": st.sampled_from([-0.5, 0.0, 0.1]),
        "min_quality": st.sampled_from([0.7, 0.705, 0.71, 1.0]),
    },
)


def fits(record: EpisodicMemory, shared_at: datetime | None, asked: dict[str, Any]) -> bool:
    assert record.known_at is not None
    in_pool_from = max(record.known_at, shared_at or record.known_at)
    return (
        record.quality is not None
        and record.quality >= max(0.7, asked.get("min_quality", 0.0))
        and record.agent_id != asked.get("exclude_agent_id")
        and record.product_id == asked.get("product_id", record.product_id)
        and record.regime == asked.get("regime", record.regime)
        and record.timestamp >= asked.get("since", record.timestamp)
        and record.reward >= asked.get("min_reward", -1.0)
        and ("as_of" not in asked or record.timestamp >= asked["as_of"] - RETENTION)
        and ("as_of" not in asked or in_pool_from <= asked["as_of"])
    )


@given(records=offered(), questions=st.lists(QUESTIONS, min_size=1, max_size=8))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_found_is_what_a_plain_list_would_give(
    servers: Any, records: list[tuple[EpisodicMemory, datetime | None]], questions: list[dict[str, Any]]
) -> None:
    async def check() -> None:
        name = f"s-{np.random.default_rng().integers(2**60):x}"
        async with memory.connect(redis_url=servers.redis_url, namespace=name, encoder_id="rff-1") as mem:
            for record, shared_at in records:
                await mem.shared.add_shared_experience(record, shared_at=shared_at)
            question = records[0][0].state_vector
            for asked in questions:
                expected = {record.step for record, shared_at in records if fits(record, shared_at, asked)}
                assert await shared(mem.shared, question, **asked) == expected
            for index in await mem.indexes.health():
                await mem.link.execute("FT.DROPINDEX", index.name, "DD")

    asyncio.run(check())
