"""Messages between agents, over Redis streams.

Each agent has a stream of its own for each run, and the sender of an entry is the one of the stream. Readers keep
their place in a mailbox of theirs (`memory.store.message_mailbox`), so one that was away reads what it missed. Messages
arrive at least once and, within a process, once: the same message sent again is the same entry, and one that was
handled is not handed out again by the same reader. Streams are bounded by length and age; who falls behind them is told
how much.

What happens now and what is replayed never meet: a message belongs to a run, and readers read one. Inside a replay
(`memory.replaying`) messages are dated by its clock, and only those up to its present can be sent or seen. Live ones
are dated by the sender, and refused where that lies ahead of the server's clock by more than clocks may differ.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from memory.asof import check_time, replayed_present
from memory.errors import FutureMessageError, InvalidQueryError, InvalidRecordError
from memory.messages import (
    EVERYBODY,
    LIVE_RUN,
    AgentMemoryMessage,
    pack_message,
    unpack_message,
    validate_message,
)
from memory.records import from_ms, to_ms
from memory.store.dead_letters import DeadLetters
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink
from memory.store.message_bell import MessageBell
from memory.store.message_log import (
    MessageLog,
    checked_count,
    checked_importance,
    checked_run,
    checked_types,
    needed_identifier,
    readable,
)
from memory.store.message_mailbox import Mailbox, MailFilter, MailScripts, Retention
from memory.store.message_reader import LEASE, MessageReader, OnMissed
from memory.store.message_scripts import SEND

DEFAULT_READER = "agent"
DEFAULT_BATCH = 100
MAX_BATCH = 1000
SHORTEST_LEASE = timedelta(seconds=1)
SCAN_COUNT = 10_000
_REFUSED = -1


@dataclass(frozen=True, slots=True)
class MessageStream:
    """What is kept of one agent's messages of one run: entries, and when the oldest and newest arrived."""

    sender_agent_id: str
    run_id: str
    length: int
    oldest: datetime | None
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class MailboxState:
    """Where one reader of one agent is.

    Attributes
    ----------
    waiting
        Entries of others that it has not looked at; some may be for others.
    in_hand
        Handed out and not acknowledged.
    handled, missed
        Acknowledged so far, and lost to it because they were dropped or expired first.
    """

    agent_id: str
    run_id: str
    reader: str
    waiting: int
    in_hand: int
    handled: int
    missed: int


class Messages(MessageLog):
    """The messages of one namespace.

    Parameters
    ----------
    retention
        How long messages are kept, and how far clocks may differ.
    """

    def __init__(self, link: RedisLink, keys: Keys, dead_letters: DeadLetters, retention: Retention) -> None:
        super().__init__(link, keys)
        self._dead_letters = dead_letters
        self._retention = retention
        self._send = link.register(SEND)
        self._scripts = MailScripts.registered(link)
        self._bell = MessageBell(link)
        self._readers: weakref.WeakSet[MessageReader] = weakref.WeakSet()

    # --- sending ---------------------------------------------------------------------------------------------

    async def send(self, message: AgentMemoryMessage) -> str:
        """Tell others, and return the message's id; about 0.15 ms. Those who wait are woken at once.

        Sending the same message again tells nobody twice, as long as it is kept.

        Raises
        ------
        InvalidRecordError
            The message is malformed, dated in the future (FutureMessageError), or of another run than the replay
            around it.
        StoreUnavailableError
            Redis cannot be reached. (It may be sent all the same; sending it again is safe.)
        """
        return (await self.send_many([message]))[0]

    async def send_many(self, messages: Sequence[AgentMemoryMessage]) -> tuple[str, ...]:
        """As `send`, for several in one round trip; nothing is sent where one of them is malformed.

        What is dated in the future is refused by the server when the others are sent: FutureMessageError names all of
        them.
        """
        commands = [self._command(self._checked(message)) for message in messages]
        answers = await self._link.pipeline(commands)
        refused = [
            (message, int(server_ms))
            for message, (server_ms, outcome) in zip(messages, answers, strict=True)
            if outcome == _REFUSED
        ]
        if refused:
            raise _from_the_future([message for message, _ in refused], from_ms(refused[0][1]), "the server's clock")
        return tuple(message.message_id for message in messages)

    def _checked(self, message: AgentMemoryMessage) -> AgentMemoryMessage:
        present = replayed_present()
        if isinstance(message, AgentMemoryMessage) and message.timestamp is None and present is not None:
            message.timestamp = present
        validate_message(message)
        if present is None:
            return message
        if message.run_id == LIVE_RUN:
            raise InvalidRecordError(
                "a message sent inside a replay is live: agents that act now would hear of the past.",
                remedy='Set source="replay" and the run_id of the replay.',
                field="run_id",
            )
        if message.timestamp is not None and message.timestamp > present:
            raise _from_the_future([message], present, "the present of the replay")
        return message

    def _command(self, message: AgentMemoryMessage) -> Command:
        sender, run, keep = message.sender_agent_id, message.run_id, self._retention
        told = "*" if message.is_broadcast else f",{','.join(message.recipient_agent_ids)},"
        keys = [self._keys.messages(sender, run), self._keys.message_ids(sender, run), self._keys.message_senders(run)]
        stamp = to_ms(message.timestamp or datetime.now(UTC))
        content = [sender, message.message_id, pack_message(message), stamp, message.importance, message.message_type]
        return self._send.call(keys, [*content, told, keep.limit, keep.age_ms, keep.skew_ms, keep.ttl_ms(run)])

    # --- reading ---------------------------------------------------------------------------------------------

    def read(
        self,
        agent_id: str,
        *,
        reader: str = DEFAULT_READER,
        run_id: str = LIVE_RUN,
        message_types: Collection[str] | None = None,
        min_importance: float = 0.0,
        start: datetime | None = None,
        wait: bool | None = None,
        batch: int = DEFAULT_BATCH,
        lease: timedelta = LEASE,
        patience: timedelta | None = None,
        on_missed: OnMissed | None = None,
    ) -> MessageReader:
        """Read what an agent is told: ``async for message in mem.messages.read("momentum")``.

        Messages come oldest first within what is taken at once, each sender's in order; what failed, or was in the
        hands of a killed process, comes again later. The agent's own broadcasts are not for it.

        Parameters
        ----------
        agent_id
            Who is told.
        reader
            Readers of one agent with the same name share its messages, also over processes; one with another name
            hears all of them for itself.
        run_id
            The run; that of a replay inside one.
        message_types, min_importance
            What is heard. What is left out counts as read.
        start
            Where this reader never read before: timestamps from then on; by default all that is kept.
        wait
            Wait for more; by default except inside a replay, where reading ends with what is known at its present.
        batch
            Messages in hand at a time, 1 to 1000.
        lease
            Time after which the messages of a killed process are handed out again; it is renewed while they are worked
            on, so it bounds how long the event loop may stand still, not how long a message takes.
        patience
            How long Redis may be away before reading raises; by default a minute where it waits, and nothing beyond
            the link's own deadline where it does not.
        on_missed
            Called with what this reader will never see; it is also logged, and counted in the report.

        Raises
        ------
        InvalidQueryError
            An argument cannot be used; a replay that would read live messages is refused when it begins to.
        """
        agent_id = needed_identifier(agent_id, "agent_id")
        if agent_id == EVERYBODY:
            raise InvalidQueryError(
                f"agent_id {EVERYBODY!r} stands for everybody.", remedy="Name one agent.", argument="agent_id"
            )
        if not isinstance(lease, timedelta) or lease < SHORTEST_LEASE:
            raise InvalidQueryError(f"lease is {lease!r}.", remedy="Use a second or more.", argument="lease")
        if patience is not None and (not isinstance(patience, timedelta) or patience < timedelta(0)):
            raise InvalidQueryError(f"patience is {patience!r}.", remedy="Use a timedelta.", argument="patience")
        mailbox = self._mailbox(agent_id, checked_run(run_id), needed_identifier(reader, "reader"), lease)
        opened = MessageReader(
            mailbox,
            self._bell,
            self._dead_letters,
            MailFilter(checked_types(message_types), checked_importance(min_importance)),
            start=None if start is None else check_time(start, "start"),
            waits=wait,
            batch=checked_count(batch, "batch", MAX_BATCH),
            patience=patience,
            on_missed=on_missed,
        )
        self._readers.add(opened)
        return opened

    def at(self, as_of: datetime) -> MessageLog:
        """The messages as they were known at a time, to look back at."""
        return MessageLog(self._link, self._keys, locked_to=check_time(as_of, "as_of"))

    async def close(self) -> None:
        """Close all readers; what they have in hand is handed back."""
        for reader in list(self._readers):
            await reader.close()
        await self._bell.close()

    # --- keeping order ---------------------------------------------------------------------------------------

    async def rewind(
        self, agent_id: str, to: datetime, *, reader: str = DEFAULT_READER, run_id: str = LIVE_RUN
    ) -> None:
        """Let a reader begin anew with timestamps from `to` on: it hears again what it has heard since."""
        names = self._box(agent_id, run_id, reader)
        start = to_ms(check_time(to, "to"))
        await self._link.pipeline([("UNLINK", *names), ("HSET", names[0], "start", start)], transaction=True)

    async def forget_reader(self, agent_id: str, *, reader: str = DEFAULT_READER, run_id: str = LIVE_RUN) -> bool:
        """Remove a reader's mailbox; whether there was one. Messages themselves stay."""
        return bool(await self._link.execute("UNLINK", *self._box(agent_id, run_id, reader)))

    async def streams(self) -> list[MessageStream]:
        """What is kept, by sender and run. Cost: a scan of all keys of the server, in small steps."""
        prefix = self._keys.message_prefix
        names = await self._scan(prefix, "stream")
        commands: list[Command] = []
        for name in names:
            commands += [("XLEN", name), ("XRANGE", name, "-", "+", "COUNT", 1)]
            commands.append(("XREVRANGE", name, "+", "-", "COUNT", 1))
        answers = await self._link.pipeline(commands)
        kept = []
        for position, name in enumerate(names):
            length, first, last = answers[3 * position : 3 * position + 3]
            sender, _, run = name[len(prefix) :].partition(":")
            kept.append(MessageStream(sender, run, length, _arrival(first), _arrival(last)))
        return kept

    async def mailboxes(self) -> list[MailboxState]:
        """Where each reader is. Cost: a scan of all keys of the server, in small steps, and a read of each mailbox."""
        prefix = self._keys.mailbox_prefix
        states = []
        for name in await self._scan(prefix, "hash"):
            agent, run, reader = name[len(prefix) :].split(":")
            box: dict[bytes, bytes] = await self._link.execute("HGETALL", name)
            at = {key[3:].decode(): int(value.split()[1]) for key, value in box.items() if key.startswith(b"at:")}
            senders = await self.senders(run)
            heads = await self._link.pipeline(
                [("XREVRANGE", self._keys.messages(sender, run), "+", "-", "COUNT", 1) for sender in senders]
            )
            waiting = 0
            for sender, head in zip(senders, heads, strict=True):
                last = int(head[0][1][1]) if head else 0
                waiting += max(last - at.get(sender, 0), 0)
            in_hand = sum(key.startswith(b"held:") for key in box)
            handled, missed = int(box.get(b"handled", 0)), int(box.get(b"missed", 0))
            states.append(MailboxState(agent, run, reader, waiting, in_hand, handled, missed))
        return states

    async def redeliver(self, entry_ids: Collection[str] | None = None) -> int:
        """Hand dead letters whose handling failed to their readers again; returns how many.

        Letters that hold no message stay. Each letter moves in one step.

        Parameters
        ----------
        entry_ids
            Letters to hand out; all where None.
        """
        done = 0
        for letter in await self._dead_letters.read(entry_ids=entry_ids):
            if not letter.is_message or letter.reader is None:
                continue
            message = unpack_message(letter.packed)
            mailbox = self._mailbox(letter.agent_id, message.run_id, letter.reader, LEASE)
            done += await self._dead_letters.exchange(letter.entry_id, mailbox.returning(message, letter.packed))
        return done

    async def send_unsent(self, entry_ids: Collection[str] | None = None) -> tuple[str, ...]:
        """Send messages that went to the dead letters before they were ever sent; returns the ids of these letters.

        A message leaves the dead letters once it is sent: killed in between, it is there still, and sending it again
        tells nobody twice. What is dated ahead of the server's clock stays, and so does what is not its agent's own.

        Parameters
        ----------
        entry_ids
            Letters to send; all where None.

        Raises
        ------
        InvalidRecordError
            Inside a replay: what happened now is not told to those who replay the past.
        StoreUnavailableError
            Redis cannot be reached.
        """
        sent = []
        for letter in await self._dead_letters.read(entry_ids=entry_ids):
            message = readable(letter.packed, letter.agent_id, LIVE_RUN) if letter.is_unsent else None
            if message is None:
                continue
            try:
                await self.send(message)
            except FutureMessageError:
                continue
            await self._dead_letters.drop([letter.entry_id])
            sent.append(letter.entry_id)
        return tuple(sent)

    # --- internals -------------------------------------------------------------------------------------------

    def _mailbox(self, agent_id: str, run_id: str, reader: str, lease: timedelta) -> Mailbox:
        return Mailbox(
            self._link,
            self._keys,
            self._scripts,
            self._retention,
            agent_id=agent_id,
            run_id=run_id,
            reader=reader,
            lease=lease,
        )

    def _box(self, agent_id: str, run_id: str, reader: str) -> list[str]:
        named = (needed_identifier(agent_id, "agent_id"), checked_run(run_id), needed_identifier(reader, "reader"))
        return [self._keys.mailbox(*named), self._keys.mailbox_leases(*named)]

    async def _scan(self, prefix: str, kind: str) -> list[str]:
        found: set[str] = set()
        cursor = b"0"
        while True:
            cursor, names = await self._link.execute(
                "SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", SCAN_COUNT, "TYPE", kind
            )
            found.update(name.decode() for name in names)
            if int(cursor) == 0:
                return sorted(found)


def _from_the_future(messages: Sequence[AgentMemoryMessage], present: datetime, whose: str) -> FutureMessageError:
    first = messages[0]
    stamp = None if first.timestamp is None else first.timestamp.isoformat()
    return FutureMessageError(
        f"timestamp {stamp} lies after {present.isoformat()}, {whose}.",
        remedy="Date messages by when it was found out; set the host's clock (NTP), or COINSWARM_MESSAGE_CLOCK_SKEW_S.",
        message_ids=[message.message_id for message in messages],
    )


def _arrival(entries: list[Any]) -> datetime | None:
    return from_ms(int(entries[0][0].partition(b"-")[0])) if entries else None
