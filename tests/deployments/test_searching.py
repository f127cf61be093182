"""`coinswarm search`: which state is meant, as of when the answer is, and how it is said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from deployments.search_shown import estimate_line
from deployments.searching import Known, Wanted, as_of_says
from memory.errors import InvalidQueryError
from memory.learning.estimates import Estimate
from memory.learning.estimation import ESTIMATE_ACTIONS

NOON = datetime(2021, 6, 18, 12, tzinfo=UTC)
STATE = Known(kind="market", name="BTC-USDT", vector=np.full(256, 1 / 16, np.float32), encoder_id="rff-1", time=NOON)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted(), "no state is named"),
        (Wanted(product_id="BTC-USDT"), "no state is named"),
        (Wanted(at=NOON), "no state is named"),
        (Wanted(memory_id="p-1", product_id="BTC-USDT"), "two states"),
        (Wanted(memory_id="p-1", at=NOON), "two states"),
    ],
)
def test_one_state_has_to_be_named(wanted: Wanted, says: str) -> None:
    with pytest.raises(InvalidQueryError, match=says):
        wanted.check()


@pytest.mark.parametrize(
    ("as_of", "says"),
    [
        (NOON, "As of 2021-06-18 12:00 UTC, the time of the state: nothing that became known later"),
        (NOON + timedelta(days=1), "what came after the state, of 2021-06-18 12:00 UTC, is in this answer"),
        (NOON - timedelta(days=1), "As of 2021-06-17 12:00 UTC, before the state, of 2021-06-18 12:00 UTC: nothing"),
        (None, "As of now: all that is known, what came after 2021-06-18 12:00 UTC included."),
    ],
)
def test_it_is_said_as_of_when_the_answer_is(as_of: datetime | None, says: str) -> None:
    assert says in as_of_says(STATE, as_of)


def test_a_pattern_is_no_state_of_any_time() -> None:
    pattern = replace(STATE, kind="pattern", time=None)
    assert as_of_says(pattern, None) == "As of now: all that is known."
    assert "the state" not in as_of_says(pattern, NOON)


def estimates(**changes: Any) -> list[dict[str, Any]]:
    known: dict[str, Any] = {
        "known": True,
        "reason": "",
        "net_return": 1.23e-4,
        "interval": {"low": -1e-4, "high": 4e-4},
        "expected_move": 25.4e-4,
        "neighbours": 199,
        "blocks": 19,
        "base_return": 0.0,
    }
    plain = dict.fromkeys(Estimate.__dataclass_fields__)
    return [{**plain, "action": action, "horizon_minutes": 15, **known, **changes} for action in ESTIMATE_ACTIONS]


def test_what_is_expected_is_said_for_each_action_with_what_it_rests_on() -> None:
    line = estimate_line(estimates(pattern_id="p-1"))
    assert "Over 15 min: LONG +1.2 bp net (95 % −1.0 to +4.0 before costs), SHORT" in line
    assert "typically moves 25.4 bp" in line
    assert "199 states in 19 half-hours and pattern p-1" in line


def test_a_pattern_that_speaks_alone_is_named_without_states() -> None:
    line = estimate_line(estimates(pattern_id="p-1", neighbours=0, blocks=9))
    assert "From pattern p-1 alone, seen in 9 half-hours; the base rate" in line


def test_what_is_not_known_is_said_with_the_reason() -> None:
    line = estimate_line(estimates(known=False, reason="No remembered state lies near."))
    assert line == "Over 15 min nothing is to be said of actions: No remembered state lies near."
