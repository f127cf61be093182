"""How agents follow a feed: which of its states they are given, and that they are closed however it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from agents.connecting import each_state
from agents.feed import Tick
from agents.replay import State

NOON = datetime(2021, 6, 18, 12, tzinfo=UTC)


def tick(minute: int, *, warm: bool = True, acts: bool = True) -> Tick:
    at = NOON + timedelta(minutes=minute)
    state = State("BTC-USDT", at, {}, np.zeros(256, np.float32), 100.0, None, "QUIET", 1.0) if warm else None
    return Tick("BTC-USDT", at, 100.0, None, state, acts)


FEED = [[tick(0, warm=False)], [], [tick(1), tick(2)], [tick(3)], [tick(4, acts=False)]]
"""Cold at first, and after the span at last."""


class Follower:
    """Notes what it is given, and fails at a minute."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.given: list[int] = []
        self.closed = 0
        self._fails_at = fails_at

    async def act(self, state: State) -> None:
        minute = (state.timestamp - NOON) // timedelta(minutes=1)
        if minute == self._fails_at:
            raise ZeroDivisionError
        self.given.append(minute)

    async def close(self) -> None:
        self.closed += 1


async def test_each_state_that_a_decision_may_be_taken_on_is_given_once_in_order() -> None:
    follower = Follower()
    assert await each_state(FEED, follower.act, follower.close) == 3
    assert (follower.given, follower.closed) == ([1, 2, 3], 1)


async def test_an_error_ends_the_feed_and_closes_all_the_same() -> None:
    follower = Follower(fails_at=2)
    with pytest.raises(ZeroDivisionError):
        await each_state(FEED, follower.act, follower.close)
    assert (follower.given, follower.closed) == ([1], 1)
