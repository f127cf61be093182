"""What runs leave for people: an artifact each, and a regression that fails the benchmark and not the night."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.states import State

import flows
from flows import FLOWS
from flows.benchmark_memory import Parameters as BenchmarkParameters
from flows.benchmark_memory import benchmark_memory
from flows.nightly import Parameters as NightlyParameters
from flows.nightly import nightly
from flows.verify_memory import Parameters as VerifyParameters
from flows.verify_memory import verify_memory
from memory.errors import BenchmarkRegressionError
from memory.ledger import BenchmarkMetric, Ledger
from memory.ledger.benchmark_history import SHARE
from memory.settings import Settings
from memory.window import Window
from tasks.benchmark import machine_name
from tasks.reporting import write_nightly_report

DAY = dt.date(2021, 6, 17)
QUERIES = 20
REGRESSION = "agent alone: p50 beside a round trip"
RUNS = 5


def artifacts(namespace: str) -> dict[str, list[Artifact]]:
    """All versions of the artifacts of a namespace, by their keys without it."""
    found: dict[str, list[Artifact]] = {}
    with get_client(sync_client=True) as client:
        mine = ArtifactFilter(key=ArtifactFilterKey(like_=f"%-{namespace}%"))
        for artifact in client.read_artifacts(artifact_filter=mine, limit=200):
            found.setdefault((artifact.key or "").replace(f"-{namespace}", ""), []).append(artifact)
    return found


def text_of(versions: list[Artifact]) -> str:
    """What all versions of an artifact say."""
    return "\n".join(str(artifact.data) for artifact in versions)


def plant_better_runs(ledger: Ledger, namespace: str) -> None:
    """Past runs, a hundred times as fast as the one that was measured last."""
    measured = ledger.benchmarks.recent(namespace, runs=1)
    planted = [
        BenchmarkMetric(
            metric=record.metric,
            value=record.value if record.unit == SHARE else record.value * (0.01 if record.lower_is_better else 100),
            unit=record.unit,
            lower_is_better=record.lower_is_better,
            details=record.details,
        )
        for record in measured
        if not record.metric.startswith("size")
    ]
    for run in range(RUNS):
        ledger.benchmarks.record(namespace, f"{namespace}-{run}", machine_name(Settings()), planted)


@dataclass(frozen=True)
class Night:
    """A night beside a better past: namespace, and the state that it ended in."""

    namespace: str
    state: State[Any]


@pytest.fixture(scope="module")
def night(
    servers: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory, record: Callable[..., None]
) -> Iterator[Night]:
    assert prefect_server
    namespace = f"t-shown-{uuid4().hex[:8]}"
    with pytest.MonkeyPatch.context() as patch, Ledger.open(servers.database_url) as ledger:
        patch.setenv("COINSWARM_HOME", str(tmp_path_factory.mktemp("shown")))
        patch.setenv("COINSWARM_REDIS_URL", servers.redis_url)
        patch.setenv("COINSWARM_DATABASE_URL", servers.database_url)
        record(namespace, (DAY,))
        benchmark_memory(BenchmarkParameters(namespace=namespace, date=DAY, queries=QUERIES))
        plant_better_runs(ledger, namespace)
        state = nightly(NightlyParameters(namespace=namespace, date=DAY, queries=QUERIES), return_state=True)
        yield Night(namespace, state)


def test_a_regression_leaves_the_night_complete_and_is_named_in_its_state(night: Night) -> None:
    assert night.state.is_completed()
    assert night.state.name == "Completed"
    assert REGRESSION in (night.state.message or "")
    result = night.state.result()
    assert any(text.startswith(REGRESSION) for text in result["benchmark"]["regressions"])
    assert not any("recall" in text for text in result["benchmark"]["regressions"])
    assert "✗ regression" in Path(result["report"]).read_text(encoding="utf-8")


def test_a_regression_fails_the_run_of_the_benchmark_naming_metric_median_and_factor(
    night: Night, ledger: Ledger
) -> None:
    failed = ledger.runs.last(night.namespace, "benchmark_memory")
    whole = ledger.runs.last(night.namespace, "nightly")
    assert failed is not None
    assert whole is not None
    assert (failed.status, whole.status) == ("FAILED", "SUCCEEDED")
    assert f"{REGRESSION} is" in (failed.error or "")
    assert "times worse than the median" in (failed.error or "")
    assert "of 6 runs" in (failed.error or "")
    again = f"coinswarm run benchmark_memory --date 2021-06-17 --namespace {night.namespace}"
    assert f"Measure again with '{again}'" in (failed.error or "")
    assert "COINSWARM_BENCHMARK_REGRESSION" in (failed.error or "")


def test_figures_of_another_machine_are_not_compared(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = BenchmarkParameters(namespace=night.namespace, date=DAY, queries=QUERIES)
    with pytest.raises(BenchmarkRegressionError, match=REGRESSION):
        benchmark_memory(parameters)
    monkeypatch.setenv("COINSWARM_BENCHMARK_MACHINE", "another")
    assert benchmark_memory(parameters)["compared"] == []


def test_a_night_leaves_an_artifact_for_each_of_its_runs(night: Night) -> None:
    found = artifacts(night.namespace)
    for key in ("recording", "consolidation", "transitions", "pruning", "benchmark", "nightly"):
        assert {artifact.type for artifact in found[key]} == {"markdown"}
    assert "Regression:" in text_of(found["nightly"])
    assert "**Read**" in text_of(found["consolidation"])
    assert REGRESSION in text_of(found["benchmark-compared"])


def test_the_night_links_to_an_artifact_of_each_strong_pattern_with_its_story(
    small_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSWARM_REPORTS_URL", "https://reports.example/memory/")
    window = Window.of_date(small_world.days[-1])
    path = write_nightly_report(small_world.namespace, "run", window, {})
    found = artifacts(small_world.namespace)
    told, table = text_of(found["nightly"]), text_of(found["nightly-patterns"])
    assert "](" not in table
    patterns = [key for key in found if key.startswith("pattern-")]
    assert patterns
    for key in patterns:
        name = key.removeprefix("pattern-")
        assert f"[{name}](/artifacts/key/pattern-{small_world.namespace}-{name})" in told
        assert f'"pattern": "{name}"' in table
        assert "| night | what happened |" in text_of(found[key])
        there = f"https://reports.example/memory/{Path(path).name}#pattern-{name}"
        assert f"[In the report]({there})" in text_of(found[key])
        assert f'id="pattern-{name}"' in Path(path).read_text(encoding="utf-8")


def test_a_run_that_finds_nothing_leaves_an_artifact_that_says_so(night: Night) -> None:
    verify_memory(VerifyParameters(namespace=night.namespace))
    found = artifacts(night.namespace)
    assert text_of(found["recording"]).startswith("# Recorded from the agents' inboxes\n")
    assert text_of(found["verification"]).startswith("# Memory is ")
    assert text_of(found["verification-differences"]) == "[]"


def test_every_flow_leaves_an_artifact() -> None:
    leaving = ("leave_artifact(", "write_nightly_report(", "write_evaluation_report(")
    folder = Path(flows.__file__).parent
    sources = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in FLOWS}
    assert [name for name, source in sources.items() if not any(call in source for call in leaving)] == []
