"""The simulation: rewards that add up, sessions and gaps that end episodes, records that the memory accepts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.baselines import Decision, HoldAgent, MomentumAgent, RandomAgent, baseline_agents
from agents.encoder import StateEncoder
from agents.experiences import Costs
from agents.fitting import default_encoder
from agents.leakage import as_known, cut_after, is_known
from agents.market import SAMPLE_FOLDER, Market
from agents.replay import State
from agents.simulation import SimulatedWindow, run_id, simulate, simulate_days
from memory.asof import bounded
from memory.errors import EncoderError, InvalidQueryError, InvalidRecordError, MarketDataError, WindowError
from memory.records import EpisodicMemory, to_ms
from memory.validation import validate_experience

NIGHT = datetime(2021, 6, 17, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
PARTIAL_DAY = datetime(2018, 4, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def experiences(night: SimulatedWindow) -> list[EpisodicMemory]:
    """The records of the first sample night."""
    return list(night.experiences())


@pytest.fixture(scope="module")
def partial(coinbase: Market, coinbase_encoder: StateEncoder) -> SimulatedWindow:
    """The Coinbase day that ends at 16:47."""
    return simulate(coinbase, PARTIAL_DAY, PARTIAL_DAY + DAY, baseline_agents(), coinbase_encoder)


def comparable(experience: EpisodicMemory) -> dict[str, object]:
    """A record as plain values, vectors as bytes."""
    values = {item.name: getattr(experience, item.name) for item in fields(experience)}
    for name in ("state_vector", "next_state_vector"):
        values[name] = None if values[name] is None else values[name].tobytes()
    return values


@pytest.mark.parametrize("day", range(5))
def test_each_of_five_nights_has_21600_experiences(binance: Market, encoder: StateEncoder, day: int) -> None:
    start = NIGHT + day * DAY
    window = simulate(binance, start, start + DAY, baseline_agents(), encoder)
    assert len(window) == 21_600
    assert (window.counts.bars, window.counts.cold, window.counts.gaps, window.counts.unrewarded) == (4320, 0, 0, 0)


def test_every_record_is_accepted_by_the_memory(experiences: list[EpisodicMemory]) -> None:
    ids = {validate_experience(experience).memory_id for experience in experiences}
    assert len(ids) == len(experiences) == 21_600


def test_records_come_in_time_order_with_all_agents_of_a_state_together(experiences: list[EpisodicMemory]) -> None:
    keys = [(record.timestamp, record.product_id, record.agent_id) for record in experiences]
    assert keys == sorted(keys)


def test_other_agents_actions_are_those_of_the_others(experiences: list[EpisodicMemory]) -> None:
    by_state: dict[tuple[datetime, str], dict[str, EpisodicMemory]] = defaultdict(dict)
    for record in experiences[:3000]:
        by_state[record.timestamp, record.product_id][record.agent_id] = record
    for records in by_state.values():
        assert len(records) == 5
        for agent_id, record in records.items():
            assert record.other_agent_actions == {
                other: records[other].action for other in records if other != agent_id
            }


def test_rewards_add_up_from_the_candles_alone(experiences: list[EpisodicMemory]) -> None:
    """Positions times returns less costs, in a plain loop over the parquet files."""
    closes: dict[str, dict[datetime, float]] = {}
    for product in ("BTC-USDT", "ETH-USDT", "DOT-USDT"):
        frame = pl.read_parquet(SAMPLE_FOLDER / f"binance_{product}_1m.parquet")
        closes[product] = {row[0] + MINUTE: row[1] for row in frame.select("timestamp", "close").iter_rows()}
    positions: dict[tuple[str, str], float] = defaultdict(float)
    totals: dict[tuple[str, str], float] = defaultdict(float)
    for record in experiences:
        key = record.agent_id, record.product_id
        before = positions[key]
        if record.action.side == "HOLD":
            after = before
        else:
            after = record.action.size if record.action.side == "BUY" else -record.action.size
        price = closes[record.product_id][record.timestamp]
        following = closes[record.product_id][record.timestamp + MINUTE]
        assert record.price == price
        assert (record.position_before, record.position_after) == (before, after)
        assert record.gross_return == pytest.approx(after * (following / price - 1.0), abs=1e-15)
        assert record.cost == pytest.approx(abs(after - before) * 0.0002, abs=1e-15)
        assert record.reward == pytest.approx(record.gross_return - record.cost, abs=1e-15)
        positions[key] = after
        totals[key] += record.reward
    for record in experiences[:15]:
        assert record.timestamp == NIGHT
        assert record.cumulative_return == pytest.approx(totals[record.agent_id, record.product_id], abs=1e-12)


def test_half_the_spread_is_paid_where_there_is_a_quote(partial: SimulatedWindow) -> None:
    traded = [record for record in partial.experiences() if record.position_before != record.position_after]
    assert len(traded) > 50
    for record in traded:
        fee = 0.0002 + (0.0 if record.spread is None else record.spread / record.price / 2)
        assert record.cost == pytest.approx(abs(record.position_after - record.position_before) * fee)


def test_costs_are_a_setting(binance: Market, encoder: StateEncoder) -> None:
    def total(costs: Costs) -> float:
        window = simulate(binance, NIGHT, NIGHT + DAY, [RandomAgent()], encoder, costs=costs)
        return sum(float(table.cost.sum()) for table in window.products.values())

    assert total(Costs(0.0)) == 0.0
    assert total(Costs(4.0)) == pytest.approx(2 * total(Costs(2.0)))


def test_without_half_the_spread_only_the_fee_is_paid() -> None:
    price, spread = np.array([100.0, 100.0]), np.array([0.1, np.nan])
    assert Costs(2.0).rates(price, spread).tolist() == pytest.approx([0.0007, 0.0002])
    assert Costs(2.0, half_spread=False).rates(price, spread).tolist() == [0.0002, 0.0002]


def test_a_negative_cost_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="basis_points"):
        Costs(-1.0)


def test_a_reward_is_known_at_the_next_decision(experiences: list[EpisodicMemory]) -> None:
    assert all(record.known_at == record.timestamp + MINUTE for record in experiences)


def test_a_session_ends_with_its_day_and_its_last_reward_counts(experiences: list[EpisodicMemory]) -> None:
    last = [record for record in experiences if record.terminal]
    assert {record.timestamp for record in last} == {NIGHT + DAY - MINUTE}
    assert len(last) == 15
    assert any(record.reward != 0.0 for record in last)
    assert all(record.next_state_vector is not None for record in last)
    assert all(record.return_known_at == NIGHT + DAY for record in experiences)


def test_steps_count_the_decisions_of_a_session(experiences: list[EpisodicMemory]) -> None:
    steps = [record.step for record in experiences if (record.agent_id, record.product_id) == ("hold", "BTC-USDT")]
    assert steps == list(range(1440))


def test_the_next_state_is_the_state_of_the_next_decision(experiences: list[EpisodicMemory]) -> None:
    chain = [record for record in experiences if (record.agent_id, record.product_id) == ("hold", "DOT-USDT")]
    for now, following in pairwise(chain):
        assert np.array_equal(now.next_state_vector, following.state_vector)


def test_a_gap_ends_the_episode_and_no_reward_crosses_it(partial: SimulatedWindow, coinbase: Market) -> None:
    bitcoin = [record for record in partial.experiences() if record.product_id == "BTC-USD"]
    last = max(record.timestamp for record in bitcoin)
    # The last bar opens at 16:47 and ends at 16:48: that state has no next bar. The bar before ends at 16:46.
    assert last == PARTIAL_DAY + timedelta(hours=16, minutes=46)
    assert {record.known_at for record in bitcoin if record.terminal} == {PARTIAL_DAY + timedelta(hours=16, minutes=48)}
    assert all(record.terminal == (record.timestamp == last) for record in bitcoin)
    assert all(record.known_at - record.timestamp <= timedelta(minutes=5) for record in bitcoin)
    candles = coinbase.products["BTC-USD"]
    after = int(np.searchsorted(candles.decision_ms, to_ms(last) + 2 * 60_000, side="right"))
    assert (candles.decision_ms[after] - candles.decision_ms[after - 1]) / 60_000 == 433
    assert candles.close[after] / candles.close[after - 1] - 1 == pytest.approx(-0.0168, abs=2e-4)
    assert min(record.gross_return for record in bitcoin) > -0.0168


def test_cold_and_unrewarded_states_are_counted_not_recorded(partial: SimulatedWindow) -> None:
    counts = partial.counts
    assert counts.cold == 3 * 240
    assert counts.unrewarded == 3
    assert counts.bars == counts.cold + counts.unrewarded + counts.states
    assert counts.experiences == 5 * counts.states == len(list(partial.experiences()))


def test_a_gap_within_a_day_starts_a_new_episode_flat(binance: Market, encoder: StateEncoder) -> None:
    candles = binance.products["BTC-USDT"]
    hole = to_ms(NIGHT + timedelta(hours=12))
    keep = (candles.decision_ms < hole) | (candles.decision_ms >= hole + 10 * 60_000)
    names = ("decision_ms", "open", "high", "low", "close", "volume", "bid", "ask", "bid_size", "ask_size")
    market = Market("holed", [replace(candles, **{name: getattr(candles, name)[keep] for name in names})])
    window = simulate(market, NIGHT, NIGHT + DAY, [HoldAgent()], encoder)
    assert (window.counts.gaps, window.counts.unrewarded) == (1, 1)
    records = list(window.experiences())
    ends = [record for record in records if record.terminal]
    assert [record.timestamp for record in ends] == [NIGHT + timedelta(hours=11, minutes=58), NIGHT + DAY - MINUTE]
    opened = [record for record in records if record.position_before == 0.0]
    assert [record.timestamp for record in opened] == [NIGHT, NIGHT + timedelta(hours=12, minutes=10)]
    # The last bar comes at 11:59; that none follows is certain five minutes later.
    assert records[0].return_known_at == NIGHT + timedelta(hours=12, minutes=4)


def test_a_day_alone_equals_that_day_within_a_longer_span(binance: Market, encoder: StateEncoder) -> None:
    agents = baseline_agents()
    days = list(simulate_days(binance, NIGHT, NIGHT + 3 * DAY, agents, encoder))
    span = simulate(binance, NIGHT, NIGHT + 3 * DAY, agents, encoder)
    assert {window.run_id for window in days} == {span.run_id}
    second = list(days[1].experiences())
    within = [record for record in span.experiences() if NIGHT + DAY <= record.timestamp < NIGHT + 2 * DAY]
    assert [comparable(record) for record in second] == [comparable(record) for record in within]


def test_a_product_alone_has_the_experiences_it_has_among_others(
    binance: Market, encoder: StateEncoder, experiences: list[EpisodicMemory]
) -> None:
    alone = simulate(
        Market.sample("binance", ["ETH-USDT"]), NIGHT, NIGHT + DAY, baseline_agents(), encoder
    ).experiences()
    among = [record for record in experiences if record.product_id == "ETH-USDT"]
    assert [comparable(record) for record in alone] == [
        {**comparable(record), "memory_id": "", "market_phase": ""} for record in among
    ]


@settings(max_examples=8, deadline=None)
@given(minute=st.integers(2, 1440))
def test_cutting_the_candles_changes_nothing_that_was_known(minute: int) -> None:
    market, encoder = Market.sample("binance", ["DOT-USDT"]), default_encoder()
    time = NIGHT + minute * MINUTE
    known_market = cut_after(market, time)

    def known(source: Market) -> list[dict[str, object]]:
        records = simulate(source, NIGHT, NIGHT + DAY, baseline_agents(), encoder).experiences()
        return [comparable(as_known(record, time)) for record in records if is_known(record, time)]

    assert known(known_market) == known(market)
    assert len(known(known_market)) == 5 * minute


def test_days_without_candles_are_left_out(coinbase: Market, coinbase_encoder: StateEncoder) -> None:
    start = datetime(2018, 4, 3, tzinfo=UTC)
    windows = list(simulate_days(coinbase, start, start + 5 * DAY, baseline_agents(), coinbase_encoder))
    assert [window.start.day for window in windows] == [4, 5, 6]


def test_counts_add_up(binance: Market, encoder: StateEncoder) -> None:
    agents = baseline_agents()
    days = list(simulate_days(binance, NIGHT, NIGHT + 2 * DAY, agents, encoder))
    assert days[0].counts + days[1].counts == simulate(binance, NIGHT, NIGHT + 2 * DAY, agents, encoder).counts


def test_the_run_id_is_stable_and_tells_settings_apart(binance: Market, encoder: StateEncoder) -> None:
    agents, costs = baseline_agents(), Costs()
    base = run_id(binance, agents, encoder, costs)
    assert base == run_id(Market.sample("binance", ["BTC-USDT"]), tuple(reversed(agents)), encoder, Costs())
    others = [
        run_id(binance, agents[:4], encoder, costs),
        run_id(binance, [*agents[:3], MomentumAgent(entry=2.0), agents[4]], encoder, costs),
        run_id(binance, agents, encoder, Costs(5.0)),
        run_id(binance, agents, default_encoder("coinbase"), costs),
        run_id(Market("other", binance.products.values()), agents, encoder, costs),
    ]
    assert len({base, *others}) == 6


def test_experience_is_varied(experiences: list[EpisodicMemory]) -> None:
    sides = Counter(record.action.side.value for record in experiences)
    assert set(sides) == {"BUY", "SELL", "HOLD"}
    assert len({record.regime for record in experiences}) >= 4


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (NIGHT + timedelta(hours=1), NIGHT + DAY),
        (NIGHT, NIGHT + timedelta(hours=7)),
        (NIGHT, NIGHT),
        (NIGHT + DAY, NIGHT),
        (datetime(2021, 6, 17), NIGHT + DAY),
    ],
)
def test_a_span_off_the_grid_is_refused(binance: Market, encoder: StateEncoder, start: datetime, end: datetime) -> None:
    with pytest.raises(WindowError):
        simulate(binance, start, end, baseline_agents(), encoder)


def test_a_date_without_data_is_refused(binance: Market, encoder: StateEncoder) -> None:
    start = datetime(2021, 8, 1, tzinfo=UTC)
    with pytest.raises(MarketDataError, match="It spans"):
        simulate(binance, start, start + DAY, baseline_agents(), encoder)


def test_an_encoder_from_the_future_is_refused(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(EncoderError, match="was not known"):
        simulate(binance, NIGHT - DAY, NIGHT, baseline_agents(), encoder)


def test_two_agents_of_one_id_are_refused(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(InvalidRecordError, match="hold, hold"):
        simulate(binance, NIGHT, NIGHT + DAY, [HoldAgent(), HoldAgent()], encoder)


def test_no_agent_is_refused(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(InvalidRecordError, match="at least one agent"):
        simulate(binance, NIGHT, NIGHT + DAY, [], encoder)


def test_a_live_source_is_refused(binance: Market, encoder: StateEncoder) -> None:
    with pytest.raises(InvalidRecordError, match="not live"):
        simulate(binance, NIGHT, NIGHT + DAY, [HoldAgent()], encoder, source="live")


class AskingAgent:
    """Asks as of a time relative to each decision, as an agent with a memory does."""

    agent_id = "asking"

    def __init__(self, offset: timedelta | None) -> None:
        self.offset = offset
        self.asked = 0

    def parameters(self) -> dict[str, Any]:
        return {}

    def decide(self, state: State, position: float) -> Decision:
        bounded(None if self.offset is None else state.timestamp + self.offset, None)
        self.asked += 1
        return HoldAgent().decide(state, position)


@pytest.mark.parametrize("offset", [None, MINUTE])
def test_an_agent_that_could_see_the_future_is_refused(binance: Market, offset: timedelta | None) -> None:
    with pytest.raises(InvalidQueryError, match="replay"):
        simulate(binance, NIGHT, NIGHT + DAY, [AskingAgent(offset)], default_encoder())


def test_an_agent_that_asks_as_of_its_decision_is_answered(binance: Market) -> None:
    agent = AskingAgent(timedelta(0))
    simulate(binance, NIGHT, NIGHT + DAY, [agent], default_encoder())
    assert agent.asked == 4320
