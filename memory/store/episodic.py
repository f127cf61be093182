"""Episodic memory: what agents lived through, stored once, found again, pruned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from memory.asof import check_time
from memory.errors import InvalidQueryError
from memory.records import SOURCES, EpisodicMemory, Vector, to_ms
from memory.store.arguments import check_identifier, check_memory_id, check_one_of, experience_tags_of, ms_of
from memory.store.codec import (
    Body,
    following_reference,
    ms_rounded_up,
    reference_id,
    unpack_body,
    unpack_experience,
)
from memory.store.collection import Collection
from memory.store.content import following_vector
from memory.store.fence import Fence
from memory.store.indexes import Indexes, IndexSchema
from memory.store.keys import EpisodicKey, Keys
from memory.store.link import RedisLink
from memory.store.overlap import count_once, not_in_any, overlaps
from memory.store.recording import Recorder, Rejection, StoreReport
from memory.store.removal import ForgetReport, remove_selected
from memory.store.scan import PAGE_SIZE, Reader, Row, select

__all__ = ["EpisodicStore", "ForgetReport", "Rejection", "StoreReport"]

SCAN_COUNT = 10_000


class EpisodicStore:
    """The experiences of one namespace."""

    def __init__(
        self, link: RedisLink, keys: Keys, indexes: Indexes, reader: Reader, recorder: Recorder, fence: Fence
    ) -> None:
        self._link = link
        self._keys = keys
        self._indexes = indexes
        self._reader = reader
        self._recorder = recorder
        self._fence = fence

    @property
    def collection(self) -> Collection:
        """Where the records lie, for searches."""
        return self._recorder.collection

    # --- writing ---------------------------------------------------------------------------------------------

    async def add(self, experience: EpisodicMemory) -> str:
        """Store one experience and return its id; the same again is a no-op.

        It is validated, and what follows from the rest (memory_id, market_phase, encoder_id) is filled in, in place.
        About 0.3 ms.

        Raises
        ------
        InvalidRecordError
            It is malformed. It is in the dead letters with the reason.
        ConflictingRecordError
            Other content is stored under its id. It is in the dead letters.
        StoreUnavailableError
            Redis cannot be reached. Adding it again stores nothing twice.
        """
        report = await self.add_many([experience])
        if report.rejections:
            raise report.rejections[0].error
        return experience.memory_id

    async def add_many(
        self, experiences: Sequence[EpisodicMemory], *, min_quality: float = 0.0, arrived: bool = False
    ) -> StoreReport:
        """Store the good ones of a batch and report the others by position; about 100 microseconds a record.

        Parameters
        ----------
        experiences
            In any order. Records of one agent, product and run that follow each other should come in one batch:
            then a next state is kept as a reference.
        min_quality
            Records whose quality is known and below this are left out, and counted.
        arrived
            Whether `known_at` takes their arrival into account already. Otherwise live records arrive now: they are
            known from now on, or from their own `known_at` where that is later.

        Raises
        ------
        StoreUnavailableError
            Redis cannot be reached. A part may be stored: adding the batch again stores the rest, and nothing twice.
        """
        return await self._recorder.record(experiences, min_quality=min_quality, arrived=arrived)

    # --- reading ---------------------------------------------------------------------------------------------

    async def get(
        self,
        memory_id: str,
        *,
        agent_id: str | None = None,
        product_id: str | None = None,
        timestamp: datetime | None = None,
        as_of: datetime | None = None,
    ) -> EpisodicMemory | None:
        """The experience of that id, next state included; None where it is not stored, or was not known `as_of`.

        With agent, product and timestamp this costs 0.2 ms. Without, all keys are scanned (half a second a million).

        Raises
        ------
        InvalidQueryError
            An argument is no id, or no aware time; it is named, and nothing was sent.
        """
        memory_id = check_memory_id(memory_id)
        agent_id, product_id = check_identifier(agent_id, "agent_id"), check_identifier(product_id, "product_id")
        timestamp = None if timestamp is None else check_time(timestamp, "timestamp")
        as_of_ms = ms_of(as_of, "as_of")
        if agent_id is not None and product_id is not None and timestamp is not None:
            keys = [self._keys.episodic(agent_id, product_id, to_ms(timestamp), memory_id).encode()]
        else:
            keys = await self._find_keys(memory_id)
        for key in keys:
            found = await self._load(key, as_of_ms)
            if found is not None:
                return found
        return None

    async def _find_keys(self, memory_id: str) -> list[bytes]:
        pattern = self._keys.episodic("*", "*", 0, memory_id).replace(":0:", ":*:")
        cursor, found = b"0", []
        while True:
            cursor, keys = await self._link.execute("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
            found += keys
            if int(cursor) == 0 or found:
                return found

    async def _load(self, key: bytes, as_of_ms: int | None) -> EpisodicMemory | None:
        packed, known, recorded = await self._link.execute("HMGET", key, "body", "known_at", "recorded_at")
        if packed is None or (as_of_ms is not None and int(known) > as_of_ms):
            return None
        body = unpack_body(packed)
        row = Row(key, packed, int(known), int(recorded))
        cached = await self._indexes.episodic(body.encoder_id)
        if cached is not None and (found := await self._decode([row], [body], cached, as_of_ms)):
            return found[0]
        # Its vector lies elsewhere: the index was changed, or the record was encoded anew since.
        for schema in await self.schemas() or [await self._indexes.ensure_episodic(body.encoder_id)]:
            if found := await self._decode([row], [body], schema, as_of_ms):
                return found[0]
        return None

    async def count(
        self,
        *,
        agent_id: str | None = None,
        product_id: str | None = None,
        regime: str | None = None,
        source: str | None = None,
        run_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime | None = None,
        recorded_after: datetime | None = None,
        encoder_id: str | None = None,
        at_least: bool = False,
    ) -> int:
        """Number of experiences decided in [since, until) and known at `as_of`; all encoders unless one is named.

        `recorded_after` leaves out what was recorded then or before, by the server's clock. An experience that lies in
        the indexes of two encoders counts once, unless one is named. Cost: 0.2 ms an encoder, and with any
        filter 40 ns for each that is counted; only while `reindex_memory` changes the encoder, 10 microseconds an
        experience as well. `at_least` spares the last: then what was recorded in the new encoder alone may be missing
        from the number.

        Raises
        ------
        InvalidQueryError
            An argument cannot be what it is to be; it is named, and nothing was sent.
        """
        encoder_id = check_identifier(encoder_id, "encoder_id")
        selection = select(
            start_ms=ms_of(since, "since", ms_rounded_up),
            end_ms=ms_of(until, "until", ms_rounded_up),
            known_until_ms=ms_of(as_of, "as_of"),
            recorded_after_ms=ms_of(recorded_after, "recorded_after"),
            tags=experience_tags_of(agent_id, product_id, regime, source, run_id),
        )
        family = self._indexes.experiences
        schemas = await self.schemas(encoder_id)
        return await count_once(self._link, self._reader, family, schemas, selection, at_least=at_least)

    async def count_by_source(self, most: str | None = None) -> dict[str, int]:
        """Number of experiences of each source, as `count(at_least=True)` of each.

        The server counts by walking: 40 ns an experience. Those of one source need not be walked: they are what the
        others leave of all that its indexes hold, which costs 0.2 ms an index. Experiences that are recorded meanwhile
        may count as of that source.

        Parameters
        ----------
        most
            The source that is not walked, best the most frequent one; where None, all are walked. A wrong guess costs
            time alone.
        """
        most = check_one_of(most, "most", SOURCES)
        counts = {source: await self.count(source=source, at_least=True) for source in SOURCES if source != most}
        if most is not None:
            counts[most] = max(await self.count(at_least=True) - sum(counts.values()), 0)
        return {source: counts[source] for source in SOURCES}

    async def schemas(self, encoder_id: str | None = None) -> list[IndexSchema]:
        """Indexes of the namespace's experiences, by encoder id; of one encoder where it is named."""
        ids = [encoder_id] if encoder_id is not None else await self._indexes.encoder_ids()
        found = [await self._indexes.current_schema(name) for name in ids]
        return [schema for schema in found if schema is not None]

    async def read_window(
        self,
        start: datetime,
        end: datetime,
        *,
        encoder_id: str | None = None,
        agent_id: str | None = None,
        product_id: str | None = None,
        source: str | None = None,
        run_id: str | None = None,
        with_next_state: bool = False,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[list[EpisodicMemory]]:
        """All experiences decided in [start, end), page by page, in no order; each once.

        One that lies in the indexes of two encoders, as while `reindex_memory` changes the encoder, comes in the
        namespace's current one, unless an encoder is named. Searches beside it stay quick (p99 under 1 ms). About
        0.1 s for 1,000 records; `read_window_data` is quicker where arrays are wanted.

        Raises
        ------
        InvalidQueryError
            An argument cannot be what it is to be; it is named, and nothing was sent.
        StoreUnavailableError
            Redis went away, or a page got lost: drop what was read, and read again.
        """
        encoder_id = check_identifier(encoder_id, "encoder_id")
        selection = select(
            start_ms=ms_rounded_up(check_time(start, "start")),
            end_ms=ms_rounded_up(check_time(end, "end")),
            tags=experience_tags_of(agent_id, product_id, None, source, run_id),
        )
        schemas = await self.schemas(encoder_id)
        if len(schemas) > 1:
            current = await self._indexes.current_encoder()
            schemas.sort(key=lambda schema: (schema.encoder_id != current, schema.encoder_id))
        shared = await overlaps(self._link, self._indexes.experiences, schemas)
        for number, schema in enumerate(schemas):
            beside = [other for pair in shared if (other := pair.beside(schema)) in schemas[:number]]
            async for page in self._reader.rows(schema, selection, page_size=page_size):
                rows = await not_in_any(self._link, page, beside) if beside else page
                if not rows:
                    continue
                bodies = [unpack_body(row.body) for row in rows]
                yield await self._decode(rows, bodies, schema, None, with_next_state=with_next_state)

    async def _decode(
        self,
        rows: Sequence[Row],
        bodies: Sequence[Body],
        schema: IndexSchema,
        as_of_ms: int | None,
        *,
        with_next_state: bool = True,
    ) -> list[EpisodicMemory]:
        keys = [self._keys.parse_episodic(row.key) for row in rows]
        vectors = await self._reader.vectors(schema, [row.key for row in rows])
        following: Sequence[Vector | None] = [None] * len(rows)
        if with_next_state:
            following = await self.next_vectors(keys, bodies, schema)
        memories = []
        for row, key, body, vector, next_vector in zip(rows, keys, bodies, vectors, following, strict=True):
            if vector is None:
                continue  # Pruned since the page was read.
            names = await self._reader.feature_names(body.feature_schema)
            memory = unpack_experience(key, body, vector, row.known_ms, row.recorded_ms, names, next_vector, as_of_ms)
            # The one of the vector: the body tells the one that it was recorded in.
            memory.encoder_id = schema.encoder_id
            memories.append(memory)
        return memories

    async def next_vectors(
        self, keys: Sequence[EpisodicKey], bodies: Sequence[Body], schema: IndexSchema
    ) -> list[Vector | None]:
        """Vectors of the next states of some records, those kept by reference included; in order."""
        found: list[Vector | None] = [None] * len(bodies)
        referred: list[int] = []
        targets: list[str] = []
        for position, (key, body) in enumerate(zip(keys, bodies, strict=True)):
            reference = following_reference(body)
            if reference is not None:
                referred.append(position)
                memory_id = reference_id(key, body, reference)
                targets.append(self._keys.episodic(key.agent_id, key.product_id, reference.timestamp_ms, memory_id))
            else:
                found[position] = following_vector(body, schema)
        for position, vector in zip(referred, await self._reader.vectors(schema, targets), strict=True):
            found[position] = vector
        return found

    # --- removing --------------------------------------------------------------------------------------------

    async def forget(
        self,
        *,
        before: datetime | None = None,
        agent_id: str | None = None,
        product_id: str | None = None,
        source: str | None = None,
        run_id: str | None = None,
        token: int | None = None,
        dry_run: bool = False,
    ) -> ForgetReport:
        """Remove the experiences that meet all the criteria, with the traces of their decisions.

        The dry run is the same without the last step. The criteria are such that a record never goes while one before
        it stays: no reference to a next state is left without its end.

        Parameters
        ----------
        before
            Decided before this time.
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
        tags = experience_tags_of(agent_id, product_id, None, source, run_id)
        if before is None and not tags:
            raise InvalidQueryError(
                "nothing says which experiences to forget.",
                remedy="Give before, agent_id, product_id, source or run_id.",
                argument="before",
            )
        selection = select(end_ms=end_ms, tags=tags)
        return await remove_selected(
            self._reader,
            self._fence,
            await self.schemas(),
            selection,
            token=token,
            dry_run=dry_run,
            beside=lambda key: self._keys.decision(self._keys.parse_episodic(key).memory_id),
        )
