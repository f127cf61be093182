"""The days that experiences are of, found by counting: the index holds times, and sorts by none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta

from memory.store.episodic import EpisodicStore

_EPOCH = date(1970, 1, 1)
_DAY = timedelta(days=1)


async def first_and_last_day(episodic: EpisodicStore, today: date) -> tuple[date, date] | None:
    """The UTC days of the oldest and of the newest experience decided until the end of a day; None where there is none.

    Parameters
    ----------
    episodic
        Whose experiences, of all encoders.
    today
        No experience is looked for after it.

    Cost: some 30 counts, one after the other, of 40 ns for each experience counted and less than a millisecond each
    beside it; so no other question waits longer than for one of them.
    """

    async def some_before(day: date) -> bool:
        return await episodic.count(until=_midnight(day), at_least=True) > 0

    async def some_from(day: date) -> bool:
        return await episodic.count(since=_midnight(day), until=_midnight(today + _DAY), at_least=True) > 0

    if not await some_before(today + _DAY):
        return None
    first = await _last_without(some_before, _EPOCH, today + _DAY)

    async def none_from(day: date) -> bool:
        return not await some_from(day)

    return first, await _last_without(none_from, first, today + _DAY)


async def _last_without(holds: Callable[[date], Awaitable[bool]], low: date, high: date) -> date:
    """The last day of which something does not hold, where it holds of `high` and of all days after the first."""
    while high - low > _DAY:
        middle = low + (high - low) // 2
        if await holds(middle):
            high = middle
        else:
            low = middle
    return low


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
