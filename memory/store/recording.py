"""Recording: how experiences get into Redis, each once, in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memory.errors import ConflictingRecordError, InvalidRecordError, StoreUnavailableError
from memory.records import UNNAMED_ENCODER, EpisodicMemory
from memory.store.codec import EMPTY_SCHEMA
from memory.store.collection import Collection
from memory.store.content import Claim, StoredContents
from memory.store.dead_letters import DeadLetters, Refusal
from memory.store.encoders import EncoderRegistry
from memory.store.indexes import WriteRules
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.record_commands import CONFLICT, DUPLICATE, OVERTAKEN, STORED, Item, RecordCommands
from memory.validation import validate_experience, validate_identifier

WRITE_SIZE = 200
"""Records of one round trip: about 10 ms of the server's time, with other clients' commands in between."""

RULE_CHANGES = 5
"""How often a batch is packed again because its index was changed meanwhile; a change takes a run of minutes."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record of a batch that was not stored: its position, and why."""

    position: int
    error: InvalidRecordError | ConflictingRecordError


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What became of a batch.

    Attributes
    ----------
    stored
        Ids of the records that are new.
    duplicates
        Ids of those that were stored before with the same content.
    rejections
        Those that were refused, by position; they are in the dead letters with the reason.
    below_quality
        Ids of those left out because of `min_quality`.
    unscored
        Ids of those left out because their quality is not known, where it has to be.
    """

    stored: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    below_quality: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[Rejection, ...]:
        """Rejections because other content is stored under the same id."""
        return tuple(item for item in self.rejections if isinstance(item.error, ConflictingRecordError))

    @property
    def invalid(self) -> tuple[Rejection, ...]:
        """Rejections because the record is malformed."""
        return tuple(item for item in self.rejections if isinstance(item.error, InvalidRecordError))


class Recorder:
    """Writes experiences of one namespace into one collection.

    Parameters
    ----------
    collection
        Where they go.
    default_encoder_id
        Encoder of vectors that do not name theirs.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        collection: Collection,
        encoders: EncoderRegistry,
        dead_letters: DeadLetters,
        *,
        default_encoder_id: str | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._collection = collection
        self._encoders = encoders
        self._dead_letters = dead_letters
        self._default_encoder_id = default_encoder_id or UNNAMED_ENCODER
        self._contents = StoredContents(link, keys)
        self._commands = RecordCommands(link, keys, collection)

    @property
    def collection(self) -> Collection:
        """Where experiences go."""
        return self._collection

    async def record(
        self,
        experiences: Sequence[EpisodicMemory],
        *,
        min_quality: float = 0.0,
        scored_only: bool = False,
        arrived: bool = False,
        known_from_ms: int | None = None,
    ) -> StoreReport:
        """Store the good ones of a batch; see `EpisodicStore.add_many`.

        Parameters
        ----------
        scored_only
            Leave out records of unknown quality too.
        known_from_ms
            Replays and backtests count as known from then on, or from their own `known_at` where that is later.
        """
        if not isinstance(experiences, Sequence):
            raise InvalidRecordError(
                f"experiences is {type(experiences).__name__}, not a sequence of experiences.",
                remedy="Pass a list, of one experience where there is one.",
                field="experiences",
            )
        valid: list[tuple[int, EpisodicMemory]] = []
        below_quality: list[str] = []
        unscored: list[str] = []
        rejections: list[Rejection] = []
        rules: dict[str, WriteRules] = {}
        for position, memory in enumerate(experiences):
            try:
                encoder_id = getattr(memory, "encoder_id", None) or self._default_encoder_id
                if encoder_id not in rules:
                    rules[encoder_id] = await self._rules(encoder_id)
                validate_experience(memory, rules[encoder_id].schema.dimension)
            except InvalidRecordError as error:
                rejections.append(Rejection(position, error))
                continue
            memory.encoder_id = encoder_id
            if memory.quality is not None and memory.quality < min_quality:
                below_quality.append(memory.memory_id)
            elif memory.quality is None and scored_only:
                unscored.append(memory.memory_id)
            else:
                valid.append((position, memory))
        items = self._commands.pack(valid, rules, arrives_now=not arrived, known_from_ms=known_from_ms)
        stored, duplicates, conflicts = await self._write(items)
        rejections += [Rejection(item.position, _conflict(item.memory)) for item in conflicts]
        rejections.sort(key=lambda rejection: rejection.position)
        await self._bury(experiences, rejections)
        return StoreReport(tuple(stored), tuple(duplicates), tuple(rejections), tuple(below_quality), tuple(unscored))

    async def _rules(self, encoder_id: Any) -> WriteRules:
        rules = await self._collection.rules(validate_identifier(encoder_id, "encoder_id"))
        if rules is None:
            dimension = await self._encoders.dimension(encoder_id)
            rules = await self._collection.ensure(encoder_id, dimension)
        return rules

    async def _write(self, items: Sequence[Item]) -> tuple[list[str], list[str], list[Item]]:
        written = await self._write_surely(items)
        outcomes = await self._compare_contents(items, written)
        # The record under a conflicting id may hold another vector than the one that was referred to. What was compared
        # with the record that refers to it was then compared with the wrong next state.
        unsure = {id(item) for item, outcome in zip(items, written, strict=True) if outcome == STORED}
        while wrong := [
            item.predecessor
            for item, outcome in zip(items, outcomes, strict=True)
            if outcome == CONFLICT and item.predecessor is not None and id(item.predecessor) in unsure
        ]:
            unsure -= {id(item) for item in wrong}
            await self._link.pipeline([self._commands.repack(item) for item in wrong])
            outcomes = await self._compare_contents(items, written)
        stored = [item.memory.memory_id for item, outcome in zip(items, outcomes, strict=True) if outcome == STORED]
        duplicates = [
            item.memory.memory_id for item, outcome in zip(items, outcomes, strict=True) if outcome == DUPLICATE
        ]
        conflicts = [item for item, outcome in zip(items, outcomes, strict=True) if outcome not in (STORED, DUPLICATE)]
        return stored, duplicates, conflicts

    async def _write_surely(self, items: Sequence[Item]) -> list[int]:
        """Write a batch whole, as far as one life of the server goes; outcomes in order.

        A server that is killed may lose the last second of what it had confirmed. The round trips that follow reach
        the restarted one, so a batch of several would end with a hole in it: it is written again, which stores what
        is missing and nothing twice.
        """
        if len(items) <= WRITE_SIZE:
            return await self._write_once(items)
        life = await self._link.server_life()
        outcomes = await self._write_once(items)
        while (now := await self._link.server_life()) != life:
            life = now
            again = await self._write_once(items)
            outcomes = [
                STORED if (first, second) == (STORED, DUPLICATE) else second
                for first, second in zip(outcomes, again, strict=True)
            ]
        return outcomes

    async def _write_once(self, items: Sequence[Item]) -> list[int]:
        outcomes: list[int] = []
        for start in range(0, len(items), WRITE_SIZE):
            outcomes += await self._write_chunk(items[start : start + WRITE_SIZE])
        return outcomes

    async def _write_chunk(self, chunk: Sequence[Item]) -> list[int]:
        """Store the records of one round trip, by the rules of their index that hold in that moment."""
        outcomes = [OVERTAKEN] * len(chunk)
        pending = list(range(len(chunk)))
        for _ in range(RULE_CHANGES):
            items = [chunk[position] for position in pending]
            await self._collection.open([(item.rules, item.memory) for item in items])
            names = {item.packed.schema for item in items}
            commands = [self._commands.names(schema) for schema in names if schema != EMPTY_SCHEMA]
            answers = await self._link.pipeline(commands + [self._commands.add(item) for item in items])
            for position, outcome in zip(pending, answers[len(commands) :], strict=True):
                outcomes[position] = outcome
            pending = [position for position in pending if outcomes[position] == OVERTAKEN]
            if not pending:
                return outcomes
            await self._renew([chunk[position] for position in pending])
        raise StoreUnavailableError(
            f"the index of these experiences was changed {RULE_CHANGES} times while they were stored.",
            remedy="Let reindex_memory finish, then store them again: nothing is stored twice.",
        )

    async def _renew(self, items: Sequence[Item]) -> None:
        """Pack records by the rules that hold now."""
        rules = {encoder_id: await self._rules(encoder_id) for encoder_id in {item.memory.encoder_id for item in items}}
        for item in items:
            item.rules = rules[item.memory.encoder_id]
            self._commands.pack_again(item)

    async def _compare_contents(self, items: Sequence[Item], outcomes: Sequence[int]) -> list[int]:
        """Conflicts that are none: the same experience, stored before its index was changed, is a duplicate."""
        positions = [position for position, outcome in enumerate(outcomes) if outcome == CONFLICT]
        claims = [self._claim(items[position]) for position in positions]
        compared = list(outcomes)
        for position, same in zip(positions, await self._contents.are_same(claims), strict=True):
            compared[position] = DUPLICATE if same else CONFLICT
        return compared

    def _claim(self, item: Item) -> Claim:
        free = item.memory.source == "live" or self._collection.arrival_only
        known_ms = None if free else item.packed.known_ms
        return Claim(item.memory, item.key, item.rules.schema, item.packed.schema, known_ms)

    async def _bury(self, experiences: Sequence[EpisodicMemory], rejections: Sequence[Rejection]) -> None:
        await self._dead_letters.add(
            (
                Refusal(experiences[item.position], str(item.error), getattr(item.error, "field", "memory_id"))
                for item in rejections
            ),
            origin=self._collection.name,
        )


def _conflict(memory: EpisodicMemory) -> ConflictingRecordError:
    return ConflictingRecordError(
        f"other content is stored under memory_id {memory.memory_id} ({memory.agent_id}, {memory.product_id}, "
        f"{memory.timestamp.isoformat()}, run {memory.run_id}, step {memory.step}).",
        remedy="Give the record its own run_id or step; what was stored stands, and this one is in the dead letters.",
    )
