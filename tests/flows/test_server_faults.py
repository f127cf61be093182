"""Servers that are killed under a running flow: nothing is lost, nothing is doubled, and the night ends the same."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

import memory
from flows.record_experiences import Parameters as RecordParameters
from flows.record_experiences import record_experiences
from memory import embedded
from memory.errors import StoreUnavailableError
from tasks.progress import STEPS_LOGGER

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

SHORT_LEASE_S = 2.0


@dataclass(frozen=True)
class OwnServers:
    """Servers of a home that nobody else uses, so that they can be killed."""

    home: Path
    redis_url: str
    database_url: str

    def kill(self, name: str) -> None:
        """End a server as the kernel would, and return at once."""
        (pid,) = [server.pid for server in embedded.home_status(self.home).servers if server.name == name]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnServers]:
    """Servers of their own, whose supervisor starts them again; flows of this process use them."""
    home = tmp_path / "own"
    for name in ("COINSWARM_REDIS_URL", "COINSWARM_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COINSWARM_HOME", str(home))
    with embedded.open_session(home, ("redis", "postgres")) as session:
        assert session.endpoints.redis_url is not None
        assert session.endpoints.database_url is not None
        yield OwnServers(home, session.endpoints.redis_url, session.endpoints.database_url)


def until_done(call: Callable[[], dict[str, Any]], attempts: int = 3) -> dict[str, Any]:
    """What a person does: start the flow again where it says that a server was away."""
    for _ in range(attempts - 1):
        try:
            return call()
        except StoreUnavailableError:
            continue
    return call()


def record(nights: Any, namespace: str) -> dict[str, Any]:
    return record_experiences(
        RecordParameters(namespace=namespace, date=nights.first, source="market", products=[nights.product])
    )


Who = tuple[str, dt.datetime]


def stored(servers: Any, namespace: str) -> tuple[set[Who], int]:
    """Agents and times of all experiences that can be read, and how many the index counts."""

    async def read() -> tuple[set[Who], int]:
        start = dt.datetime(2021, 6, 17, tzinfo=dt.UTC)
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            pages = mem.episodic.read_window(start, start + dt.timedelta(days=1))
            found = [(item.agent_id, item.timestamp) async for page in pages for item in page]
            assert len(found) == len(set(found))
            return set(found), await mem.episodic.count()

    return asyncio.run(read())


def in_the_middle_of_recording(
    own: OwnServers, namespace: str, *actions: tuple[int, Callable[[], Any]]
) -> threading.Thread:
    """Does things as soon as so many experiences are stored; the thread ends after the last."""

    def watch() -> None:
        with redis.Redis.from_url(own.redis_url) as server:
            for number, action in actions:
                while server.dbsize() < number:
                    time.sleep(0.002)
                action()

    thread = threading.Thread(target=watch, name=f"killer-{namespace}", daemon=True)
    thread.start()
    return thread


def test_redis_killed_in_the_middle_of_recording_loses_and_doubles_nothing(
    own: OwnServers, namespace: str, nights: Any
) -> None:
    killer = in_the_middle_of_recording(own, namespace, (nights.recorded // 3, lambda: own.kill("redis")))
    result = until_done(lambda: record(nights, namespace))
    killer.join(timeout=0)
    assert not killer.is_alive()
    assert result["stored"] + result["duplicates"] == nights.recorded
    assert result["dead_letters"] == 0
    end = dt.datetime(2021, 6, 18, tzinfo=dt.UTC)
    wanted = {(item.agent_id, item.timestamp) for item in nights.lived if item.timestamp < end}
    assert stored(own, namespace) == (wanted, nights.recorded)


def test_what_redis_had_confirmed_and_lost_when_it_was_killed_is_stored_again(
    own: OwnServers, namespace: str, nights: Any
) -> None:
    # A log that is not written any more stands for the last second before a kill, which may not be on the disk yet.
    def stop_log() -> None:
        with redis.Redis.from_url(own.redis_url) as server:
            server.config_set("appendonly", "no")

    killer = in_the_middle_of_recording(
        own, namespace, (nights.recorded // 4, stop_log), (nights.recorded // 2, lambda: own.kill("redis"))
    )
    result = until_done(lambda: record(nights, namespace))
    killer.join(timeout=0)
    assert not killer.is_alive()
    assert result["stored"] + result["duplicates"] == nights.recorded
    assert stored(own, namespace)[1] == nights.recorded


@dataclass(frozen=True)
class Blow:
    """Which server is killed in a run of the second day, and when: before a statement, or soon after a step began."""

    server: str
    step: str
    statement: str | None = None

    def __str__(self) -> str:
        return f"{self.server} in {self.step}"


BLOWS = (
    Blow("postgres", "cluster", "INSERT INTO .*[^_]summaries"),
    Blow("postgres", "fold", "INSERT INTO .*patterns"),
    Blow("postgres", "publish", "INSERT INTO .*fold_checkpoints"),
    Blow("redis", "archive"),
    Blow("redis", "publish"),
)
SOON_S = 0.03
"""After this long, the first round trips of a step have been made and the last one has not."""


@contextmanager
def falling(blow: Blow, own: OwnServers) -> Iterator[list[str]]:
    """Kills the server once, when the moment comes; the list then names it."""
    fallen: list[str] = []
    current: list[str] = []

    def kill() -> None:
        if not fallen:
            fallen.append(blow.server)
            own.kill(blow.server)

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "finished", False):
                return
            current[:] = [record.getMessage()]
            if current == [blow.step] and blow.statement is None:
                threading.Timer(SOON_S, kill).start()

    def before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if current == [blow.step] and blow.statement is not None and re.match(blow.statement, statement):
            kill()

    logger, listener = logging.getLogger(STEPS_LOGGER), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    sa.event.listen(sa.Engine, "before_cursor_execute", before)
    try:
        yield fallen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", before)
        logger.setLevel(level)
        logger.removeHandler(listener)


@pytest.mark.parametrize("blow", BLOWS, ids=str)
def test_a_server_killed_in_the_middle_of_a_consolidation_changes_nothing_of_what_it_ends_in(
    blow: Blow,
    own: OwnServers,
    namespace: str,
    nights: Any,
    undisturbed: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A run that cannot give its right to write back, because Postgres is away, blocks the next one for so long.
    monkeypatch.setenv("COINSWARM_LEASE_S", str(SHORT_LEASE_S))
    nights.fill(namespace, own)
    nights.consolidate(namespace, nights.first)
    with falling(blow, own) as fallen:
        result = until_done(lambda: nights.consolidate(namespace, nights.second))
    assert fallen == [blow.server]
    assert result["experiences"] == nights.filled
    assert nights.digests(namespace, own) == undisturbed
