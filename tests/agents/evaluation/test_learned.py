"""Trainings: paired, repeatable, alike but for memory; staged as they end and found again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.evaluation import learned
from agents.evaluation.folds import Fold
from agents.evaluation.jobs import FixedJob, Plan, PolicyJob, PrepareJob, Workshop
from agents.evaluation.learned import TrainingRoom, judge, train
from agents.evaluation.learned import test_values as values_of
from agents.evaluation.learner_settings import learner_settings
from agents.evaluation.material import Material
from agents.evaluation.settings import (
    PERMUTED,
    POLICIES,
    REGULARISED,
    WITH_ESTIMATES,
    WITH_MEMORY,
    WITHOUT_MEMORY,
    Cell,
    EvaluationSettings,
)
from agents.market import Market
from agents.training.learner import DoubleDQN

CELL = Cell(15, 2.0)
STEPS, BATCH = 4, 16


@pytest.fixture(scope="module")
def room(material: Material) -> TrainingRoom:
    """The fold with what all contestants share."""
    return TrainingRoom(material, CELL)


def test_contestants_differ_in_memory_alone(room: TrainingRoom) -> None:
    plain = room.data(WITHOUT_MEMORY)
    assert not plain.inputs.memory_mask.any()
    assert not plain.inputs.knowledge_mask.any()
    for name in (WITH_MEMORY, PERMUTED, WITH_ESTIMATES):
        data = room.data(name)
        assert np.array_equal(data.inputs.state, plain.inputs.state)
        assert np.array_equal(data.test.state, plain.test.state)
        assert data.test.memory_mask.all()
        assert data.test.knowledge_mask.any() == (name == WITH_ESTIMATES)
        assert np.array_equal(data.move, plain.move)
    assert room.data(REGULARISED).optimal is not None


def test_permuted_tokens_are_of_the_same_memories(room: TrainingRoom) -> None:
    names = list(room.layout.token_names)
    outcomes = [names.index(name) for name in ("reward", "move", "has_next")]
    outcomes += [place for place, name in enumerate(names) if name.startswith("change_")]
    same = [place for place in range(len(names)) if place not in outcomes]
    real, control = room.data(WITH_MEMORY).test.memory, room.data(PERMUTED).test.memory
    assert np.array_equal(real[..., same], control[..., same])
    assert not np.array_equal(real[..., outcomes], control[..., outcomes])


@pytest.mark.parametrize("name", [WITH_MEMORY, REGULARISED])
def test_a_seed_trains_the_same_policy_again(room: TrainingRoom, name: str) -> None:
    data = room.data(name)
    first, again, other = (train(data, name, seed, steps=STEPS, batch=BATCH) for seed in (0, 0, 1))
    assert np.array_equal(values_of(data, first), values_of(data, again))
    assert not np.array_equal(values_of(data, first), values_of(data, other))


def test_a_seed_begins_with_the_same_weights_with_and_without_memory(room: TrainingRoom) -> None:
    begun = [DoubleDQN(room.layout, learner_settings(name, BATCH), seed=3) for name in (WITH_MEMORY, WITHOUT_MEMORY)]
    for ours, theirs in zip(begun[0].online.parameters(), begun[1].online.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_transitions_lead_to_the_next_decision(room: TrainingRoom, material: Material) -> None:
    data = room.data(WITHOUT_MEMORY)
    grid, starts = material.grid, material.rows.starts
    place = 5
    following = room.data(WITHOUT_MEMORY).inputs.state[data.second[place]]
    assert grid.following[starts[place]] > starts[place]
    wanted = np.searchsorted(np.unique(np.concatenate([starts, grid.following[starts]])), grid.following[starts[place]])
    assert np.array_equal(following, data.inputs.state[wanted])
    volatility = grid.trailing_volatility[starts[place]] * np.sqrt(15.0)
    assert data.move[place] == pytest.approx(grid.move[starts[place]] / volatility)
    assert data.cost[place] == pytest.approx(2e-4 / volatility)


def test_hindsight_of_the_past_knows_no_price_after_it(room: TrainingRoom, material: Material) -> None:
    optimal = room.data(REGULARISED).optimal
    assert optimal is not None
    last = int(np.argmax(material.grid.timestamp_ms[material.rows.starts]))
    move, cost = room.data(REGULARISED).move[last], room.data(REGULARISED).cost[last]
    reward = move * np.array([-1.0, 0.0, 1.0]) - cost * np.array([1.0, 0.0, 1.0])
    gain = optimal[last, 1, :3] - reward
    # At most what a few decisions later are worth: the last of the past are worth nothing more.
    assert np.abs(gain).max() < np.abs(optimal[:, 1, :3]).max()
    assert (optimal[last, 1, 3], optimal[last, 1, 1]) == pytest.approx((optimal[last, 1, 1],) * 2)


def test_a_track_record_says_what_its_positions_brought(room: TrainingRoom) -> None:
    data = room.data(WITHOUT_MEMORY)
    always_long = np.zeros((len(data.test), 3, 4))
    always_long[:, :, 2] = 1.0
    track = judge(room, WITHOUT_MEMORY, 0, always_long)
    assert track.exposed[0] > 0.9
    assert track.turnover[0] == pytest.approx(2.0, abs=1e-6)
    assert sum(track.gross) - sum(track.net) == pytest.approx(2 * 2e-4, abs=1e-7)


# --- jobs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(market: Market, fold: Fold, settings: EvaluationSettings, tmp_path: Path) -> Plan:
    """One cell, two seeds."""
    few = replace(settings, cells=(CELL,), steps=STEPS, batch=BATCH)
    return Plan.of(market, [fold], few, tmp_path)


def test_what_was_trained_before_a_kill_is_found_again(
    plan: Plan, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Struck(BaseException):
        """Ends a run as nothing that it catches does."""

    trained: list[int] = []
    real = learned.train

    def counted(*arguments: object, **named: object) -> object:
        if len(trained) == 1:
            raise Struck
        trained.append(1)
        return real(*arguments, **named)  # type: ignore[arg-type]

    job = PolicyJob(0, CELL, WITHOUT_MEMORY)
    monkeypatch.setattr(learned, "train", counted)
    with pytest.raises(Struck):
        Workshop(market, plan).do(job)
    assert [plan.policy_path(0, CELL, WITHOUT_MEMORY, seed).exists() for seed in (0, 1)] == [True, False]
    assert not plan.is_done(job)
    trained.clear()
    tracks = list(Workshop(market, plan).policies(0, CELL, WITHOUT_MEMORY))
    assert len(trained) == 1
    assert [track.seed for track in tracks] == [0, 1]
    assert plan.is_done(job)


def test_a_damaged_result_is_made_again(plan: Plan, market: Market) -> None:
    workshop = Workshop(market, plan)
    first = workshop.fixed(0, CELL)
    assert plan.is_done(FixedJob(0, CELL))
    path = plan.fixed_path(0, CELL)
    path.write_bytes(path.read_bytes()[:100])
    assert not plan.is_done(FixedJob(0, CELL))
    assert Workshop(market, plan).fixed(0, CELL) == first


def test_another_market_is_another_plan(
    plan: Plan, market: Market, fold: Fold, settings: EvaluationSettings, tmp_path: Path
) -> None:
    few = Market(market.name, [market.products["BTC-USDT"]])
    assert Plan.of(few, [fold], plan.settings, tmp_path).key != plan.key
    assert Plan.of(market, [fold], replace(plan.settings, steps=5), tmp_path).key != plan.key
    assert Plan.of(market, [fold], replace(plan.settings, seeds=(0, 1, 2)), tmp_path).key == plan.key


def test_jobs_are_all_that_the_plan_promises(plan: Plan) -> None:
    kinds: Iterator[type] = (type(job) for job in [*plan.prepare_jobs(), *plan.fixed_jobs(), *plan.policy_jobs()])
    assert set(kinds) == {PrepareJob, FixedJob, PolicyJob}
    assert len(plan.policy_jobs()) == len(POLICIES)
    assert plan.settings.trainings(1) == len(POLICIES) * len(plan.settings.seeds)
