"""Every kind of question that a leak check asks, each as of a time that it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import memory
from agents.encoder import StateEncoder
from agents.fitting import default_encoder
from agents.leakage import ACTING
from agents.replay import State
from memory import MemoryConnection
from memory.records import REGIMES, to_ms
from memory.tables import TRAILING_VOLATILITY

if TYPE_CHECKING:
    from agents.policy.checkpoint import PolicyCheckpoint

PRODUCTS = ("BTC-USDT", "ETH-USDT")
"""Of the sample that is replayed: two, so that there are correlations."""
RUN = "leakcheck"
"""Run of the messages, and of the experiences that arrive late."""

Ask = Callable[[MemoryConnection, datetime], Awaitable[Any]]


def questions_of(states: Sequence[State], checkpoint: PolicyCheckpoint | None) -> dict[str, Ask]:
    """Every kind of question about some states, by name; each is asked as of the time that it is given."""

    def each(ask: Callable[[MemoryConnection, State, datetime], Awaitable[Any]]) -> Ask:
        async def call(mem: MemoryConnection, at: datetime) -> list[Any]:
            return [await ask(mem, state, at) for state in states]

        return call

    questions: dict[str, Ask] = {
        "experiences, by similarity": each(
            lambda mem, state, at: mem.retrieval.retrieve_similar_experiences(
                state.vector, as_of=at, top_k=50, with_next_state=True
            )
        ),
        "experiences of an agent": each(
            lambda mem, state, at: mem.retrieval.retrieve_similar_experiences(
                state.vector, agent_id=ACTING[0], as_of=at, top_k=50, with_next_state=True
            )
        ),
        "experiences of an agent, by relevance": each(
            lambda mem, state, at: mem.retrieval.retrieve_similar_experiences(
                state.vector, agent_id=ACTING[1], as_of=at, top_k=20, ranking="relevance"
            )
        ),
        "experiences, mem.at(t)": each(
            lambda mem, state, at: mem.at(at).retrieval.retrieve_similar_experiences(state.vector, top_k=50)
        ),
        "shared experiences": each(
            lambda mem, state, at: mem.shared.retrieve_shared_experiences(
                state.vector, as_of=at, top_k=50, with_next_state=True
            )
        ),
        "patterns": each(lambda mem, state, at: mem.retrieval.retrieve_patterns(state.vector, as_of=at, top_k=20)),
        "the pattern of a state": each(
            lambda mem, state, at: mem.retrieval.find_similar_pattern(state.vector, as_of=at, min_similarity=0.0)
        ),
        "estimates": each(_estimates),
        "similar regimes": each(
            lambda mem, state, at: mem.retrieval.retrieve_similar_regimes(
                state.vector, as_of=at, top_k=50, ahead_minutes=30
            )
        ),
        "what is known of regimes": _regime_knowledge,
        "correlations": _correlations,
        "semantic memory": lambda mem, at: mem.semantic.as_of(at),
        "semantic memory, mem.at(t)": lambda mem, at: mem.at(at).semantic.current(),
        "messages, history": lambda mem, at: mem.messages.history(as_of=at, run_id=RUN),
        "messages, heard": _heard,
        "pattern agent": each(_matched),
        "regime agent": each(_believed),
    }
    if checkpoint is not None:

        async def decide(mem: MemoryConnection, at: datetime) -> list[Any]:
            from agents.policy.policy import MemoryAugmentedPolicy

            policy = MemoryAugmentedPolicy(mem, checkpoint, seed=1)
            await policy.select_actions(states, ACTING[0], as_of=at, source="replay", run_id=RUN)
            return list(policy.last_traces)

        questions["decisions of a policy"] = decide
    return questions


async def _estimates(mem: MemoryConnection, state: State, at: datetime) -> list[Any]:
    return [
        await mem.retrieval.estimate(
            state.vector,
            action,
            horizon,
            regime=state.regime,
            as_of=at,
            trailing_volatility=state.features[TRAILING_VOLATILITY],
        )
        for action, horizon in (("LONG", 1), ("LONG", 15), ("SHORT", 60))
    ]


async def _regime_knowledge(mem: MemoryConnection, at: datetime) -> list[Any]:
    return [
        await mem.retrieval.retrieve_regime_knowledge(regime, product_id=product_id, as_of=at, min_sharpe=-100.0)
        for regime in REGIMES
        for product_id in (None, *PRODUCTS)
    ]


async def _correlations(mem: MemoryConnection, at: datetime) -> list[Any]:
    return [await mem.retrieval.retrieve_correlations(product_id, as_of=at) for product_id in PRODUCTS]


async def _heard(mem: MemoryConnection, at: datetime) -> list[Any]:
    """What a reader hears in a replay whose present is the time."""
    heard = []
    with memory.replaying(memory.ReplayClock(at)):
        async with mem.messages.read("listener", reader=f"at-{to_ms(at)}", run_id=RUN, wait=False) as reader:
            async for message in reader:
                heard.append(message)
    return heard


async def _matched(mem: MemoryConnection, state: State, at: datetime) -> Any:
    from agents.pattern import PatternAgent

    return await PatternAgent(mem, min_similarity=0.0, broadcast=False).match(state, as_of=at)


async def _believed(mem: MemoryConnection, state: State, at: datetime) -> Any:
    """The belief about the state, had it been met at the time: the agent asks as of the state's own."""
    from agents.regime_detection import RegimeDetectionAgent

    agent = RegimeDetectionAgent(mem, default_encoder(), min_days=0, broadcast=False)
    return await agent.assess(replace(state, timestamp=at), dwell_minutes=5.0)


def untrained_policy(encoder: StateEncoder) -> PolicyCheckpoint:
    """A policy whose weights are drawn, not learned: it attends to whatever it is shown."""
    from agents.policy.checkpoint import PolicyCheckpoint, weights_of
    from agents.policy.layout import InputLayout
    from agents.policy.network import NetworkSettings, build_network
    from agents.training.settings import LearnerSettings

    layout = InputLayout.of_encoder(encoder)
    network = NetworkSettings(hidden=16, token_hidden=8, knowledge_hidden=4)
    weights = weights_of(build_network(layout, network, seed=3))
    return PolicyCheckpoint(layout, network, weights, LearnerSettings(), encoder.fitted_until_, temperature=0.3)
