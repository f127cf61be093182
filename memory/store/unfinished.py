"""The mark of a restore that has begun and not ended: half a memory must not be taken for a whole one.

The mark is a hash in Redis that says what is restored, and how far that has come. It is written before all else and
removed last; whoever connects in between is refused, but for the restore itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from memory.errors import AccessDeniedError, RestoreUnfinishedError
from memory.store.fence import Fence
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink

SNAPSHOT = "snapshot"
"""Field of the mark: which snapshot is restored, by the seal of its manifest."""
PLACE = "place"
"""Field of the mark: the folder that the snapshot was read from."""
DRILL = "drill"
"""Field of the mark: there where the namespace is a drill's, to be dropped."""
DONE = "done:"
"""What the fields begin with that name the parts which are whole."""
KNOWLEDGE = "knowledge"
"""Field of the mark: digest that the ledger's knowledge is to have, where its rows were brought to a newer schema."""

_restoring: ContextVar[frozenset[str]] = ContextVar("restoring", default=frozenset())


@contextmanager
def restoring(namespace: str) -> Iterator[None]:
    """Within the block, connections of this thread to a namespace open though its restore has not ended."""
    token = _restoring.set(_restoring.get() | {namespace})
    try:
        yield
    finally:
        _restoring.reset(token)


async def check_whole(link: RedisLink, keys: Keys) -> None:
    """See that a namespace is no half-restored one. One round trip; a user who may not look is let through.

    Raises
    ------
    RestoreUnfinishedError
        A restore has begun and not ended.
    """
    if keys.namespace in _restoring.get():
        return
    try:
        place = await link.execute("HGET", keys.restoring, PLACE)
    except AccessDeniedError:
        return  # Agents that may read their own keys only: whoever set them up has looked.
    if place is None:
        return
    where = place.decode(errors="replace")
    raise RestoreUnfinishedError(
        f"namespace {keys.namespace!r} is being restored from {where}, and holds a part of it only.",
        remedy=f"Wait until that has ended; if it was killed, run it again: coinswarm restore {where} --namespace "
        f"{keys.namespace}.",
    )


class RestoreMark:
    """The mark of one namespace, written by the run that holds it."""

    def __init__(self, link: RedisLink, keys: Keys, fence: Fence, token: int) -> None:
        self._link = link
        self._keys = keys
        self._fence = fence
        self._token = token

    async def read(self) -> dict[str, str]:
        """Fields of the mark; empty where there is none."""
        return await read_mark(self._link, self._keys)

    async def begin(self, fields: Mapping[str, str], *, anew: bool = False) -> None:
        """Set the mark, and with `anew` forget what was done under another; returns once it is on the server's disk."""
        flat = [part for pair in sorted(fields.items()) for part in pair]
        forget: list[Command] = [("DEL", self._keys.restoring)] if anew else []
        await self._fence.write([*forget, ("HSET", self._keys.restoring, *flat)], self._token)
        await self._link.on_disk()

    async def note(self, field: str, value: str) -> None:
        """Note something that a restore which takes this one up has to know."""
        await self._fence.write([("HSET", self._keys.restoring, field, value)], self._token)

    async def done(self, part: str) -> None:
        """Note that a part is whole. The log of a server keeps the order: what was written before is there then."""
        await self.note(f"{DONE}{part}", "1")

    async def end(self) -> None:
        """Remove the mark: the memory is whole. Returns once that is on the server's disk."""
        await self._link.on_disk()
        await self._fence.write([("DEL", self._keys.restoring)], self._token)
        await self._link.on_disk()


async def read_mark(link: RedisLink, keys: Keys) -> dict[str, str]:
    """Fields of a namespace's mark; empty where there is none."""
    found = await link.execute("HGETALL", keys.restoring)
    return {name.decode(): value.decode(errors="replace") for name, value in found.items()}
