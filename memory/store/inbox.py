"""The inbox: agents append what they lived through and never wait; a flow drains it.

Each agent has a stream of its own, and the agent of an entry is taken from the stream's key. A drain reads through a
consumer group and acknowledges only what is stored, so a crash anywhere loses nothing; storing the same experience
again is a no-op, so it duplicates nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from redis.exceptions import ResponseError

from memory.errors import InvalidRecordError, ServerUnsuitableError, StoreUnavailableError
from memory.records import EpisodicMemory, Vector, from_ms
from memory.store.dead_letters import DeadLetters, Refusal
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink
from memory.store.raw import NEXT_FEATURES, RawExperience, pack_raw, to_experience, unpack_raw
from memory.validation import validate_identifier, validate_number

GROUP = "drain"
MAX_DELIVERIES = 5
"""An entry that was handed out so often and never acknowledged goes to the dead letters."""
DEFAULT_IDLE = timedelta(minutes=5)
"""An entry that a drain has held this long without acknowledging it is taken over by another."""
DURABLE_WAIT_S = 4.0
"""Redis writes its log to disk every second; an append that waits for it takes up to two."""
HANDED_BACK = "handed-back"
"""Consumer that entries belong to which a drain gave back."""
SCAN_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """An entry of an agent's inbox.

    Attributes
    ----------
    agent_id
        Agent whose stream it is.
    entry_id
        Id in that stream.
    deliveries
        How often it has been handed out, this time included.
    fields
        Fields of the raw experience by name.
    packed
        The same as bytes.
    """

    agent_id: str
    entry_id: str
    deliveries: int
    fields: Mapping[str, Any]
    packed: bytes

    @property
    def features(self) -> dict[str, float]:
        """Features of the state, empty where the entry has none; InvalidRecordError where they are no numbers."""
        return _numbers(self.fields.get("features"), "features")

    @property
    def next_features(self) -> dict[str, float]:
        """Features of the next state, as `features`."""
        return _numbers(self.fields.get(NEXT_FEATURES), NEXT_FEATURES)

    @property
    def arrived_at(self) -> datetime:
        """When it was put into the inbox, by the server's clock."""
        return from_ms(int(self.entry_id.partition("-")[0]))

    @property
    def needs_encoding(self) -> bool:
        """Whether the entry came without a state vector."""
        return self.fields.get("state_vector") is None

    def to_experience(
        self,
        *,
        state_vector: Vector | None = None,
        next_state_vector: Vector | None = None,
        encoder_id: str | None = None,
    ) -> EpisodicMemory:
        """The experience, with the vectors that were missing.

        Raises
        ------
        InvalidRecordError
            A field is unknown, missing, of the wrong kind, or names another agent than the stream does.
        """
        content = dict(self.fields)
        claimed = content.setdefault("agent_id", self.agent_id)
        if not isinstance(claimed, str) or claimed != self.agent_id:
            raise InvalidRecordError(
                f"agent_id {str(claimed)[:80]!r} is not the agent whose inbox this is ({self.agent_id}).",
                remedy="An agent appends to its own inbox.",
                field="agent_id",
            )
        for name, value in (
            ("state_vector", state_vector),
            ("next_state_vector", next_state_vector),
            ("encoder_id", encoder_id),
        ):
            if content.get(name) is None and value is not None:
                content[name] = value
        return to_experience(content)


class Inbox:
    """The inboxes of one namespace."""

    def __init__(self, link: RedisLink, keys: Keys, dead_letters: DeadLetters) -> None:
        self._link = link
        self._keys = keys
        self._dead_letters = dead_letters

    # --- agents ----------------------------------------------------------------------------------------------

    async def append(
        self, experience: EpisodicMemory | RawExperience, *, agent_id: str | None = None, durable: bool = False
    ) -> str:
        """Put a raw experience into the agent's inbox and return the entry's id; about 0.1 ms.

        It is validated, encoded and stored when the inbox is drained. It survives the kill of any process from here
        on; the crash of the machine may lose the last two seconds.

        Parameters
        ----------
        experience
            An EpisodicMemory, or fields of one by name; without `state_vector`, its `features` are encoded later.
        agent_id
            The agent; by default the one that the experience names.
        durable
            Return only when it is on the server's disk: up to two seconds.

        Raises
        ------
        InvalidRecordError
            The agent is not named, or a field cannot be written down.
        StoreUnavailableError
            Redis cannot be reached, or did not confirm in time that the entry is on disk. (It may be stored all the
            same; appending it again stores nothing twice.)
        """
        return (await self.append_many([experience], agent_id=agent_id, durable=durable))[0]

    async def append_many(
        self,
        experiences: Sequence[EpisodicMemory | RawExperience],
        *,
        agent_id: str | None = None,
        durable: bool = False,
    ) -> list[str]:
        """As `append`, for several in one round trip; nothing is sent where one of them cannot be written down."""
        commands: list[Command] = []
        for experience in experiences:
            named = _agent_of(experience)
            agent = validate_identifier(agent_id if agent_id is not None else named, "agent_id")
            commands.append(("XADD", self._keys.inbox(agent), "*", "content", pack_raw(experience)))
        if not commands:
            return []
        if not durable:
            return [answer.decode() for answer in await self._link.pipeline(commands)]
        wait: Command = ("WAITAOF", 1, 0, int(DURABLE_WAIT_S * 1000))
        try:
            answers = await self._link.pipeline([*commands, wait], timeout_s=DURABLE_WAIT_S + self._link.timeout_s)
        except ResponseError as error:
            if "appendonly is disabled" not in str(error):
                raise
            raise ServerUnsuitableError(
                f"Redis at {self._link.address} keeps no log on disk, so nothing is durable there.",
                remedy="Set `appendonly yes`, or append without durable=True.",
            ) from error
        if answers[-1][0] < 1:
            raise StoreUnavailableError(
                f"Redis at {self._link.address} did not write to its disk within {DURABLE_WAIT_S:g} s.",
                remedy="Check the server's disk, then append again: nothing is stored twice.",
            )
        return [answer.decode() for answer in answers[:-1]]

    # --- the drain -------------------------------------------------------------------------------------------

    async def agent_ids(self) -> list[str]:
        """Agents that have an inbox, sorted. Cost: a scan of all keys of the server, in small steps."""
        prefix = self._keys.inbox("").encode()
        found: set[str] = set()
        cursor = b"0"
        while True:
            cursor, keys = await self._link.execute(
                "SCAN", cursor, "MATCH", f"{self._keys.inbox('')}*", "COUNT", SCAN_COUNT, "TYPE", "stream"
            )
            found.update(key[len(prefix) :].decode() for key in keys)
            if int(cursor) == 0:
                return sorted(found)

    async def length(self) -> dict[str, int]:
        """Entries of each agent's inbox that are not acknowledged yet."""
        agents = await self.agent_ids()
        lengths = await self._link.pipeline([("XLEN", self._keys.inbox(agent)) for agent in agents])
        return dict(zip(agents, lengths, strict=True))

    async def read(
        self,
        consumer: str,
        *,
        count: int = 1000,
        agent_ids: Collection[str] | None = None,
        idle: timedelta = DEFAULT_IDLE,
        on_refused: Callable[[Refusal], None] | None = None,
    ) -> list[InboxEntry]:
        """Take up to about `count` entries to work on: first those that another drain left behind, then new ones.

        They belong to this consumer until they are acknowledged, or have been idle for `idle`. Entries that were
        handed out five times, and those that are no experience at all, go to the dead letters here; where all that was
        taken did, more is taken.

        Parameters
        ----------
        consumer
            Name of the drain; each process that drains has one of its own.
        count
            Entries to return at most, divided fairly over the agents.
        agent_ids
            Inboxes to read; by default all.
        idle
            How long another drain must have held an entry.
        on_refused
            Called with each entry that went to the dead letters.

        Returns
        -------
        list of InboxEntry
            Oldest first within an agent; empty where nothing is left.
        """
        agents = sorted(agent_ids) if agent_ids is not None else await self.agent_ids()
        if not agents:
            return []
        await self._ensure_groups(agents)
        while True:
            refused: list[Refusal] = []
            entries = await self._take(agents, consumer, count, idle, refused)
            if on_refused is not None:
                for refusal in refused:
                    on_refused(refusal)
            if entries or not refused:
                return entries

    async def acknowledge(self, entries: Sequence[InboxEntry]) -> int:
        """Say that entries are dealt with, and remove them; returns how many were still there."""
        by_agent: dict[str, list[str]] = {}
        for entry in entries:
            by_agent.setdefault(entry.agent_id, []).append(entry.entry_id)
        commands: list[Command] = []
        for agent, ids in by_agent.items():
            stream = self._keys.inbox(agent)
            commands += [("XACK", stream, GROUP, *ids), ("XDEL", stream, *ids)]
        answers = await self._link.pipeline(commands, transaction=True)
        return sum(answers[1::2])

    async def hand_back(self, entries: Sequence[InboxEntry]) -> None:
        """Say that entries could not be worked on through no fault of theirs: this delivery does not count."""
        await self._link.pipeline(
            [
                (
                    *("XCLAIM", self._keys.inbox(entry.agent_id), GROUP, HANDED_BACK, 0, entry.entry_id),
                    *("RETRYCOUNT", entry.deliveries - 1, "JUSTID"),
                )
                for entry in entries
            ]
        )

    async def reject(self, refused: Sequence[tuple[InboxEntry, InvalidRecordError]]) -> None:
        """Move entries to the dead letters with the reason, each in one step."""
        commands = [
            self._dead_letters.command(
                Refusal(entry.packed, str(error), error.field, entry.agent_id),
                origin="inbox",
                acknowledge=(self._keys.inbox(entry.agent_id), GROUP, entry.entry_id),
            )
            for entry, error in refused
        ]
        await self._link.pipeline(commands)

    # --- internals -------------------------------------------------------------------------------------------

    async def _ensure_groups(self, agents: Sequence[str]) -> None:
        for agent in agents:
            try:
                await self._link.execute("XGROUP", "CREATE", self._keys.inbox(agent), GROUP, "0", "MKSTREAM")
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def _take(
        self, agents: Sequence[str], consumer: str, count: int, idle: timedelta, refused: list[Refusal]
    ) -> list[InboxEntry]:
        """One turn of `read`; what goes to the dead letters is added to `refused`."""
        share = max(1, count // len(agents))
        entries: list[InboxEntry] = []
        for agent in agents:
            entries += await self._claim(agent, consumer, share, idle, refused)
        room = count - len(entries)
        if room > 0:
            streams = [self._keys.inbox(agent) for agent in agents]
            # Once handed out, an entry is pending; where the answer gets lost, it is claimed like any other.
            answer = await self._link.execute(
                *("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", max(1, room // len(agents)), "STREAMS"),
                *streams,
                *([">"] * len(streams)),
                retry=False,
            )
            by_stream = {} if answer is None else {stream: _entries(found) for stream, found in answer.items()}
            for agent, stream in zip(agents, streams, strict=True):
                fresh = [(entry, fields, 1) for entry, fields in by_stream.get(stream.encode(), [])]
                entries += await self._unpack(agent, fresh, refused)
        return entries

    async def _claim(
        self, agent: str, consumer: str, count: int, idle: timedelta, refused: list[Refusal]
    ) -> list[InboxEntry]:
        """Take over what other drains left behind; what failed too often goes to the dead letters."""
        stream = self._keys.inbox(agent)
        idle_ms = int(idle.total_seconds() * 1000)
        pending = await self._link.execute("XPENDING", stream, GROUP, "IDLE", idle_ms, "-", "+", count)
        deliveries = {entry: times for entry, _, _, times in pending}
        if not deliveries:
            return []
        claimed = await self._link.execute("XCLAIM", stream, GROUP, consumer, idle_ms, *deliveries, retry=False)
        taken = [(entry, fields, deliveries[entry] + 1) for entry, fields in _entries(claimed)]
        return await self._unpack(agent, taken, refused)

    async def _unpack(
        self, agent: str, raw_entries: Sequence[tuple[bytes, dict[bytes, bytes], int]], refused: list[Refusal]
    ) -> list[InboxEntry]:
        """The entries that can be worked on; the others go to the dead letters."""
        entries: list[InboxEntry] = []
        bad: list[tuple[bytes, Refusal]] = []
        for entry, fields, deliveries in raw_entries:
            packed = fields.get(b"content", b"")
            if deliveries > MAX_DELIVERIES:
                reason = f"Handed out {MAX_DELIVERIES} times and never stored."
                bad.append((entry, Refusal(packed, reason, "experience", agent)))
                continue
            try:
                content = unpack_raw(packed)
            except InvalidRecordError as error:
                bad.append((entry, Refusal(packed, str(error), error.field, agent)))
            else:
                entries.append(InboxEntry(agent, entry.decode(), deliveries, content, packed))
        stream = self._keys.inbox(agent)
        await self._link.pipeline(
            [
                self._dead_letters.command(refusal, origin="inbox", acknowledge=(stream, GROUP, entry.decode()))
                for entry, refusal in bad
            ]
        )
        refused += [refusal for _, refusal in bad]
        return entries


def _numbers(value: Any, name: str) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRecordError(
            f"{name} is {type(value).__name__}, not a mapping of names to numbers.", remedy="Correct it.", field=name
        )
    return {str(key): validate_number(number, f"{name}[{key}]") for key, number in value.items()}


def _agent_of(experience: EpisodicMemory | RawExperience) -> Any:
    if isinstance(experience, EpisodicMemory):
        return experience.agent_id
    if isinstance(experience, Mapping):
        return experience.get("agent_id")
    raise InvalidRecordError(
        f"{type(experience).__name__} is no experience.",
        remedy="Append an EpisodicMemory, or fields of one by name.",
        field="experience",
    )


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Entries as (id, fields); one that was deleted in the meantime has no fields, and is left out."""
    return [
        (entry, dict(zip(fields[::2], fields[1::2], strict=True)))
        for entry, fields in (item for item in answer if item is not None)
        if fields is not None
    ]
