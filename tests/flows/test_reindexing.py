"""The flow that changes an index: run, run again, killed in the middle, and under load from another process."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory
from agents.fitting import default_encoder, fit_encoder
from agents.market import Market
from flows.reindex_memory import Parameters, reindex_memory
from memory.ledger import Ledger
from memory.records import EpisodicMemory
from tasks.recording import register_encoder
from tests.flows.conftest import FIRST, OBSERVERS, small_experiences

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

PROCESS_TIMEOUT_S = 120
LIVED = 600
"""Experiences of each of two agents, in one product."""

#: Runs the flow and kills itself, as the kernel would, when it announces what it was told.
DRIVER = """
import json, logging, os, signal, sys
wanted = json.loads(sys.argv[1])
from flows.reindex_memory import Parameters, reindex_memory
from memory.store import reindexing
from tasks.progress import STEPS_LOGGER

reindexing.CHECKPOINT_KEYS = 1

class Listener(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith(wanted["step"]) and record.finished == wanted["finished"]:
            if record.finished or "looked at" in record.getMessage():
                os.kill(os.getpid(), signal.SIGKILL)

logging.getLogger(STEPS_LOGGER).addHandler(Listener())
logging.getLogger(STEPS_LOGGER).setLevel(logging.INFO)
reindex_memory(Parameters(**wanted["parameters"]))
"""

#: Records experiences one by one until its input ends, and prints how many.
WRITER = """
import asyncio, datetime, sys
import numpy as np
import memory
from memory import Action, Side

async def main(url, namespace, encoder_id):
    generator = np.random.default_rng(1)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    start = datetime.datetime(2021, 7, 1, tzinfo=datetime.UTC)
    number = 0
    async with memory.connect(redis_url=url, namespace=namespace, encoder_id=encoder_id) as mem:
        print("ready", flush=True)
        while not ended.done():
            vector = generator.standard_normal(256).astype(np.float32)
            vector /= np.linalg.norm(vector)
            await mem.episodic.add(memory.EpisodicMemory(
                agent_id=f"process-{number % 4}", timestamp=start + number * datetime.timedelta(minutes=1),
                state_vector=vector, action=Action(Side.HOLD, 0.0), reward=0.0, product_id="BTC-USDT",
                regime="QUIET", source="replay", run_id="load",
            ))
            number += 1
    print(number, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def filled(configured: str, servers: Any) -> tuple[str, list[EpisodicMemory]]:
    """A namespace that holds some hours of two agents, and what it holds."""
    lived = small_experiences(FIRST)
    records = [
        replace(record) for agent in OBSERVERS for record in [item for item in lived if item.agent_id == agent][:LIVED]
    ]

    async def fill() -> None:
        async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
            await register_encoder(mem, default_encoder())
            await mem.episodic.add_many(records)

    asyncio.run(fill())
    return configured, records


def run_killed(flow_processes: Any, step: str, *, finished: bool, **parameters: Any) -> None:
    """Run the flow in a process that is killed when it announces a step."""
    told = {"step": step, "finished": finished, "parameters": {**parameters, "grace_s": 0.1}}
    code, said = flow_processes.run(DRIVER, told)
    assert code == -signal.SIGKILL, said


def run(namespace: str, **parameters: Any) -> dict[str, Any]:
    return reindex_memory(Parameters(namespace=namespace, grace_s=0.1, **parameters))


def nearest(records: list[EpisodicMemory], state: Any, count: int) -> list[float]:
    """Distances by brute force."""
    return sorted(float(1.0 - record.state_vector @ state) for record in records)[:count]


async def recall(servers: Any, namespace: str, records: list[EpisodicMemory]) -> float:
    """Share of the ten nearest of one agent that are found, over some states."""
    own = [record for record in records if record.agent_id == "breakout"]
    found = wanted = 0
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        for record in own[::60]:
            hits = await mem.retrieval.retrieve_similar_experiences(
                record.state_vector, agent_id="breakout", product_id=record.product_id
            )
            distances = nearest(own, record.state_vector, 10)
            assert len(hits) == len(distances)
            found += sum(hit.distance <= distances[-1] + 1e-3 for hit in hits)
            wanted += len(distances)
    return found / wanted


async def state_of(servers: Any, namespace: str) -> tuple[str, int, bool]:
    """How the memory is indexed, how much it holds, and whether a change is under way."""
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        schema = await mem.indexes.current_schema(await mem.encoders.current() or "")
        assert schema is not None
        job = await mem.link.execute("EXISTS", mem.indexes.experiences.key("job", schema.encoder_id))
        return schema.describe(), await mem.episodic.count(encoder_id=schema.encoder_id), bool(job)


def test_a_memory_is_partitioned_and_halved(filled: Any, servers: Any, ledger: Ledger) -> None:
    namespace, records = filled
    result = run(namespace, layout="partitioned", vector_type="FLOAT16")
    (change,) = result["changes"]
    assert (change["experiences"], change["converted"], change["refused"]) == (len(records), len(records), {})
    assert asyncio.run(state_of(servers, namespace)) == ("partitioned HNSW FLOAT16", len(records), False)
    assert asyncio.run(recall(servers, namespace, records)) >= 0.99
    (row,) = [row for row in ledger.runs.list(namespace) if row.flow == "reindex_memory"]
    assert row.status == "SUCCEEDED"


def test_running_it_again_changes_nothing(filled: Any, servers: Any) -> None:
    namespace, _ = filled
    run(namespace, layout="partitioned", vector_type="FLOAT16")
    assert run(namespace, layout="partitioned", vector_type="FLOAT16")["changes"] == []


def test_without_choices_the_settings_rule(filled: Any, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace, _ = filled
    assert run(namespace)["changes"] == []
    monkeypatch.setenv("COINSWARM_VECTOR_TYPE", "FLOAT16")
    run(namespace)
    assert asyncio.run(state_of(servers, namespace))[0] == "single FLAT FLOAT16"


@pytest.mark.parametrize(
    ("step", "finished"),
    [("begin", True), ("single FLAT", False), ("fill", True), ("swap", True), ("drop the old index", True)],
)
def test_a_killed_run_is_taken_up(filled: Any, servers: Any, flow_processes: Any, step: str, finished: bool) -> None:
    namespace, records = filled
    choices = {"layout": "partitioned", "vector_type": "FLOAT16"}
    run_killed(flow_processes, step, finished=finished, namespace=namespace, **choices)
    assert asyncio.run(recall(servers, namespace, records)) >= 0.99
    run(namespace, **choices)
    assert asyncio.run(state_of(servers, namespace)) == ("partitioned HNSW FLOAT16", len(records), False)
    assert asyncio.run(recall(servers, namespace, records)) >= 0.99


def test_a_change_can_be_given_up(filled: Any, servers: Any, flow_processes: Any) -> None:
    namespace, records = filled
    run_killed(flow_processes, "fill", finished=True, namespace=namespace, layout="partitioned")
    assert asyncio.run(state_of(servers, namespace))[2]
    assert run(namespace, abandon=True)["abandoned"] == ["episodic: single FLAT FLOAT32 to partitioned HNSW FLOAT32"]
    assert asyncio.run(state_of(servers, namespace)) == ("single FLAT FLOAT32", len(records), False)


def test_another_process_records_meanwhile(filled: Any, servers: Any) -> None:
    namespace, records = filled
    command = [sys.executable, "-c", WRITER, servers.redis_url, namespace, default_encoder().id_]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        run(namespace, layout="partitioned", vector_type="FLOAT16")
        printed, _ = writer.communicate("end\n", timeout=PROCESS_TIMEOUT_S)
    written = int(printed)
    assert written > 20
    described, held, _ = asyncio.run(state_of(servers, namespace))
    assert (described, held) == ("partitioned HNSW FLOAT16", len(records) + written)


def test_a_new_encoder_takes_over(filled: Any, servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace, records = filled
    until = dt.datetime(2021, 6, 17, tzinfo=dt.UTC)
    encoder = fit_encoder(Market.sample("binance", ["BTC-USDT"]), until, name="other", random_state=1)
    path = tmp_path / "encoder.json"
    encoder.save(path)
    monkeypatch.setenv("COINSWARM_DATA_ROOTS", str(path))
    result = run(namespace, encoder=str(path))
    (change,) = [change for change in result["changes"] if change["of"] == "episodic"]
    assert (change["converted"], change["refused"], change["removed_old"]) == (len(records), {}, False)
    assert "knowledge line" in change["knowledge"]

    async def ask() -> list[float]:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            assert await mem.encoders.current() == encoder.id_
            state = encoder.encode(records[100].features)
            hits = await mem.retrieval.retrieve_similar_experiences(state, agent_id="breakout")
            assert all(np.allclose(hit.memory.state_vector, encoder.encode(hit.memory.features)) for hit in hits)
            return [hit.distance for hit in hits]

    anew = encoder.encode(records[100].features)
    own = [record for record in records if record.agent_id == "breakout"]
    expected = sorted(float(1.0 - encoder.encode(record.features) @ anew) for record in own)[:10]
    assert np.allclose(asyncio.run(ask()), expected, atol=1e-5)
    assert run(namespace, encoder=str(path), remove_old=True)["changes"][-1]["removed_old"]
    assert asyncio.run(state_of(servers, namespace))[1] == len(records)
