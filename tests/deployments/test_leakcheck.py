"""`coinswarm leakcheck` over the whole chain: nothing leaks, and a question that forgot its bound is caught."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import rich.console

import memory
from agents.fitting import default_encoder
from deployments.explain import explain
from deployments.explain_decision import EQUAL
from deployments.leak_questions import untrained_policy
from deployments.leakcheck import (
    DEFAULT_TIME,
    World,
    check_time,
    fill_worlds,
    memory_checks,
    result_of,
    sample,
    show_leaks,
    states_before,
)
from memory.decisions import DecisionTrace
from memory.errors import InvalidQueryError
from memory.retrieval.context import QuestionContext
from memory.settings import Settings


@pytest.fixture(scope="module")
def worlds(servers: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two memories that differ in what came after the time."""
    assert prefect_server
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COINSWARM_HOME", str(tmp_path_factory.mktemp("leaks")))
        patch.setenv("COINSWARM_REDIS_URL", servers.redis_url)
        patch.setenv("COINSWARM_DATABASE_URL", servers.database_url)
        yield fill_worlds(sample(), default_encoder(), DEFAULT_TIME, seed=0)


@pytest.mark.slow
def test_no_answer_as_of_a_time_depends_on_what_came_after(worlds: tuple[World, World]) -> None:
    checks = memory_checks(worlds, default_encoder(), DEFAULT_TIME)
    result = result_of(DEFAULT_TIME, 0, checks)
    assert result["first_difference"] is None
    assert {check.name: check.verdict for check in checks if check.verdict != "ok"} == {}
    assert {"decisions of a policy", "near cache: experiences of an agent", "estimates"} <= {
        item.name for item in checks
    }


@pytest.mark.slow
def test_questions_that_forget_their_bound_are_caught(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuestionContext, "bounded", lambda self, as_of: None)
    checks = memory_checks(worlds, default_encoder(), DEFAULT_TIME)
    result = result_of(DEFAULT_TIME, 0, checks)
    assert result["status"] == "LEAK"
    leaking = {check.name for check in checks if check.verdict == "LEAK"}
    assert {"experiences, by similarity", "shared experiences", "estimates", "patterns"} <= leaking
    out = rich.console.Console(width=160, force_terminal=False)
    with out.capture() as captured:
        show_leaks(result, out)
    assert f"A LEAK: {result['first_difference']}" in captured.get()


@pytest.mark.slow
def test_a_decision_over_consolidated_nights_leads_to_its_runs_and_comes_out_equal(
    worlds: tuple[World, World],
) -> None:
    from agents.policy.policy import MemoryAugmentedPolicy

    world, encoder = worlds[0], default_encoder()
    checkpoint = untrained_policy(encoder)
    checkpoint.save(Settings().policies_path / world.namespace)
    state = states_before(world.market, encoder, DEFAULT_TIME)[-1]

    async def decide() -> DecisionTrace:
        async with memory.connect(namespace=world.namespace) as mem:
            policy = MemoryAugmentedPolicy(mem, checkpoint, seed=2)
            await policy.select_action(state, "momentum", source="replay", run_id="explained")
            assert policy.last_trace is not None
            await mem.decisions.add(policy.last_trace)
            return policy.last_trace

    trace = asyncio.run(decide())
    found = explain(world.namespace, trace.decision_id)
    assert found["replay"]["status"] == EQUAL, found["replay"]
    assert trace.line is not None
    assert trace.line.startswith(f"{world.namespace}/")
    assert [item["nights"] for item in found["knowledge"]] == [["2021-06-17"]] * len(found["knowledge"])
    (night,) = found["nights"]
    (run,) = found["runs"]
    assert (night["run"], run["flow"], run["window"]) == (run["run_id"], "consolidate_memories", "2021-06-17")
    assert run["parameters"]["namespace"] == world.namespace


def test_a_time_without_history_around_it_is_refused() -> None:
    for day in (1, 30):
        with pytest.raises(InvalidQueryError, match="cannot be checked"):
            check_time(sample(), default_encoder(), DEFAULT_TIME.replace(month=6 if day == 1 else 12, day=day))
