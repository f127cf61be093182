"""Records that could not be stored, with the reason: bounded, listed, and replayed once the cause is gone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory.errors import InvalidQueryError, InvalidRecordError
from memory.records import EpisodicMemory, from_ms
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink
from memory.store.raw import RawExperience, pack_raw, unpack_raw
from memory.validation import validate_identifier

PAGE_SIZE = 500
MESSAGES = "messages"
"""Origin of letters that were messages between agents; where handling failed, a colon and the reader's name follow."""
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
        ``store``, ``inbox``, ``shared``, ``recorder`` or ``messages``.
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

    async def reasons(self, limit: int) -> list[tuple[str, int, str]]:
        """Fields at fault among the newest letters, most frequent first: field, letters, the newest one's reason."""
        entries = await self._link.execute("XREVRANGE", self._keys.dead_letters, "+", "-", "COUNT", limit)
        letters = [_letter(entry.decode(), fields) for entry, fields in entries]
        newest = {letter.field: letter.reason for letter in reversed(letters)}
        counts = Counter(letter.field for letter in letters)
        return sorted(
            ((field, count, newest[field]) for field, count in counts.items()), key=lambda item: (-item[1], item[0])
        )

    async def read(self, *, agent_id: str | None = None, limit: int | None = None) -> list[DeadLetter]:
        """Dead letters, oldest first.

        Parameters
        ----------
        agent_id
            Only those of this agent.
        limit
            At most so many.
        """
        if limit is not None and limit < 1:
            raise InvalidQueryError(f"limit is {limit}.", remedy="Use a number above 0.", argument="limit")
        letters = []
        async for letter in self._all():
            if agent_id is None or letter.agent_id == agent_id:
                letters.append(letter)
                if limit is not None and len(letters) >= limit:
                    break
        return letters

    async def replay(self, entry_ids: Collection[str] | None = None, *, agent_id: str | None = None) -> int:
        """Put letters back into their agents' inboxes, from where they are drained again; returns how many.

        Letters without a valid agent id stay, and so do messages (see `Messages.redeliver`). Each letter moves in one
        step.

        Parameters
        ----------
        entry_ids
            Letters to replay; all where None.
        agent_id
            Only those of this agent.
        """
        commands = []
        async for letter in self._all():
            chosen = entry_ids is None or letter.entry_id in entry_ids
            if letter.origin.startswith(MESSAGES):
                continue
            if not chosen or not letter.agent_id or (agent_id is not None and letter.agent_id != agent_id):
                continue
            keys = [self._keys.dead_letters, self._keys.dead_letter_digests, self._keys.inbox(letter.agent_id)]
            commands.append(self._take.call(keys, [letter.entry_id]))
        return sum(await self._link.pipeline(commands))

    async def drop(self, entry_ids: Collection[str]) -> int:
        """Remove letters for good; returns how many."""
        keys = [self._keys.dead_letters, self._keys.dead_letter_digests]
        return sum(await self._link.pipeline([self._take.call(keys, [entry]) for entry in entry_ids]))

    async def _all(self) -> AsyncIterator[DeadLetter]:
        start = "-"
        while True:
            answer = await self._link.execute("XRANGE", self._keys.dead_letters, start, "+", "COUNT", PAGE_SIZE)
            for entry_id, fields in answer:
                yield _letter(entry_id.decode(), fields)
            if len(answer) < PAGE_SIZE:
                return
            start = f"({answer[-1][0].decode()}"


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
