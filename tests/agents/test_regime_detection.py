"""Regime detection: the rule, the remembered states and what they became, joined, steadied, and told to others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from agents.encoder import StateEncoder
from agents.feed import Tick
from agents.market import Market
from agents.market_analysis import MarketAnalysisAgent
from agents.regime_belief import RegimeBelief
from agents.regime_calibration import RegimeCalibration, default_calibration
from agents.regime_detection import RegimeDetectionAgent, most_probable
from agents.regime_history import labels_ahead, votes_ahead
from agents.replay import MarketReplay, ProductStates, State
from agents.simulation import SimulatedWindow
from agents.snapshot import MarketSnapshot
from memory import MemoryConnection, ReplayClock, replaying
from memory.errors import EncoderError, InvalidQueryError, MarketDataError, StoreUnavailableError
from memory.messages import AgentMemoryMessage, MessageType
from memory.records import REGIMES
from memory.store.messages import Messages

DAY = datetime(2021, 6, 17, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)
MINUTE = timedelta(minutes=1)
BTC = "BTC-USDT"


class Told(RegimeCalibration):
    """A calibration that gives the probabilities that a test tells it, one decision after the other."""

    def __init__(self, *told: dict[str, float]) -> None:
        self.fitted_until_ = datetime(2000, 1, 1, tzinfo=UTC)
        self.told = list(told)
        self.__dict__["id_"] = "told"

    def probabilities(self, *_: Any, target: str = "ahead") -> np.ndarray[Any, np.dtype[np.float64]]:
        chances = self.told[0] if target == "ahead" else self.told.pop(0)
        return np.array([[chances.get(regime, 0.0) for regime in REGIMES]])


@pytest.fixture(scope="module")
def days(binance: Market, encoder: StateEncoder) -> ProductStates:
    """BTC from the first sample night to the middle of the second."""
    return MarketReplay(binance, DAY, DAY + timedelta(hours=36), encoder).product(BTC)


@pytest.fixture(scope="module")
def state(days: ProductStates) -> State:
    return days.state(1440 + 180)


def later(state: State, minutes: float) -> State:
    return replace(state, timestamp=state.timestamp + timedelta(minutes=minutes))


@pytest.fixture
async def remembered(mem: MemoryConnection, night: SimulatedWindow, encoder: StateEncoder) -> MemoryConnection:
    """A memory that holds one agent's night in BTC."""
    experiences = [item for item in night.experiences() if (item.agent_id, item.product_id) == ("hold", BTC)]
    await mem.episodic.add_many(experiences)
    await mem.encoders.register(encoder.id_, fitted_until=encoder.fitted_until_, definition={})
    return mem


# --- what it rests on ----------------------------------------------------------------------------------------


async def test_the_vote_of_a_memory_is_that_of_the_arrays_it_was_calibrated_on(
    remembered: MemoryConnection, encoder: StateEncoder, days: ProductStates
) -> None:
    calibration = default_calibration()
    codes = days.regimes.codes.astype(np.int64)
    ahead = labels_ahead(days.decision_ms, codes)
    # Four hours before the last of these, the memory's night had just ended.
    for row in (1440 + 30, 1440 + 180, 1440 + 240):
        state = days.state(row)
        vote, voting_days = votes_ahead(days, np.array([row]), ahead, int(DAY.timestamp() * 1000))
        assert voting_days[0] == 1
        agent = RegimeDetectionAgent(remembered, encoder, min_days=1, broadcast=False)
        belief = await agent.assess(state, 7.0)
        candidate = encoder.regimes_.candidates(days.features[[row]]).astype(np.int64)
        expected = calibration.probabilities(
            codes[[row]], days.regimes.confidence[[row]], np.array([7.0]), candidate, vote
        )
        assert list(belief.probabilities.values()) == pytest.approx(expected[0].tolist(), abs=2e-3)
        assert 90 <= belief.states <= 100
        assert belief.calibration_id == calibration.id_


async def test_a_snapshot_and_a_followed_replay_come_to_the_same_belief(
    remembered: MemoryConnection, encoder: StateEncoder, binance: Market, days: ProductStates
) -> None:
    follows = RegimeDetectionAgent(remembered, encoder, min_days=1, broadcast=False, margin=0.0)
    codes = days.regimes.codes
    begun = next(row for row in range(1440 + 60, 1440 + 200) if codes[row] != codes[row - 1])
    for row in range(begun - 1, begun + 6):
        followed = await follows.follow(days.state(row))
    snapshot = MarketSnapshot.of_market(binance, BTC, followed.timestamp)
    looks = RegimeDetectionAgent(remembered, encoder, min_days=1, broadcast=False, margin=0.0)
    assert await looks.detect_regime(snapshot) == (followed.regime, followed.confidence)
    assert looks.belief(BTC) is not None


async def test_a_thin_memory_leaves_it_to_the_rules_own_probabilities(
    remembered: MemoryConnection, mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    belief = await RegimeDetectionAgent(remembered, encoder, broadcast=False).assess(state, 7.0)
    assert belief.states == 0
    assert belief.calibration_id == default_calibration().id_
    assert sum(belief.probabilities.values()) == pytest.approx(1.0)


async def test_an_empty_memory_is_as_good_as_a_thin_one(
    mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    belief = await RegimeDetectionAgent(mem, encoder).assess(state, 7.0)
    assert belief.states == 0
    assert 0.0 < belief.confidence < 1.0
    assert belief.hindsight_confidence is not None


async def test_without_a_calibration_it_is_the_rules_label_and_share(
    mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    belief = await RegimeDetectionAgent(mem, encoder, calibration=None).assess(state, 7.0)
    assert (belief.regime, belief.confidence) == (state.regime, state.regime_confidence)
    assert (belief.hindsight_confidence, belief.probabilities, belief.calibration_id) == (None, {}, None)


async def test_the_calibration_that_ships_is_left_out_before_it_was_known_and_a_given_one_is_refused(
    mem: MemoryConnection, coinbase: Market, coinbase_encoder: StateEncoder
) -> None:
    snapshot = MarketSnapshot.of_market(coinbase, "BTC-USD", datetime(2018, 4, 4, 9, tzinfo=UTC))
    state = snapshot.state(coinbase_encoder)
    agent = RegimeDetectionAgent(mem, coinbase_encoder)
    assert await agent.detect_regime(snapshot) == (state.regime, state.regime_confidence)
    given = RegimeDetectionAgent(mem, coinbase_encoder, calibration=default_calibration())
    with pytest.raises(EncoderError, match="was not known at"):
        await given.detect_regime(snapshot)


async def test_a_market_without_quotes_is_judged_like_any_other(
    mem: MemoryConnection, encoder: StateEncoder, binance: Market
) -> None:
    snapshot = MarketSnapshot.of_market(binance, "DOT-USDT", NEXT)
    assert snapshot.spread is None
    regime, confidence = await RegimeDetectionAgent(mem, encoder).detect_regime(snapshot)
    assert regime in REGIMES
    assert 0.2 <= confidence <= 1.0


# --- bad input -----------------------------------------------------------------------------------------------


async def test_a_memory_of_another_encoder_is_refused(
    servers: Any, remembered: MemoryConnection, coinbase_encoder: StateEncoder, encoder: StateEncoder, state: State
) -> None:
    agent = RegimeDetectionAgent(remembered, coinbase_encoder)
    with pytest.raises(EncoderError, match=f"asked in encoder {encoder.id_}"):
        await agent.assess(state, 1.0)
    async with memory.connect(
        redis_url=servers.redis_url, namespace=remembered.namespace, encoder_id=coinbase_encoder.id_
    ) as other:
        with pytest.raises(EncoderError, match=f"asked in encoder {coinbase_encoder.id_}"):
            await RegimeDetectionAgent(other, encoder).assess(state, 1.0)


async def test_a_feature_that_is_nan_is_named(mem: MemoryConnection, encoder: StateEncoder, state: State) -> None:
    broken = replace(state, features=state.features | {"hurst_exponent": float("nan")})
    with pytest.raises(EncoderError, match=r"feature hurst_exponent of BTC-USDT at .* is nan"):
        await RegimeDetectionAgent(mem, encoder).assess(broken, 1.0)


async def test_a_cold_snapshot_is_refused(mem: MemoryConnection, encoder: StateEncoder, binance: Market) -> None:
    snapshot = MarketSnapshot.of_market(binance, BTC, NEXT, minutes=100)
    with pytest.raises(MarketDataError, match="is cold"):
        await RegimeDetectionAgent(mem, encoder).detect_regime(snapshot)


async def test_time_does_not_run_backwards(mem: MemoryConnection, encoder: StateEncoder, state: State) -> None:
    agent = RegimeDetectionAgent(mem, encoder)
    first = await agent.assess(state, 1.0)
    assert await agent.assess(state, 50.0) is first
    with pytest.raises(InvalidQueryError, match="lies before"):
        await agent.assess(later(state, -1), 1.0)


async def test_a_replay_cannot_ask_beyond_its_present(
    remembered: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    agent = RegimeDetectionAgent(remembered, encoder, broadcast=False)
    early = ReplayClock(state.timestamp - timedelta(hours=5))
    with replaying(early), pytest.raises(InvalidQueryError, match="the present of the replay"):
        await agent.assess(state, 1.0)
    with replaying(ReplayClock(state.timestamp)):
        assert (await agent.assess(state, 1.0)).timestamp == state.timestamp


async def test_a_memory_that_is_away_raises(servers: Any, namespace: str, encoder: StateEncoder, state: State) -> None:
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as connection:
        agent = RegimeDetectionAgent(connection, encoder)
    with pytest.raises(StoreUnavailableError):
        await agent.assess(state, 1.0)


# --- hysteresis, and telling ---------------------------------------------------------------------------------


def test_ties_go_to_the_rules_label_then_to_the_order_of_the_regimes() -> None:
    assert most_probable([0.4, 0.1, 0.4, 0.1, 0.0], "VOLATILE") == "VOLATILE"
    assert most_probable([0.4, 0.1, 0.4, 0.1, 0.0], "QUIET") == "TRENDING"


async def test_a_belief_changes_only_where_another_regime_is_clearly_more_probable(
    mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    told = Told({"QUIET": 0.6, "VOLATILE": 0.4}, {"QUIET": 0.4, "VOLATILE": 0.6}, {"QUIET": 0.3, "VOLATILE": 0.7})
    agent = RegimeDetectionAgent(mem, encoder, calibration=told, margin=0.3, broadcast=False)
    beliefs = [await agent.assess(later(state, minute), 1.0) for minute in range(3)]
    assert [belief.regime for belief in beliefs] == ["QUIET", "QUIET", "VOLATILE"]
    assert [belief.confidence for belief in beliefs] == [0.6, 0.4, 0.7]
    assert [belief.changed for belief in beliefs] == [False, False, True]
    assert [belief.before for belief in beliefs] == [None, None, "QUIET"]
    assert [belief.since for belief in beliefs] == [state.timestamp, state.timestamp, state.timestamp + 2 * MINUTE]
    assert agent.previous_regimes(BTC) == ("QUIET",)


async def test_a_belief_that_was_not_renewed_for_half_an_hour_is_forgotten(
    mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    told = Told({"QUIET": 0.6}, {"VOLATILE": 1.0}, {"CRISIS": 1.0})
    agent = RegimeDetectionAgent(mem, encoder, calibration=told, broadcast=False)
    await agent.assess(state, 1.0)
    belief = await agent.assess(later(state, 31), 1.0)
    assert (belief.regime, belief.changed, belief.before) == ("VOLATILE", False, None)
    assert (await agent.assess(later(state, 61), 1.0)).changed


async def test_a_change_is_broadcast_and_the_hook_is_called(
    mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    changes: list[RegimeBelief] = []

    async def on_change(belief: RegimeBelief) -> None:
        changes.append(belief)

    told = Told({"QUIET": 1.0}, {"VOLATILE": 0.75, "QUIET": 0.25}, {"CRISIS": 1.0})
    agent = RegimeDetectionAgent(mem, encoder, calibration=told, on_change=on_change)
    for minute in range(3):
        await agent.assess(later(state, minute), 1.0)
    messages = (await mem.messages.history("momentum")).messages
    assert [(message.message_type, message.data["before"], message.data["new_regime"]) for message in messages] == [
        (MessageType.REGIME_CHANGE, "QUIET", "VOLATILE"),
        (MessageType.REGIME_CHANGE, "VOLATILE", "CRISIS"),
    ]
    assert [message.importance for message in messages] == [0.75, 1.0]
    assert [message.timestamp for message in messages] == [state.timestamp + MINUTE, state.timestamp + 2 * MINUTE]
    assert [belief.regime for belief in changes] == ["VOLATILE", "CRISIS"]


def away_for(monkeypatch: pytest.MonkeyPatch, name: str, failures: int) -> None:
    """Messages cannot be sent for some attempts."""
    sends, left = getattr(Messages, name), [failures]

    async def send(self: Messages, *arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise StoreUnavailableError("Redis is away.", remedy="Wait.")
        return await sends(self, *arguments)

    monkeypatch.setattr(Messages, name, send)


async def test_a_change_that_could_not_be_told_is_told_once_with_the_next_decision(
    mem: MemoryConnection, encoder: StateEncoder, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[RegimeBelief] = []
    told = Told({"QUIET": 1.0}, {"VOLATILE": 1.0}, {"VOLATILE": 1.0}, {"VOLATILE": 1.0})
    agent = RegimeDetectionAgent(mem, encoder, calibration=told, on_change=changes.append)
    await agent.assess(state, 1.0)
    away_for(monkeypatch, "send_many", 1)
    with pytest.raises(StoreUnavailableError):
        await agent.assess(later(state, 1), 1.0)
    assert changes == []
    for minute in (2, 3):
        await agent.assess(later(state, minute), 1.0)
    assert [message.timestamp for message in await told_to_all(mem)] == [state.timestamp + MINUTE]
    assert [belief.timestamp for belief in changes] == [state.timestamp + MINUTE]


async def test_a_warning_that_could_not_be_sent_goes_out_once_with_the_next_bar(
    mem: MemoryConnection, encoder: StateEncoder, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyst = MarketAnalysisAgent(mem, encoder, calibration=None)
    await analyst.on_ticks([tick(state, 0), tick(state, 0, "ETH-USDT")])
    away_for(monkeypatch, "send_many", 1)
    with pytest.raises(StoreUnavailableError):
        await analyst.on_ticks([tick(state, 6)])
    for minute in (7, 8):
        await analyst.on_ticks([tick(state, minute)])
    assert [message.data["product_id"] for message in await told_to_all(mem)] == ["ETH-USDT"]
    assert analyst.report.warnings == 1


async def test_a_first_belief_is_no_change(mem: MemoryConnection, encoder: StateEncoder, state: State) -> None:
    agent = RegimeDetectionAgent(mem, encoder)
    assert not (await agent.assess(state, 1.0)).changed
    assert (await mem.messages.history()).messages == ()


async def test_agents_write_no_transitions(mem: MemoryConnection, encoder: StateEncoder, state: State) -> None:
    told = Told({"QUIET": 1.0}, {"VOLATILE": 1.0})
    agent = RegimeDetectionAgent(mem, encoder, calibration=told)
    for minute in range(2):
        await agent.assess(later(state, minute), 1.0)
    assert await mem.link.execute("KEYS", f"{mem.namespace}:semantic*") == []


async def test_it_needs_no_more_than_a_url_and_an_id(
    servers: Any, mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    told = Told({"QUIET": 1.0}, {"VOLATILE": 1.0})
    async with RegimeDetectionAgent.connect(
        servers.redis_url, agent_id="watcher", namespace=mem.namespace, calibration=told
    ) as agent:
        assert await agent.run([[tick(state, minute)] for minute in range(2)]) == 2
    assert [message.sender_agent_id for message in await told_to_all(mem)] == ["watcher"]


# --- the analyst ---------------------------------------------------------------------------------------------


def tick(state: State, minute: float, product_id: str = BTC) -> Tick:
    moved = replace(state, timestamp=state.timestamp + timedelta(minutes=minute), product_id=product_id)
    return Tick(product_id, moved.timestamp, moved.price, moved.spread, moved)


async def told_to_all(mem: MemoryConnection) -> list[AgentMemoryMessage]:
    return list((await mem.messages.history("momentum")).messages)


async def test_the_analyst_warns_once_where_a_crisis_begins(
    mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    told = Told({"QUIET": 1.0}, {"CRISIS": 0.9}, {"CRISIS": 0.9})
    analyst = MarketAnalysisAgent(mem, encoder, calibration=told)
    report = await analyst.run([[tick(state, minute)] for minute in range(3)])
    warnings = [message for message in await told_to_all(mem) if message.message_type == MessageType.WARNING]
    assert [(message.data["reason"], message.importance) for message in warnings] == [("crisis", 1.0)]
    assert (report.states, report.changes, report.warnings) == (3, {BTC: 1}, 1)


async def test_the_analyst_warns_once_of_each_silence(
    mem: MemoryConnection, encoder: StateEncoder, state: State
) -> None:
    analyst = MarketAnalysisAgent(mem, encoder, calibration=None)
    feed = [[tick(state, minute)] for minute in range(9)]
    for minute in (0, 8):
        feed[minute].append(tick(state, minute, "ETH-USDT"))
    feed += [[tick(state, minute)] for minute in range(9, 16)]
    await analyst.run(feed)
    warnings = [message for message in await told_to_all(mem) if message.message_type == MessageType.WARNING]
    assert [message.data["product_id"] for message in warnings] == ["ETH-USDT", "ETH-USDT"]
    assert [message.timestamp for message in warnings] == [
        state.timestamp + timedelta(minutes=minute) for minute in (6, 14)
    ]


@pytest.mark.parametrize("again", [1, 2], ids=["the same bar again", "the next bar"])
async def test_a_crisis_is_warned_of_once_where_its_change_could_not_be_told(
    mem: MemoryConnection, encoder: StateEncoder, state: State, monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    told = Told({"QUIET": 1.0}, {"CRISIS": 0.9}, {"CRISIS": 0.9}, {"CRISIS": 0.9})
    analyst = MarketAnalysisAgent(mem, encoder, calibration=told)
    await analyst.on_ticks([tick(state, 0)])
    away_for(monkeypatch, "send_many", 1)
    with pytest.raises(StoreUnavailableError):
        await analyst.on_ticks([tick(state, 1)])
    for minute in (again, 3):
        await analyst.on_ticks([tick(state, minute)])
    assert [(message.message_type, message.timestamp) for message in await told_to_all(mem)].count(
        (MessageType.WARNING, state.timestamp + MINUTE)
    ) == 1
    assert sorted(message.message_type for message in await told_to_all(mem)) == ["REGIME_CHANGE", "WARNING"]
    assert (analyst.report.changes, analyst.report.warnings) == ({BTC: 1}, 1)


async def test_a_live_analyst_outlives_a_memory_that_is_away_and_one_of_a_replay_does_not(
    mem: MemoryConnection, encoder: StateEncoder, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    beliefs = [{"QUIET": 1.0}, {"CRISIS": 0.9}, {"CRISIS": 0.9}]
    feed = [[tick(state, minute)] for minute in range(3)]
    away_for(monkeypatch, "send_many", 1)
    report = await MarketAnalysisAgent(mem, encoder, calibration=Told(*beliefs)).run(feed)
    assert (report.without_memory, report.warnings) == (1, 1)
    away_for(monkeypatch, "send_many", 1)
    replayed = MarketAnalysisAgent(mem, encoder, calibration=Told(*beliefs), source="replay", run_id="night-1")
    with pytest.raises(StoreUnavailableError):
        await replayed.run(feed)
