"""Days and hours that trading agents are tried on, and what they leave in a memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from agents.baselines import KEEP, Decision
from agents.feed import Tick
from agents.replay import State
from agents.strategies import Situation
from memory import MemoryConnection
from memory.records import Action, EpisodicMemory, Side

DAY = datetime(2018, 4, 4, tzinfo=UTC)
"""The sample's day with a gap, from 16:47 to the next morning."""
SUMMER = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BUY = Action(Side.BUY, 1.0)


def ticks(states: list[State]) -> Iterator[list[Tick]]:
    for state in states:
        yield [Tick(state.product_id, state.timestamp, state.price, state.spread, state)]


def hold(situation: Situation) -> Decision:
    return Decision(BUY if situation.position == 0.0 else KEEP, 0.5)


async def stored(mem: MemoryConnection) -> list[EpisodicMemory]:
    """All experiences of a memory in order of time."""
    far = datetime(2100, 1, 1, tzinfo=UTC)
    begin = datetime(2000, 1, 1, tzinfo=UTC)
    pages = [page async for page in mem.episodic.read_window(begin, far, with_next_state=True)]
    return sorted((item for page in pages for item in page), key=lambda item: item.timestamp)
