"""The retrieval benchmark: that it runs, measures what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
MEMORIES = 2_000
IN_PROCESS = ("qdrant-edge", "LanceDB", "usearch", "numpy on the partition")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The benchmark's modules; they are no part of the installed project."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.retrieval import bars, corpus, data, floor, measure, run, vector_stores
    from benchmarks.retrieval.contestant import Memories

    return SimpleNamespace(
        bars=bars,
        corpus=corpus,
        data=data,
        floor=floor,
        measure=measure,
        run=run,
        vector_stores=vector_stores,
        Memories=Memories,
    )


def built(bench: SimpleNamespace, dataset: Any) -> Any:
    """The corpus of a set of memories."""
    builder = bench.corpus.CorpusBuilder(dataset.shared_states)
    for batch in dataset.batches():
        builder.add(batch)
    return builder.build()


@pytest.fixture
def memories(bench: SimpleNamespace) -> Any:
    """Clustered memories, each agent with states of its own."""
    dataset = bench.data.clustered(MEMORIES, agents=4, products=2).materialised()
    return bench.Memories(dataset, built(bench, dataset))


def brute_force(memories: Any, query: Any) -> list[int]:
    """Numbers of the nearest memories, straight from the records."""
    found = []
    for batch in memories.dataset.batches():
        for number, record in zip(batch.numbers(), batch.records, strict=True):
            if record.agent_id != query.agent_id or (query.as_of is not None and record.known_at > query.as_of):
                continue
            if query.product_id is None or (record.product_id, record.regime) == (query.product_id, query.regime):
                similarity = record.state_vector.astype(np.float64) @ query.vector.astype(np.float64)
                found.append((-float(similarity), number))
    return [number for _, number in sorted(found)[: query.top_k]]


# --- the whole of it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a small run of the peers inside the process found; it has left no file of its own behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    temporary = folder / "tmp"
    temporary.mkdir()
    arguments = ["--quick", "--size", str(MEMORIES), "--rounds", "1", "--json", str(folder / "found.json")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.retrieval", *arguments, "--only", *IN_PROCESS],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(temporary.iterdir()) == []
    found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return found


def test_every_peer_is_measured_or_said_to_be_missing(report: dict[str, Any]) -> None:
    by_scope = report["datasets"][0]["workloads"]["agent, product and regime"]
    described = {item["name"]: item for item in report["datasets"][0]["contestants"]}
    assert set(described) == set(IN_PROCESS)
    for name, item in described.items():
        if item["missing"] is None:
            assert by_scope[name]["asked"] >= 20
            assert item["configuration"]
        else:
            assert item["missing"] == "not installed: pip install -e '.[bench]'"


def test_answers_of_the_measured_are_right(report: dict[str, Any]) -> None:
    for workload in report["datasets"][0]["workloads"].values():
        for figures in workload.values():
            assert figures["recall"] >= 0.95
            assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"]


def test_agents_that_ask_at_once_are_counted(report: dict[str, Any]) -> None:
    agents = report["datasets"][0]["agents"]
    assert set(agents) == {"1", "10", "50"}
    assert all(figures["asked"] >= int(count) for count, found in agents.items() for figures in found.values())


def test_nothing_is_judged_on_few_memories(report: dict[str, Any]) -> None:
    assert report["bars"]
    assert not any(bar["measured"] for bar in report["bars"])


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.retrieval", "--size", str(MEMORIES), "--only", "wire"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "ready after" in line:
            break
    process.send_signal(signal.SIGINT)
    process.stderr.read()
    assert process.wait(30) == 130
    assert list(tmp_path.iterdir()) == []
    assert commands_that_name(tmp_path) == []


def commands_that_name(folder: Path) -> list[str]:
    """Command lines of running processes in which a folder occurs; those that are ending get a moment."""
    deadline = time.monotonic() + 5
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # It has just ended.
            if str(folder) in command:
                found.append(command)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


# --- its parts -----------------------------------------------------------------------------------------------


def test_missing_peers_are_named_with_the_remedy(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.vector_stores.Usearch, "package", "no_such_package")
    servers = SimpleNamespace(database_url="postgresql://nowhere", home=Path("nowhere"))
    missing = {item.name: item.missing for item in bench.run.peers(servers) if isinstance(item, bench.run.Described)}
    assert missing["usearch"] == "not installed: pip install -e '.[bench]'"


def test_the_same_seed_gives_the_same_memories(bench: SimpleNamespace) -> None:
    first, again = (built(bench, bench.data.clustered(500, seed=3)) for _ in range(2))
    other = built(bench, bench.data.clustered(500, seed=4))
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.regime, again.regime)
    assert not np.array_equal(first.vectors, other.vectors)


def test_datasets_hold_as_many_memories_as_were_asked_for(bench: SimpleNamespace) -> None:
    dataset = bench.data.clustered(777, agents=3, products=2, batch_minutes=20)
    assert [len(batch.records) for batch in dataset.batches()] == [120] * 6 + [57]


def test_shared_states_are_held_once(bench: SimpleNamespace) -> None:
    corpus = built(bench, bench.data.clustered(600, agents=5, products=3, shared_states=True))
    assert len(corpus) == 600
    assert len(corpus.vectors) == 120


def test_queries_are_near_memories_and_equal_to_none(memories: Any) -> None:
    corpus = memories.corpus
    for query in corpus.queries(20):
        similarity = corpus.vectors[corpus.state[corpus.scope(*query.scope)]] @ query.vector
        assert 0.998 < similarity.max() < 0.9999


async def test_numpy_floor_answers_as_brute_force_does(bench: SimpleNamespace, memories: Any) -> None:
    floor = bench.floor.NumpyFloor()
    await floor.load(memories)
    as_of_ms = memories.corpus.known_at_share(0.5)
    asked = [
        *memories.corpus.queries(5),
        *memories.corpus.queries(5, by_agent_only=True),
        *memories.corpus.queries(5, as_of_ms=as_of_ms),
    ]
    with floor.session() as ask:
        for query in asked:
            assert floor.numbers(ask(query)) == brute_force(memories, query)


def test_recall_counts_the_true_nearest(memories: Any) -> None:
    (query,) = memories.corpus.queries(1, by_agent_only=True)
    right = brute_force(memories, query)
    scope = memories.corpus.scope(*query.scope).tolist()
    wrong = [number for number in scope if number not in right][: len(right)]
    assert memories.corpus.recall(query, right) == 1.0
    assert memories.corpus.recall(query, right[:7] + wrong[:3]) == pytest.approx(0.7)
    assert memories.corpus.recall(query, [right[0]] * 10) == pytest.approx(0.1)


def test_recall_counts_memories_of_equal_states_alike(bench: SimpleNamespace) -> None:
    dataset = bench.data.clustered(300, agents=1, products=1)
    repeated = [record for batch in dataset.batches() for record in batch.records]
    for record in repeated[1:30]:
        record.state_vector, record.regime = repeated[0].state_vector, repeated[0].regime
    twins = bench.data.Dataset("clustered", "", 300, "clustered", False, lambda: iter([repeated]))
    corpus = built(bench, twins)
    query = bench.corpus.Query(repeated[0].state_vector, repeated[0].agent_id, None, None, None)
    assert corpus.recall(query, list(range(10))) == corpus.recall(query, list(range(20, 30))) == 1.0


@pytest.mark.parametrize("fault", ["another agent's", "not known yet"])
def test_answers_that_must_not_be_given_end_the_run(memories: Any, fault: str) -> None:
    corpus = memories.corpus
    as_of_ms = corpus.known_at_share(0.5)
    (query,) = corpus.queries(1, by_agent_only=True, as_of_ms=as_of_ms)
    if fault == "another agent's":
        bad = int(np.flatnonzero(corpus.agent != corpus.agents.index(query.agent_id))[0])
    else:
        bad = int(corpus.scope(*query.scope)[-1])
    with pytest.raises(AssertionError, match="outside what was asked for"):
        corpus.recall(query, [bad])


def figures(bench: SimpleNamespace, p50: float, p99: float, recall: float = 1.0, per_s: float = 9000.0) -> Any:
    return bench.measure.Figures(p50, p99, p99, per_s, 1000, recall)


def test_bars_are_held_against_what_was_measured(bench: SimpleNamespace) -> None:
    run, ours = bench.run, bench.bars.OursNearCache.name
    workloads = {
        run.BY_SCOPE: {ours: figures(bench, 0.3, 1.6, 0.98), bench.bars.BareSearch.name: figures(bench, 0.1, 0.2)},
        run.BY_AGENT: {ours: figures(bench, 1.0, 4.9)},
        **{f"{run.BY_SCOPE}, {words}": {ours: figures(bench, 0.6, 1.0)} for words in run.AS_OF},
    }
    agents = {10: {ours: figures(bench, 1.0, 3.0, per_s=6000.0)}}
    outcome = run.Outcome("real", "", 100_000, (1, 1, 1, 1), [], workloads, agents, (0, 0.0))
    judged = {bar.what: next(iter(bar.measured.values()), None) for bar in bench.bars.judge([outcome], [])}
    by_scope = "100,000, agent+product+regime"
    assert judged[f"{by_scope}: p50"] == ("0.30 ms", True)
    assert judged[f"{by_scope}: p50 beside bare"] == ("3.00x", False)
    assert judged[f"{by_scope}: p99"] == ("1.60 ms", False)
    assert judged[f"{by_scope}: recall@10"] == ("0.9800", False)
    assert judged["100,000, agent only: p50"] == ("1.00 ms", False)
    assert judged["100,000, agent only: p99"] == ("4.90 ms", True)
    assert judged["100,000, as of a time: p50 beside without"] == ("2.00x", True)
    assert judged["100,000, 10 agents: p99"] == ("3.00 ms", True)
    assert judged["100,000, 10 agents: queries/s"] == ("6,000", True)
    assert judged["recording through add_many, FLAT"] is None


def test_the_better_pgvector_is_the_quicker_that_finds_enough(bench: SimpleNamespace) -> None:
    found = {"pgvector, exact": figures(bench, 2.0, 3.0), "pgvector, HNSW": figures(bench, 1.0, 2.0, recall=0.9)}
    assert bench.run.better_pgvector(found) == "pgvector, exact"
    found["pgvector, HNSW"].recall = 0.99
    assert bench.run.better_pgvector(found) == "pgvector, HNSW"
