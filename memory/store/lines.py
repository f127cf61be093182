"""Which knowledge line is read: the current one, or, as of a time, the one that was current then.

An encoder has one current line. When another takes over, the succession keeps from when on which line was read, so that
a question as of an earlier time is answered by the line that would have answered it then.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from memory.store.codec import ms_rounded_up
from memory.store.fence import Fence
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import Command, Read, RedisLink
from memory.store.published_windows import drop_windows
from memory.store.staging import document_key, stored_versions, unlink_commands
from memory.validation import validate_identifier, validate_timestamp

FIRST = "first"
"""From when on a succession's first line was read: always."""


class Succession(NamedTuple):
    """The lines of an encoder, first one first, and from when on each was read (milliseconds since 1970; n - 1)."""

    lines: tuple[str, ...]
    since_ms: tuple[int, ...]

    @classmethod
    def decode(cls, answer: Mapping[bytes, bytes]) -> Succession:
        """The succession that a hash holds; without lines where none has ever taken over."""
        entries = dict(answer)
        first = entries.pop(FIRST.encode(), None)
        later = sorted((int(since), line.decode()) for since, line in entries.items())
        if first is None:
            return cls((), ())
        return cls((first.decode(), *(line for _, line in later)), tuple(since for since, _ in later))

    def encode(self) -> dict[str, str]:
        """The fields of the hash."""
        names = (FIRST, *map(str, self.since_ms))
        return dict(zip(names, self.lines, strict=True)) if self.lines else {}

    def at(self, as_of_ms: int) -> str:
        """The line that was read at a time."""
        return self.lines[bisect_right(self.since_ms, as_of_ms)]

    def taken_over(self, line: str, since_ms: int) -> Succession:
        """The succession after a line took over from a time on; the same again gives the same."""
        if not self.lines:
            return Succession((line,), ())
        place = bisect_right(self.since_ms, since_ms - 1)
        lines, since = self.lines[: place + 1], self.since_ms[:place]
        return Succession(lines, since) if lines[-1] == line else Succession((*lines, line), (*since, since_ms))

    def without(self, line: str) -> Succession:
        """The succession without a line; what it answered is answered by the one before it, or after the first one."""
        lines: list[str] = []
        since: list[int] = []
        for position, own in enumerate(self.lines):
            if own == line or (lines and lines[-1] == own):
                continue
            if lines:
                since.append(self.since_ms[position - 1])
            lines.append(own)
        return Succession(tuple(lines), tuple(since))


class LineChoice:
    """Chooses lines, and remembers which it chose last: what is expected is asked for in one round trip."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._current: dict[str, str] = {}
        self._successions: dict[str, Succession] = {}

    def commands(self, encoder_id: str, as_of_ms: int | None) -> list[Command]:
        """What has to be asked to choose."""
        commands: list[Command] = [("HGET", self._keys.current_line, encoder_id)]
        if as_of_ms is not None:
            commands.append(("HGETALL", self._keys.line_history(encoder_id)))
        return commands

    def choose(self, encoder_id: str, as_of_ms: int | None, answers: Sequence[Any]) -> str | None:
        """The line that the answers to `commands` say; None where there is none. Remembered."""
        if answers[0] is None:
            self._current.pop(encoder_id, None)
        else:
            self._current[encoder_id] = answers[0].decode()
        if as_of_ms is not None:
            self._successions[encoder_id] = Succession.decode(answers[1])
        return self.expected(encoder_id, as_of_ms)

    def expected(self, encoder_id: str, as_of_ms: int | None) -> str | None:
        """The line that was right when last asked; None where it was not asked, or there was none."""
        current = self._current.get(encoder_id)
        if current is None or as_of_ms is None:
            return current
        succession = self._successions.get(encoder_id)
        return succession.at(as_of_ms) if succession is not None and succession.lines else current


async def take_over(
    link: RedisLink,
    keys: Keys,
    indexes: Indexes,
    fence: Fence,
    line: str,
    encoder_id: str,
    *,
    current_from: datetime,
    token: int,
    make_current: bool,
) -> None:
    """See `SemanticStore.take_over`."""
    validate_identifier(encoder_id, "encoder_id")
    since_ms = ms_rounded_up(validate_timestamp(current_from, "current_from"))
    await fence.ensure(token)
    switch = await indexes.commands_to_make_current(encoder_id) if make_current else []
    history = keys.line_history(encoder_id)

    async def prepare(read: Read) -> tuple[list[Command], None]:
        await fence.check(read, token)
        before = await read("HGET", keys.current_line, encoder_id)
        succession = Succession.decode(await read("HGETALL", history))
        if not succession.lines and before is not None:
            succession = Succession((before.decode(),), ())
        fields = succession.taken_over(line, since_ms).encode()
        return [
            ("HSET", keys.current_line, encoder_id, line),
            ("DEL", history),
            ("HSET", history, *(part for pair in fields.items() for part in pair)),
            *switch,
        ], None

    await link.transaction([keys.fence, keys.current_line, history], prepare)


async def drop_line(link: RedisLink, keys: Keys, fence: Fence, line: str, token: int) -> int:
    """See `SemanticStore.drop_line`."""
    await fence.ensure(token)

    async def prepare(read: Read) -> tuple[list[Command], None]:
        await fence.check(read, token)
        commands: list[Command] = [
            (
                "UNLINK",
                keys.semantic_manifest(line),
                keys.semantic_stamp(line),
                keys.semantic_publications(line),
                keys.memory_aliases(line),
            ),
            drop_windows(keys, line),
        ]
        current = await read("HGETALL", keys.current_line)
        for encoder_id in (name.decode() for name in await read("SMEMBERS", keys.encoders)):
            history = keys.line_history(encoder_id)
            succession = Succession.decode(await read("HGETALL", history))
            left = succession.without(line)
            if left != succession:
                fields = left.encode()
                commands.append(("DEL", history))
                commands += [("HSET", history, name, own) for name, own in fields.items()]
            if current.get(encoder_id.encode()) == line.encode():
                follower = ("HSET", keys.current_line, encoder_id, left.lines[-1]) if left.lines else None
                commands.append(follower or ("HDEL", keys.current_line, encoder_id))
        return commands, None

    await link.transaction([keys.fence, keys.current_line, keys.semantic_manifest(line)], prepare)
    names = [document_key(keys, key, line) for key in await stored_versions(link, keys, line)]
    staged = keys.semantic_staged(line)
    under_way = [name.decode() for name in await link.execute("SMEMBERS", staged)]
    for command in unlink_commands([*names, *sorted(under_way), staged]):
        await fence.write([command], token)
    return len(names)
