"""Recording: how experiences get into Redis, each once, in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from memory.errors import ConflictingRecordError, InvalidRecordError
from memory.records import UNNAMED_ENCODER, EpisodicMemory, Vector, to_ms
from memory.store.codec import (
    EMPTY_SCHEMA,
    FeatureSchema,
    Packed,
    Reference,
    SchemaCache,
    encode_names,
    pack_experience,
)
from memory.store.dead_letters import DeadLetters, Refusal
from memory.store.encoders import EncoderRegistry
from memory.store.indexes import Indexes, IndexSchema
from memory.store.keys import Keys, experience_tags
from memory.store.link import Command, RedisLink
from memory.validation import validate_experience, validate_identifier

WRITE_SIZE = 200
"""Records of one round trip: about 10 ms of the server's time, with other clients' commands in between."""
TTL_RETENTIONS = 2
"""Live records expire after this many retention times: long after pruning should have removed them, so that the
backstop never shortens what pruning decides. Replays and backtests never expire: their time is not the clock's."""

_STORED, _DUPLICATE = 1, 0

# Writing, indexing and the time to live are one step; so is the comparison with what is stored under the id.
# What happened live is known once it has arrived, whatever it says of itself; arriving again changes nothing.
# ARGV: body, known_at or '', timestamp, time to live or 0, scope, reward, vector field, vector, 1 where live,
# 1 where it arrives now
_ADD = """
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
           'scope', ARGV[5], 'reward', ARGV[6], ARGV[7], ARGV[8])
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
    """

    stored: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    below_quality: tuple[str, ...] = ()

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
    schema: IndexSchema
    key: str
    packed: Packed
    arrives_now: bool
    predecessor: _Item | None = field(default=None, repr=False)


class Recorder:
    """Writes experiences of one namespace.

    Parameters
    ----------
    retention_days
        How long experiences are kept; live ones expire after twice that.
    default_encoder_id
        Encoder of vectors that do not name theirs.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        indexes: Indexes,
        encoders: EncoderRegistry,
        dead_letters: DeadLetters,
        *,
        retention_days: int,
        default_encoder_id: str | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._encoders = encoders
        self._dead_letters = dead_letters
        self._ttl_ms = TTL_RETENTIONS * retention_days * 86_400_000
        self._default_encoder_id = default_encoder_id or UNNAMED_ENCODER
        self._feature_schemas = SchemaCache()
        self._add = link.register(_ADD)
        self._repack = link.register(_REPACK)

    async def record(
        self, experiences: Sequence[EpisodicMemory], *, min_quality: float = 0.0, arrived: bool = False
    ) -> StoreReport:
        """Store the good ones of a batch; see `EpisodicStore.add_many`."""
        valid: list[tuple[int, EpisodicMemory]] = []
        below_quality: list[str] = []
        rejections: list[Rejection] = []
        schemas: dict[str, IndexSchema] = {}
        for position, memory in enumerate(experiences):
            try:
                encoder_id = getattr(memory, "encoder_id", None) or self._default_encoder_id
                if encoder_id not in schemas:
                    schemas[encoder_id] = await self._schema_for_writing(encoder_id)
                validate_experience(memory, schemas[encoder_id].dimension)
            except InvalidRecordError as error:
                rejections.append(Rejection(position, error))
                continue
            memory.encoder_id = encoder_id
            if memory.quality is not None and memory.quality < min_quality:
                below_quality.append(memory.memory_id)
            else:
                valid.append((position, memory))
        items = self._pack(valid, schemas, arrives_now=not arrived)
        stored, duplicates, conflicts = await self._write(items)
        rejections += [Rejection(item.position, _conflict(item.memory)) for item in conflicts]
        rejections.sort(key=lambda rejection: rejection.position)
        await self._bury(experiences, rejections)
        return StoreReport(tuple(stored), tuple(duplicates), tuple(rejections), tuple(below_quality))

    async def _schema_for_writing(self, encoder_id: Any) -> IndexSchema:
        schema = await self._indexes.current_schema(validate_identifier(encoder_id, "encoder_id"))
        if schema is None:
            dimension = await self._encoders.dimension(encoder_id)
            schema = await self._indexes.ensure_episodic(encoder_id, dimension)
        return schema

    def _pack(
        self, valid: Sequence[tuple[int, EpisodicMemory]], schemas: dict[str, IndexSchema], *, arrives_now: bool
    ) -> list[_Item]:
        """Pack records; a next state that the record after it holds becomes a reference to that record."""
        order = sorted(valid, key=lambda entry: (_chain(entry[1])[1:], entry[1].timestamp, entry[1].step, -entry[0]))
        items: list[_Item] = []
        later: EpisodicMemory | None = None
        later_item: _Item | None = None
        for position, memory in reversed(order):
            follows = later is not None and _chain(memory) == _chain(later) and memory.memory_id != later.memory_id
            reference = None
            if follows and later is not None and _same_vector(memory.next_state_vector, later.state_vector):
                reference = Reference(to_ms(later.timestamp), later.step)
            schema = schemas[memory.encoder_id]
            packed = pack_experience(memory, schema.vector_type, self._feature_schemas, reference)
            key = self._keys.episodic(memory.agent_id, memory.product_id, to_ms(memory.timestamp), memory.memory_id)
            item = _Item(position, memory, schema, key, packed, arrives_now)
            if reference is not None and later_item is not None:
                later_item.predecessor = item
            items.append(item)
            later, later_item = memory, item
        # A record is written after the one that it refers to; of several with one id, the batch's first is written.
        return items

    async def _write(self, items: Sequence[_Item]) -> tuple[list[str], list[str], list[_Item]]:
        outcomes = await self._write_surely(items)
        stored = [item.memory.memory_id for item, outcome in zip(items, outcomes, strict=True) if outcome == _STORED]
        duplicates = [
            item.memory.memory_id for item, outcome in zip(items, outcomes, strict=True) if outcome == _DUPLICATE
        ]
        conflicts = [
            item for item, outcome in zip(items, outcomes, strict=True) if outcome not in (_STORED, _DUPLICATE)
        ]
        # The record under a conflicting id may hold another vector than the one that was referred to.
        repacked = [item.predecessor for item in conflicts if item.predecessor is not None]
        await self._link.pipeline([self._repack_command(item) for item in repacked])
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
            chunk = items[start : start + WRITE_SIZE]
            names = {item.packed.schema for item in chunk}
            commands = [self._names_command(schema) for schema in names if schema != EMPTY_SCHEMA]
            answers = await self._link.pipeline(commands + [self._add_command(item) for item in chunk])
            outcomes += answers[len(commands) :]
        return outcomes

    def _names_command(self, schema: FeatureSchema) -> Command:
        return ("SET", self._keys.feature_schema(schema.schema_id), encode_names(schema))

    def _add_command(self, item: _Item) -> Command:
        memory, packed = item.memory, item.packed
        return self._add.call(
            [item.key],
            [
                packed.body,
                "" if packed.known_ms is None else packed.known_ms,
                to_ms(memory.timestamp),
                self._ttl_ms if memory.source == "live" else 0,
                experience_tags(memory),
                repr(memory.reward),
                item.schema.vector_field,
                packed.vector,
                int(memory.source == "live"),
                int(memory.source == "live" and item.arrives_now),
            ],
        )

    def _repack_command(self, item: _Item) -> Command:
        packed = pack_experience(item.memory, item.schema.vector_type, self._feature_schemas)
        return self._repack.call([item.key], [packed.body])

    async def _bury(self, experiences: Sequence[EpisodicMemory], rejections: Sequence[Rejection]) -> None:
        await self._dead_letters.add(
            Refusal(experiences[item.position], str(item.error), getattr(item.error, "field", "memory_id"))
            for item in rejections
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
