"""Fencing: a run that was overtaken by a newer one must not write any more."""

from __future__ import annotations

from collections.abc import Sequence

from memory.errors import FencedOutError
from memory.store.keys import Keys
from memory.store.link import Command, Read, RedisLink


class Fence:
    """Compares fencing tokens with the highest one that has written to a namespace.

    Tokens come from a sequence of the ledger, so a higher token is a newer run.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def highest(self) -> int:
        """The highest token that has written; 0 where none has."""
        return int(await self._link.execute("GET", self._keys.fence) or 0)

    async def check(self, read: Read, token: int) -> list[Command]:
        """Within a transaction that watches the fence: the commands that raise it, or FencedOutError."""
        highest = int(await read("GET", self._keys.fence) or 0)
        if token < highest:
            raise FencedOutError(
                f"this run holds token {token}, but a run with token {highest} has written since.",
                remedy="Let the newer run finish; start this one again where it is still needed.",
            )
        return [("SET", self._keys.fence, token)] if token > highest else []

    async def write(self, commands: Sequence[Command], token: int | None) -> None:
        """Run commands in one step; with a token only where no newer run has written."""
        if token is None:
            await self._link.pipeline(commands, transaction=True)
            return

        async def prepare(read: Read) -> tuple[list[Command], None]:
            return [*await self.check(read, token), *commands], None

        await self._link.transaction([self._keys.fence], prepare)
