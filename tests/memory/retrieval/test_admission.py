"""Callers in line for a connection: first come, first served, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from memory.retrieval.admission import WaitingLine


class Busy:
    """A connection with as many commands on their way as a test says."""

    def __init__(self, limit: int, in_flight: int) -> None:
        self.in_flight = in_flight
        self.watched = 0
        self.line = WaitingLine(limit, lambda: self.in_flight, self._watch)
        self.line.closed = False

    def _watch(self) -> None:
        self.watched += 1

    async def waiting(self, count: int, served: list[int]) -> list[asyncio.Task[None]]:
        """Callers that wait in line, in order of their numbers."""

        def caller(number: int) -> Callable[[], None]:
            return lambda: served.append(number)

        async def wait(then: Callable[[], None]) -> None:
            await self.line.admission()
            then()

        tasks = [asyncio.create_task(wait(caller(number))) for number in range(count)]
        await asyncio.sleep(0)
        assert len(self.line) == count
        return tasks


async def test_nobody_waits_while_there_is_room_and_a_newcomer_queues_behind_others() -> None:
    busy = Busy(limit=2, in_flight=1)
    assert not busy.line.full
    busy.in_flight = 2
    assert busy.line.full
    tasks = await busy.waiting(1, [])
    assert busy.watched == 1
    busy.in_flight = 0
    assert busy.line.full
    busy.line.move()
    await asyncio.gather(*tasks)
    assert not busy.line.full


async def test_those_who_came_first_go_first_and_no_more_than_there_is_room_for() -> None:
    busy, served = Busy(limit=2, in_flight=2), list[int]()
    tasks = await busy.waiting(3, served)
    busy.in_flight = 1
    busy.line.move()
    assert len(busy.line) == 2
    busy.in_flight = 2
    await asyncio.sleep(0)
    assert served == [0]
    busy.in_flight = 0
    busy.line.move()
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2]


async def test_one_who_leaves_after_being_admitted_gives_the_place_to_the_next() -> None:
    busy, served = Busy(limit=1, in_flight=1), list[int]()
    first, second = await busy.waiting(2, served)
    busy.in_flight = 0
    busy.line.move()
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert served == [1]


async def test_a_closed_line_lets_everybody_through() -> None:
    busy, served = Busy(limit=1, in_flight=1), list[int]()
    tasks = await busy.waiting(3, served)
    busy.line.closed = True
    busy.line.move()
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2]
