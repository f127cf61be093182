"""The days of the oldest and the newest experience, to the day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from memory import MemoryConnection
from memory.store.days import first_and_last_day

TODAY = date(2021, 8, 1)


async def test_where_nothing_was_recorded_there_is_no_day(mem: MemoryConnection) -> None:
    assert await first_and_last_day(mem.episodic, TODAY) is None


@pytest.mark.parametrize(
    ("moments", "days"),
    [
        pytest.param(["2021-06-17T00:00"], ("2021-06-17", "2021-06-17"), id="one at midnight"),
        pytest.param(["2021-06-17T23:59", "2021-06-18T00:00"], ("2021-06-17", "2021-06-18"), id="around midnight"),
        pytest.param(["2019-01-03T12:00", "2021-08-01T23:59"], ("2019-01-03", "2021-08-01"), id="years, until today"),
        pytest.param(["2021-07-30T12:00", "2021-08-02T00:00"], ("2021-07-30", "2021-07-30"), id="one of tomorrow"),
    ],
)
async def test_they_are_those_of_the_oldest_and_of_the_newest(
    mem: MemoryConnection, make: Any, moments: list[str], days: tuple[str, str]
) -> None:
    for number, moment in enumerate(moments):
        time = datetime.fromisoformat(moment).replace(tzinfo=UTC)
        await mem.episodic.add(make(number, timestamp=time, known_at=time + timedelta(minutes=1)))
    found = await first_and_last_day(mem.episodic, TODAY)
    assert found is not None
    assert tuple(day.isoformat() for day in found) == days
