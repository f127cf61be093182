"""The encoders that a namespace knows: what made its vectors, and from which data it was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from memory.errors import ConflictingRecordError, EncoderError
from memory.records import VECTOR_DIMENSION
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.typed import json_as
from memory.validation import validate_identifier, validate_timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRecord:
    """A registered encoder.

    Attributes
    ----------
    encoder_id
        Id that its vectors carry.
    fitted_until
        End of the data that it was fitted on; it is refused for questions as of an earlier time.
    dimension
        Length of its vectors.
    definition
        The encoder itself, as JSON values.
    """

    encoder_id: str
    fitted_until: datetime
    dimension: int = VECTOR_DIMENSION
    definition: dict[str, Any]


def pack_encoder(record: EncoderRecord) -> bytes:
    """A registered encoder as it is kept: the same record gives the same bytes."""
    return msgspec.json.encode(record, order="deterministic")


def unpack_encoder(packed: bytes) -> EncoderRecord:
    """The record that `pack_encoder` wrote."""
    return json_as(EncoderRecord, packed)


class EncoderRegistry:
    """Encoders by id. What was registered never changes, so it is read from the server once."""

    def __init__(self, link: RedisLink, keys: Keys, indexes: Indexes) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._known: dict[str, EncoderRecord] = {}

    async def register(
        self,
        encoder_id: str,
        *,
        fitted_until: datetime,
        definition: Mapping[str, Any],
        dimension: int = VECTOR_DIMENSION,
    ) -> EncoderRecord:
        """Make an encoder known; registering the same again changes nothing.

        Raises
        ------
        InvalidRecordError
            The id or time is malformed.
        ConflictingRecordError
            Another encoder has this id.
        """
        record = EncoderRecord(
            encoder_id=validate_identifier(encoder_id, "encoder_id"),
            fitted_until=validate_timestamp(fitted_until, "fitted_until"),
            dimension=dimension,
            definition=dict(definition),
        )
        return await self.restore(record)

    async def restore(self, record: EncoderRecord) -> EncoderRecord:
        """Make an encoder known again, as it was registered; the same again changes nothing.

        Raises
        ------
        ConflictingRecordError
            Another encoder has this id.
        """
        encoder_id = record.encoder_id
        packed = pack_encoder(record)
        answers = await self._link.pipeline(
            [
                ("SET", self._keys.encoder(encoder_id), packed, "NX"),
                ("GET", self._keys.encoder(encoder_id)),
                ("SADD", self._keys.encoders, encoder_id),
            ],
            transaction=True,
        )
        if answers[1] != packed:
            raise ConflictingRecordError(
                f"encoder {encoder_id} is registered with other content.",
                remedy="Give the new encoder an id of its own (ids contain a hash of what was fitted).",
            )
        self._known[encoder_id] = record
        return record

    async def get(self, encoder_id: str) -> EncoderRecord | None:
        """The encoder of that id; None where it is not registered."""
        record = self._known.get(encoder_id)
        if record is None:
            packed = await self._link.execute("GET", self._keys.encoder(encoder_id))
            if packed is None:
                return None
            record = self._known[encoder_id] = unpack_encoder(packed)
        return record

    async def ids(self) -> list[str]:
        """Ids of all encoders that were registered or recorded with, sorted."""
        return await self._indexes.encoder_ids()

    async def current(self) -> str | None:
        """Id of the encoder that the namespace's aliases point at; None while nothing is recorded."""
        return await self._indexes.current_encoder()

    async def set_current(self, encoder_id: str) -> None:
        """Make an encoder the current one. Open connections keep the one they began with."""
        await self._indexes.set_current_encoder(validate_identifier(encoder_id, "encoder_id"))

    async def dimension(self, encoder_id: str) -> int:
        """Length of an encoder's vectors; the default where it is not registered."""
        record = await self.get(encoder_id)
        return VECTOR_DIMENSION if record is None else record.dimension

    async def check_as_of(self, encoder_id: str, as_of: datetime) -> None:
        """EncoderError where a registered encoder was fitted on data later than `as_of`."""
        record = await self.get(encoder_id)
        if record is not None and record.fitted_until > as_of:
            raise EncoderError(
                f"encoder {encoder_id} was fitted on data until {record.fitted_until.isoformat()}, later than as_of "
                f"{as_of.isoformat()}.",
                remedy="Ask as of a later time, or fit an encoder on the past of the data that is replayed.",
            )
