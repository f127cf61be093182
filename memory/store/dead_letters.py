"""Records that could not be stored, with the reason: bounded, listed, and replayed once the cause is gone."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import EpisodicMemory, from_ms
from memory.store.keys import Keys
from memory.store.link import Command, Read, RedisLink
from memory.store.raw import RawExperience, pack_raw, unpack_raw
from memory.validation import validate_identifier

PAGE_SIZE = 500
ENTRY_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
MESSAGES = "messages"
"""Origin of letters that were messages between agents; where handling failed, a colon and the reader's name follow."""
UNSENT = "unsent"
"""Origin of letters that are messages which the server never took, so that no agent could read them."""
UNKNOWN_AGENT = ""
"""Agent of a dead letter whose agent id is malformed: it can be read and dropped, not replayed."""

# A letter with the same content and reason is listed once, however often it arrives: a drain that is killed between
# here and its acknowledgement sends it again. Beyond the limit the oldest go, digests included.
_ADD = """
local id = redis.call('HGET', KEYS[2], ARGV[1])
if not id then
  id = redis.call('XADD', KEYS[1], '*', 'digest', ARGV[1], 'agent', ARGV[2], 'reason', ARGV[3], 'field', ARGV[4],
                  'origin', ARGV[5], 'content', ARGV[6])
  redis.call('HSET', KEYS[2], ARGV[1], id)
end
local excess = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[7])
if excess > 0 then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', excess)) do
    redis.call('HDEL', KEYS[2], entry[2][2])
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
if #KEYS == 3 then
  redis.call('XACK', KEYS[3], ARGV[8], ARGV[9])
  redis.call('XDEL', KEYS[3], ARGV[9])
end
return id
"""

# Taking a letter off the list and putting it (back) into its agent's inbox is one step.
_TAKE = """
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if #entries == 0 then return 0 end
redis.call('HDEL', KEYS[2], entries[1][2][2])
redis.call('XDEL', KEYS[1], ARGV[1])
if #KEYS == 3 then redis.call('XADD', KEYS[3], '*', 'content', entries[1][2][12]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be stored.

    Attributes
    ----------
    entry_id
        Id of the letter.
    agent_id
        Agent that it came from; empty where that is unknown.
    reason, field
        What was wrong with it, and in which field.
    origin
        ``store``, ``inbox``, ``shared``, ``recorder``, ``messages`` or ``unsent``.
    received_at
        When it was written down (server clock).
    packed
        The record, as it was packed.
    """

    entry_id: str
    agent_id: str
    reason: str
    field: str
    origin: str
    received_at: datetime
    packed: bytes

    @property
    def is_message(self) -> bool:
        """Whether it is a message between agents, and no experience."""
        return self.is_unsent or self.origin.partition(":")[0] == MESSAGES

    @property
    def is_unsent(self) -> bool:
        """Whether it is a message that was never sent, which its sender wrote down itself."""
        return self.origin == UNSENT

    @property
    def reader(self) -> str | None:
        """Name of the reader whose handling of the message failed; None where no reader had it in hand."""
        return self.origin.partition(":")[2] or None

    def content(self) -> dict[str, Any]:
        """Fields of the record, by name; InvalidRecordError where it is none."""
        return unpack_raw(self.packed)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record, or its packed form, that goes to the dead letters, and why."""

    experience: EpisodicMemory | RawExperience | bytes
    reason: str
    field: str
    agent_id: str | None = None


class DeadLetters:
    """The dead letters of one namespace.

    Parameters
    ----------
    limit
        Letters kept; beyond it the oldest go.
    """

    def __init__(self, link: RedisLink, keys: Keys, limit: int) -> None:
        self._link = link
        self._keys = keys
        self._limit = limit
        self._add = link.register(_ADD)
        self._take = link.register(_TAKE)

    async def add(self, refusals: Iterable[Refusal], *, origin: str = "store") -> list[str]:
        """Write letters down and return their ids; one that is there already keeps its id."""
        commands = [self.command(refusal, origin=origin) for refusal in refusals]
        return [answer.decode() for answer in await self._link.pipeline(commands)]

    def command(self, refusal: Refusal, *, origin: str, acknowledge: tuple[str, str, str] | None = None) -> Command:
        """The command that writes a letter down, and acknowledges the (stream, group, entry) it came from."""
        experience = refusal.experience
        packed = experience if isinstance(experience, bytes) else pack_raw(experience, lenient=True)
        agent = refusal.agent_id or _agent_of(experience)
        digest = hashlib.blake2b(packed, digest_size=16)
        digest.update(f"\x1f{agent}\x1f{refusal.reason}".encode(errors="replace"))
        keys = [self._keys.dead_letters, self._keys.dead_letter_digests]
        arguments: list[Any] = [digest.hexdigest(), agent, refusal.reason.encode(errors="replace")]
        arguments += [refusal.field.encode(errors="replace"), origin, packed, self._limit]
        if acknowledge is not None:
            stream, group, entry = acknowledge
            keys.append(stream)
            arguments += [group, entry]
        return self._add.call(keys, arguments)

    async def count(self) -> int:
        """Number of dead letters."""
        return int(await self._link.execute("XLEN", self._keys.dead_letters))

    async def received(self) -> int:
        """Letters that were ever written down, those that have gone included; 0 again where Redis was emptied."""
        if not await self._link.execute("EXISTS", self._keys.dead_letters):
            return 0
        about = await self._link.execute("XINFO", "STREAM", self._keys.dead_letters)
        return int(about[b"entries-added"])

    async def reasons(self, limit: int) -> list[tuple[str, int, str]]:
        """Fields at fault among the newest letters, most frequent first: field, letters, the newest one's reason."""
        entries = await self._link.execute("XREVRANGE", self._keys.dead_letters, "+", "-", "COUNT", limit)
        letters = [_letter(entry.decode(), fields) for entry, fields in entries]
        newest = {letter.field: letter.reason for letter in reversed(letters)}
        counts = Counter(letter.field for letter in letters)
        return sorted(
            ((field, count, newest[field]) for field, count in counts.items()), key=lambda item: (-item[1], item[0])
        )

    async def get(self, entry_id: str) -> DeadLetter | None:
        """The letter of that id; None where there is none, or no more.

        Raises
        ------
        InvalidQueryError
            The id is none; nothing was sent.
        """
        if not ENTRY_ID.fullmatch(entry_id):
            raise InvalidQueryError(
                f"{entry_id[:80]!r} is not the id of a dead letter.",
                remedy="Ids look like 1623931200000-0: milliseconds, and a number.",
                argument="entry_id",
            )
        answer = await self._link.execute("XRANGE", self._keys.dead_letters, entry_id, entry_id)
        return _letter(answer[0][0].decode(), answer[0][1]) if answer else None

    async def read(
        self,
        *,
        entry_ids: Collection[str] | None = None,
        agent_id: str | None = None,
        field: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[DeadLetter]:
        """Dead letters, oldest first; all of them in memory, some kilobytes each. See `stream`.

        Parameters
        ----------
        limit
            At most so many.
        """
        if limit is not None and limit < 1:
            raise InvalidQueryError(f"limit is {limit}.", remedy="Use a number above 0.", argument="limit")
        letters = []
        async for letter in self.stream(entry_ids=entry_ids, agent_id=agent_id, field=field, newest_first=newest_first):
            letters.append(letter)
            if limit is not None and len(letters) >= limit:
                break
        return letters

    async def stream(
        self,
        *,
        entry_ids: Collection[str] | None = None,
        agent_id: str | None = None,
        field: str | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[DeadLetter]:
        """Dead letters one by one, oldest first; a page of 500 is read at a time, or those named alone.

        Parameters
        ----------
        entry_ids
            Only these; those that are not there are left out.
        agent_id, field
            Only those of this agent, and with this field at fault.
        newest_first
            The other way round.
        """
        pages = self._pages(newest_first) if entry_ids is None else self._named(entry_ids, newest_first)
        async for letter in pages:
            if agent_id in (None, letter.agent_id) and field in (None, letter.field):
                yield letter

    async def replay(
        self, entry_ids: Collection[str] | None = None, *, agent_id: str | None = None, field: str | None = None
    ) -> int:
        """Put letters back into their agents' inboxes, from where they are drained again; returns how many.

        Letters without a valid agent id stay, and so do messages (see `Messages.redeliver` and `Messages.send_unsent`).
        Each letter moves in one step.

        Parameters
        ----------
        entry_ids
            Letters to replay; all where None.
        agent_id, field
            Only those of this agent, and with this field at fault.
        """
        commands = []
        async for letter in self.stream(entry_ids=entry_ids, agent_id=agent_id, field=field):
            if letter.agent_id and not letter.is_message:
                keys = [self._keys.dead_letters, self._keys.dead_letter_digests, self._keys.inbox(letter.agent_id)]
                commands.append(self._take.call(keys, [letter.entry_id]))
        return sum(await self._link.pipeline(commands))

    async def exchange(self, entry_id: str, commands: Sequence[Command]) -> bool:
        """Take a letter off the list and run commands in its stead, in one step; False where it is not there."""
        letters = self._keys.dead_letters

        async def prepare(read: Read) -> tuple[list[Command], bool]:
            for _, fields in await read("XRANGE", letters, entry_id, entry_id):
                taken = ("HDEL", self._keys.dead_letter_digests, fields[fields.index(b"digest") + 1])
                return [*commands, taken, ("XDEL", letters, entry_id)], True
            return [], False

        return await self._link.transaction([letters], prepare)

    async def drop(self, entry_ids: Collection[str]) -> int:
        """Remove letters for good; returns how many."""
        keys = [self._keys.dead_letters, self._keys.dead_letter_digests]
        return sum(await self._link.pipeline([self._take.call(keys, [entry]) for entry in entry_ids]))

    async def _pages(self, newest_first: bool) -> AsyncIterator[DeadLetter]:
        read, start, end = ("XREVRANGE", "+", "-") if newest_first else ("XRANGE", "-", "+")
        while True:
            answer = await self._link.execute(read, self._keys.dead_letters, start, end, "COUNT", PAGE_SIZE)
            for entry_id, fields in answer:
                yield _letter(entry_id.decode(), fields)
            if len(answer) < PAGE_SIZE:
                return
            start = f"({answer[-1][0].decode()}"

    async def _named(self, entry_ids: Collection[str], newest_first: bool) -> AsyncIterator[DeadLetter]:
        for entry_id in sorted(set(entry_ids), key=_place, reverse=newest_first):
            letter = await self.get(entry_id)
            if letter is not None:
                yield letter


def _place(entry_id: str) -> tuple[int, ...]:
    """What letters are ordered by; whatever is no id comes first, and is refused when it is read."""
    return tuple(map(int, entry_id.split("-"))) if ENTRY_ID.fullmatch(entry_id) else ()


def _letter(entry_id: str, pairs: list[bytes]) -> DeadLetter:
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return DeadLetter(
        entry_id=entry_id,
        agent_id=fields[b"agent"].decode(),
        reason=fields[b"reason"].decode(),
        field=fields[b"field"].decode(),
        origin=fields[b"origin"].decode(),
        received_at=from_ms(int(entry_id.split("-")[0])),
        packed=fields[b"content"],
    )


def _agent_of(experience: EpisodicMemory | RawExperience | bytes) -> str:
    if isinstance(experience, bytes):
        return UNKNOWN_AGENT
    agent = getattr(experience, "agent_id", None)
    if agent is None and isinstance(experience, dict):
        agent = experience.get("agent_id")
    try:
        return validate_identifier(agent, "agent_id")
    except InvalidRecordError:
        return UNKNOWN_AGENT
