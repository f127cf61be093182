"""Whether an index is whole: while the server builds one, it answers from the part that it has, without a word.

That happens after a restart, when the server reads its log, and after an index was lost and made again. A connection
ends with the life of its server, so an index that was once seen whole over a connection stays so for as long as the
connection lives, unless somebody drops it and makes it again under its name. Whoever asks meanwhile is refused, and
looks again. Who does not ask would not know of it: so a search goes out together with another look at its index where
the last one is longer ago than `LOOK_AGAIN_S`. Cost: one FT.INFO an index and connection, and another one a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from redis.exceptions import ResponseError

from memory.errors import StoreUnavailableError
from memory.store.wire import Argument, WireConnection, retrieve

SEARCHES = frozenset(("FT.SEARCH", "FT.AGGREGATE"))
POLL_S = 0.05
LOOK_AGAIN_S = 1.0
"""How long a connection that searches all the time relies on what it saw of an index. FT.INFO takes the server a tenth
of a search: once a second, that is nothing, and an index of more than some thousands of records takes longer to build.
"""


def share_built(info: Mapping[bytes, Any]) -> float:
    """Share of an index that is built, by its FT.INFO: 1 where it is whole, below that while it is being built."""
    share = float(info[b"percent_indexed"])
    return min(share, 0.999) if int(info[b"indexing"]) else share


def seen_lately(connection: WireConnection, name: Argument) -> bool:
    """Whether an index was seen whole over a connection, and not long ago: nearly always, in a quarter microsecond."""
    return connection.whole.get(name, -LOOK_AGAIN_S) + LOOK_AGAIN_S >= connection.loop.time()


def unseen_indexes(connection: WireConnection, commands: Iterable[tuple[Argument, ...]]) -> list[str]:
    """Indexes that some commands search and that have not been seen whole over a connection."""
    return [
        str(command[1])
        for command in commands
        if command[0] in SEARCHES and len(command) > 1 and command[1] not in connection.whole
    ]


def long_unseen_indexes(connection: WireConnection, commands: Iterable[tuple[Argument, ...]]) -> list[str]:
    """Indexes that some commands search and that were seen whole so long ago that the caller is to look again.

    Each is named to one caller: the others go on with what was seen.
    """
    now = connection.loop.time()
    due = {
        str(command[1])
        for command in commands
        if command[0] in SEARCHES and len(command) > 1 and connection.whole.get(command[1], now) + LOOK_AGAIN_S < now
    }
    connection.whole.update(dict.fromkeys(due, now))
    return sorted(due)


def look_beside(
    connection: WireConnection, commands: Iterable[tuple[Argument, ...]]
) -> list[tuple[str, asyncio.Future[Any]]]:
    """Ask about the indexes that some commands search where the last look is long ago; to be called before they leave.

    Answers come in order: when the commands have theirs, `made_again` knows what these say.
    """
    looks = []
    for name in long_unseen_indexes(connection, commands):
        info = connection.send("FT.INFO", name)
        info.add_done_callback(retrieve)
        looks.append((name, info))
    return looks


def made_again(connection: WireConnection, looks: Iterable[tuple[str, asyncio.Future[Any]]]) -> bool:
    """Whether an index turned out to be under construction again: what was answered from it is a part, and no answer.

    An index that is gone, or that the user may not ask about, is left to the search itself.
    """
    found = False
    for name, info in looks:
        if info.done() and not info.cancelled() and info.exception() is None and share_built(info.result()) < 1.0:
            connection.whole.pop(name, None)
            found = True
    return found


def look_again(connection: WireConnection, command: tuple[Argument, ...]) -> None:
    """A command was refused: if it was a search, its index may have gone, and be built again under its name."""
    if command[0] in SEARCHES and len(command) > 1:
        connection.whole.pop(str(command[1]), None)


async def wait_until_whole(
    connection: WireConnection,
    names: Iterable[str],
    deadline: float,
    ask: Callable[[tuple[Argument, ...]], Awaitable[Any]] | None = None,
) -> None:
    """Return when the server of a connection has built all of some indexes.

    An index that does not exist, or that the user may not ask about, is left to the search itself. `ask` sends a
    command over this connection, by this deadline, where its owner wants to know of what is not answered.

    Raises
    ------
    StoreUnavailableError
        One is still being built at the deadline, in seconds of the event loop's clock.
    TimeoutError
        The server did not answer before it.
    """
    for name in dict.fromkeys(names):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    question = ("FT.INFO", name)
                    info = await (connection.execute(*question) if ask is None else ask(question))
            except ResponseError:
                break
            share = share_built(info)
            if share >= 1.0:
                connection.whole[name] = connection.loop.time()
                break
            if connection.loop.time() + POLL_S >= deadline:
                raise StoreUnavailableError(
                    f"the index {name} is being built ({share:.0%} done), and would answer from a part of the records.",
                    remedy="Ask again when it is whole; `coinswarm doctor` says how far it is.",
                )
            await asyncio.sleep(POLL_S)
