"""The policy that acts: sees what was known, draws by its seed, says what it rested on, and can decide again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch

import memory
from agents.policy.checkpoint import PolicyCheckpoint
from agents.policy.inputs import PolicyInputs
from agents.policy.layout import InputLayout
from agents.policy.network import action_probabilities, as_tensors
from agents.policy.policy import PROBABILITY_DECIMALS, MemoryAugmentedPolicy, chosen_by, drawn
from agents.policy.retrieval import Retrieved, inputs_of
from agents.replay import State
from agents.training.settings import LearnerSettings
from memory.decisions import validate_trace
from memory.errors import CheckpointError, EncoderError, InvalidQueryError, InvalidRecordError
from memory.records import EpisodicMemory

AGENT = "momentum"


async def test_it_reads_own_and_shared_memories_of_the_past(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    policy = MemoryAugmentedPolicy(filled, checkpoint)
    action, confidence = await policy.select_action(states[0], AGENT, run_id="test")
    trace = policy.last_trace
    assert trace is not None
    assert (trace.action, trace.confidence) == (action, confidence)
    assert confidence == trace.probabilities[action.index]
    assert (len(trace.own), len(trace.shared)) == (checkpoint.layout.own, checkpoint.layout.shared)
    latest = states[0].timestamp - timedelta(minutes=checkpoint.layout.min_age_minutes - 1)
    assert all(read.known_at <= latest for read in (*trace.own, *trace.shared))
    found = [await filled.episodic.get(read.memory_id) for read in trace.own]
    assert {item.agent_id for item in found if item} == {AGENT}
    assert validate_trace(trace) is trace


async def test_what_becomes_known_later_is_not_read(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    """The very state is remembered, four hours after the first question and three before the second."""
    policy = MemoryAugmentedPolicy(filled, checkpoint)
    nearest = []
    for shift in (timedelta(hours=-4), timedelta(hours=3)):
        state = replace(states[1], timestamp=states[1].timestamp + shift)
        await policy.select_action(state, AGENT)
        assert policy.last_trace is not None
        assert all(read.known_at <= state.timestamp for read in policy.last_trace.own + policy.last_trace.shared)
        nearest.append(policy.last_trace.own[0].distance)
    assert nearest[0] > 0.01
    assert nearest[1] == pytest.approx(0.0, abs=1e-6)


async def test_inside_a_replay_the_future_is_refused(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    clock = memory.ReplayClock(states[0].timestamp)
    policy = MemoryAugmentedPolicy(filled, checkpoint)
    with memory.replaying(clock):
        await policy.select_action(states[0], AGENT)
        with pytest.raises(InvalidQueryError, match="the present of the replay"):
            await policy.select_action(states[1], AGENT)


async def test_a_batch_decides_as_one_by_one(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    policy = MemoryAugmentedPolicy(filled, checkpoint, seed=4)
    positions = [-1.0, 0.0, 1.0, 0.0, 1.0, -1.0][: len(states)]
    together = await policy.select_actions(states, AGENT, positions=positions)
    probabilities = [trace.probabilities for trace in policy.last_traces]
    alone = []
    for state, position, expected in zip(states, positions, probabilities, strict=True):
        alone.append(await policy.select_action(state, AGENT, position=position))
        assert policy.last_trace is not None
        assert policy.last_trace.probabilities == expected
    assert alone == together


async def test_draws_depend_on_the_seed_and_the_decision_alone(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    policy, same = (MemoryAugmentedPolicy(filled, checkpoint, seed=1) for _ in range(2))
    forwards = [await policy.select_action(state, AGENT) for state in states]
    backwards = [await same.select_action(state, AGENT) for state in reversed(states)]
    assert forwards == backwards[::-1]
    draws = [trace.draw for seed in (1, 2) for trace in [await _trace(filled, checkpoint, states[0], seed)]]
    assert draws[0] != draws[1]


async def _trace(mem: memory.MemoryConnection, checkpoint: PolicyCheckpoint, state: State, seed: int):  # type: ignore[no-untyped-def]
    policy = MemoryAugmentedPolicy(mem, checkpoint, seed=seed)
    await policy.select_action(state, AGENT)
    assert policy.last_trace is not None
    return policy.last_trace


async def test_greedy_takes_the_best_and_draws_nothing(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    policy = MemoryAugmentedPolicy(filled, checkpoint, mode="greedy")
    action, confidence = await policy.select_action(states[0], AGENT)
    trace = policy.last_trace
    assert trace is not None
    assert (trace.draw, trace.seed) == (None, None)
    assert confidence == max(trace.probabilities) == trace.probabilities[action.index]


async def test_a_decision_can_be_taken_again_from_its_trace(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    policy = MemoryAugmentedPolicy(filled, checkpoint, seed=9, same_product=True)
    await policy.select_action(states[2], AGENT, position=-1.0, run_id="again", step=3)
    first = policy.last_trace
    assert first is not None
    again = await MemoryAugmentedPolicy(filled, checkpoint).decide_again(first)
    names = ("decision_id", "own", "shared", "probabilities", "draw", "action", "confidence", "policy_parameters")
    assert {name: getattr(again, name) for name in names} == {name: getattr(first, name) for name in names}


async def test_another_checkpoint_does_not_decide_again(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    trace = await _trace(filled, checkpoint, states[0], 0)
    other = replace(checkpoint, temperature=1.0)
    with pytest.raises(InvalidRecordError, match=checkpoint.id_):
        await MemoryAugmentedPolicy(filled, other).decide_again(trace)


async def test_an_empty_memory_stands_for_nothing_retrieved(
    mem: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    policy = MemoryAugmentedPolicy(mem, checkpoint, mode="greedy")
    await policy.select_action(states[0], AGENT)
    trace = policy.last_trace
    assert trace is not None
    assert (trace.own, trace.shared, trace.patterns, trace.knowledge) == ((), (), (), ())
    assert trace.probabilities == _without_memory(checkpoint, states[0])


def _without_memory(checkpoint: PolicyCheckpoint, state: State) -> tuple[float, ...]:
    inputs: PolicyInputs = inputs_of(
        checkpoint.layout, [state], [state.regime], [state.product_id], [0.0], [Retrieved()], [state.timestamp]
    )
    with torch.no_grad():
        values = checkpoint.build().double()(as_tensors(inputs, dtype=torch.float64)).numpy()
    found = action_probabilities(values, checkpoint.temperature, decimals=PROBABILITY_DECIMALS)
    return tuple(found[0].tolist())


async def test_an_agent_that_nobody_knows_reads_what_others_shared(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    policy = MemoryAugmentedPolicy(filled, checkpoint)
    await policy.select_action(states[0], "newcomer")
    assert policy.last_trace is not None
    assert not policy.last_trace.own
    assert len(policy.last_trace.shared) == checkpoint.layout.shared


async def test_without_memory_nothing_is_asked(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    baseline = replace(checkpoint, learner=LearnerSettings(memory_use="none"))
    policy = MemoryAugmentedPolicy(filled, baseline, mode="greedy")
    await policy.select_action(states[0], AGENT)
    assert policy.last_trace is not None
    assert not policy.last_trace.own
    assert policy.last_trace.probabilities == _without_memory(baseline, states[0])


async def test_a_state_that_is_not_finite_is_refused_and_named(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    name = checkpoint.layout.feature_names[0]
    bad = replace(states[0], features={**states[0].features, name: float("nan")})
    policy = MemoryAugmentedPolicy(filled, checkpoint)
    with pytest.raises(InvalidRecordError, match=rf"feature {name} of .* is nan"):
        await policy.select_action(bad, AGENT)
    with pytest.raises(InvalidRecordError, match=r"vector of .* is not finite"):
        await policy.select_action(replace(states[0], vector=np.full(256, np.nan, np.float32)), AGENT)


@pytest.mark.parametrize("memory_use", ["retrieve", "none"])
async def test_a_memory_of_another_encoder_is_refused(
    filled: memory.MemoryConnection,
    checkpoint: PolicyCheckpoint,
    layout: InputLayout,
    states: tuple[State, ...],
    memory_use: str,
) -> None:
    other = replace(
        checkpoint,
        layout=replace(layout, encoder_id="other-encoder"),
        learner=replace(checkpoint.learner, memory_use=memory_use),
    )
    with pytest.raises(EncoderError, match=rf"other-encoder.*{layout.encoder_id}"):
        await MemoryAugmentedPolicy(filled, other).select_action(states[0], AGENT)


async def test_it_does_not_act_on_what_it_was_trained_on(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...]
) -> None:
    later = replace(checkpoint, trained_until=states[0].timestamp + timedelta(minutes=1))
    with pytest.raises(CheckpointError, match="was not known at"):
        await MemoryAugmentedPolicy(filled, later).select_action(states[0], AGENT)


@pytest.mark.parametrize("position", [1.5, float("nan")])
async def test_a_position_that_cannot_be_is_refused(
    filled: memory.MemoryConnection, checkpoint: PolicyCheckpoint, states: tuple[State, ...], position: float
) -> None:
    with pytest.raises(InvalidRecordError, match="position"):
        await MemoryAugmentedPolicy(filled, checkpoint).select_action(states[0], AGENT, position=position)


def test_draws_are_uniform_and_choose_by_share(lived_hours: tuple[EpisodicMemory, ...]) -> None:
    draws = np.array([drawn(0, f"{number:032x}") for number in range(4_000)])
    assert abs(draws.mean() - 0.5) < 0.02
    assert 0 <= draws.min() < draws.max() < 1
    shares = np.array([0.25, 0.0, 0.5, 0.25])
    chosen = np.bincount([chosen_by(shares, draw) for draw in draws], minlength=4) / len(draws)
    np.testing.assert_allclose(chosen, shares, atol=0.03)
    assert chosen_by(np.array([0.5, 0.5, 0.0, 0.0]), 1.0) == 1
