"""The trading agent: follows, asks, decides, records; in a replay bit for bit what a simulation records."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from agents.baselines import FLAT, KEEP, Decision, HoldAgent, MomentumAgent, RandomAgent
from agents.encoder import StateEncoder
from agents.market import Market
from agents.recorder import ExperienceRecorder
from agents.regime_detection import RegimeDetectionAgent
from agents.replay import MarketReplay, State
from agents.simulation import simulate
from agents.strategies import Situation
from agents.trading import TradingAgent
from memory import MemoryConnection
from memory.decisions import DecisionTrace
from memory.errors import InvalidQueryError
from memory.messages import AgentMemoryMessage, MessageType
from memory.records import Action, EpisodicMemory, experience_id
from tests.agents.trading_days import BUY, DAY, MINUTE, SUMMER, stored, ticks

# --- replays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [MomentumAgent(), RandomAgent(seed=3)], ids=lambda agent: agent.agent_id)
async def test_a_replay_records_bit_for_bit_what_a_simulation_records(
    mem: MemoryConnection,
    recorder: ExperienceRecorder,
    bitcoin: Market,
    coinbase_encoder: StateEncoder,
    baseline: Any,
) -> None:
    span = DAY, DAY + timedelta(days=2)
    agent = TradingAgent(mem, baseline, recorder=recorder, hears=False, traces=False)
    report = await agent.run(MarketReplay(bitcoin, *span, coinbase_encoder))
    await recorder.flush()
    simulated = list(simulate(bitcoin, *span, [baseline], coinbase_encoder).experiences())
    again = await mem.episodic.add_many(simulated)
    assert (again.stored, again.rejections) == ((), ())
    assert len(again.duplicates) == len(simulated) == report.recorded > 1_500
    assert await mem.episodic.count() == len(simulated)
    assert (report.settled, report.unrewarded, report.dropped) == (len(simulated), 1, 0)


async def test_each_decision_leaves_a_trace_by_which_it_can_be_taken_again(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    baseline = RandomAgent(seed=5, trade_share=0.5)
    agent = TradingAgent(mem, baseline, recorder=recorder, source="replay", run_id="r-1", encoder=encoder)
    await agent.run(ticks(states[:40]))
    await recorder.flush()
    experiences = await stored(mem)
    traces = await mem.decisions.get_many([item.memory_id for item in experiences])
    assert len(experiences) == 39
    for experience, trace in zip(experiences, traces, strict=True):
        assert trace is not None
        seen = State(
            trace.product_id, trace.timestamp, dict(trace.features), trace.state_vector,
            trace.policy_parameters["price"], trace.policy_parameters["spread"], trace.regime, trace.regime_confidence,
        )  # fmt: skip
        assert baseline.decide(seen, trace.position_before).action == trace.action == experience.action
        assert (trace.policy, trace.encoder_id, trace.as_of) == ("random", encoder.id_, experience.timestamp)


async def test_step_by_step_the_records_are_the_same_but_for_the_episodes_returns(
    mem: MemoryConnection, recorder: ExperienceRecorder, bitcoin: Market, coinbase_encoder: StateEncoder
) -> None:
    span = DAY, DAY + timedelta(days=1)
    baseline = MomentumAgent()
    agent = TradingAgent(mem, baseline, recorder=recorder, hears=False, traces=False, whole_episodes=False)
    await agent.run(MarketReplay(bitcoin, *span, coinbase_encoder))
    await recorder.flush()
    simulated = list(simulate(bitcoin, *span, [baseline], coinbase_encoder).experiences())
    for item in simulated:
        item.cumulative_return = None
        # When an episode's end was known is recorded with the step that ended it alone.
        item.return_known_at = item.return_known_at if item.terminal else None
    again = await mem.episodic.add_many(simulated)
    assert (again.stored, again.rejections) == ((), ())
    assert [item.terminal for item in await stored(mem)].count(True) == agent.report.episodes == 1


async def test_live_experiences_are_recorded_step_by_step(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder, hears=False)
    await agent.run(ticks(states[:20]))
    await recorder.flush()
    found = await stored(mem)
    assert [item.step for item in found] == list(range(19))
    assert {(item.source, item.run_id) for item in found} == {("live", "live")}
    assert [item.terminal for item in found] == [False] * 18 + [True]
    assert found[0].cost == pytest.approx(mem.settings.cost_bp / 1e4)
    assert [item.next_state_vector is not None for item in found] == [True] * 19


async def test_a_gap_ends_the_episode_and_leaves_its_last_decision_without_a_reward(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder, hears=False)
    await agent.run(ticks([*states[:5], *states[20:25]]))
    await recorder.flush()
    found = await stored(mem)
    assert [item.step for item in found] == list(range(8))
    assert [item.terminal for item in found] == [False] * 3 + [True] + [False] * 3 + [True]
    assert [item.position_before for item in found] == [0.0, 1.0, 1.0, 1.0] * 2
    assert [item.return_known_at for item in found if item.terminal] == [
        states[last].timestamp + timedelta(minutes=5) for last in (4, 24)
    ]
    assert (agent.report.decisions, agent.report.unrewarded, agent.report.episodes) == (10, 2, 2)


async def test_a_cold_bar_rewards_the_decision_before_it_and_ends_the_episode(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    feed = list(ticks(states[:3]))
    last = feed[2][0]
    feed[2] = [replace(last, state=None)]
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder, hears=False)
    await agent.run(feed)
    await recorder.flush()
    found = await stored(mem)
    assert [(item.terminal, item.next_state_vector is None) for item in found] == [(False, False), (True, True)]
    assert agent.report.cold == 1


async def test_a_replay_asks_nothing_of_its_future(
    mem: MemoryConnection, recorder: ExperienceRecorder, binance: Market, encoder: StateEncoder
) -> None:
    asked: list[datetime] = []

    async def strategy(situation: Situation) -> Decision:
        asked.append(situation.as_of)
        with pytest.raises(InvalidQueryError, match="the present of the replay"):
            await mem.retrieval.retrieve_similar_experiences(
                situation.state.vector, as_of=situation.as_of + timedelta(milliseconds=1)
            )
        return Decision(KEEP, 0.5)

    market = Market("one", [binance.products["BTC-USDT"]])
    agent = TradingAgent(mem, strategy, recorder=recorder, agent_id="asks", traces=False)
    await agent.run(MarketReplay(market, SUMMER, SUMMER + 5 * MINUTE, encoder))
    assert asked == [SUMMER + minute * MINUTE for minute in range(5)]


# --- what a strategy is given ----------------------------------------------------------------------------------


async def test_a_function_is_given_own_and_shared_experiences_of_the_past(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    def experience(minute: int, agent_id: str) -> EpisodicMemory:
        state = states[minute]
        return EpisodicMemory(
            agent_id=agent_id, timestamp=state.timestamp, state_vector=state.vector, action=FLAT, reward=0.0,
            product_id=state.product_id, regime=state.regime, encoder_id=encoder.id_, source="replay", run_id="past",
            known_at=state.timestamp + MINUTE, quality=0.9,
        )  # fmt: skip

    await mem.episodic.add_many([experience(minute, "asks") for minute in range(20)])
    await mem.shared.add_shared_experiences([experience(minute, "other") for minute in range(20)])
    given: list[Situation] = []

    def strategy(situation: Situation) -> Decision:
        given.append(situation)
        return Decision(KEEP, 0.5)

    agent = TradingAgent(
        mem, strategy, recorder=recorder, agent_id="asks", source="replay", run_id="now", encoder=encoder, top_k=50
    )
    await agent.run(ticks(states[10:13]))
    for index, situation in enumerate(given):
        known = [item.timestamp for item in (states[minute] for minute in range(10 + index))]
        assert sorted(hit.memory.timestamp for hit in situation.own) == known
        assert {hit.memory.agent_id for hit in situation.own} == {"asks"}
        assert sorted(hit.memory.timestamp for hit in situation.shared) == known
        assert {hit.memory.agent_id for hit in situation.shared} == {"other"}
    await recorder.flush()
    decided = experience_id("replay", "now", "asks", "BTC-USDT", states[10].timestamp, 0)
    trace = await mem.decisions.get(decided)
    assert trace is not None
    assert [read.memory_id for read in trace.own] == [hit.memory.memory_id for hit in given[0].own]
    assert [read.known_at for read in trace.shared] == [hit.memory.known_at for hit in given[0].shared]


async def test_an_agent_that_the_pool_does_not_know_and_an_empty_memory_read_nothing(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    given: list[Situation] = []

    def strategy(situation: Situation) -> Decision:
        given.append(situation)
        return Decision(FLAT, 1.0)

    agent = TradingAgent(mem, strategy, recorder=recorder, agent_id="newcomer", encoder=encoder)
    await agent.run(ticks(states[:2]))
    assert [(item.own, item.shared, item.patterns) for item in given] == [((), (), ())] * 2


async def test_beliefs_are_the_detectors_and_records_carry_the_rules_label(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    given: list[Situation] = []

    def strategy(situation: Situation) -> Decision:
        given.append(situation)
        return Decision(KEEP, 0.5)

    detector = RegimeDetectionAgent(mem, encoder, broadcast=False)
    agent = TradingAgent(mem, strategy, recorder=recorder, agent_id="asks", encoder=encoder, regimes=detector)
    await agent.run(ticks(states[:90]))
    await recorder.flush()
    again = RegimeDetectionAgent(mem, encoder, broadcast=False)
    beliefs = [await again.follow(state) for state in states[:90]]
    assert [(item.regime, item.regime_confidence) for item in given] == [
        (one.regime, one.confidence) for one in beliefs
    ]
    assert [item.regime for item in await stored(mem)] == [state.regime for state in states[:89]]
    assert any(belief.regime != belief.rule for belief in beliefs)
    assert given[-1].previous_regimes == again.previous_regimes("BTC-USDT")


async def test_without_a_detector_previous_regimes_are_those_of_the_rule(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder, hears=False)
    await agent.run(ticks(states))
    labels = [state.regime for state in states]
    expected = [before for before, after in pairwise(labels) if before != after]
    working = agent.working("BTC-USDT")
    assert [spell.regime for spell in working.previous_regimes] == expected
    assert working.current_regime == labels[-1]


async def test_a_policy_decides_by_what_it_is_told_and_its_own_trace_is_kept(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    class Policy:
        name = "always-long"
        last_trace: DecisionTrace | None = None
        asked: ClassVar[list[tuple[float, int]]] = []

        def parameters(self) -> dict[str, Any]:
            return {"mode": "greedy"}

        async def select_action(self, state: State, agent_id: str, *_: Any, **more: Any) -> tuple[Action, float]:
            self.asked.append((more["position"], more["step"]))
            self.last_trace = DecisionTrace(
                agent_id=agent_id, product_id=state.product_id, timestamp=state.timestamp, as_of=more["as_of"],
                encoder_id=encoder.id_, features=state.features, state_vector=state.vector, regime=state.regime,
                regime_confidence=1.0, position_before=more["position"], policy="always-long", action=BUY,
                confidence=0.75, step=more["step"], checkpoint="c-1", probabilities=(0.0, 0.0, 0.75, 0.25),
            )  # fmt: skip
            return BUY, 0.75

    policy = Policy()
    agent = TradingAgent(mem, policy, recorder=recorder, agent_id="learner", encoder=encoder)
    await agent.run(ticks(states[:3]))
    await recorder.flush()
    found = await stored(mem)
    traces = await mem.decisions.get_many([item.memory_id for item in found])
    assert policy.asked == [(0.0, 0), (1.0, 1), (1.0, 2)]
    assert [trace.checkpoint if trace else None for trace in traces] == ["c-1", "c-1"]


# --- messages --------------------------------------------------------------------------------------------------


def message(at: datetime, kind: MessageType = MessageType.WARNING, **data: Any) -> AgentMemoryMessage:
    return AgentMemoryMessage(
        sender_agent_id="analyst", message_type=kind, insight="Something happened.", data=data, timestamp=at
    )


async def test_messages_are_taken_in_at_their_time_and_never_before(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    start = states[0].timestamp
    await mem.messages.send_many(
        [
            message(start - MINUTE, number=1),
            message(start + 2 * MINUTE, number=2),
            message(start + 2 * MINUTE, number=3, product_id="ETH-USDT"),
        ]
    )
    given: list[list[Any]] = []

    def strategy(situation: Situation) -> Decision:
        given.append([item.data["number"] for item in situation.messages])
        return Decision(KEEP, 0.5)

    agent = TradingAgent(mem, strategy, recorder=recorder, agent_id="hears", encoder=encoder)
    await agent.run(ticks(states[:4]))
    assert given == [[1], [], [2], []]
    assert agent.report.heard == 3
    assert [item.data["number"] for item in agent.working("BTC-USDT").recent_messages] == [1, 2]


async def test_patterns_and_regimes_of_others_are_heard(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    start = states[0].timestamp
    about = {"product_id": "BTC-USDT"}
    await mem.messages.send_many(
        [
            message(start, MessageType.PATTERN, **about, pattern_id="p-1", entered=True, match_confidence=0.5),
            message(start + 2 * MINUTE, MessageType.PATTERN, **about, pattern_id="p-1", entered=False),
            message(start, MessageType.REGIME_CHANGE, **about, new_regime="CRISIS", confidence=0.9),
        ]
    )
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder)
    await agent.run(ticks(states[:4]))
    await recorder.flush()
    assert [item.pattern_ids for item in await stored(mem)] == [("p-1",), ("p-1",), ()]
    other = agent.working("BTC-USDT").other_agent_states["analyst"]
    assert (other.regime, other.regime_confidence) == ("CRISIS", 0.9)


async def test_a_message_that_makes_no_sense_stops_nobody(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    start = states[0].timestamp
    await mem.messages.send_many(
        [message(start, position="much", product_id="BTC-USDT"), message(start, number=1), message(start, action=7)]
    )
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder)
    report = await agent.run(ticks(states[:3]))
    assert (report.decisions, report.heard) == (3, 1)
    assert [item.data["number"] for item in agent.working("BTC-USDT").recent_messages] == [1]


async def test_a_change_of_position_is_told_to_others(
    mem: MemoryConnection, recorder: ExperienceRecorder, states: list[State], encoder: StateEncoder
) -> None:
    agent = TradingAgent(mem, HoldAgent(), recorder=recorder, encoder=encoder, announces=True)
    await agent.run(ticks(states[:5]))
    (told,) = (await mem.messages.history("momentum")).messages
    assert told.message_type == MessageType.EXPERIENCE
    assert told.data == {
        "product_id": "BTC-USDT",
        "action": {"side": "BUY", "size": 1.0},
        "position": 1.0,
        "confidence": 1.0,
    }
