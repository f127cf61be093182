"""Recording any Gymnasium environment: the experiences are those that were lived through, and can be asked about."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from agents.background import BackgroundMemory
from agents.baselines import MeanReversionAgent
from agents.encoder import StateEncoder
from agents.market import Market
from agents.protocols import ObservationEncoder
from agents.replay import MarketReplay
from agents.simulation import simulate
from memory import MemoryConnection
from memory.errors import InvalidQueryError, InvalidRecordError, StoreUnavailableError
from memory.records import REGIMES, VECTOR_DIMENSION, EpisodicMemory

gymnasium = pytest.importorskip("gymnasium", reason="environments need the extra 'policy'")

from agents.environment import MarketEnvironment  # noqa: E402
from agents.recording_wrapper import MarketObservationEncoder, RecordingWrapper  # noqa: E402

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
STEPS = 12


class Corridor(gymnasium.Env[Any, Any]):
    """Walk left or right for a few steps; nothing of it is a market."""

    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.count = 0.0, 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.place += int(action) - 1
        self.count += 1
        return self._seen(), -abs(self.place) / 100.0, self.count == STEPS, False, {}

    def _seen(self) -> Any:
        return np.array([self.place, self.count], dtype=np.float32)


class PlaneEncoder:
    """Places two numbers on a circle, within as many dimensions as the memory has."""

    id_ = "plane-1"
    fitted_until_ = datetime(2020, 1, 1, tzinfo=UTC)
    scale = 1.0

    def encode(self, observation: Any) -> Any:
        vector = np.zeros(VECTOR_DIMENSION, dtype=np.float32)
        vector[:3] = observation[0], observation[1], 1.0
        return self.scale * vector / np.linalg.norm(vector)

    def regime(self, observation: Any) -> str:
        return "TRENDING" if observation[0] > 0 else "QUIET"


@pytest.fixture
def remembered(servers: Any, namespace: str) -> Iterator[BackgroundMemory]:
    with BackgroundMemory(redis_url=servers.redis_url, namespace=namespace, encoder=PlaneEncoder()) as opened:
        yield opened


def corridor(recorder: Any, **options: Any) -> RecordingWrapper:
    named = {"agent_id": "walker", "run_id": "walk-1", "product_id": "corridor", "begin": BEGIN} | options
    return RecordingWrapper(Corridor(), recorder, PlaneEncoder(), **named)


def walk(env: Any, actions: list[int]) -> list[Any]:
    env.reset(seed=0)
    return [env.step(action) for action in actions]


async def _stored(mem: MemoryConnection) -> list[EpisodicMemory]:
    far = datetime(2100, 1, 1, tzinfo=UTC)
    pages = [
        page async for page in mem.episodic.read_window(datetime(2000, 1, 1, tzinfo=UTC), far, with_next_state=True)
    ]
    return sorted((item for page in pages for item in page), key=lambda item: item.step)


def test_each_step_of_a_foreign_environment_becomes_an_experience(remembered: BackgroundMemory) -> None:
    env = corridor(remembered)
    actions = [2, 2, 0, 1] * 3
    answers = walk(env, actions)
    assert [answer[0].tolist() for answer in answers] == [answer[0].tolist() for answer in walk(Corridor(), actions)]
    assert remembered.flush().written == env.recorded == STEPS
    stored = remembered.ask(_stored)
    encoder = PlaneEncoder()
    for number, (item, answer) in enumerate(zip(stored, answers, strict=True)):
        assert (item.timestamp, item.known_at) == (
            BEGIN + timedelta(seconds=number),
            BEGIN + timedelta(seconds=number + 1),
        )
        assert item.reward == answer[1]
        assert item.action.index == actions[number]
        assert item.terminal == (number == STEPS - 1)
        assert item.next_state_vector is not None
        np.testing.assert_allclose(item.next_state_vector, encoder.encode(answer[0]), atol=1e-6)
    assert {item.regime for item in stored} == {"TRENDING", "QUIET"}


def test_what_was_recorded_is_found_by_the_next_question(remembered: BackgroundMemory) -> None:
    walk(corridor(remembered), [2] * STEPS)
    remembered.flush()
    vector = PlaneEncoder().encode([3.0, 3.0])
    hits = remembered.ask(lambda mem: mem.retrieval.retrieve_similar_experiences(vector, agent_id="walker", top_k=1))
    assert hits[0].memory.step == 3
    assert hits[0].distance < 1e-6


def test_a_market_environment_records_what_a_simulation_does(
    servers: Any, namespace: str, coinbase: Market, coinbase_encoder: StateEncoder
) -> None:
    market = Market("sample-coinbase", [coinbase.products["BTC-USD"]])
    day = datetime(2018, 4, 4, tzinfo=UTC)
    replay = MarketReplay(market, day, day + timedelta(days=1), coinbase_encoder)
    agent = MeanReversionAgent()
    encoder = MarketObservationEncoder(coinbase_encoder)
    with BackgroundMemory(redis_url=servers.redis_url, namespace=namespace, encoder=encoder) as remembered:
        inner = MarketEnvironment(replay, actions="exposure")
        env = RecordingWrapper(inner, remembered, encoder, agent_id="reverter", run_id="env-1")
        for _ in inner.episodes:
            env.reset()
            ended = False
            while not ended:
                target = agent.decide(inner.state, inner.position).action.target(inner.position)
                ended = env.step(np.array([target]))[2]
        remembered.flush()
        stored = remembered.ask(_stored)
    simulated = list(simulate(market, day, day + timedelta(days=1), [agent], coinbase_encoder).experiences())
    assert len(stored) == len(simulated) > 500
    same = (
        "timestamp", "known_at", "reward", "gross_return", "cost", "position_before", "position_after", "price",
        "spread", "regime", "terminal", "product_id",
    )  # fmt: skip
    assert [item.return_known_at for item in stored if item.terminal] == [
        item.return_known_at for item in simulated if item.terminal
    ]
    for ours, theirs in zip(stored, simulated, strict=True):
        assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
        np.testing.assert_array_equal(ours.state_vector, theirs.state_vector)
        if theirs.next_state_vector is None:
            assert ours.next_state_vector is None
        else:
            np.testing.assert_array_equal(ours.next_state_vector, theirs.next_state_vector)


def test_a_market_observation_alone_gives_nearly_the_states_vector(
    coinbase: Market, coinbase_encoder: StateEncoder
) -> None:
    day = datetime(2018, 4, 4, tzinfo=UTC)
    replay = MarketReplay(coinbase, day, day + timedelta(hours=8), coinbase_encoder)
    encoder = MarketObservationEncoder(coinbase_encoder)
    env = MarketEnvironment(replay)
    observation, _ = env.reset()
    np.testing.assert_allclose(encoder.encode(observation), env.state.vector, atol=1e-4)
    assert encoder.regime(observation) in REGIMES
    with pytest.raises(InvalidRecordError, match="from a vector"):
        encoder.regime(MarketEnvironment(replay, observe="vector").reset()[0])
    assert isinstance(encoder, ObservationEncoder)


# --- what cannot be ------------------------------------------------------------------------------------------


class _Kept:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def record(self, experience: Any, trace: Any = None) -> bool:
        self.items.append(experience)
        return len(self.items) < 3


def test_steps_that_the_recorder_has_no_room_for_are_counted() -> None:
    env = corridor(_Kept())
    walk(env, [1] * STEPS)
    assert (env.recorded, env.dropped) == (2, STEPS - 2)


def test_vector_environments_are_refused_with_the_way_to_do_it() -> None:
    several = gymnasium.vector.SyncVectorEnv([Corridor, Corridor])
    with pytest.raises(InvalidQueryError, match="SyncVectorEnv"):
        RecordingWrapper(several, _Kept(), PlaneEncoder(), agent_id="a", run_id="r")


def test_actions_without_a_meaning_need_one() -> None:
    env = Corridor()
    env.action_space = gymnasium.spaces.Discrete(7)
    with pytest.raises(InvalidQueryError, match="action_of"):
        RecordingWrapper(env, _Kept(), PlaneEncoder(), agent_id="a", run_id="r")


@pytest.mark.parametrize("scale", [2.0, float("nan")])
def test_an_encoder_that_makes_no_unit_vectors_is_refused(scale: float) -> None:
    encoder = PlaneEncoder()
    encoder.scale = scale
    env = RecordingWrapper(Corridor(), _Kept(), encoder, agent_id="a", run_id="r", product_id="p")
    with pytest.raises(InvalidRecordError, match="plane-1"):
        env.reset()


def test_a_step_before_the_first_episode_or_after_one_is_refused() -> None:
    env = corridor(_Kept())
    with pytest.raises(InvalidQueryError, match="no episode has begun"):
        env.step(1)
    walk(env, [1] * STEPS)
    with pytest.raises(InvalidQueryError, match="no episode has begun"):
        env.step(1)


# --- the memory in the background ------------------------------------------------------------------------------


def test_questions_from_a_loopless_program_obey_the_replay_around_them(remembered: BackgroundMemory) -> None:
    with memory.replaying(memory.ReplayClock(BEGIN)):
        with pytest.raises(InvalidQueryError, match="would see the future"):
            remembered.ask(lambda mem: mem.messages.history(run_id="r"))
        assert remembered.ask(lambda mem: mem.messages.history(run_id="r", as_of=BEGIN)).messages == ()


def test_closing_writes_what_waits_and_what_comes_later_is_refused(servers: Any, namespace: str) -> None:
    remembered = BackgroundMemory(
        redis_url=servers.redis_url, namespace=namespace, encoder=PlaneEncoder(), interval_s=3600.0
    ).open()
    walk(corridor(remembered), [1] * STEPS)
    remembered.close()
    remembered.close()
    with pytest.raises(InvalidQueryError, match="not open"):
        remembered.report()

    async def count() -> int:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return await mem.episodic.count()

    assert asyncio.run(count()) == STEPS


def test_a_server_that_is_not_there_is_said_when_it_is_opened(namespace: str) -> None:
    remembered = BackgroundMemory(redis_url="redis://127.0.0.1:1/0", namespace=namespace, encoder=PlaneEncoder())
    with pytest.raises(StoreUnavailableError):
        remembered.open()


def test_a_question_that_takes_too_long_is_given_up(remembered: BackgroundMemory) -> None:
    cancelled = []

    async def slow(mem: MemoryConnection) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(mem.namespace)
            raise

    with pytest.raises(TimeoutError):
        remembered.ask(slow, timeout_s=0.05)
    remembered.ask(lambda mem: mem.episodic.count())
    assert cancelled
