"""The knowledge lines of a namespace: which there are, which is read, and how one takes over from another."""

from __future__ import annotations

from datetime import datetime

from memory.errors import InvalidRecordError
from memory.records import from_ms
from memory.store.fence import Fence
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.lines import Succession, drop_line, take_over
from memory.store.link import RedisLink
from memory.store.manifest import horizon_of
from memory.store.published_windows import PublishedWindows, published_windows
from memory.store.semantic_contents import SemanticContents


class SemanticLines:
    """What semantic memory knows of its lines; `SemanticStore` adds what they hold.

    Parameters
    ----------
    locked_to
        Time that the memory is locked to: then nothing can be changed.
    """

    def __init__(
        self, link: RedisLink, keys: Keys, indexes: Indexes, fence: Fence, locked_to: datetime | None = None
    ) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._fence = fence
        self._locked_to = locked_to
        self._contents = SemanticContents(link, keys)

    # --- which is read ---------------------------------------------------------------------------------------

    async def current_line(self, encoder_id: str | None = None) -> str | None:
        """The knowledge line that is read for an encoder (the namespace's current one where None)."""
        encoder_id = encoder_id or await self._indexes.current_encoder()
        if encoder_id is None:
            return None
        line = await self._link.execute("HGET", self._keys.current_line, encoder_id)
        return None if line is None else line.decode()

    async def current_lines(self) -> list[str]:
        """The knowledge lines that are read, one for each encoder that something was published for; sorted."""
        return sorted(line.decode() for line in await self._link.execute("HVALS", self._keys.current_line))

    async def set_current_line(self, line: str, encoder_id: str, *, token: int) -> None:
        """Make a knowledge line the one that is read for an encoder, as of any time, in one step; see `take_over`."""
        commands = [("HSET", self._keys.current_line, encoder_id, line), ("DEL", self._keys.line_history(encoder_id))]
        self._check_open()
        await self._fence.write(commands, token)

    async def take_over(
        self, line: str, encoder_id: str, *, current_from: datetime, token: int, make_current: bool = True
    ) -> None:
        """Let a line take over from the one that is read for an encoder, in one step.

        From `current_from` on it answers, also questions as of such a time; as of an earlier one the line before it
        still does. Taking over again changes nothing.

        Parameters
        ----------
        make_current
            Make the encoder the namespace's current one in the same step.

        Raises
        ------
        FencedOutError
            A newer run has begun. Nothing changes.
        """
        self._check_open()
        await take_over(
            self._link,
            self._keys,
            self._indexes,
            self._fence,
            line,
            encoder_id,
            current_from=current_from,
            token=token,
            make_current=make_current,
        )

    async def drop_line(self, line: str, token: int) -> int:
        """Remove a line and all its versions, and return how many those were.

        It is not read any more from the first step on; then its documents go, in batches. Dropping it again completes
        what was interrupted.
        """
        self._check_open()
        return await drop_line(self._link, self._keys, self._fence, line, token)

    async def lines(self) -> list[str]:
        """All lines that Redis lists versions of, read or not; sorted. Looks at every key of the server."""
        return await self._contents.lines()

    async def succession(self, encoder_id: str) -> list[tuple[datetime | None, str]]:
        """Lines that were read for an encoder, and from when on; None is always. Empty where none ever took over."""
        found = Succession.decode(await self._link.execute("HGETALL", self._keys.line_history(encoder_id)))
        return list(zip((None, *map(from_ms, found.since_ms)), found.lines, strict=False))

    async def aliases(self, line: str) -> dict[str, str]:
        """Ids that memories of a line had before, with those that they have; sorted."""
        answer = await self._link.execute("HGETALL", self._keys.memory_aliases(line))
        return {old.decode(): new.decode() for old, new in sorted(answer.items())}

    async def windows(self, line: str) -> PublishedWindows:
        """By kind, when each window that a line was published through became known; without snapshots."""
        return await published_windows(self._link, self._keys, line)

    async def stamp(self, line: str) -> str | None:
        """What the last publication of a line stamped it with (`PublishReport.stamp`); None where there is none.

        It says what the line lists, so it tells whether Redis still holds what was published.
        """
        stamp = await self._link.execute("GET", self._keys.semantic_stamp(line))
        return None if stamp is None else stamp.decode()

    async def horizon(self, line: str) -> datetime | None:
        """When the last version that has expired ended: earlier times cannot be asked about; None for no such end."""
        horizon_ms = horizon_of(await self._link.execute("GET", self._keys.semantic_stamp(line)))
        return None if horizon_ms is None else from_ms(horizon_ms)

    def _check_open(self) -> None:
        if self._locked_to is not None:
            raise InvalidRecordError(
                "the past cannot be published to.", remedy="Publish through mem.semantic.", field="valid_from"
            )
