"""What is sent to record experiences: records packed by the rules of their index, and the scripts that store them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from memory.records import EpisodicMemory, Vector, to_ms
from memory.store.codec import (
    FeatureSchema,
    Packed,
    Reference,
    SchemaCache,
    encode_names,
    pack_experience,
    pack_vector,
)
from memory.store.collection import Collection
from memory.store.indexes import WriteRules
from memory.store.keys import Keys, experience_tags
from memory.store.link import Command, RedisLink

STORED, DUPLICATE, CONFLICT, OVERTAKEN = 1, 0, -1, -2
"""What became of a record: new, there before, other content under its id, its index has other rules since."""

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


@dataclass(slots=True)
class Item:
    """A valid record on its way into Redis."""

    position: int
    memory: EpisodicMemory
    rules: WriteRules
    key: str
    packed: Packed
    arrives_now: bool
    reference: Reference | None = None
    predecessor: Item | None = field(default=None, repr=False)


class RecordCommands:
    """Packs the experiences of one collection, and says what to send for them."""

    def __init__(self, link: RedisLink, keys: Keys, collection: Collection) -> None:
        self._keys = keys
        self._collection = collection
        self._schemas = SchemaCache()
        self._add = link.register(_ADD)
        self._repack = link.register(_REPACK)

    def pack(
        self,
        valid: Sequence[tuple[int, EpisodicMemory]],
        rules: dict[str, WriteRules],
        *,
        arrives_now: bool,
        known_from_ms: int | None,
    ) -> list[Item]:
        """Pack records; a next state that the record after it holds becomes a reference to that record."""
        order = sorted(
            valid, key=lambda entry: (_chain(entry[1])[1:], to_ms(entry[1].timestamp), entry[1].step, -entry[0])
        )
        items: list[Item] = []
        later: EpisodicMemory | None = None
        later_item: Item | None = None
        for position, memory in reversed(order):
            follows = later is not None and _chain(memory) == _chain(later) and memory.memory_id != later.memory_id
            follows = follows and self._collection.refers
            reference = None
            if follows and later is not None and _same_vector(memory.next_state_vector, later.state_vector):
                reference = Reference(to_ms(later.timestamp), later.step)
            own = rules[memory.encoder_id]
            packed = pack_experience(memory, own.schema.vector_type, self._schemas, reference)
            if known_from_ms is not None and packed.known_ms is not None and memory.source != "live":
                packed = packed._replace(known_ms=max(packed.known_ms, known_from_ms))
            key = self._collection.key(memory)
            item = Item(position, memory, own, key, packed, arrives_now, reference)
            if reference is not None and later_item is not None:
                later_item.predecessor = item
            items.append(item)
            later, later_item = memory, item
        # A record is written after the one that it refers to; of several with one id, the batch's first is written.
        return items

    def pack_again(self, item: Item) -> None:
        """Pack a record by the rules that it has since."""
        packed = pack_experience(item.memory, item.rules.schema.vector_type, self._schemas, item.reference)
        item.packed = packed._replace(known_ms=item.packed.known_ms)

    def names(self, schema: FeatureSchema) -> Command:
        """What stores the names of a set of features."""
        return ("SET", self._keys.feature_schema(schema.schema_id), encode_names(schema))

    def add(self, item: Item) -> Command:
        """What stores a record; the answer says what became of it."""
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

    def repack(self, item: Item) -> Command:
        """What stores a record whole that was stored with a reference to another one's state."""
        packed = pack_experience(item.memory, item.rules.schema.vector_type, self._schemas)
        return self._repack.call([item.key], [packed.body])


def _chain(memory: EpisodicMemory) -> tuple[str, ...]:
    """What two records have in common of which one can follow the other."""
    return (memory.encoder_id, memory.source, memory.run_id, memory.agent_id, memory.product_id)


def _same_vector(one: Vector | None, other: Vector) -> bool:
    return one is not None and (one is other or one.tobytes() == other.tobytes())
