"""Changing how experiences are indexed, under load: the new index is built beside the old and swapped in.

What changes is the layout, the algorithm or the type of the vectors, or the encoder. The steps, each of which may be
repeated and is taken up where it stopped:

1. `Reindexer.begin` makes the new index known to writers in one step: the *shadow* (or, where the encoder changes, the
   *successor*) and a new *epoch*.
2. `fill` gives all records that were there the vector of the new index, where it needs one of its own.
3. `wait_until_built` and `verify`: the new index holds what the old one holds.
4. `swap` makes it the one in use, in one step; the old one becomes the shadow.
5. `retire` drops the old index, once whoever may still use it has had time to end; `clean` takes the old vectors away.

Nothing is left out. Every record is stored by a script that compares the epoch with the one that its writer read
together with the rules (`memory.store.recording`). So a record that is stored after step 1 was stored by a writer that
knew the new index: it wrote its vector too, and saw to the index of its agent and product. A record that was stored
before step 1 is there when step 2 begins, and a SCAN returns whatever is there from its beginning to its end. Between
them the two cover every record. Where the encoder changes a writer cannot write the new vector; the same script then
lists the record's key in the same step, `swap` happens only in a transaction that finds the list empty, and keys
listed later (by clients that go on with the old encoder) are worked off by the next run.

Nothing is missed by readers. Until step 5 the old index is kept up like the new one, by the same rule. Whoever asks an
index that is gone reads the schema again and asks once more (`Indexes.refreshed`); the new one holds everything then.

A record is changed only by scripts that compare what is stored with what was read, so a run that was killed or
overtaken leaves nothing half done, and one that is repeated changes nothing twice.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, replace

import msgspec

from memory.errors import ReindexError
from memory.store.building import Building
from memory.store.fence import Fence
from memory.store.indexes import Indexes, Shadow, encode_schema
from memory.store.layout import Family, IndexSchema, Layout, create_main, plan_schema
from memory.store.link import Command, Read, RedisLink
from memory.store.partitions import create_where_missing
from memory.store.reindex_job import ReindexJob, counted, taken_up
from memory.store.revectoring import Encode, Revectoring, Tally
from memory.store.scan import Reader

CHECKPOINT_KEYS = 10_000
"""Keys looked at between two notes of how far a pass has come: what a killed run has to look at again."""
DRAIN_SIZE = 200


class Reindexer:
    """Changes the index of one family of one namespace's records.

    Parameters
    ----------
    token
        Fencing token of the run: one that was overtaken changes nothing more.
    """

    def __init__(
        self,
        link: RedisLink,
        indexes: Indexes,
        reader: Reader,
        fence: Fence,
        family: Family,
        *,
        token: int | None = None,
    ) -> None:
        self._link = link
        self._indexes = indexes
        self._reader = reader
        self._fence = fence
        self._family = family
        self._token = token
        self._building = Building(link, indexes, family)

    # --- beginning -------------------------------------------------------------------------------------------

    async def job(self, encoder_id: str) -> ReindexJob | None:
        """The change of an encoder's index that is under way."""
        packed = await self._link.execute("GET", self._family.key("job", encoder_id))
        return None if packed is None else msgspec.json.decode(packed, type=ReindexJob)

    async def begin(self, encoder_id: str, *, layout: Layout, algorithm: str, vector_type: str) -> ReindexJob | None:
        """Begin to index an encoder's records otherwise, or take up the change that is under way.

        None where they are indexed so already, or there are none.

        Raises
        ------
        ReindexError
            Another change is under way.
        """
        rules = await self._indexes.rules(self._family, encoder_id)
        if rules is None:
            return None

        def planned(generation: int) -> IndexSchema:
            return plan_schema(
                self._family,
                encoder_id,
                rules.schema.dimension,
                layout=layout,
                algorithm=algorithm,
                vector_type=vector_type,
                generation=generation,
                reuse=rules.schema,
            )

        job = await self.job(encoder_id)
        if job is not None:
            return taken_up(job, planned(job.target.generation))
        if rules.schema.same_choices(planned(0)):
            return None
        # The number of a change that was abandoned is not given again: what clients know of it must not come back.
        given = self._family.key("generation", encoder_id)
        generation = max(int(await self._link.execute("INCR", given)), rules.schema.generation + 1)
        await self._link.execute("SET", given, generation)
        job = ReindexJob(rules.schema, planned(generation))
        return await self._announce(job, Shadow(schema=job.target))

    async def begin_encoder(
        self, encoder_id: str, successor_id: str, dimension: int, *, layout: Layout, algorithm: str, vector_type: str
    ) -> ReindexJob | None:
        """Begin to encode an encoder's records anew, or take up where that stopped; None where there are none.

        What was recorded in the old encoder since the last run is encoded too: running again catches up. The choices
        are for a successor that has no index yet; one that it has stays as it is.

        Raises
        ------
        ReindexError
            Another change is under way, of this encoder's index or of the successor's.
        """
        rules = await self._indexes.rules(self._family, encoder_id)
        if rules is None:
            return None
        target = await self._indexes.rules(self._family, successor_id)
        if target is None:
            planned = plan_schema(
                self._family, successor_id, dimension, layout=layout, algorithm=algorithm, vector_type=vector_type
            )
            target = await self._indexes.create(self._family, planned)
        if await self.job(successor_id) is not None:
            raise ReindexError(
                f"the index of {successor_id} is being changed itself.",
                remedy="Run reindex_memory without an encoder to its end first.",
            )
        job = await self.job(encoder_id)
        if job is not None and job.target.encoder_id == successor_id:
            # The successor's index may have been changed since, which is no matter of this job.
            job = replace(job, target=target.schema)
            await self._step(job, None)
            return job
        if job is not None:
            return taken_up(job, target.schema)
        return await self._announce(ReindexJob(rules.schema, target.schema), Shadow(successor=successor_id))

    async def _announce(self, job: ReindexJob, shadow: Shadow) -> ReindexJob:
        """Let writers know, in the step in which the change begins."""
        await self._step(job, job.source, [*self._rule_commands(job.source.encoder_id, shadow)])
        return job

    async def abandon(self, encoder_id: str) -> ReindexJob | None:
        """Give up a change that was not swapped in yet: the index in use stays, the one being built goes.

        Raises
        ------
        ReindexError
            The new index is in use already.
        """
        job = await self.job(encoder_id)
        if job is None:
            return None
        if job.phase != "filling":
            raise ReindexError(
                f"the new index of {encoder_id} is in use already.", remedy="Run it to its end, then change it back."
            )
        commands = [
            *self._rule_commands(encoder_id, Shadow()),
            ("DEL", *(self._family.key(part, encoder_id) for part in ("job", "todo", "refused"))),
        ]
        await self._step(None, job.source, commands)
        if not job.changes_encoder:
            await self._building.drop(job.target)
            await self._clean(replace(job, source=job.target, target=job.source))
            # A writer that was told late may have begun an index of it meanwhile.
            await self._building.drop(job.target)
        return job

    # --- filling ---------------------------------------------------------------------------------------------

    async def fill(self, job: ReindexJob, encode: Encode | None = None) -> AsyncIterator[ReindexJob]:
        """Give what was stored before the beginning its new vector; yields how far it has come.

        About 10,000 records a second into a single index, and as fast as HNSW is built (4,000/s) into graphs.

        Parameters
        ----------
        encode
            Encodes from features, where the encoder changes.
        """
        if job.complete or job.phase != "filling":
            return
        life = await self._link.server_life()
        if not life or life != job.life:
            # A server that was restarted orders its keys anew, and a cursor means nothing to it.
            job = replace(job, cursor="0", life=life, looked_at=0, converted=0, next_states_lost=0, refused={})
        await create_where_missing(self._link, create_main(self._family, job.target))
        work = self._revectoring(job, encode)
        tally = Tally(job.looked_at, job.converted, Counter(job.refused), job.next_states_lost)
        cursor, noted = job.cursor, 0
        while True:
            cursor, keys = await work.scan(cursor)
            await self._open_pairs(job, keys)
            if job.own_vectors:
                await work.add_vectors(keys, tally)
            noted += len(keys)
            if cursor == "0" or noted >= CHECKPOINT_KEYS:
                noted = 0
                job = counted(replace(job, cursor=cursor, complete=cursor == "0"), tally)
                await self._step(job, job.source)
                yield job
            if cursor == "0":
                return

    async def drain(self, job: ReindexJob, encode: Encode) -> ReindexJob:
        """Encode what was recorded in the old encoder since the beginning; see `fill`."""
        todo = self._family.key("todo", job.source.encoder_id)
        work = self._revectoring(job, encode)
        tally = Tally(job.looked_at, job.converted, Counter(job.refused), job.next_states_lost)
        while keys := await self._link.execute("SRANDMEMBER", todo, DRAIN_SIZE):
            await self._open_pairs(job, keys)
            await work.add_vectors(keys, tally)
            # Taken from the list once it is done; a record under the same key would be the same record.
            await self._link.execute("SREM", todo, *keys)
        job = counted(job, tally)
        await self._step(job, None)
        return job

    async def _open_pairs(self, job: ReindexJob, keys: list[bytes]) -> None:
        if job.target.partitioned:
            places = (self._family.keys.parse_episodic(key) for key in keys)
            pairs = {(place.agent_id, place.product_id) for place in places}
            known = self._indexes.partitions.listed(job.target)
            # Vectors of its own are written after the index was made; those that are there are looked for.
            new = sorted(pairs - known)
            await self._indexes.partitions.create(job.target, new, holds_all_from_now_on=job.own_vectors)
            if pairs - known:
                await self._indexes.partitions.reload(job.target)

    def _revectoring(self, job: ReindexJob, encode: Encode | None = None) -> Revectoring:
        return Revectoring(self._link, self._reader, self._family, job.source, job.target, encode)

    # --- building --------------------------------------------------------------------------------------------

    async def progress(self, job: ReindexJob) -> float:
        """Share of the new index that is built, 0 to 1."""
        return await self._building.progress(job.target)

    async def verify(self, job: ReindexJob) -> int:
        """Number of records in the new index, once it is seen to hold all that it should; see `Building.verify`.

        Where the encoder changes, the new index may hold more than the old: what clients of the new encoder recorded.
        """
        return await self._building.verify(job.target, None if job.changes_encoder else job.source)

    # --- swapping --------------------------------------------------------------------------------------------

    async def swap(self, job: ReindexJob, encode: Encode | None = None) -> ReindexJob:
        """Make the new index the one in use, in one step; the old one is kept up beside it."""
        if job.phase in ("swapped", "retired"):
            return job
        swapped = replace(job, phase="swapped")
        old = job.source.encoder_id
        if job.changes_encoder:
            assert encode is not None
            commands: list[Command] = await self._indexes.commands_to_make_current(job.target.encoder_id)
            if self._family.name != "episodic" or await self._indexes.current_encoder() != old:
                commands = []
            while not await self._step(swapped, None, commands, only_where_drained=True):
                job = await self.drain(job, encode)
                swapped = replace(job, phase="swapped")
            return swapped
        commands = [
            ("SET", self._family.key("schema", old), encode_schema(job.target)),
            *self._rule_commands(old, Shadow(schema=job.source)),
        ]
        if await self._indexes.current_encoder() == old:
            commands.append(("FT.ALIASUPDATE", self._family.alias, job.target.name))
        await self._step(swapped, job.source, commands)
        return swapped

    async def refused(self, encoder_id: str) -> dict[str, str]:
        """Keys of the records that could not be encoded anew, with the reason."""
        found = await self._link.execute("HGETALL", self._family.key("refused", encoder_id))
        return {key.decode(): reason.decode() for key, reason in found.items()}

    async def waiting(self, encoder_id: str) -> int:
        """Number of records that were stored in an old encoder since, and wait to be encoded anew."""
        return int(await self._link.execute("SCARD", self._family.key("todo", encoder_id)))

    # --- removing the old ------------------------------------------------------------------------------------

    async def retire(self, job: ReindexJob) -> ReindexJob:
        """Drop the old index and release writers from keeping it up. Its records stay."""
        if job.phase == "retired":
            return job
        old = job.source.encoder_id
        if job.changes_encoder and (left := len(await self.refused(old))):
            raise ReindexError(
                f"{left} experiences could not be encoded in {job.target.encoder_id}: without the index of {old} they "
                "could not be found any more.",
                remedy=f"Keep the old index, or forget them; {self._family.key('refused', old)} lists them.",
            )
        # Readers that find it gone ask the new one; writers keep its vectors up until they are told otherwise.
        await self._building.drop(job.source)
        retired = replace(job, phase="retired", cursor="0", complete=False)
        commands = [*self._rule_commands(old, Shadow())]
        if job.changes_encoder:
            commands += [("DEL", self._family.key("schema", old)), ("DEL", self._family.key("todo", old))]
        await self._step(retired, None, commands)
        return retired

    async def clean(self, job: ReindexJob) -> None:
        """Take away the old vectors, and what a writer that was told late may have left of the old index; the end."""
        await self._building.drop(job.source)
        await self._clean(job)
        old = job.source.encoder_id
        await self._step(None, None, [("DEL", *(self._family.key(part, old) for part in ("job", "refused")))])

    async def _clean(self, job: ReindexJob) -> None:
        if not job.own_vectors:
            return
        work = self._revectoring(job)
        cursor = "0"
        while True:
            cursor, keys = await work.scan(cursor)
            await work.remove_vectors(keys)
            if cursor == "0":
                return

    # --- internals -------------------------------------------------------------------------------------------

    def _rule_commands(self, encoder_id: str, shadow: Shadow) -> tuple[Command, ...]:
        """What tells writers what to do from now on."""
        return (
            ("SET", self._family.key("shadow", encoder_id), msgspec.json.encode(asdict(shadow))),
            ("SET", self._family.key("epoch", encoder_id), uuid.uuid4().hex),
        )

    async def _step(
        self,
        job: ReindexJob | None,
        in_use: IndexSchema | None,
        commands: list[Command] | tuple[Command, ...] = (),
        *,
        only_where_drained: bool = False,
    ) -> bool:
        """Note how far a job is and run commands, in one step and only while the run holds the namespace.

        Parameters
        ----------
        in_use
            Schema that must be the one in use still; any where None.
        only_where_drained
            Do nothing, and return False, where records wait to be encoded anew.
        """
        owner = "" if job is None else job.source.encoder_id
        watched = [self._family.keys.fence]
        if in_use is not None:
            watched.append(self._family.key("schema", in_use.encoder_id))
        if job is not None:
            watched.append(self._family.key("job", owner))
        if only_where_drained:
            watched.append(self._family.key("todo", owner))

        async def prepare(read: Read) -> tuple[list[Command], bool]:
            if self._token is not None:
                await self._fence.check(read, self._token)
            if in_use is not None:
                packed = await read("GET", self._family.key("schema", in_use.encoder_id))
                if packed is None or msgspec.json.decode(packed, type=IndexSchema).name != in_use.name:
                    raise ReindexError(
                        f"the index {in_use.name} is not the one in use any more.",
                        remedy="Another run changed it: look at its result, and start again where it is still needed.",
                    )
            if only_where_drained and job is not None and int(await read("SCARD", self._family.key("todo", owner))):
                return [], False
            noted = [] if job is None else [("SET", self._family.key("job", owner), msgspec.json.encode(asdict(job)))]
            return [*noted, *commands], True

        return await self._link.transaction(watched, prepare)
