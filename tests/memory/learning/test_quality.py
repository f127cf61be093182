"""Quality: the percentile of a reward's surprise among the past, and the past only."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidRecordError
from memory.learning import serial
from memory.learning.quality import (
    QualitySettings,
    QualitySummary,
    Rewards,
    score_memories,
    score_quality,
    summarise_quality,
)
from memory.learning.sketches import RELATIVE_ERROR
from memory.records import Action, EpisodicMemory, Side, to_ms
from memory.tables import ExperienceTable
from memory.window import Window

DAY = Window.of_date(date(2021, 6, 17))
START = to_ms(DAY.start)
MINUTE = 60_000


def rewards_of(rows: list[tuple[int, int, int, float]], source: str = "replay") -> Rewards:
    """Rewards from (product, regime, minute known, reward)."""
    return Rewards(
        source=source,
        products=("A", "B"),
        product=np.array([row[0] for row in rows], dtype=np.int64),
        regime=np.array([row[1] for row in rows], dtype=np.int64),
        known_at_ms=np.array([START + row[2] * MINUTE for row in rows], dtype=np.int64),
        reward=np.array([row[3] for row in rows], dtype=np.float64),
    )


def experiences_of(rewards: Rewards) -> ExperienceTable:
    count = len(rewards)
    whole, real = np.zeros(count, dtype=np.int64), np.zeros(count)
    return ExperienceTable(
        encoder_id="e",
        source=rewards.source,
        agents=("a",),
        products=rewards.products,
        runs=("r",),
        agent=whole,
        product=rewards.product,
        run=whole,
        timestamp_ms=rewards.known_at_ms - MINUTE,
        known_at_ms=rewards.known_at_ms,
        recorded_at_ms=rewards.known_at_ms,
        step=whole,
        regime=rewards.regime,
        side=whole,
        size=real,
        reward=rewards.reward,
        gross_return=real,
        cost=real,
        position_before=real,
        position_after=real,
        confidence=real,
        quality=real,
        terminal=np.zeros(count, dtype=np.bool_),
    )


def summary_of(rewards: Rewards, window: Window = DAY) -> QualitySummary:
    return summarise_quality(experiences_of(rewards), window)


def take(rewards: Rewards, rows: np.ndarray) -> Rewards:
    return Rewards(
        rewards.source,
        rewards.products,
        rewards.product[rows],
        rewards.regime[rows],
        rewards.known_at_ms[rows],
        rewards.reward[rows],
    )


rows = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 4),
        st.integers(1, 40),
        st.sampled_from([0.0, 0.0, 1e-4, -1e-4, 3e-4, -2e-3, 1e-2, 0.5]),
    ),
    min_size=1,
    max_size=60,
)


def test_an_experience_without_a_past_is_in_the_middle():
    assert score_quality(rewards_of([(0, 0, 1, 5.0)]), []).tolist() == [0.5]


def test_a_surprising_loss_counts_as_much_as_a_surprising_gain():
    calm = [(0, 0, minute, 1e-4 * (-1) ** minute) for minute in range(1, 101)]
    gain = score_quality(rewards_of([*calm, (0, 0, 101, 0.01)]), [])[-1]
    loss = score_quality(rewards_of([*calm, (0, 0, 101, -0.01)]), [])[-1]
    assert gain == loss
    assert gain > 0.98


def test_what_is_usual_for_its_product_and_regime_surprises_nobody():
    calm = [(0, 0, minute, 1e-3 * (-1) ** minute) for minute in range(1, 101)]
    steady = [(1, 2, minute, 0.01) for minute in range(1, 101)]
    usual = score_quality(rewards_of([*calm, *steady, (1, 2, 101, 0.01)]), [])[-1]
    elsewhere = score_quality(rewards_of([*calm, *steady, (0, 0, 101, 0.01)]), [])[-1]
    assert usual < 0.51
    assert elsewhere > 0.98


def test_experiences_known_at_the_same_time_do_not_see_one_another():
    quality = score_quality(rewards_of([(0, 0, 1, 0.1), (0, 0, 1, 0.2), (0, 0, 1, 0.3)]), [])
    assert quality.tolist() == [0.5, 0.5, 0.5]


@settings(deadline=None)
@given(rows)
def test_quality_is_the_mid_rank_among_strictly_earlier_surprises(batch):
    quality = score_quality(rewards_of(batch), [])
    surprises = []
    for product, regime, known, reward in batch:
        before = [r for p, g, k, r in batch if (p, g) == (product, regime) and k < known]
        surprises.append(abs(reward - (sum(before) / len(before) if before else 0.0)))
    for row, (_, _, known, _) in enumerate(batch):
        past = [surprise for surprise, other in zip(surprises, batch, strict=True) if other[2] < known]
        # Surprises within the width of two bins may count as equal.
        near = 1 + 4 * RELATIVE_ERROR
        low = sum(surprise * near + 2e-6 < surprises[row] for surprise in past)
        high = sum(surprise < surprises[row] * near + 2e-6 for surprise in past)
        assert (low + 0.5) / (len(past) + 1) - 1e-12 <= quality[row] <= (high + 0.5) / (len(past) + 1) + 1e-12


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(batch, random):
    rewards = rewards_of(batch)
    order = np.arange(len(batch))
    random.shuffle(order)
    assert np.array_equal(score_quality(take(rewards, order), []), score_quality(rewards, [])[order])


@settings(deadline=None)
@given(rows, st.integers(0, 40))
def test_a_day_in_two_batches_gets_the_same_quality(batch, cut):
    rewards = rewards_of(batch)
    first = rewards.known_at_ms <= START + cut * MINUTE
    whole = score_quality(rewards, [])
    assert np.array_equal(score_quality(take(rewards, first), []), whole[first])
    assert np.array_equal(score_quality(take(rewards, ~first), [], today=take(rewards, first)), whole[~first])


@settings(deadline=None)
@given(rows, rows)
def test_nothing_later_changes_an_earlier_quality(batch, later):
    after = [(product, regime, known + 100, reward) for product, regime, known, reward in later]
    alone = score_quality(rewards_of(batch), [])
    assert np.array_equal(score_quality(rewards_of([*batch, *after]), [])[: len(batch)], alone)


def _yesterday(count: int, size: float, source: str = "replay") -> QualitySummary:
    rewards = rewards_of([(0, 0, -minute, size * (-1) ** minute) for minute in range(1, count + 1)], source)
    return summary_of(rewards, Window.of_date(date(2021, 6, 16)))


def test_the_past_reaches_back_over_windows():
    batch = rewards_of([(0, 0, 1, 1e-3)])
    assert score_quality(batch, [_yesterday(200, 1e-4)])[0] > 0.99
    assert score_quality(batch, [_yesterday(200, 1e-2)])[0] < 0.01


def test_expectations_reach_back_over_windows():
    rewards = rewards_of([(0, 0, -minute, 0.01) for minute in range(1, 201)])
    history = [summary_of(rewards, Window.of_date(date(2021, 6, 16)))]
    usual, unusual = score_quality(rewards_of([(0, 0, 1, 0.01), (1, 1, 1, 0.01)]), history)
    assert usual < 0.51
    assert unusual > 0.98


def test_windows_that_had_not_ended_or_are_too_old_or_of_another_source_do_not_count():
    batch = rewards_of([(0, 0, 1, 1e-3)])
    today = summary_of(rewards_of([(0, 0, minute, 1e-4) for minute in range(1, 50)]))
    assert score_quality(batch, [today]).tolist() == [0.5]
    assert score_quality(batch, [_yesterday(200, 1e-4, source="live")]).tolist() == [0.5]
    late = rewards_of([(0, 0, 40 * 1440, 1e-3)])
    assert score_quality(late, [_yesterday(200, 1e-4)]).tolist() == [0.5]
    assert score_quality(late, [_yesterday(200, 1e-4)], settings=QualitySettings(trailing_days=60))[0] > 0.99


def test_rewards_known_after_the_window_are_no_past_of_the_next():
    summary = summary_of(rewards_of([(0, 0, 1440, 1.0), (0, 0, 1441, 1.0), (0, 0, 2000, 1.0)]))
    assert summary.late == 2
    assert summary.count.sum() == 1


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_a_summary_does_not_depend_on_the_order_of_rows(batch, random):
    rewards = rewards_of(batch)
    order = np.arange(len(batch))
    random.shuffle(order)
    assert serial.encode(summary_of(take(rewards, order))) == serial.encode(summary_of(rewards))


def test_records_get_their_quality():
    start = datetime(2021, 6, 17, tzinfo=UTC)
    memories = [
        EpisodicMemory(
            agent_id="a",
            timestamp=start + timedelta(minutes=minute),
            known_at=start + timedelta(minutes=minute + 1),
            state_vector=np.ones(4, dtype=np.float32),
            action=Action(Side.BUY),
            reward=reward,
            product_id="A",
            regime="QUIET",
            source="replay",
        )
        for minute, reward in enumerate([1e-4, 1e-4, 1e-4, 0.1])
    ]
    score_memories(memories, [])
    assert [memory.quality for memory in memories] == pytest.approx([0.5, 0.25, 1 / 3, 3.5 / 4])


def test_a_record_without_known_at_is_refused():
    memory = EpisodicMemory(
        agent_id="a",
        timestamp=datetime(2021, 6, 17, tzinfo=UTC),
        state_vector=np.ones(4, dtype=np.float32),
        action=Action(Side.BUY),
        reward=0.0,
        product_id="A",
        regime="QUIET",
    )
    with pytest.raises(InvalidRecordError, match="known_at"):
        score_memories([memory], [])


def test_a_reward_that_is_not_finite_is_refused():
    with pytest.raises(InvalidRecordError, match="position 1"):
        score_quality(rewards_of([(0, 0, 1, 0.0), (0, 0, 2, float("nan"))]), [])


def test_sources_are_not_mixed():
    with pytest.raises(InvalidRecordError, match="each source"):
        score_quality(rewards_of([(0, 0, 2, 0.0)]), [], today=rewards_of([(0, 0, 1, 0.0)], source="live"))
