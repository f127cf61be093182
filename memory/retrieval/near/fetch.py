"""Reading records for the cache, undecoded."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import msgspec

from memory.errors import InvalidRecordError
from memory.retrieval.near.arena import NEVER_MS
from memory.retrieval.near.rows import VECTOR_TYPES, StoredRow
from memory.store.codec import Body, unpack_body
from memory.store.indexes import IndexSchema
from memory.store.keys import Keys
from memory.store.link import Command, RedisLink
from memory.store.scan import Reader
from memory.tables import TRAILING_VOLATILITY

_WITHOUT_EXPIRY = -1
_UNKNOWN = -1
_FLOAT64 = struct.Struct("<d")


class RowFetcher:
    """Reads records of one namespace, and the names of their features.

    Attributes
    ----------
    names
        Names of features by the id of their schema: those of all records that were read.
    """

    def __init__(self, link: RedisLink, keys: Keys, reader: Reader) -> None:
        self._link = link
        self._keys = keys
        self._reader = reader
        self.names: dict[str, tuple[str, ...]] = {"": ()}
        self._volatility_at: dict[str, int | None] = {"": None}

    async def fetch(self, keys: Sequence[bytes], schema: IndexSchema) -> list[StoredRow | None]:
        """The records under some keys, in order; None where there is none that the index of this schema would hold.

        Two short commands a record in one round trip, about 25 microseconds of this process's time.
        """
        commands: list[Command] = []
        for key in keys:
            commands.append(("HMGET", key, "body", schema.vector_field, "known_at", "recorded_at"))
            commands.append(("PEXPIRETIME", key))
        answers = await self._link.pipeline(commands)
        rows = [
            self._row(key, fields, expiry, schema)
            for key, fields, expiry in zip(keys, answers[::2], answers[1::2], strict=True)
        ]
        for number, row in enumerate(rows):
            if row is not None and row.feature_schema not in self._volatility_at:
                names = self.names[row.feature_schema] = await self._reader.feature_names(row.feature_schema)
                self._volatility_at[row.feature_schema] = _place(TRAILING_VOLATILITY, names)
            if row is not None and math.isnan(row.volatility):
                rows[number] = row._replace(volatility=self._volatility(unpack_body(row.body)))
        return rows

    def _volatility(self, body: Body) -> float:
        """Trailing volatility of an experience, 0 where it has none; NaN while the names of its features are unread."""
        place = self._volatility_at.get(body.feature_schema, _UNKNOWN)
        if place is None:
            return 0.0
        return math.nan if place == _UNKNOWN else float(_FLOAT64.unpack_from(body.features, 8 * place)[0])

    def _row(self, key: bytes, fields: list[bytes | None], expiry_ms: int, schema: IndexSchema) -> StoredRow | None:
        body, vector, known, recorded = fields
        if body is None or vector is None or known is None or recorded is None:
            return None  # Gone, or of another encoder.
        if len(vector) != schema.dimension * VECTOR_TYPES[schema.vector_type].itemsize:
            return None  # The index cannot take it either.
        try:
            parsed = self._keys.parse_episodic(key)
            unpacked = unpack_body(body)
            return StoredRow(
                key=key,
                product_id=parsed.product_id,
                timestamp_ms=parsed.timestamp_ms,
                body=body,
                vector=vector,
                regime=unpacked.regime,
                feature_schema=unpacked.feature_schema,
                known_ms=int(known),
                recorded_ms=int(recorded),
                expires_ms=NEVER_MS if expiry_ms <= _WITHOUT_EXPIRY else int(expiry_ms),
                reward=float(unpacked.reward),
                volatility=self._volatility(unpacked),
            )
        except (ValueError, msgspec.DecodeError) as error:
            raise InvalidRecordError(
                f"the record under {key!r} cannot be read: {error}.",
                remedy="Remove it (UNLINK), or restore it from a backup; until then the server answers questions.",
                field="body",
            ) from error


def _place(name: str, names: Sequence[str]) -> int | None:
    """Where a name stands; None where it does not."""
    return names.index(name) if name in names else None
