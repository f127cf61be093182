"""A lost archive is written again where Redis holds all that it held, whatever has come late since."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from memory.errors import SealedWindowError
from memory.records import EpisodicMemory

LATE = 20


def sealed(days: Any) -> bool:
    (found,) = days.ledger.windows.list(days.line, days.window(0), days.window(0))
    return found.sealed_since is not None


def test_a_late_record_that_knew_a_state_earlier_does_not_hide_that_redis_holds_all(
    days: Any, lived_on: Callable[..., list[EpisodicMemory]]
) -> None:
    days.record(0)
    days.consolidate(0)
    days.lose_archive(0)
    late = lived_on(0, agent="latecomer", count=LATE)
    for item in late:
        item.known_at -= dt.timedelta(seconds=30)
    days.store(late)
    (found,) = days.consolidate(0)
    assert found.experiences == 305 + LATE
    assert not sealed(days)


def test_late_records_that_speak_for_states_and_say_something_else_of_them_seal_the_window(
    days: Any, lived_on: Callable[..., list[EpisodicMemory]]
) -> None:
    days.record(0)
    days.consolidate(0)
    days.lose_archive(0)
    late = lived_on(0, agent="latecomer", count=LATE)
    for item in late:
        item.price = 2 * item.price
    days.store(late)
    with pytest.raises(SealedWindowError, match="no longer holds all of it"):
        days.consolidate(0)
    assert sealed(days)
