"""Working memory follows an episode and makes experiences of it, with the returns that only its end gives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory import Action, AgentMemoryMessage, AgentState, EpisodicMemory, MemoryConnection, Side, WorkingMemory
from memory.errors import InvalidRecordError, StoreUnavailableError
from memory.validation import validate_experience

NOON = datetime(2021, 6, 17, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BUY, FLAT = Action(Side.BUY, 0.5), Action(Side.BUY, 0.0)


@dataclass
class Seen:
    """A state, as a replay gives it."""

    timestamp: datetime
    product_id: str = "BTC-USDT"
    features: dict[str, float] = field(default_factory=lambda: {"trend": 1.0})
    vector: Any = None
    price: float = 30_000.0
    spread: float | None = None
    regime: str = "QUIET"
    regime_confidence: float = 0.8


def seen(minute: float, **changes: Any) -> Seen:
    """The state of a minute."""
    vector = np.zeros(256, np.float32)
    vector[int(minute) % 256] = 1.0
    return Seen(NOON + minute * MINUTE, vector=vector, **changes)


def working(**changes: Any) -> WorkingMemory:
    """A working memory of a replay."""
    return WorkingMemory("momentum", "BTC-USDT", source="replay", run_id="night-1", **changes)


def lived(mind: WorkingMemory, rewards: list[float]) -> None:
    """A step a minute."""
    for minute, reward in enumerate(rewards):
        mind.observe(seen(minute), action=BUY, reward=reward)


# --- the episode -----------------------------------------------------------------------------------------------


async def test_an_episode_becomes_experiences_with_returns_to_its_end() -> None:
    mind = working()
    lived(mind, [0.01, -0.02, 0.03])
    records = await mind.complete_episode(completed_at=NOON + 3 * MINUTE)
    assert [record.cumulative_return for record in records] == pytest.approx([0.02, 0.01, 0.03])
    assert [record.terminal for record in records] == [False, False, True]
    assert {record.return_known_at for record in records} == {NOON + 3 * MINUTE}
    assert [record.known_at for record in records] == [NOON + minute * MINUTE for minute in (1, 2, 3)]
    assert [record.step for record in records] == [0, 1, 2]
    for record in records:
        validate_experience(record)


async def test_the_next_state_of_a_step_is_that_of_the_next_step_where_it_follows_closely() -> None:
    mind = working()
    for minute in (0, 1, 7):
        mind.observe(seen(minute), action=BUY, reward=0.0)
    first, second, last = await mind.complete_episode(completed_at=NOON + 8 * MINUTE)
    assert first.next_state_vector is not None
    assert np.array_equal(first.next_state_vector, seen(1).vector)
    assert (second.next_state_vector, second.known_at) == (None, None)
    assert (last.next_state_vector, last.known_at) == (None, NOON + 8 * MINUTE)


async def test_what_is_said_of_a_step_wins_over_what_follows_from_the_others() -> None:
    mind = working()
    mind.activate({"p-1": 0.9})
    mind.observe(
        seen(0),
        action=BUY,
        reward=0.1,
        next_state=seen(1),
        known_at=NOON + 2 * MINUTE,
        step=7,
        position_before=-1.0,
        position_after=0.25,
        pattern_ids=["p-2"],
        other_agent_actions={"hold": FLAT},
    )
    mind.observe(seen(3), action=FLAT, reward=0.0)
    first, second = await mind.complete_episode(completed_at=NOON + 4 * MINUTE)
    assert (first.known_at, first.step, first.pattern_ids) == (NOON + 2 * MINUTE, 7, ("p-2",))
    assert (first.position_before, first.position_after) == (-1.0, 0.25)
    assert first.other_agent_actions == {"hold": FLAT}
    assert np.array_equal(np.asarray(first.next_state_vector), seen(1).vector)
    assert (second.position_before, second.position_after, second.pattern_ids) == (0.25, 0.0, ("p-1",))


async def test_an_episode_is_stored_and_the_next_begins_with_what_was_believed(mem: MemoryConnection) -> None:
    mind = working(encoder_id="rff-1", episode_id="first")
    lived(mind, [0.01, 0.02])
    records = await mind.complete_episode(mem, completed_at=NOON + 2 * MINUTE, next_episode_id="second")
    assert mind.last_report is not None
    assert set(mind.last_report.stored) == {record.memory_id for record in records}
    found = await mem.episodic.get(records[0].memory_id)
    assert found is not None
    assert found.cumulative_return == pytest.approx(0.03)
    assert (mind.episode_id, mind.episode_length, mind.episode_start) == ("second", 0, None)
    assert (mind.cumulative_reward, mind.max_drawdown, mind.current_regime) == (0.0, 0.0, "QUIET")
    assert len(mind.recent_states) == 2


async def test_an_episode_that_could_not_be_stored_goes_on(mem: MemoryConnection) -> None:
    mind = working(encoder_id="rff-1")
    lived(mind, [0.01])
    await mem.close()
    with pytest.raises(StoreUnavailableError):
        await mind.complete_episode(mem, completed_at=NOON + MINUTE)
    assert mind.episode_length == 1
    await mem.open()
    await mind.complete_episode(mem, completed_at=NOON + MINUTE)
    assert await mem.episodic.count() == 1


class HalfStores:
    """Takes what it is given, and fails the first time, as a server that dies with the answer on its way."""

    def __init__(self) -> None:
        self.taken: list[list[EpisodicMemory]] = []
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.leave.set()

    @property
    def episodic(self) -> Any:
        return self

    async def add_many(self, records: Any) -> Any:
        self.taken.append(list(records))
        self.entered.set()
        await self.leave.wait()
        if len(self.taken) == 1:
            raise StoreUnavailableError("no answer.", remedy="Ask again.")


async def test_an_episode_that_is_completed_again_gives_the_same_records() -> None:
    mind, store = WorkingMemory("momentum", "BTC-USDT"), HalfStores()
    lived(mind, [0.01, 0.02])
    with pytest.raises(StoreUnavailableError):
        await mind.complete_episode(store)
    await mind.complete_episode(store)
    first, second = ([(item.known_at, item.return_known_at) for item in records] for records in store.taken)
    assert first == second


async def test_no_step_is_lost_to_an_episode_that_is_being_completed() -> None:
    mind, store = working(), HalfStores()
    lived(mind, [0.01])
    store.leave.clear()
    completing = asyncio.ensure_future(mind.complete_episode(store, completed_at=NOON + MINUTE))
    await store.entered.wait()
    with pytest.raises(InvalidRecordError, match="being completed"):
        mind.observe(seen(1), action=BUY, reward=0.0)
    with pytest.raises(InvalidRecordError, match="being completed"):
        await mind.complete_episode(None)
    store.leave.set()
    await asyncio.gather(completing, return_exceptions=True)
    assert mind.observe(seen(1), action=BUY, reward=0.0).step == 1


async def test_a_recorder_takes_the_records_of_an_episode() -> None:
    class Keeps:
        def __init__(self) -> None:
            self.kept: list[EpisodicMemory] = []

        def record(self, experience: EpisodicMemory) -> bool:
            self.kept.append(experience)
            return True

    mind, recorder = working(), Keeps()
    lived(mind, [0.01, 0.02])
    records = await mind.complete_episode(recorder, completed_at=NOON + 2 * MINUTE)
    assert tuple(recorder.kept) == records


async def test_nothing_observed_makes_no_records() -> None:
    assert await working().complete_episode() == ()


async def test_a_replay_says_when_its_last_reward_was_known() -> None:
    mind = working()
    lived(mind, [0.01, 0.01])
    with pytest.raises(InvalidRecordError, match="not known when") as caught:
        await mind.complete_episode()
    assert caught.value.field == "completed_at"
    with pytest.raises(InvalidRecordError, match="lies before"):
        await mind.complete_episode(completed_at=NOON)
    live = WorkingMemory("momentum", "BTC-USDT")
    lived(live, [0.01])
    (record,) = await live.complete_episode()
    assert record.return_known_at == record.known_at


@given(st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=30))
async def test_sums_and_drawdown_agree_with_their_definitions(rewards: list[float]) -> None:
    mind = working(window=5)
    lived(mind, rewards)
    curve = np.concatenate([[0.0], np.cumsum(rewards)])
    assert mind.cumulative_reward == pytest.approx(curve[-1], abs=1e-12)
    assert mind.max_drawdown == pytest.approx(float((np.maximum.accumulate(curve) - curve).max()), abs=1e-12)
    assert list(mind.recent_rewards) == rewards[-5:]
    records = await mind.complete_episode(completed_at=NOON + 60 * MINUTE)
    returns = [record.cumulative_return for record in records]
    assert returns == pytest.approx(np.cumsum(rewards[::-1])[::-1].tolist(), abs=1e-12)


def test_windows_hold_the_last_hundred_steps_also_over_episodes() -> None:
    mind = working()
    lived(mind, [0.0] * 120)
    assert len(mind.recent_states) == len(mind.recent_actions) == len(mind.recent_rewards) == 100
    assert mind.recent_states[-1].timestamp == NOON + 119 * MINUTE
    assert mind.episode_length == 120
    assert mind.episode_start == NOON
    assert mind.episode_id == "momentum.BTC-USDT.20210617T120000"


# --- beliefs ---------------------------------------------------------------------------------------------------


def test_a_change_of_regime_is_remembered_with_its_span() -> None:
    mind = working()
    assert mind.believe("QUIET", 0.6, NOON)
    assert not mind.believe("QUIET", 0.9, NOON + MINUTE)
    assert mind.believe("VOLATILE", 0.7, NOON + 2 * MINUTE)
    assert (mind.current_regime, mind.regime_confidence, mind.regime_since) == ("VOLATILE", 0.7, NOON + 2 * MINUTE)
    (spell,) = mind.previous_regimes
    assert (spell.regime, spell.since, spell.until) == ("QUIET", NOON, NOON + 2 * MINUTE)


def test_a_belief_of_the_same_time_stands_and_records_have_the_label_of_the_state() -> None:
    mind = working()
    mind.believe("CRISIS", 0.9, NOON)
    record = mind.observe(seen(0), action=BUY, reward=0.0)
    assert (mind.current_regime, record.regime) == ("CRISIS", "QUIET")
    mind.observe(seen(1), action=BUY, reward=0.0)
    assert (mind.current_regime, mind.regime_confidence) == ("QUIET", 0.8)
    mind.observe(seen(2), action=BUY, reward=0.0, regime="TRENDING", regime_confidence=0.3)
    assert (mind.current_regime, mind.regime_confidence) == ("TRENDING", 0.3)


def test_active_patterns_are_ordered_by_how_sure_they_are() -> None:
    mind = working()
    mind.activate({"b": 0.5, "a": 0.5, "c": 0.9})
    assert mind.active_patterns == ("c", "a", "b")
    mind.activate({"a": 0.2})
    assert mind.pattern_confidences == {"a": 0.2}


def test_others_are_known_by_what_they_said_last() -> None:
    mind = working()
    assert mind.meet(AgentState(agent_id="hold", timestamp=NOON, action=BUY, position=0.5))
    assert not mind.meet(AgentState(agent_id="hold", timestamp=NOON - MINUTE, action=FLAT))
    assert mind.other_agent_states["hold"].action == BUY
    with pytest.raises(InvalidRecordError, match="is this agent"):
        mind.meet(AgentState(agent_id="momentum", timestamp=NOON))


def test_what_others_did_at_the_time_is_in_the_record() -> None:
    mind = working()
    mind.meet(AgentState(agent_id="hold", timestamp=NOON, action=FLAT))
    mind.meet(AgentState(agent_id="random", timestamp=NOON - MINUTE, action=BUY))
    mind.meet(AgentState(agent_id="other", timestamp=NOON, action=BUY, product_id="ETH-USDT"))
    assert mind.observe(seen(0), action=BUY, reward=0.0).other_agent_actions == {"hold": FLAT}


def test_an_action_stays_where_it_was_taken_when_its_agent_says_something_else_later() -> None:
    mind = working()
    told = {"sender_agent_id": "hold", "message_type": "WARNING", "insight": "x"}
    mind.hear(AgentMemoryMessage(**told, timestamp=NOON, data={"action": {"side": "BUY", "size": 0.5}}))
    mind.hear(AgentMemoryMessage(**told, timestamp=NOON + MINUTE, data={"regime": "CRISIS"}))
    assert mind.observe(seen(0), action=BUY, reward=0.0).other_agent_actions == {"hold": BUY}
    assert mind.observe(seen(1), action=BUY, reward=0.0).other_agent_actions == {}


def test_messages_tell_what_others_are_at() -> None:
    mind = working()

    def say(minute: int, **data: Any) -> AgentState | None:
        return mind.hear(
            AgentMemoryMessage(
                sender_agent_id="regime",
                message_type="WARNING",
                insight="x",
                timestamp=NOON + minute * MINUTE,
                data=data,
            )
        )

    assert say(0, new_regime="CRISIS", confidence=0.9, product_id="BTC-USDT") is not None
    state = say(1, action={"side": "SELL", "size": 0.25}, confidence=0.4, position=-0.25, product_id="BTC-USDT")
    assert state == AgentState(
        agent_id="regime",
        timestamp=NOON + MINUTE,
        product_id="BTC-USDT",
        action=Action(Side.SELL, 0.25),
        position=-0.25,
        confidence=0.4,
        regime="CRISIS",
        regime_confidence=0.9,
    )
    assert say(2, pattern_id="p-1", product_id="BTC-USDT", confidence=0.1) is None
    assert say(0, position=1.0, product_id="BTC-USDT") is None
    other = say(3, position=1.0, product_id="ETH-USDT")
    assert other is not None
    assert other.regime is None
    assert len(mind.recent_messages) == 5


@pytest.mark.parametrize(
    "data",
    [
        {"new_regime": "STORM"},
        {"action": "BUY"},
        {"action": {"side": "UP"}},
        {"position": 3.0},
        {"regime": "QUIET", "regime_confidence": 2},
    ],
)
def test_a_message_that_makes_no_sense_is_refused(data: dict[str, Any]) -> None:
    message = AgentMemoryMessage(
        sender_agent_id="regime", message_type="WARNING", insight="x", timestamp=NOON, data=data
    )
    with pytest.raises(InvalidRecordError):
        working().hear(message)


# --- refusals --------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_follow_is_refused() -> None:
    mind = working(max_steps=2)
    mind.observe(seen(1), action=BUY, reward=0.0)
    for changes, field_name in (
        ({"state": seen(1)}, "timestamp"),
        ({"state": seen(2, product_id="ETH-USDT")}, "product_id"),
        ({"state": seen(2), "reward": float("nan")}, "reward"),
        ({"state": seen(2), "action": "BUY"}, "action"),
        ({"state": seen(2), "regime": "STORM"}, "regime"),
    ):
        arguments: dict[str, Any] = {"action": BUY, "reward": 0.0, **changes}
        with pytest.raises(InvalidRecordError) as caught:
            mind.observe(arguments.pop("state"), **arguments)
        assert caught.value.field == field_name
    assert mind.episode_length == 1
    mind.observe(seen(2), action=BUY, reward=0.0)
    assert mind.is_full
    with pytest.raises(InvalidRecordError, match="complete_episode"):
        mind.observe(seen(3), action=BUY, reward=0.0)


def test_beliefs_follow_the_order_of_time() -> None:
    mind = working()
    mind.believe("QUIET", 0.5, NOON)
    with pytest.raises(InvalidRecordError, match="last belief"):
        mind.believe("CRISIS", 0.5, NOON - MINUTE)
