"""Recording: how experiences get into Redis, each once, in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from memory.errors import ConflictingRecordError, InvalidRecordError, StoreUnavailableError
from memory.records import UNNAMED_ENCODER, EpisodicMemory, Vector, to_ms
from memory.store.codec import (
    EMPTY_SCHEMA,
    FeatureSchema,
    Packed,
    Reference,
    SchemaCache,
    encode_names,
    pack_experience,
    pack_vector,
)
from memory.store.collection import Collection
from memory.store.content import Claim, StoredContents
from memory.store.dead_letters import DeadLetters, Refusal
from memory.store.encoders import EncoderRegistry
from memory.store.indexes import WriteRules
from memory.store.keys import Keys, experience_tags
from memory.store.link import Command, RedisLink
from memory.validation import validate_experience, validate_identifier

WRITE_SIZE = 200
"""Records of one round trip: about 10 ms of the server's time, with other clients' commands in between."""

RULE_CHANGES = 5
"""How often a batch is packed again because its index was changed meanwhile; a change takes a run of minutes."""

_STORED, _DUPLICATE, _CONFLICT, _OVERTAKEN = 1, 0, -1, -2

# Writing, indexing and the time to live are one step; so is the comparison with what is stored under the id.
# What happened live is known once it has arrived, whatever it says of itself; arriving again changes nothing.
# What the index asks of a writer is compared in the same step: overtaken rules store nothing.
# KEYS: record, epoch of the rules, records to encode anew
# ARGV: body, known_at or '', timestamp, time to live or 0, scope, reward, vector field, vector, 1 where known_at is
# no part of the content, 1 where it arrives now, epoch, 1 where it is to be encoded anew, further fields and their
# values
_ADD = """
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[11] then return -2 end
local stored = redis.call('HMGET', KEYS[1], 'body', 'known_at')
if stored[1] then
  local same = string.sub(stored[1], 1, 16) == string.sub(ARGV[1], 1, 16)
  if same and (ARGV[9] == '1' or ARGV[2] == '' or ARGV[2] == stored[2]) then return 0 end
  return -1
end
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
local known = ARGV[2]
if known == '' then
  known = now
  if tonumber(ARGV[3]) > tonumber(now) then known = ARGV[3] end
elseif ARGV[10] == '1' and tonumber(known) < tonumber(now) then
  known = now
end
redis.call('HSET', KEYS[1], 'body', ARGV[1], 'known_at', known, 'recorded_at', now, 'timestamp', ARGV[3],
           'scope', ARGV[5], 'reward', ARGV[6], ARGV[7], ARGV[8], unpack(ARGV, 13))
if ARGV[12] == '1' then redis.call('SADD', KEYS[3], KEYS[1]) end
if ARGV[4] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""

# Replaces how a record is packed, never what it says.
_REPACK = """
local stored = redis.call('HGET', KEYS[1], 'body')
if stored and string.sub(stored, 1, 16) == string.sub(ARGV[1], 1, 16) then
  redis.call('HSET', KEYS[1], 'body', ARGV[1])
end
return 1
"""


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


@dataclass(slots=True)
class _Item:
    """A valid record on its way into Redis."""

    position: int
    memory: EpisodicMemory
    rules: WriteRules
    key: str
    packed: Packed
    arrives_now: bool
    reference: Reference | None = None
    predecessor: _Item | None = field(default=None, repr=False)


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
        self._feature_schemas = SchemaCache()
        self._contents = StoredContents(link, keys)
        self._add = link.register(_ADD)
        self._repack = link.register(_REPACK)

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
        items = self._pack(valid, rules, arrives_now=not arrived, known_from_ms=known_from_ms)
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

    def _pack(
        self,
        valid: Sequence[tuple[int, EpisodicMemory]],
        rules: dict[str, WriteRules],
        *,
        arrives_now: bool,
        known_from_ms: int | None,
    ) -> list[_Item]:
        """Pack records; a next state that the record after it holds becomes a reference to that record."""
        order = sorted(
            valid, key=lambda entry: (_chain(entry[1])[1:], to_ms(entry[1].timestamp), entry[1].step, -entry[0])
        )
        items: list[_Item] = []
        later: EpisodicMemory | None = None
        later_item: _Item | None = None
        for position, memory in reversed(order):
            follows = later is not None and _chain(memory) == _chain(later) and memory.memory_id != later.memory_id
            follows = follows and self._collection.refers
            reference = None
            if follows and later is not None and _same_vector(memory.next_state_vector, later.state_vector):
                reference = Reference(to_ms(later.timestamp), later.step)
            own = rules[memory.encoder_id]
            packed = pack_experience(memory, own.schema.vector_type, self._feature_schemas, reference)
            if known_from_ms is not None and packed.known_ms is not None and memory.source != "live":
                packed = packed._replace(known_ms=max(packed.known_ms, known_from_ms))
            key = self._collection.key(memory)
            item = _Item(position, memory, own, key, packed, arrives_now, reference)
            if reference is not None and later_item is not None:
                later_item.predecessor = item
            items.append(item)
            later, later_item = memory, item
        # A record is written after the one that it refers to; of several with one id, the batch's first is written.
        return items

    async def _write(self, items: Sequence[_Item]) -> tuple[list[str], list[str], list[_Item]]:
        written = await self._write_surely(items)
        outcomes = await self._compare_contents(items, written)
        # The record under a conflicting id may hold another vector than the one that was referred to. What was compared
        # with the record that refers to it was then compared with the wrong next state.
        unsure = {id(item) for item, outcome in zip(items, written, strict=True) if outcome == _STORED}
        while wrong := [
            item.predecessor
            for item, outcome in zip(items, outcomes, strict=True)
            if outcome == _CONFLICT and item.predecessor is not None and id(item.predecessor) in unsure
        ]:
            unsure -= {id(item) for item in wrong}
            await self._link.pipeline([self._repack_command(item) for item in wrong])
            outcomes = await self._compare_contents(items, written)
        stored = [item.memory.memory_id for item, outcome in zip(items, outcomes, strict=True) if outcome == _STORED]
        duplicates = [
            item.memory.memory_id for item, outcome in zip(items, outcomes, strict=True) if outcome == _DUPLICATE
        ]
        conflicts = [
            item for item, outcome in zip(items, outcomes, strict=True) if outcome not in (_STORED, _DUPLICATE)
        ]
        return stored, duplicates, conflicts

    async def _write_surely(self, items: Sequence[_Item]) -> list[int]:
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
                _STORED if (first, second) == (_STORED, _DUPLICATE) else second
                for first, second in zip(outcomes, again, strict=True)
            ]
        return outcomes

    async def _write_once(self, items: Sequence[_Item]) -> list[int]:
        outcomes: list[int] = []
        for start in range(0, len(items), WRITE_SIZE):
            outcomes += await self._write_chunk(items[start : start + WRITE_SIZE])
        return outcomes

    async def _write_chunk(self, chunk: Sequence[_Item]) -> list[int]:
        """Store the records of one round trip, by the rules of their index that hold in that moment."""
        outcomes = [_OVERTAKEN] * len(chunk)
        pending = list(range(len(chunk)))
        for _ in range(RULE_CHANGES):
            items = [chunk[position] for position in pending]
            await self._collection.open([(item.rules, item.memory) for item in items])
            names = {item.packed.schema for item in items}
            commands = [self._names_command(schema) for schema in names if schema != EMPTY_SCHEMA]
            answers = await self._link.pipeline(commands + [self._add_command(item) for item in items])
            for position, outcome in zip(pending, answers[len(commands) :], strict=True):
                outcomes[position] = outcome
            pending = [position for position in pending if outcomes[position] == _OVERTAKEN]
            if not pending:
                return outcomes
            await self._renew([chunk[position] for position in pending])
        raise StoreUnavailableError(
            f"the index of these experiences was changed {RULE_CHANGES} times while they were stored.",
            remedy="Let reindex_memory finish, then store them again: nothing is stored twice.",
        )

    async def _renew(self, items: Sequence[_Item]) -> None:
        """Pack records by the rules that hold now."""
        rules = {encoder_id: await self._rules(encoder_id) for encoder_id in {item.memory.encoder_id for item in items}}
        for item in items:
            item.rules = rules[item.memory.encoder_id]
            packed = pack_experience(item.memory, item.rules.schema.vector_type, self._feature_schemas, item.reference)
            item.packed = packed._replace(known_ms=item.packed.known_ms)

    async def _compare_contents(self, items: Sequence[_Item], outcomes: Sequence[int]) -> list[int]:
        """Conflicts that are none: the same experience, stored before its index was changed, is a duplicate."""
        positions = [position for position, outcome in enumerate(outcomes) if outcome == _CONFLICT]
        claims = [self._claim(items[position]) for position in positions]
        compared = list(outcomes)
        for position, same in zip(positions, await self._contents.are_same(claims), strict=True):
            compared[position] = _DUPLICATE if same else _CONFLICT
        return compared

    def _claim(self, item: _Item) -> Claim:
        free = item.memory.source == "live" or self._collection.arrival_only
        known_ms = None if free else item.packed.known_ms
        return Claim(item.memory, item.key, item.rules.schema, item.packed.schema, known_ms)

    def _names_command(self, schema: FeatureSchema) -> Command:
        return ("SET", self._keys.feature_schema(schema.schema_id), encode_names(schema))

    def _add_command(self, item: _Item) -> Command:
        memory, packed, rules = item.memory, item.packed, item.rules
        family = self._collection.family
        (field, _), *further = rules.vector_fields()
        return self._add.call(
            [item.key, family.key("epoch", memory.encoder_id), family.key("todo", memory.encoder_id)],
            [
                packed.body,
                "" if packed.known_ms is None else packed.known_ms,
                to_ms(memory.timestamp),
                self._collection.ttl_ms if memory.source == "live" else 0,
                experience_tags(memory),
                repr(memory.reward),
                field,
                packed.vector,
                int(memory.source == "live" or self._collection.arrival_only),
                int(memory.source == "live" and item.arrives_now),
                rules.epoch,
                int(rules.successor is not None),
                *self._collection.fields(memory),
                *(part for name, kind in further for part in (name, pack_vector(memory.state_vector, kind))),
            ],
        )

    def _repack_command(self, item: _Item) -> Command:
        packed = pack_experience(item.memory, item.rules.schema.vector_type, self._feature_schemas)
        return self._repack.call([item.key], [packed.body])

    async def _bury(self, experiences: Sequence[EpisodicMemory], rejections: Sequence[Rejection]) -> None:
        await self._dead_letters.add(
            (
                Refusal(experiences[item.position], str(item.error), getattr(item.error, "field", "memory_id"))
                for item in rejections
            ),
            origin=self._collection.name,
        )


def _chain(memory: EpisodicMemory) -> tuple[str, ...]:
    """What two records have in common of which one can follow the other."""
    return (memory.encoder_id, memory.source, memory.run_id, memory.agent_id, memory.product_id)


def _same_vector(one: Vector | None, other: Vector) -> bool:
    return one is not None and (one is other or one.tobytes() == other.tobytes())


def _conflict(memory: EpisodicMemory) -> ConflictingRecordError:
    return ConflictingRecordError(
        f"other content is stored under memory_id {memory.memory_id} ({memory.agent_id}, {memory.product_id}, "
        f"{memory.timestamp.isoformat()}, run {memory.run_id}, step {memory.step}).",
        remedy="Give the record its own run_id or step; what was stored stands, and this one is in the dead letters.",
    )
