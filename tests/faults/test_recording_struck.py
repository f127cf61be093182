"""Redis is killed while experiences are recorded: none is lost, none is stored twice."""

from __future__ import annotations

import datetime as dt

import pytest
import redis
from fault_rig import Rig, proof, wait_for

pytestmark = pytest.mark.faults

RECORDED = 5 * 1440
"""Experiences of five agents on one day in one product."""
NO_RETRIES = ("task retries", "link retries")


def stored(rig: Rig, namespace: str) -> tuple[int, int]:
    """How many experiences of the first day can be read, and how many the index counts."""

    async def read(mem: object) -> tuple[int, int]:
        start = dt.datetime.combine(rig.night.days[0], dt.time(), tzinfo=dt.UTC)
        pages = mem.episodic.read_window(start, start + dt.timedelta(days=1))  # type: ignore[attr-defined]
        found = [(item.agent_id, item.timestamp) async for page in pages for item in page]
        assert len(found) == len(set(found))
        return len(found), await mem.episodic.count()  # type: ignore[attr-defined]

    found: tuple[int, int] = rig.ask(namespace, read)
    return found


def until_stored(rig: Rig, namespace: str, number: int) -> None:
    """Wait until so many experiences lie in Redis."""
    with redis.Redis.from_url(rig.redis_url) as server:
        before = server.dbsize()
        wait_for(lambda: server.dbsize() >= before + number, f"{number} experiences")


@pytest.mark.parametrize("removed", [NO_RETRIES, ()], ids=["removed", "kept"])
def test_redis_killed_in_the_middle_of_recording_loses_and_doubles_nothing(
    removed: tuple[str, ...], rig: Rig, namespace: str
) -> None:
    run = rig.start("record", namespace, 0, removed=removed, source="market", products=[rig.night.product])
    until_stored(rig, namespace, RECORDED // 4)
    rig.strike("redis")
    outcome = run.end()
    rig.until_up()
    with proof(removed):
        assert (outcome.how, outcome.error) == ("done", "")
        assert outcome.result["stored"] + outcome.result["duplicates"] == RECORDED
        assert stored(rig, namespace) == (RECORDED, RECORDED)
