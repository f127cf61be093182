"""Which patterns come first, and by which outcome."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from memory.records import Outcome, PatternMemory
from memory.reporting import ReportData
from memory.reporting.ranking import leading_outcome, row_label, strongest, surest_volatility

HORIZON = 15


def with_outcomes(pattern: PatternMemory, *cells: tuple[str, int, float], **changes: object) -> PatternMemory:
    base = pattern.outcomes[0]
    outcomes = tuple(
        replace(base, action=action, horizon_minutes=horizon, shrunk_net_mean=mean, net_mean=mean)
        for action, horizon, mean in cells
    )
    return replace(pattern, outcomes=outcomes, **changes)


def led_by(pattern: PatternMemory) -> tuple[str, int]:
    outcome = leading_outcome(pattern, HORIZON)
    assert isinstance(outcome, Outcome)
    return outcome.action, outcome.horizon_minutes


def test_the_reference_horizon_wins_over_a_luckier_one(full: ReportData) -> None:
    pattern = with_outcomes(full.patterns[0], ("LONG", 60, 9e-3), ("LONG", 15, 1e-4), ("SHORT", 15, -1e-4))
    assert led_by(pattern) == ("LONG", 15)


def test_the_named_action_leads_even_where_another_brought_more(full: ReportData) -> None:
    cells = (("LONG", 15, 1e-4), ("SHORT", 15, 2e-4))
    assert led_by(with_outcomes(full.patterns[0], *cells, best_action="LONG")) == ("LONG", 15)
    assert led_by(with_outcomes(full.patterns[0], *cells, best_action="FLAT")) == ("SHORT", 15)


def test_the_nearest_horizon_stands_in(full: ReportData) -> None:
    assert led_by(with_outcomes(full.patterns[0], ("LONG", 5, 1e-4), ("LONG", 60, 1e-3))) == ("LONG", 5)


def test_flat_alone_leads_nothing(full: ReportData) -> None:
    assert leading_outcome(with_outcomes(full.patterns[0], ("FLAT", 15, 0.0)), HORIZON) is None


def test_faded_patterns_are_not_ranked_and_demoted_ones_come_last(full: ReportData) -> None:
    template = full.patterns[0]
    best = with_outcomes(template, ("LONG", 15, 5e-4), status="faded", pattern_id="faded")
    failed = with_outcomes(template, ("LONG", 15, 4e-4), status="new", demoted=True, pattern_id="failed")
    good = with_outcomes(template, ("LONG", 15, 1e-4), status="new", demoted=False, pattern_id="good")
    better = with_outcomes(template, ("LONG", 15, 2e-4), status="confirmed", demoted=False, pattern_id="better")
    bare = with_outcomes(template, status="new", demoted=False, pattern_id="bare")
    ranked = strongest((bare, best, failed, good, better), HORIZON)
    assert [pattern.pattern_id for pattern in ranked] == ["better", "good", "failed", "bare"]


@given(st.permutations(range(12)))
def test_the_ranking_does_not_depend_on_the_order_given(order: list[int]) -> None:
    patterns = [_tied(index) for index in range(12)]
    expected = [pattern.pattern_id for pattern in strongest(patterns, HORIZON)]
    assert [pattern.pattern_id for pattern in strongest([patterns[i] for i in order], HORIZON)] == expected


def _tied(index: int) -> PatternMemory:
    from datetime import UTC, datetime

    import numpy as np

    moment = datetime(2021, 6, 21, tzinfo=UTC)
    outcome = Outcome(
        action="LONG",
        horizon_minutes=HORIZON,
        n=10,
        blocks=9,
        gross_mean=1e-4,
        net_mean=1e-4,
        interval=None,
        win_rate=0.5,
        gross_sharpe=None,
        net_sharpe=None,
        max_drawdown=0.0,
        shrunk_net_mean=(index % 3) * 1e-4,
    )
    return PatternMemory(
        memory_id=f"p-{index}",
        description="",
        encoder_id="e",
        line="l",
        created_at=moment,
        valid_from=moment,
        pattern_id=f"p-{index}",
        concept_vector=np.eye(4, dtype=np.float32)[0],
        source="replay",
        regime="QUIET",
        product_ids=("BTC-USD",),
        conditions=(),
        support=3,
        effective_support=1,
        states=10,
        windows_seen=1,
        first_seen=moment,
        last_seen=moment,
        broad=False,
        status="new",
        outcomes=(outcome,),
        volatility=(),
        expected_return=0.0,
        best_action=None,
    )


def test_the_surest_volatility_lies_farthest_outside_its_interval(full: ReportData) -> None:
    ranked = list(enumerate(strongest(full.patterns, HORIZON), 1))
    ordered = surest_volatility(ranked)
    assert sorted(rank for rank, _ in ordered) == [rank for rank, _ in ranked]

    def margin(pattern: PatternMemory) -> float:
        return sum(
            max(v.interval.low - v.base_mean, v.base_mean - v.interval.high) for v in pattern.volatility if v.interval
        )

    measured = [margin(pattern) for _, pattern in ordered if any(v.interval for v in pattern.volatility)]
    assert measured == sorted(measured, reverse=True)


def test_long_row_labels_are_cut_with_an_ellipsis(full: ReportData) -> None:
    condition = replace(full.patterns[0].conditions[0], phrase="a phrase that goes on " * 9)
    label = row_label(3, replace(full.patterns[0], conditions=(condition,)))
    assert label.startswith("3  ")
    assert label.endswith("…")
    assert len(label) <= 68
