"""`coinswarm explain` of a decision: what it rested on, and the same decision taken again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import rich.console

import memory
from agents.baselines import MomentumAgent, baseline_agents
from agents.fitting import default_encoder
from agents.market import Market
from agents.replay import MarketReplay, State
from agents.simulation import simulate
from deployments.explain import explain, show_explanation
from deployments.explain_decision import DIFFERENT, EQUAL, NOT_REPLAYED
from memory import MemoryConnection
from memory.decisions import DecisionTrace, KnowledgeRead
from memory.errors import InvalidQueryError
from memory.ledger import FencingToken, Ledger, PatternRow, Projection
from memory.records import EpisodicMemory, SemanticType
from memory.semantic_records import PatternMemory
from memory.settings import Settings
from memory.window import Window
from tasks.recording import register_encoder

DAY = datetime(2021, 6, 17, tzinfo=UTC)
DECIDED = DAY + timedelta(hours=7)
AGENT = "momentum"
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def lived() -> tuple[EpisodicMemory, ...]:
    """Hours before the decision."""
    market = Market.sample("binance", ["BTC-USDT"])
    agents = [agent for agent in baseline_agents(0) if agent.agent_id in (AGENT, "random")]
    simulated = simulate(market, DAY, DAY + timedelta(days=1), agents, default_encoder()).experiences()
    found = [item for item in simulated if item.timestamp < DECIDED]
    for item in found:
        item.quality = 0.9
    return tuple(found)


@pytest.fixture(scope="module")
def state() -> State:
    """The state that is decided on."""
    replay = MarketReplay(Market.sample("binance", ["BTC-USDT"]), DECIDED - MINUTE, DECIDED + MINUTE, default_encoder())
    return list(replay)[-1][0]


@pytest.fixture
def with_memory(configured: str, lived: tuple[EpisodicMemory, ...]) -> Callable[[Any], Any]:
    """Runs an async function on the memory of a namespace that holds the hours before, its own and shared."""

    def run(function: Callable[[MemoryConnection], Awaitable[Any]]) -> Any:
        async def call() -> Any:
            async with memory.connect(namespace=configured) as mem:
                return await function(mem)

        return asyncio.run(call())

    async def fill(mem: MemoryConnection) -> None:
        await register_encoder(mem, default_encoder())
        await mem.episodic.add_many([replace(item) for item in lived])
        await mem.shared.add_shared_experiences([replace(item) for item in lived])

    run(fill)
    return run


@pytest.fixture
def decided(configured: str, with_memory: Callable[[Any], Any], state: State) -> DecisionTrace:
    """A decision of a policy with memory, its checkpoint in the home."""
    pytest.importorskip("torch", reason="policies need the extra 'policy'")
    from agents.policy.checkpoint import PolicyCheckpoint, weights_of
    from agents.policy.layout import InputLayout
    from agents.policy.network import NetworkSettings, build_network
    from agents.policy.policy import MemoryAugmentedPolicy
    from agents.training.settings import LearnerSettings

    layout = InputLayout.of_encoder(default_encoder(), own=3, shared=2, min_age_minutes=60)
    network = NetworkSettings(hidden=16, token_hidden=8, knowledge_hidden=4)
    weights = weights_of(build_network(layout, network, seed=3))
    checkpoint = PolicyCheckpoint(layout, network, weights, LearnerSettings(), DAY, temperature=0.3)
    checkpoint.save(Settings().policies_path / configured)

    async def decide(mem: MemoryConnection) -> DecisionTrace:
        policy = MemoryAugmentedPolicy(mem, checkpoint, seed=5)
        await policy.select_action(state, AGENT, source="replay", run_id="explained")
        assert policy.last_trace is not None
        await mem.decisions.add(policy.last_trace)
        return policy.last_trace

    trace: DecisionTrace = with_memory(decide)
    return trace


def test_a_decision_of_a_policy_leads_to_what_it_read_and_comes_out_equal(
    configured: str, decided: DecisionTrace
) -> None:
    found = explain(configured, decided.decision_id)
    assert found["replay"]["status"] == EQUAL, found["replay"]
    assert found["replay"]["values"] > 300
    assert [read["memory_id"] for read in found["own"]] == [read.memory_id for read in decided.own]
    assert [read["memory_id"] for read in found["shared"]] == [read.memory_id for read in decided.shared]
    assert len(found["own"]) == 3
    assert len(found["shared"]) == 2
    assert all(read["held"] and read["timestamp"] < DECIDED.isoformat() for read in found["own"] + found["shared"])
    assert {read["agent_id"] for read in found["own"]} == {AGENT}
    out = rich.console.Console(width=200, force_terminal=False)
    with out.capture() as captured:
        show_explanation(found, out)
    text = captured.get()
    assert f"draw {decided.draw}" in text
    assert "taken again: equal" in text
    assert all(read.memory_id in text for read in (*decided.own, *decided.shared))


def test_a_decision_whose_memory_was_removed_comes_out_different_and_says_where(
    configured: str, decided: DecisionTrace, with_memory: Callable[[Any], Any]
) -> None:
    gone = decided.own[0].memory_id

    async def remove(mem: MemoryConnection) -> None:
        found = await mem.episodic.get(gone)
        assert found is not None
        await mem.link.execute("DEL", mem.keys.episodic(AGENT, found.product_id, _ms(found.timestamp), gone))

    with_memory(remove)
    found = explain(configured, decided.decision_id)
    assert found["replay"]["status"] == DIFFERENT
    assert any("[own][0]" in text for text in found["replay"]["differences"])
    assert [read["held"] for read in found["own"]] == [False, True, True]


def test_without_its_checkpoint_a_decision_is_explained_and_not_replayed(
    configured: str, decided: DecisionTrace
) -> None:
    (Settings().policies_path / configured / f"{decided.checkpoint}.npz").unlink()
    replay = explain(configured, decided.decision_id)["replay"]
    assert replay["status"] == NOT_REPLAYED
    assert "put its file there" in replay["how"]


@pytest.mark.parametrize("entry", [1.0, 1e9], ids=["as decided", "as it would have with another threshold"])
def test_a_baselines_decision_is_taken_again_with_the_parameters_it_had(
    configured: str, with_memory: Callable[[Any], Any], state: State, entry: float
) -> None:
    agent = MomentumAgent(entry=0.0 if entry == 1e9 else 1.0)
    decision = agent.decide(state, 0.0)
    recorded = MomentumAgent(entry=entry).parameters() | {"price": state.price, "spread": state.spread}
    trace = replace(_trace(state), policy="momentum", policy_parameters=recorded)
    trace = replace(trace, action=decision.action, confidence=decision.confidence)
    with_memory(lambda mem: mem.decisions.add(trace))
    replay = explain(configured, trace.decision_id)["replay"]
    assert replay["status"] == (EQUAL if entry == 1.0 else DIFFERENT), replay
    assert any("[action]" in text for text in replay["differences"]) == (entry == 1e9)


def test_a_pattern_that_was_read_leads_to_its_nights_their_runs_and_settings(
    configured: str, with_memory: Callable[[Any], Any], state: State, ledger: Ledger
) -> None:
    before, after = (Window.of_date(date(2021, 6, day)) for day in (16, 17))
    run_id = ledger.runs.start("consolidate_memories", configured, {"refold": True}, window=before, lease_s=60)
    token: FencingToken = ledger.fence.acquire(configured, run_id, flow="consolidate_memories", lease_s=60)
    line = ledger.lines.ensure(token, default_encoder().id_, "1")
    for window in (before, after):
        ledger.windows.commit_generation(token, line, window, settings_hash="settings-1", entries=())
        ledger.projections.save(token, line, window, Projection(patterns=[_pattern_row(window)]))
    ledger.fence.release(token)
    read = KnowledgeRead(memory_id="p-kept", kind="PATTERN", valid_from=before.end, distance=0.25)
    trace = replace(_trace(state), line=line, patterns=(read,))
    with_memory(lambda mem: mem.decisions.add(trace))
    found = explain(configured, trace.decision_id)
    assert found["knowledge"][0]["nights"] == ["2021-06-16"]
    (night,) = found["nights"]
    assert (night["window"], night["settings_hash"], night["run"]) == ("2021-06-16", "settings-1", run_id)
    assert [(run["run_id"], run["parameters"]) for run in found["runs"]] == [(run_id, {"refold": True})]
    assert found["replay"]["status"] == NOT_REPLAYED
    assert "own program" in found["replay"]["how"]


def test_of_a_decision_that_read_nothing_it_is_told_what_was_known_as_of_it(
    configured: str, with_memory: Callable[[Any], Any], state: State
) -> None:
    trace = _trace(state)
    line = f"{configured}/{default_encoder().id_}/1"

    async def publish(mem: MemoryConnection) -> None:
        await mem.decisions.add(trace)
        await mem.link.execute("SET", mem.keys.fence, 1)
        for day, names in enumerate((("p-known",), ("p-known", "p-later"))):
            known = [_pattern(name, line, state) for name in names]
            await mem.semantic.publish(
                known, line=line, kinds=tuple(SemanticType), token=1, valid_from=DAY + timedelta(days=day)
            )

    with_memory(publish)
    found = explain(configured, trace.decision_id)
    assert [item["memory_id"] for item in found["unread"]] == ["p-known"]
    assert found["knowledge"] == []
    out = rich.console.Console(width=200, force_terminal=False)
    with out.capture() as captured:
        show_explanation(found, out)
    text = captured.get()
    assert "it read no memory" in text
    assert "known then, and not read" in text
    assert "pattern p-known in words" in text
    assert f"return_15m {state.features['return_15m']:+.4g}" in text


def test_an_id_of_no_decision_and_no_pattern_is_refused(configured: str) -> None:
    with pytest.raises(InvalidQueryError, match="keeps no trace"):
        explain(configured, "0" * 32)


def _trace(state: State) -> DecisionTrace:
    decision = MomentumAgent().decide(state, 0.0)
    return DecisionTrace(
        agent_id=AGENT,
        product_id=state.product_id,
        timestamp=state.timestamp,
        as_of=state.timestamp,
        source="replay",
        run_id="explained",
        encoder_id=default_encoder().id_,
        features=state.features,
        state_vector=state.vector,
        regime=state.regime,
        regime_confidence=state.regime_confidence,
        position_before=0.0,
        policy="rule",
        action=decision.action,
        confidence=decision.confidence,
    )


def _pattern(name: str, line: str, state: State) -> PatternMemory:
    """A pattern at the very state that was decided on."""
    return PatternMemory(
        memory_id=name,
        pattern_id=name,
        description=f"pattern {name} in words",
        encoder_id=default_encoder().id_,
        line=line,
        created_at=DAY,
        valid_from=DAY,
        concept_vector=state.vector,
        source="replay",
        regime=state.regime,
        product_ids=("BTC-USDT",),
        conditions=(),
        support=5,
        effective_support=3,
        states=40,
        windows_seen=1,
        first_seen=DAY - timedelta(hours=20),
        last_seen=DAY - timedelta(hours=2),
        broad=False,
        status="new",
        outcomes=(),
        volatility=(),
        expected_return=0.0,
        best_action="FLAT",
    )


def _pattern_row(window: Window) -> PatternRow:
    return PatternRow(
        item_id="p-kept",
        payload=window.name.encode(),
        status="ACTIVE",
        published=True,
        source="replay",
        regime="QUIET",
        product_ids=("BTC-USDT",),
        support=4,
        states=40,
        windows_seen=1,
        first_seen=window.start,
        last_seen=window.start,
        broad=False,
        demoted=False,
        expected_return=0.0,
        best_action="FLAT",
        description="a pattern",
    )


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
