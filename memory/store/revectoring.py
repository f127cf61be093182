"""Giving stored experiences a second vector, and taking the first away: the part of a change of index that is a loop.

Records are looked through by SCAN, which returns every key that is there from its beginning to its end; what is stored
meanwhile is the writers' part (`memory.store.reindexing`). Everything is done record by record in a step that compares
what is stored with what was read, so that doing it again, or beside a writer, changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from memory.errors import EncoderError
from memory.records import SOURCES, Vector, experience_id, from_ms
from memory.store.codec import (
    DIGEST_BYTES,
    Body,
    pack_vector,
    unpack_body,
    unpack_features,
    unpack_vector,
)
from memory.store.keys import EpisodicKey, scope_tag
from memory.store.layout import Family, IndexSchema, stored_vector_type
from memory.store.link import Command, RedisLink
from memory.store.scan import Reader

SCAN_COUNT = 500
"""Keys looked at by one SCAN: a fraction of a millisecond of the server's time."""
WRITE_SIZE = 100
"""Records of one round trip; searches beside it wait for one command, not for all."""
SUCCESSOR_WITHIN_MS = 3_600_000
"""A next state is at most this much later: the longest decision interval."""
SUCCESSORS_READ = 3

Encode = Callable[[tuple[str, ...], npt.NDArray[np.float64]], Vector]
"""Vectors of some states by names and values of their features, shapes (f,), (n, f) and (n, dimension).

Raises EncoderError, which says what is missing, where the names do not suffice.
"""

_encoder = msgspec.msgpack.Encoder(order="deterministic")

# Another record may have come to lie there since it was read; a record that is gone stays gone.
# ARGV: content digest, field, vector
_ADD_VECTOR = """
local body = redis.call('HGET', KEYS[1], 'body')
if not body or string.sub(body, 1, 16) ~= ARGV[1] then return 0 end
return redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3])
"""

# ARGV: body as it was read, body instead
_REPLACE_BODY = """
if redis.call('HGET', KEYS[1], 'body') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'body', ARGV[2])
return 1
"""


# A record that was removed and recorded again since it was looked at is listed for a reason still.
# KEYS: list of records to encode, refused records, records; ARGV: old field, new field
_SETTLE = """
for i = 3, #KEYS do
  local fields = redis.call('HMGET', KEYS[i], ARGV[1], ARGV[2])
  if not fields[1] or fields[2] or redis.call('HEXISTS', KEYS[2], KEYS[i]) == 1 then
    redis.call('SREM', KEYS[1], KEYS[i])
  end
end
return 1
"""


@dataclass(slots=True)
class Tally:
    """What became of the records that were looked at.

    Attributes
    ----------
    looked_at, converted
        Records that hold the old vector; those that were given the new one.
    refused
        Records that cannot be encoded anew, by reason.
    next_states_lost
        Records whose next state is kept in the old encoding only: read in the new one, they have none.
    """

    looked_at: int = 0
    converted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    next_states_lost: int = 0


@dataclass(slots=True)
class _Record:
    key: bytes
    packed: bytes
    body: Body
    vector: bytes
    has_new: bool


class Revectoring:
    """Gives records of one schema the vector of another, or takes the old one from them.

    Parameters
    ----------
    encode
        Encodes from features, where the target has another encoder; else vectors are converted.
    """

    def __init__(
        self,
        link: RedisLink,
        reader: Reader,
        family: Family,
        source: IndexSchema,
        target: IndexSchema,
        encode: Encode | None = None,
    ) -> None:
        self._link = link
        self._reader = reader
        self._family = family
        self._source = source
        self._target = target
        self._encode = encode
        self._add_vector = link.register(_ADD_VECTOR)
        self._replace_body = link.register(_REPLACE_BODY)
        self._settle = link.register(_SETTLE)
        self.refused_key = family.key("refused", source.encoder_id)

    async def scan(self, cursor: str) -> tuple[str, list[bytes]]:
        """The next keys of the family; the scan ends when the cursor is ``0`` again."""
        following, keys = await self._link.execute(
            "SCAN", cursor, "MATCH", f"{self._family.prefix}*", "COUNT", SCAN_COUNT, "TYPE", "hash"
        )
        return following.decode(), list(keys)

    async def add_vectors(self, keys: Sequence[bytes], tally: Tally) -> None:
        """Give those of the records that hold the old vector the new one."""
        for start in range(0, len(keys), WRITE_SIZE):
            records = await self._read(keys[start : start + WRITE_SIZE])
            tally.looked_at += len(records)
            if self._encode is not None:
                await self._refer_to_successors(records, tally)
            await self._write([record for record in records if not record.has_new], tally)

    async def settle(self, todo: str, keys: Sequence[bytes]) -> None:
        """Take those of the records from a list that have the new vector, cannot have it, or are gone."""
        fields = [self._source.vector_field, self._target.vector_field]
        records = [key.decode() for key in keys]
        await self._link.pipeline([self._settle.call([todo, self.refused_key, *records], fields)])

    async def remove_vectors(self, keys: Sequence[bytes]) -> None:
        """Take the old vector from those of the records that hold it, and next states in its type."""
        for start in range(0, len(keys), WRITE_SIZE):
            page = keys[start : start + WRITE_SIZE]
            commands: list[Command] = []
            for record in await self._read(page):
                if not record.has_new:
                    continue  # It could not be encoded anew: the old vector is all it has.
                commands.append(("HDEL", record.key, self._source.vector_field))
                converted = self._converted_following(record.body)
                if converted is not None:
                    record.body.following = converted
                    commands.append(self._body_command(record))
            await self._link.pipeline(commands)

    # --- internals -------------------------------------------------------------------------------------------

    async def _read(self, keys: Sequence[bytes]) -> list[_Record]:
        commands: list[Command] = []
        for key in keys:
            commands.append(("HMGET", key, "body", self._source.vector_field))
            commands.append(("HEXISTS", key, self._target.vector_field))
        answers = await self._link.pipeline(commands)
        return [
            _Record(key, body, unpack_body(body), vector, bool(has_new))
            for key, (body, vector), has_new in zip(keys, answers[::2], answers[1::2], strict=True)
            if body is not None and vector is not None
        ]

    async def _write(self, records: Sequence[_Record], tally: Tally) -> None:
        if self._encode is None:
            vectors = {record.key: unpack_vector(record.vector, self._source.vector_type) for record in records}
        else:
            vectors = await self._encoded(records, tally)
        commands = [
            self._add_vector.call(
                [record.key.decode()],
                [
                    record.packed[:DIGEST_BYTES],
                    self._target.vector_field,
                    pack_vector(vectors[record.key], self._target.vector_type),
                ],
            )
            for record in records
            if record.key in vectors
        ]
        tally.converted += sum(await self._link.pipeline(commands))

    async def _encoded(self, records: Sequence[_Record], tally: Tally) -> dict[bytes, Vector]:
        """New vectors by key; records that cannot be encoded are listed with the reason."""
        groups: dict[str, list[_Record]] = {}
        for record in records:
            groups.setdefault(record.body.feature_schema, []).append(record)
        vectors: dict[bytes, Vector] = {}
        for schema_id, group in groups.items():
            names = await self._reader.feature_names(schema_id)
            values = np.array([unpack_features(record.body) for record in group], dtype=np.float64)
            assert self._encode is not None
            try:
                encoded = self._encode(names, values.reshape(len(group), len(names)))
            except EncoderError as error:
                reason = error.message if names else "the record holds no features."
                tally.refused[reason] += len(group)
                await self._link.execute(
                    "HSET", self.refused_key, *(part for record in group for part in (record.key, reason))
                )
                continue
            vectors |= {record.key: vector for record, vector in zip(group, encoded, strict=True)}
        return vectors

    async def _refer_to_successors(self, records: Sequence[_Record], tally: Tally) -> None:
        """Replace next states that are kept as vectors by references, where the record that holds them is stored.

        A reference leads to a record, whose vector is read in whatever encoding is asked for.
        """
        inline = [record for record in records if isinstance(record.body.following, bytes)]
        inline = [record for record in inline if record.body.encoder_id == self._source.encoder_id]
        if self._family.name != "episodic":
            tally.next_states_lost += len(inline)
            return
        places = [self._family.keys.parse_episodic(record.key) for record in inline]
        answers = await self._link.pipeline([_successor_query(self._source, place) for place in places])
        commands = []
        for record, place, answer in zip(inline, places, answers, strict=True):
            reference = self._successor(record, place, answer[b"results"])
            if reference is None:
                tally.next_states_lost += 1
                continue
            record.body.following = reference
            commands.append(self._body_command(record))
        await self._link.pipeline(commands)

    def _successor(
        self, record: _Record, place: EpisodicKey, rows: Sequence[dict[bytes, Any]]
    ) -> tuple[int, int] | None:
        """Time and step of the record that holds the next state's vector, among those found."""
        packed = record.body.following
        assert isinstance(packed, bytes)
        wanted = unpack_vector(packed, stored_vector_type(packed, self._source.dimension))
        for row in rows:
            found = self._family.keys.parse_episodic(row[b"id"])
            attributes = row[b"extra_attributes"]
            vector, stored = attributes.get(self._source.vector_field.encode()), attributes.get(b"body")
            if vector is None or stored is None:
                continue
            body = unpack_body(stored)
            if (body.source, body.run_id) != (record.body.source, record.body.run_id):
                continue
            own = unpack_vector(vector, self._source.vector_type)
            expected = experience_id(
                SOURCES[body.source],
                body.run_id,
                place.agent_id,
                place.product_id,
                from_ms(found.timestamp_ms),
                body.step,
            )
            if expected == found.memory_id and _alike(wanted, own, self._source.vector_type):
                return found.timestamp_ms, body.step
        return None

    def _converted_following(self, body: Body) -> bytes | None:
        """A next state in the new type, where it is kept as a vector of the old one."""
        packed = body.following
        if not isinstance(packed, bytes) or self._source.encoder_id != self._target.encoder_id:
            return None
        kind = stored_vector_type(packed, self._target.dimension)
        if kind == self._target.vector_type:
            return None
        return pack_vector(unpack_vector(packed, kind), self._target.vector_type)

    def _body_command(self, record: _Record) -> Command:
        # How it is packed changes, never what it says: the digest stays.
        packed = record.packed[:DIGEST_BYTES] + _encoder.encode(record.body)
        return self._replace_body.call([record.key.decode()], [record.packed, packed])


def _successor_query(source: IndexSchema, place: EpisodicKey) -> Command:
    tag = scope_tag(place.agent_id, place.product_id)
    return (
        *("FT.SEARCH", source.name, "@scope:{$scope} @timestamp:[($after $until]"),
        *("RETURN", 2, "body", source.vector_field, "SORTBY", "timestamp", "LIMIT", 0, SUCCESSORS_READ),
        *("PARAMS", 6, "scope", tag, "after", place.timestamp_ms),
        *("until", place.timestamp_ms + SUCCESSOR_WITHIN_MS, "DIALECT", 2),
    )


def _alike(one: Vector, other: Vector, vector_type: str) -> bool:
    """Whether two vectors are the same as that type tells them apart."""
    return pack_vector(one, vector_type) == pack_vector(other, vector_type)
