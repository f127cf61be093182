"""The bound on what a question may see, and the guard around a replay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import memory
from memory.asof import ReplayClock, bounded, replaying
from memory.errors import InvalidQueryError

NOON = datetime(2021, 6, 17, 12, tzinfo=UTC)


def test_without_replay_and_lock_a_question_may_see_everything() -> None:
    assert bounded(None, None) is None


def test_a_lock_bounds_a_question_that_names_no_time() -> None:
    assert bounded(None, NOON) == NOON


def test_a_question_after_the_lock_is_refused() -> None:
    with pytest.raises(InvalidQueryError, match="locked") as refused:
        bounded(NOON + timedelta(microseconds=1), NOON)
    assert refused.value.argument == "as_of"


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(InvalidQueryError, match="as_of"):
        bounded(NOON.replace(tzinfo=None), None)


def test_inside_a_replay_an_unbounded_question_is_refused() -> None:
    with replaying(ReplayClock(NOON)), pytest.raises(InvalidQueryError, match="inside a replay") as refused:
        bounded(None, None)
    assert refused.value.argument == "as_of"
    assert "mem.at" in refused.value.remedy


@pytest.mark.parametrize("locked", [True, False])
def test_inside_a_replay_nothing_after_its_present_may_be_asked(locked: bool) -> None:
    later = NOON + timedelta(minutes=1)
    with replaying(ReplayClock(NOON)), pytest.raises(InvalidQueryError, match="present of the replay"):
        bounded(None if locked else later, later if locked else None)


def test_the_present_of_a_replay_moves_on() -> None:
    later = NOON + timedelta(minutes=1)
    with replaying(ReplayClock(NOON)) as clock:
        clock.now = later
        assert bounded(later, None) == later


def test_the_guard_ends_with_its_block_even_after_an_error() -> None:
    with pytest.raises(RuntimeError), replaying(ReplayClock(NOON)):
        raise RuntimeError
    assert bounded(None, None) is None


async def test_tasks_that_a_replay_starts_are_guarded_and_others_are_not() -> None:
    async def ask() -> datetime | None:
        return bounded(None, None)

    with replaying(ReplayClock(NOON)):
        inside = asyncio.create_task(ask())
    outside = asyncio.create_task(ask())
    with pytest.raises(InvalidQueryError):
        await inside
    assert await outside is None


async def test_every_service_refuses_an_unbounded_question_inside_a_replay(mem: memory.MemoryConnection) -> None:
    vector = np.zeros(256, np.float32)
    vector[0] = 1.0
    with replaying(ReplayClock(NOON)):
        with pytest.raises(InvalidQueryError, match="inside a replay"):
            await mem.retrieval.retrieve_similar_experiences(vector)
        with pytest.raises(InvalidQueryError, match="inside a replay"):
            await mem.retrieval.retrieve_patterns(vector)
        with pytest.raises(InvalidQueryError, match="present of the replay"):
            await mem.at(NOON + timedelta(hours=1)).retrieval.retrieve_similar_experiences(vector)
        assert await mem.at(NOON).retrieval.retrieve_similar_experiences(vector) == []
