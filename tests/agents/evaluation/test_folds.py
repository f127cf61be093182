"""Folds: what is known ends before the test, edges that make no sense are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agents.evaluation.folds import FINAL_START, HISTORY_START, is_conclusive, months, walk_forward
from agents.features import GAP_MINUTES
from memory.errors import WindowError
from memory.records import to_ms

JUNE = datetime(2018, 6, 1, tzinfo=UTC)


def test_four_months_are_four_folds_before_the_held_out_span() -> None:
    folds = walk_forward(HISTORY_START, months(JUNE, 4), embargo_minutes=240, purge_minutes=60)
    assert [fold.name for fold in folds] == ["2018-06", "2018-07", "2018-08", "2018-09"]
    assert folds[-1].test_end == FINAL_START
    assert is_conclusive(folds)
    assert not is_conclusive(folds[:3])


def test_months_go_over_the_year() -> None:
    assert months(datetime(2018, 11, 5, tzinfo=UTC), 2) == [
        datetime(2018, 11, 1, tzinfo=UTC),
        datetime(2018, 12, 1, tzinfo=UTC),
        datetime(2019, 1, 1, tzinfo=UTC),
    ]


@pytest.mark.parametrize(("interval", "reach"), [(1, 60), (15, 60), (60, 60 + GAP_MINUTES)])
def test_outcomes_of_training_states_are_known_before_the_embargo(interval: int, reach: int) -> None:
    fold = walk_forward(HISTORY_START, months(JUNE, 1), embargo_minutes=240, purge_minutes=60)[0]
    assert fold.known_until == JUNE - timedelta(minutes=240)
    assert fold.last_training_ms(interval) == to_ms(fold.known_until - timedelta(minutes=reach)) - 1


@pytest.mark.parametrize("edges", [[JUNE], [JUNE, JUNE], [JUNE, JUNE - timedelta(days=1)]])
def test_edges_that_part_nothing_are_refused(edges: list[datetime]) -> None:
    with pytest.raises(WindowError, match="do not part"):
        walk_forward(HISTORY_START, edges, embargo_minutes=240, purge_minutes=60)


def test_a_fold_without_a_past_is_refused() -> None:
    with pytest.raises(WindowError, match="nothing is known"):
        walk_forward(JUNE, [JUNE + timedelta(hours=1), JUNE + timedelta(days=1)], embargo_minutes=240, purge_minutes=60)
