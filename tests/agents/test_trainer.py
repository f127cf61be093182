"""Central training: one learner over what all agents lived through, that goes on exactly where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import memory
from agents.encoder import StateEncoder
from agents.policy.checkpoint import PolicyCheckpoint
from agents.policy.layout import InputLayout
from agents.policy.network import NetworkSettings
from agents.policy.policy import MemoryAugmentedPolicy
from agents.trainer import CentralizedTrainer, TrainingSettings
from agents.training.settings import LearnerSettings
from memory.errors import CheckpointError, EncoderError, InvalidRecordError
from memory.records import EpisodicMemory, from_ms
from tests.agents.acting import inputs_of_acting, state_of

START, END = datetime(2021, 6, 17, tzinfo=UTC), datetime(2021, 6, 18, tzinfo=UTC)
HELD_OUT = 15
"""Hours at the day's end; agents acted in its first ten, so that nine are learned from."""


@pytest.fixture
def layout(encoder: StateEncoder) -> InputLayout:
    return InputLayout.of_encoder(encoder, own=3, shared=2, min_age_minutes=60)


def _settings(steps: int = 4, **learner: object) -> TrainingSettings:
    return TrainingSettings(
        steps=steps,
        device="cpu",
        held_out_hours=HELD_OUT,
        learner=LearnerSettings(batch=32, **learner),  # type: ignore[arg-type]
        network=NetworkSettings(hidden=16, token_hidden=8, knowledge_hidden=4),
    )


async def _loaded(mem: memory.MemoryConnection, layout: InputLayout, settings: TrainingSettings) -> CentralizedTrainer:
    trainer = CentralizedTrainer(mem, layout, settings)
    await trainer.load(START, END)
    return trainer


@pytest.mark.parametrize("learner", [{}, {"counterfactual": False}, {"memory_use": "both", "memory_every": 1}])
async def test_saved_and_resumed_it_ends_in_the_same_bits(
    filled: memory.MemoryConnection, layout: InputLayout, tmp_path: Path, learner: dict[str, object]
) -> None:
    settings = _settings(6, **learner)
    whole = await _loaded(filled, layout, settings)
    undisturbed = []
    while not whole.done:
        undisturbed.append(whole.train_step())
    first = await _loaded(filled, layout, settings)
    for _ in range(3):
        first.train_step()
    first.save(tmp_path / "state.pt")
    second = await _loaded(filled, layout, settings)
    assert second.resume(tmp_path / "state.pt")
    assert second.step == 3
    resumed = []
    while not second.done:
        resumed.append(second.train_step())
    assert resumed == undisturbed[3:]
    assert second.checkpoint().id_ == whole.checkpoint().id_


async def test_a_state_of_another_training_is_refused(
    filled: memory.MemoryConnection, layout: InputLayout, tmp_path: Path
) -> None:
    one = await _loaded(filled, layout, _settings())
    one.save(tmp_path / "state.pt")
    other = await _loaded(filled, layout, _settings(gamma=0.5))
    with pytest.raises(CheckpointError, match=one.training_id):
        other.resume(tmp_path / "state.pt")
    assert not other.resume(tmp_path / "none.pt")


async def test_what_ends_later_holds_out_other_hours_and_is_another_training(
    filled: memory.MemoryConnection, layout: InputLayout, tmp_path: Path
) -> None:
    """The same experiences, a day without any behind them: nothing is held out then, and the policy acts later."""
    settings = replace(_settings(), held_out_hours=15)
    one = await _loaded(filled, layout, settings)
    one.train_step()
    one.save(tmp_path / "state.pt")
    later = CentralizedTrainer(filled, layout, settings)
    await later.load(START, END + timedelta(days=1))
    assert len(later.data.states) == len(one.data.states)
    assert later.checkpoint().trained_until > one.checkpoint().trained_until
    with pytest.raises(CheckpointError, match="data or settings differ"):
        later.resume(tmp_path / "state.pt")


@pytest.mark.parametrize("memory_use", ["none", "retrieve"])
async def test_an_encoder_that_was_fitted_later_is_refused_whatever_memory_is_used_for(
    mem: memory.MemoryConnection, layout: InputLayout, lived_hours: tuple[EpisodicMemory, ...], memory_use: str
) -> None:
    await mem.encoders.register(layout.encoder_id, fitted_until=END, definition={})
    await mem.episodic.add_many(lived_hours[:200])
    with pytest.raises(EncoderError, match="fitted on data until"):
        await _loaded(mem, layout, _settings(memory_use=memory_use))


async def test_the_seed_decides(filled: memory.MemoryConnection, layout: InputLayout) -> None:
    ids = []
    for seed in (0, 0, 1):
        settings = _settings(2)
        trainer = await _loaded(filled, layout, replace(settings, seed=seed))
        while not trainer.done:
            trainer.train_step()
        ids.append(trainer.checkpoint().id_)
    assert ids[0] == ids[1] != ids[2]


async def test_states_are_seen_as_the_policy_that_acts_sees_them(
    filled: memory.MemoryConnection, layout: InputLayout, lived_hours: tuple[EpisodicMemory, ...]
) -> None:
    """The trainer's inputs equal those that retrieval from Redis, as of each state's time, gives."""
    trainer = await _loaded(filled, layout, _settings())
    data = trainer.data
    lived = {item.timestamp: item for item in lived_hours}
    day = int(data.states.timestamp_ms[0]) // 86_400_000
    eyes = data.agents[(day + 0) % len(data.agents)]
    compared = 0
    for row in range(130, len(data.states), 67):
        item = lived[from_ms(int(data.states.timestamp_ms[row]))]
        acting, _ = await inputs_of_acting(filled, layout, state_of(item), eyes)
        learning = data.inputs.take(np.array([row]))
        np.testing.assert_array_equal(acting.memory_mask, learning.memory_mask)
        np.testing.assert_allclose(acting.state, learning.state, atol=1e-5)
        np.testing.assert_allclose(acting.memory, learning.memory, atol=2e-5)
        compared += int(learning.memory_mask.sum())
    assert compared > 20


async def test_experiences_of_enough_quality_are_shared(
    mem: memory.MemoryConnection, layout: InputLayout, encoder: StateEncoder, lived_hours: tuple[EpisodicMemory, ...]
) -> None:
    kept = [item for item in lived_hours if item.timestamp.hour < 3]
    await mem.encoders.register(encoder.id_, fitted_until=encoder.fitted_until_, definition={})
    await mem.episodic.add_many(kept)
    settings = replace(_settings(), held_out_hours=0)
    trainer = await _loaded(mem, layout, settings)
    good = sum(item.quality >= mem.settings.shared_min_quality for item in kept if item.quality is not None)
    assert (trainer.published.shared, trainer.published.below_quality) == (good, len(kept) - good)
    assert await mem.shared.count() == good
    again = await _loaded(mem, layout, settings)
    assert (again.published.shared, again.published.duplicates) == (0, good)
    assert again.training_id == trainer.training_id


async def test_hours_that_are_held_out_are_not_drawn(filled: memory.MemoryConnection, layout: InputLayout) -> None:
    trainer = await _loaded(filled, layout, _settings())
    drawn = trainer.data.states.timestamp_ms[trainer.data.learnable[trainer._items]]
    assert from_ms(int(drawn.max())) < END.replace(day=17, hour=24 - HELD_OUT)
    figures = trainer.evaluate()
    assert {"learned_net_bp", "held_out_net_bp", "held_out_in_position", "held_out_trades"} <= figures.keys()


async def test_training_on_a_rule_earns_on_what_was_learned(
    filled: memory.MemoryConnection, layout: InputLayout
) -> None:
    """Half a day by heart: a learner that cannot do that learns nothing."""
    trainer = await _loaded(filled, layout, _settings(120, learning_rate=5e-3, gamma=0.9))
    before = trainer.evaluate()["learned_net_bp"]
    while not trainer.done:
        trainer.train_step()
    assert trainer.evaluate()["learned_net_bp"] > max(before, 0.0) + 0.2


async def test_the_policy_acts_after_the_span_and_not_in_it(
    filled: memory.MemoryConnection, layout: InputLayout, lived_hours: tuple[EpisodicMemory, ...]
) -> None:
    trainer = await _loaded(filled, layout, _settings(1))
    trainer.train_step()
    checkpoint: PolicyCheckpoint = trainer.checkpoint()
    assert checkpoint.trained_until == END
    assert checkpoint.details["agents"] == sorted({item.agent_id for item in lived_hours})
    state = state_of(lived_hours[-1])
    policy = MemoryAugmentedPolicy(filled, checkpoint)
    with pytest.raises(CheckpointError):
        await policy.select_action(state, "momentum")
    with pytest.raises(CheckpointError):
        await policy.select_action(state, "momentum", as_of=END)
    await policy.select_action(replace(state, timestamp=END), "momentum")
    assert policy.last_trace is not None
    assert policy.last_trace.checkpoint == checkpoint.id_


async def test_there_must_be_something_to_learn_from(mem: memory.MemoryConnection, layout: InputLayout) -> None:
    trainer = CentralizedTrainer(mem, layout)
    with pytest.raises(InvalidRecordError, match="holds no experiences"):
        await trainer.load(START, END)
    with pytest.raises(InvalidRecordError, match=r"Call load"):
        trainer.train_step()


async def test_a_span_without_experiences_is_an_error(filled: memory.MemoryConnection, layout: InputLayout) -> None:
    trainer = CentralizedTrainer(filled, layout, _settings())
    with pytest.raises(InvalidRecordError, match="no state whose next price is known"):
        await trainer.load(datetime(2021, 7, 1, tzinfo=UTC), datetime(2021, 7, 2, tzinfo=UTC))


async def test_all_held_out_is_an_error(filled: memory.MemoryConnection, layout: InputLayout) -> None:
    with pytest.raises(InvalidRecordError, match="held out"):
        await _loaded(filled, layout, replace(_settings(), held_out_hours=24))
