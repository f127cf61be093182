"""Removals: the rule first, then the deed, then that it is done."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memory.errors import ConflictingRecordError, FencedOutError
from memory.ledger import FencingToken, Ledger, RemovalRecord
from memory.window import Window

MARCH = datetime(2021, 3, 19, tzinfo=UTC)
RULE = "older than 90 days and archived"


def plan(ledger: Ledger, token: FencingToken, window: Window, count: int, before: datetime = MARCH) -> RemovalRecord:
    return ledger.removals.plan(token, memory_type="EPISODIC", window=window, before=before, rule=RULE, count=count)


def test_a_removal_is_open_from_its_plan_until_it_is_done(ledger: Ledger, token: FencingToken, window: Window) -> None:
    planned = plan(ledger, token, window, 5)
    assert ledger.removals.open(token.namespace) == [planned]
    assert (planned.planned, planned.count, planned.removed_at) == (5, 0, None)
    done = ledger.removals.done(token, planned.removal_id)
    assert (done.count, done.rule, done.before, done.run_id) == (5, RULE, MARCH, token.run_id)
    assert done.removed_at is not None
    assert ledger.removals.open(token.namespace) == []
    assert ledger.removals.list(token.namespace, token.run_id) == [done]
    assert ledger.removals.done(token, planned.removal_id) == done


def test_a_run_that_died_while_it_removed_is_made_up_for_with_the_whole_count(
    ledger: Ledger, token: FencingToken, window: Window
) -> None:
    """It had removed 600 of 1,000 when it was killed: the next one finds 400, and all were removed by the rule."""
    first = plan(ledger, token, window, 1000)
    again = plan(ledger, token, window, 400)
    assert again == first
    assert ledger.removals.done(token, again.removal_id).count == 1000
    assert len(ledger.removals.list(token.namespace)) == 1


def test_what_comes_to_light_after_a_removal_was_done_is_counted_with_it(
    ledger: Ledger, token: FencingToken, window: Window
) -> None:
    first = ledger.removals.done(token, plan(ledger, token, window, 10).removal_id)
    assert plan(ledger, token, window, 0) == first
    more = plan(ledger, token, window, 3)
    assert (more.removal_id, more.planned, more.count, more.removed_at) == (first.removal_id, 13, 10, None)
    assert ledger.removals.done(token, more.removal_id).count == 13


def test_another_time_is_another_removal(ledger: Ledger, token: FencingToken, window: Window) -> None:
    plan(ledger, token, window, 1)
    plan(ledger, token, window, 1, before=datetime(2021, 3, 20, tzinfo=UTC))
    assert len(ledger.removals.open(token.namespace)) == 2


def test_a_run_that_was_overtaken_plans_and_ends_nothing(ledger: Ledger, token: FencingToken, window: Window) -> None:
    planned = plan(ledger, token, window, 5)
    ledger.fence.release(token)
    with pytest.raises(FencedOutError):
        plan(ledger, token, window, 6)
    with pytest.raises(FencedOutError):
        ledger.removals.done(token, planned.removal_id)
    assert ledger.removals.open(token.namespace) == [planned]


def test_a_removal_that_was_not_planned_is_refused(ledger: Ledger, token: FencingToken) -> None:
    with pytest.raises(ConflictingRecordError, match=r"no removal -1.*removals\.plan"):
        ledger.removals.done(token, -1)
