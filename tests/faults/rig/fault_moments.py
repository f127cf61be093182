"""Moments of a run at which something is done to it: hooks that the process of the run puts into itself.

A run passes *events*, each with a name:

| event | when |
| --- | --- |
| `begin STEP`, `end STEP` | a step of the flow begins, has ended |
| `sql STATEMENT` | before a statement is sent to the ledger |
| `commit`, `committed` | before and after a transaction that has written is committed |
| `redis write COMMAND` | between reading the fence (WATCH) and writing (EXEC); the first command |
| `redis step COMMAND` | the same where more keys are watched: the step of a publication |
| `redis executed` | after such a step |
| `command COMMAND` | before each command that is sent on a connection that watches keys |
| `send COMMAND`, `answered COMMAND` | before and after commands are sent together; the last (where asked for) |
| `file`, `filed` | before and after a file of the archive gets its name |
| `clustered` | a partition was clustered |
"""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any


@dataclass(frozen=True)
class Moment:
    """The n-th event of a step whose name matches.

    Attributes
    ----------
    step
        Name of the step; None for any, the time before the first one included.
    event
        Pattern that the event's name begins with.
    number
        Which of the events that match, from 1.
    """

    step: str | None
    event: str
    number: int = 1

    def __str__(self) -> str:
        where = self.step or "the run"
        return f"{where}: {self.event}" + (f" ({self.number})" if self.number > 1 else "")


STARVED_BYTES = 100_000
"""No file grows beyond this in a process whose disk is full: less than the archive of a night takes."""


def _starve() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (STARVED_BYTES, resource.RLIM_INFINITY))


def _stop() -> None:
    # Sent to the process, any of its threads may be the one that hears it first, and this one would go on for a while:
    # beyond the moment. Sent to the thread, it stops right here, and all others with it.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": _stop,
    "starve": _starve,
}
"""What a run can do to itself as the kernel would; `meet` it does with whoever started it."""


class Watch:
    """Counts the events of this process, and acts when the moment has come: once."""

    def __init__(self, moment: Moment | None, act: Callable[[], None]) -> None:
        self._moment = moment
        self._act = act
        self._lock = threading.Lock()
        self._step = ""
        self._matched = 0
        self.events = 0
        self.names: Counter[str] = Counter()

    def reach(self, event: str) -> None:
        """An event. At the moment it acts, and holds up the thread that came so far, but not the heart of the run."""
        if self._is_the_moment(event):
            self._act()

    def _is_the_moment(self, event: str) -> bool:
        with self._lock:
            self.events += 1
            kind, _, rest = event.partition(" ")
            self.names[kind] += 1
            if kind == "begin":
                self._step = rest
            moment = self._moment
            if moment is None or moment.step not in (None, self._step) or not re.match(moment.event, event, re.DOTALL):
                return False
            self._matched += 1
            if self._matched < moment.number:
                return False
            self._moment = None
            return True


def install(watch: Watch, *, every_command: bool) -> None:
    """Have this process tell a watch of its events, for as long as it lives; of `every_command` where asked for."""
    _watch_steps(watch)
    _watch_ledger(watch)
    _watch_redis(watch)
    if every_command:
        _watch_commands(watch)
    _watch_archive(watch)
    _watch_clustering(watch)


def _watch_steps(watch: Watch) -> None:
    import logging

    from tasks.progress import STEPS_LOGGER

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            name = record.getMessage().partition(":")[0]
            watch.reach(f"end {name}" if getattr(record, "finished", False) else f"begin {name}")

    logger = logging.getLogger(STEPS_LOGGER)
    logger.addHandler(Listener())
    logger.setLevel(logging.INFO)


def _watch_ledger(watch: Watch) -> None:
    import sqlalchemy as sa
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    written = re.compile(r"(INSERT|UPDATE|DELETE)\b")

    def before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        watch.reach(f"sql {statement}")
        if written.match(statement):
            cursor.connection.has_written = True

    commit = PGDialect_psycopg.do_commit

    def announced(dialect: Any, connection: Any) -> None:
        driver = getattr(connection, "dbapi_connection", connection)
        wrote = getattr(driver, "has_written", False)
        if wrote:
            watch.reach("commit")
            driver.has_written = False
        commit(dialect, connection)
        if wrote:
            watch.reach("committed")

    sa.event.listen(sa.Engine, "before_cursor_execute", before)
    PGDialect_psycopg.do_commit = announced  # type: ignore[method-assign]


def _watch_redis(watch: Watch) -> None:
    from redis.asyncio.client import Pipeline

    from memory.store.link import RedisLink

    transaction, immediate = RedisLink.transaction, Pipeline.immediate_execute_command

    async def announced(link: RedisLink, watched: Any, prepare: Callable[..., Awaitable[Any]], **options: Any) -> Any:
        async def prepared(read: Any) -> Any:
            commands, result = await prepare(read)
            if commands:
                watch.reach(f"redis {'step' if len(watched) > 1 else 'write'} {commands[0][0]}")
            return commands, result

        result = await transaction(link, watched, prepared, **options)
        watch.reach("redis executed")
        return result

    async def sent(pipe: Any, *args: Any, **options: Any) -> Any:
        watch.reach(f"command {args[0]}")
        return await immediate(pipe, *args, **options)

    RedisLink.transaction = announced  # type: ignore[method-assign,assignment]
    Pipeline.immediate_execute_command = sent  # type: ignore[method-assign]


def _watch_commands(watch: Watch) -> None:
    from memory.store.link import RedisLink

    execute, pipeline = RedisLink.execute, RedisLink.pipeline

    async def executed(link: RedisLink, *arguments: Any, **options: Any) -> Any:
        watch.reach(f"send {arguments[0]}")
        answer = await execute(link, *arguments, **options)
        watch.reach(f"answered {arguments[0]}")
        return answer

    async def sent_together(link: RedisLink, commands: Any, **options: Any) -> Any:
        name = commands[-1][0] if commands else "nothing"
        watch.reach(f"send {name}")
        answers = await pipeline(link, commands, **options)
        watch.reach(f"answered {name}")
        return answers

    RedisLink.execute = executed  # type: ignore[method-assign]
    RedisLink.pipeline = sent_together  # type: ignore[method-assign]


def _watch_archive(watch: Watch) -> None:
    from memory.ledger.archive_files import NewFile

    commit = NewFile.commit

    def announced(file: NewFile, rows: int) -> Any:
        watch.reach("file")
        result = commit(file, rows)
        watch.reach("filed")
        return result

    NewFile.commit = announced  # type: ignore[method-assign]


def _watch_clustering(watch: Watch) -> None:
    from memory.learning.clustering import MarketStateClusterer

    fit = MarketStateClusterer.fit

    @wraps(fit)
    def announced(*args: Any, **options: Any) -> Any:
        fitted = fit(*args, **options)
        watch.reach("clustered")
        return fitted

    MarketStateClusterer.fit = announced  # type: ignore[method-assign]
