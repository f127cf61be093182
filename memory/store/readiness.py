"""Whether an index is whole: while the server builds one, it answers from the part that it has, without a word.

That happens after a restart, when the server reads its log, and after an index was lost and made again. A connection
ends with the life of its server, so an index that was once seen whole over a connection stays so for as long as the
connection lives; the question costs one FT.INFO an index and connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from redis.exceptions import ResponseError

from memory.errors import StoreUnavailableError
from memory.store.wire import Argument, WireConnection

SEARCHES = frozenset(("FT.SEARCH", "FT.AGGREGATE"))
POLL_S = 0.05


def share_built(info: Mapping[bytes, Any]) -> float:
    """Share of an index that is built, by its FT.INFO: 1 where it is whole, below that while it is being built."""
    share = float(info[b"percent_indexed"])
    return min(share, 0.999) if int(info[b"indexing"]) else share


def unseen_indexes(connection: WireConnection, commands: Iterable[tuple[Argument, ...]]) -> list[str]:
    """Indexes that some commands search and that have not been seen whole over a connection."""
    return [
        str(command[1])
        for command in commands
        if command[0] in SEARCHES and len(command) > 1 and command[1] not in connection.whole
    ]


def look_again(connection: WireConnection, command: tuple[Argument, ...]) -> None:
    """A command was refused: if it was a search, its index may have gone, and be built again under its name."""
    if command[0] in SEARCHES and len(command) > 1:
        connection.whole.discard(str(command[1]))


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
                connection.whole.add(name)
                break
            if connection.loop.time() + POLL_S >= deadline:
                raise StoreUnavailableError(
                    f"the index {name} is being built ({share:.0%} done), and would answer from a part of the records.",
                    remedy="Ask again when it is whole; `coinswarm doctor` says how far it is.",
                )
            await asyncio.sleep(POLL_S)
