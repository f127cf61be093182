"""Fencing: a run that was overtaken by a newer one must not write any more."""

from __future__ import annotations

from collections.abc import Sequence

from memory.errors import FencedOutError
from memory.store.keys import Keys
from memory.store.link import Command, Read, RedisLink


class Fence:
    """Compares fencing tokens with the highest one that was announced to a namespace.

    Tokens come from a sequence of the ledger, so a higher token is a newer run. A run announces its token before it
    writes anything (`raise_to`); from then on only that very token may write. Where the number is missing, the server
    lost what it held, and with it the knowledge of who was overtaken: then nobody may write until a run begins anew.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def highest(self) -> int:
        """The highest token that was announced; 0 where none was, or where the server lost it."""
        return int(await self._link.execute("GET", self._keys.fence) or 0)

    async def raise_to(self, token: int) -> None:
        """Announce a run's token, right after it was acquired: from now on older runs cannot write.

        Returns once it is on the server's disk (up to a second), so that no restart lets an older run in again.

        Raises
        ------
        FencedOutError
            A newer run has announced itself, or the server lost the number again in this moment.
        StoreUnavailableError
            It did not reach the disk in time.
        """

        async def prepare(read: Read) -> tuple[list[Command], bool]:
            highest = int(await read("GET", self._keys.fence) or 0)
            if token < highest:
                raise _overtaken(token, highest)
            return ([("SET", self._keys.fence, token)] if token > highest else []), True

        await self._link.transaction([self._keys.fence], prepare)
        await self._link.on_disk()
        if (held := await self.highest()) != token:
            raise _overtaken(token, held) if held > token else _lost(token, held)

    async def check(self, read: Read, token: int) -> None:
        """Within a transaction that watches the fence: FencedOutError unless `token` is the one announced last."""
        highest = int(await read("GET", self._keys.fence) or 0)
        if token < highest:
            raise _overtaken(token, highest)
        if token > highest:
            raise _lost(token, highest)

    async def ensure(self, token: int) -> None:
        """FencedOutError unless `token` is the one announced last, as far as this moment goes.

        For steps that cannot be part of a transaction, such as the creation of an index.
        """
        await self.check(self._link.execute, token)

    async def write(self, commands: Sequence[Command], token: int | None) -> None:
        """Run commands in one step; with a token only where it is the one announced last."""
        if token is None:
            await self._link.pipeline(commands, transaction=True)
            return

        async def prepare(read: Read) -> tuple[list[Command], None]:
            await self.check(read, token)
            return list(commands), None

        await self._link.transaction([self._keys.fence], prepare)


def _overtaken(token: int, highest: int) -> FencedOutError:
    return FencedOutError(
        f"this run holds token {token}, but a run with token {highest} has begun since.",
        remedy="Let the newer run finish; start this one again where it is still needed.",
    )


def _lost(token: int, highest: int) -> FencedOutError:
    held = f"holds {highest}" if highest else "holds none"
    return FencedOutError(
        f"this run holds token {token}, but Redis {held}: it was emptied, or restored from an earlier state.",
        remedy="Start the run again (it announces its token first), or restore Redis: coinswarm run rebuild_memory.",
    )
