"""The shared pool as it lies in Redis: whole copies of the experiences that are worth knowing, whoever made them.

An experience is in the pool from the time at which it was known *and* shared. Its `known_at` there is that time: live,
not before its arrival by the server's clock; in replays and backtests its own `known_at`, or the present of the replay
that shared it where that is later. It lies under its product and memory id, which derives from the agent, so that two
agents never meet under one key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from memory.errors import InvalidQueryError
from memory.records import EpisodicMemory
from memory.store.arguments import check_identifier, experience_tags_of, ms_of
from memory.store.codec import ms_rounded_up
from memory.store.collection import SharedCollection
from memory.store.fence import Fence
from memory.store.indexes import Indexes, IndexSchema
from memory.store.link import RedisLink
from memory.store.overlap import count_once
from memory.store.recording import Recorder, StoreReport
from memory.store.removal import ForgetReport, remove_selected
from memory.store.scan import Reader, select


class SharedStore:
    """The shared experiences of one namespace.

    Parameters
    ----------
    min_quality
        Quality from which on experiences are shared, 0 to 1.
    retention_days
        How long they stay, counted from their decision.
    """

    def __init__(
        self,
        link: RedisLink,
        collection: SharedCollection,
        indexes: Indexes,
        reader: Reader,
        recorder: Recorder,
        fence: Fence,
        *,
        min_quality: float,
        retention_days: int,
    ) -> None:
        self._link = link
        self._collection = collection
        self._indexes = indexes
        self._reader = reader
        self._recorder = recorder
        self._fence = fence
        self.min_quality = min_quality
        self.retention = timedelta(days=retention_days)

    @property
    def collection(self) -> SharedCollection:
        """Where the records lie, for searches."""
        return self._collection

    async def add_many(self, experiences: Sequence[EpisodicMemory], *, shared_at: datetime | None) -> StoreReport:
        """Share the good ones of a batch whose quality suffices; see `SharedMemoryPool.add_shared_experiences`."""
        return await self._recorder.record(
            experiences,
            min_quality=self.min_quality,
            scored_only=True,
            known_from_ms=None if shared_at is None else ms_rounded_up(shared_at),
        )

    async def count(
        self,
        *,
        agent_id: str | None = None,
        product_id: str | None = None,
        regime: str | None = None,
        source: str | None = None,
        before: datetime | None = None,
        as_of: datetime | None = None,
        encoder_id: str | None = None,
    ) -> int:
        """Number of shared experiences decided before a time and shared by `as_of`, those past their time included.

        All encoders unless one is named; what lies in the indexes of two counts once, as in `EpisodicStore.count`.

        Raises
        ------
        InvalidQueryError
            An argument cannot be what it is to be; it is named, and nothing was sent.
        """
        encoder_id = check_identifier(encoder_id, "encoder_id")
        selection = select(
            end_ms=ms_of(before, "before", ms_rounded_up),
            known_until_ms=ms_of(as_of, "as_of"),
            tags=experience_tags_of(agent_id, product_id, regime, source),
        )
        family = self._collection.family
        return await count_once(self._link, self._reader, family, await self.schemas(encoder_id), selection)

    async def schemas(self, encoder_id: str | None = None) -> list[IndexSchema]:
        """Indexes of the namespace's shared experiences, by encoder id; of one encoder where it is named."""
        ids = [encoder_id] if encoder_id is not None else await self._indexes.encoder_ids()
        found = [await self._collection.current_schema(name) for name in ids]
        return [schema for schema in found if schema is not None]

    async def forget(
        self,
        *,
        before: datetime | None = None,
        agent_id: str | None = None,
        source: str | None = None,
        run_id: str | None = None,
        token: int | None = None,
        dry_run: bool = False,
    ) -> ForgetReport:
        """Remove the shared experiences that meet all the criteria; the dry run is the same without the last step.

        Parameters
        ----------
        before
            Decided before this time: pruning passes a window's end less the retention.
        token
            Fencing token of the run that removes; a run that was overtaken removes nothing more.
        dry_run
            Count only.

        Raises
        ------
        InvalidQueryError
            No criterion is given, or one cannot be what it is to be; nothing was sent.
        FencedOutError
            A newer run has written.
        """
        end_ms = ms_of(before, "before", ms_rounded_up)
        tags = experience_tags_of(agent_id, None, None, source, run_id)
        if before is None and not tags:
            raise InvalidQueryError(
                "nothing says which shared experiences to forget.",
                remedy="Give before, agent_id, source or run_id.",
                argument="before",
            )
        selection = select(end_ms=end_ms, tags=tags)
        return await remove_selected(
            self._reader, self._fence, await self.schemas(), selection, token=token, dry_run=dry_run
        )
