"""The two collections of experiences: what each agent lived through, and the pool that all agents share.

Both are packed, indexed, written and searched alike; what differs is said here: where a record lies, which index finds
it, what its key says of it, and how long it stays at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from memory.records import EpisodicMemory, to_ms
from memory.store.indexes import Indexes, IndexSchema, WriteRules
from memory.store.keys import EpisodicKey, Keys
from memory.store.layout import Family

TTL_RETENTIONS = 2
"""Live records expire after this many retention times: long after pruning should have removed them, so that the
backstop never shortens what pruning decides. Replays and backtests never expire: their time is not the clock's."""
_MS_PER_DAY = 86_400_000


class Collection(Protocol):
    """A collection of experiences.

    Attributes
    ----------
    name
        What dead letters call their origin.
    returned
        Fields that a search must return, so that `identify` and the codec find what they need.
    refers
        Whether a next state may be kept as a reference to the record that holds it.
    arrival_only
        Whether `known_at` says when a record got here, and is therefore no part of what it says.
    ttl_ms
        Time to live of live records.
    """

    @property
    def name(self) -> str: ...
    @property
    def returned(self) -> tuple[str, ...]: ...
    @property
    def refers(self) -> bool: ...
    @property
    def arrival_only(self) -> bool: ...
    @property
    def ttl_ms(self) -> int: ...

    async def schema(self, encoder_id: str) -> IndexSchema | None:
        """Schema of an encoder's index; None where there is none. Cached."""
        ...

    async def current_schema(self, encoder_id: str) -> IndexSchema | None:
        """As `schema`, asking the server."""
        ...

    @property
    def family(self) -> Family: ...

    async def rules(self, encoder_id: str) -> WriteRules | None:
        """What a writer has to do for its records to be found; None where the encoder has no index."""
        ...

    async def ensure(self, encoder_id: str, dimension: int) -> WriteRules:
        """As `rules`; the index is built where it does not exist."""
        ...

    async def open(self, records: Iterable[tuple[WriteRules, EpisodicMemory]]) -> None:
        """See to it that the indexes exist that some records belong in; to be called before they are stored."""
        ...

    def key(self, memory: EpisodicMemory) -> str:
        """Where a validated experience lies."""
        ...

    def fields(self, memory: EpisodicMemory) -> list[Any]:
        """Fields of its hash beside those that all experiences have: name, value, name, value..."""
        ...

    def identify(self, key: bytes, fields: Mapping[bytes, Any]) -> EpisodicKey:
        """Whose experience of when lies at a key; `fields` holds what `returned` names."""
        ...


class EpisodicCollection:
    """What each agent lived through: agent and time are in the key.

    Parameters
    ----------
    retention_days
        How long experiences are kept; live ones expire after twice that.
    """

    name = "store"
    returned = ("body", "known_at", "recorded_at")
    refers = True
    arrival_only = False

    def __init__(self, keys: Keys, indexes: Indexes, retention_days: int) -> None:
        self._keys = keys
        self._indexes = indexes
        self.ttl_ms = TTL_RETENTIONS * retention_days * _MS_PER_DAY

    async def schema(self, encoder_id: str) -> IndexSchema | None:
        """See `Collection`."""
        return await self._indexes.episodic(encoder_id)

    async def current_schema(self, encoder_id: str) -> IndexSchema | None:
        """See `Collection`."""
        return await self._indexes.current_schema(encoder_id)

    @property
    def family(self) -> Family:
        """See `Collection`."""
        return self._indexes.experiences

    async def rules(self, encoder_id: str) -> WriteRules | None:
        """See `Collection`."""
        return await self._indexes.rules(self.family, encoder_id)

    async def ensure(self, encoder_id: str, dimension: int) -> WriteRules:
        """See `Collection`."""
        return await self._indexes.ensure_rules(self.family, encoder_id, dimension)

    async def open(self, records: Iterable[tuple[WriteRules, EpisodicMemory]]) -> None:
        """See `Collection`."""
        await self._indexes.partitions.open_all(
            (rules, (memory.agent_id, memory.product_id)) for rules, memory in records
        )

    def key(self, memory: EpisodicMemory) -> str:
        """See `Collection`."""
        return self._keys.episodic(memory.agent_id, memory.product_id, to_ms(memory.timestamp), memory.memory_id)

    def fields(self, memory: EpisodicMemory) -> list[Any]:  # noqa: ARG002
        """See `Collection`."""
        return []

    def identify(self, key: bytes, fields: Mapping[bytes, Any]) -> EpisodicKey:  # noqa: ARG002
        """See `Collection`."""
        return self._keys.parse_episodic(key)


class SharedCollection:
    """What agents share with one another: each record is whole, and stays when the one it was made of goes.

    Parameters
    ----------
    retention_days
        How long shared experiences are kept; live ones expire after twice that.
    """

    name = "shared"
    returned = ("body", "known_at", "recorded_at", "agent", "timestamp")
    refers = False
    arrival_only = True

    def __init__(self, keys: Keys, indexes: Indexes, retention_days: int) -> None:
        self._keys = keys
        self._indexes = indexes
        self.ttl_ms = TTL_RETENTIONS * retention_days * _MS_PER_DAY

    async def schema(self, encoder_id: str) -> IndexSchema | None:
        """See `Collection`."""
        return await self._indexes.shared(encoder_id)

    async def current_schema(self, encoder_id: str) -> IndexSchema | None:
        """See `Collection`."""
        return await self._indexes.current_shared_schema(encoder_id)

    @property
    def family(self) -> Family:
        """See `Collection`."""
        return self._indexes.pool

    async def rules(self, encoder_id: str) -> WriteRules | None:
        """See `Collection`."""
        return await self._indexes.rules(self.family, encoder_id)

    async def ensure(self, encoder_id: str, dimension: int) -> WriteRules:
        """See `Collection`."""
        return await self._indexes.ensure_rules(self.family, encoder_id, dimension)

    async def open(self, records: Iterable[tuple[WriteRules, EpisodicMemory]]) -> None:
        """See `Collection`; the pool has one index, which is there already."""

    def key(self, memory: EpisodicMemory) -> str:
        """See `Collection`."""
        return self._keys.shared(memory.product_id, memory.memory_id)

    def fields(self, memory: EpisodicMemory) -> list[Any]:
        """See `Collection`."""
        return ["agent", memory.agent_id, "quality", repr(memory.quality)]

    def identify(self, key: bytes, fields: Mapping[bytes, Any]) -> EpisodicKey:
        """See `Collection`."""
        shared = self._keys.parse_shared(key)
        return EpisodicKey(fields[b"agent"].decode(), shared.product_id, int(fields[b"timestamp"]), shared.memory_id)
