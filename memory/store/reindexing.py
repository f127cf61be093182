"""Changing how experiences are indexed, under load: the new index is built beside the old and swapped in.

What changes is the layout, the algorithm or the type of the vectors, or the encoder. The steps, each of which may be
repeated and is taken up where it stopped:

1. `Reindexer.begin` makes the new index known to writers in one step: the *shadow* (or, where the encoder changes, the
   *successor*) and a new *epoch*.
2. `fill` gives all records that were there the vector of the new index, where it needs one of its own.
3. `wait_until_built` and `verify`: the new index holds what the old one holds.
4. `swap` makes it the one in use, in one step; the old one becomes the shadow.
5. `retire` drops the old index, once whoever may still use it has had time to end; `clean` takes the old vectors away.

`abandon` takes away what was built instead, up to step 4.

Nothing is left out. Every record is stored by a script that compares the epoch with the one that its writer read
together with the rules (`memory.store.recording`). So a record that is stored after step 1 was stored by a writer that
knew the new index: it wrote its vector too, and saw to the index of its agent and product. A record that was stored
before step 1 is there when step 2 begins, and a SCAN returns whatever is there from its beginning to its end. Between
them the two cover every record. Where the encoder changes a writer cannot write the new vector; the same script then
lists the record's key in the same step, `swap` happens only in a transaction that finds the list empty, and keys
listed later (by clients that go on with the old encoder) are worked off by the next run, the last of them before
`retire`, which again finds the list empty in the step that drops the index.

Nothing is missed by readers. Until step 5 the old index is kept up like the new one, by the same rule. Whoever asks an
index that is gone reads the schema again and asks once more (`Indexes.refreshed`); the new one holds everything then.

A record is changed only by scripts that compare what is stored with what was read, and every step by one that compares
the job that is noted (`JobNotes.step`), so a run that was killed or overtaken leaves nothing half done and drops
nothing, and one that is repeated changes nothing twice.
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
from memory.store.link import Command, RedisLink
from memory.store.partitions import create_where_missing
from memory.store.reindex_job import JobNotes, ReindexJob, after_retiring, check_phase, counted, taken_up
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
        self._family = family
        self._notes = JobNotes(link, family, fence, token)
        self._building = Building(link, indexes, family)

    # --- beginning -------------------------------------------------------------------------------------------

    async def job(self, encoder_id: str) -> ReindexJob | None:
        """The change of an encoder's index that is under way."""
        return await self._notes.read(encoder_id)

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

        job = await self._under_way(encoder_id)
        if job is not None:
            return taken_up(job, planned(job.target.generation))
        if rules.schema.same_choices(planned(0)):
            return None
        # The number of a change that was abandoned is not given again: what clients know of it must not come back.
        given = self._family.key("generation", encoder_id)
        generation = int(await self._link.execute("INCR", given))
        if generation <= rules.schema.generation:
            generation = rules.schema.generation + 1
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
        job, rules = await self._under_way(encoder_id), await self._indexes.rules(self._family, encoder_id)
        if rules is None and job is None:
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
        if job is not None and job.target.encoder_id == successor_id:
            job = replace(job, target=target.schema)  # Changed since, perhaps, which is no matter of this job.
            await self._notes.step(job, None)
            return job
        if job is not None or rules is None:
            return None if job is None else taken_up(job, target.schema)
        return await self._announce(ReindexJob(rules.schema, target.schema), Shadow(successor=successor_id))

    async def _under_way(self, encoder_id: str) -> ReindexJob | None:
        """As `job`; one that was given up is first taken away to its end."""
        job = await self.job(encoder_id)
        if job is not None and job.phase == "abandoned":
            await self.abandon(encoder_id)
            return None
        return job

    async def _announce(self, job: ReindexJob, shadow: Shadow) -> ReindexJob:
        """Let writers know, in the step in which the change begins."""
        await self._notes.step(job, job.source, [*self._rule_commands(job.source.encoder_id, shadow)], begins=True)
        return job

    async def abandon(self, encoder_id: str) -> ReindexJob | None:
        """Give up a change that was not swapped in yet: the index in use stays, what was built beside it goes.

        A successor keeps its index, and what was recorded in that encoder itself.

        Raises
        ------
        ReindexError
            The new index is in use already.
        """
        job = await self.job(encoder_id)
        if job is None:
            return None
        if job.phase not in ("filling", "abandoned"):
            raise ReindexError(
                f"the new index of {encoder_id} is in use already.", remedy="Run it to its end, then change it back."
            )
        given_up = replace(job, phase="abandoned")
        lists = ("DEL", *(self._family.key(part, encoder_id) for part in ("todo", "refused")))
        await self._notes.step(given_up, job.source, [*self._rule_commands(encoder_id, Shadow()), lists])
        if not job.changes_encoder:
            await self._building.drop(job.target)
            await self._clean(replace(job, source=job.target, target=job.source))
            # A writer that was told late may have begun an index of it meanwhile.
            await self._building.drop(job.target)
        elif (successor := await self._indexes.rules(self._family, job.target.encoder_id)) is not None:
            for schema in successor.schemas:
                await self._clean(replace(job, source=schema, target=job.source))
        await self._notes.step(given_up, None, ends=True)
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
                await self._notes.step(job, job.source)
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
            await work.settle(todo, keys)
        job = counted(job, tally)
        await self._notes.step(job, None)
        return job

    async def _open_pairs(self, job: ReindexJob, keys: list[bytes]) -> None:
        if job.target.partitioned:
            places = (self._family.keys.parse_episodic(key) for key in keys)
            pairs = {(place.agent_id, place.product_id) for place in places}
            known = self._indexes.partitions.listed(job.target)
            # Vectors of its own are written after the index was made; those that are there are looked for.
            if new := sorted(pairs - known):
                await self._indexes.partitions.create(job.target, new, holds_all_from_now_on=job.own_vectors)
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
        check_phase(job, "filling", "there is nothing to swap in")
        swapped = replace(job, phase="swapped")
        old = job.source.encoder_id
        if job.changes_encoder:
            assert encode is not None
            commands = await self._indexes.commands_to_make_current(job.target.encoder_id)
            if self._family.name != "episodic" or await self._indexes.current_encoder() != old:
                commands = []
            while not await self._notes.step(swapped, None, commands, only_where_drained=True):
                job = await self.drain(job, encode)
                swapped = replace(job, phase="swapped")
            return swapped
        commands = [
            ("SET", self._family.key("schema", old), encode_schema(job.target)),
            *self._rule_commands(old, Shadow(schema=job.source)),
        ]
        if await self._indexes.current_encoder() == old:
            commands.append(("FT.ALIASUPDATE", self._family.alias, job.target.name))
        await self._notes.step(swapped, job.source, commands)
        return swapped

    async def refused(self, encoder_id: str) -> dict[str, str]:
        """Keys of the records that could not be encoded anew, with the reason."""
        found = await self._link.execute("HGETALL", self._family.key("refused", encoder_id))
        return {key.decode(): reason.decode() for key, reason in found.items()}

    async def waiting(self, encoder_id: str) -> int:
        """Number of records that were stored in an old encoder since, and wait to be encoded anew."""
        return int(await self._link.execute("SCARD", self._family.key("todo", encoder_id)))

    # --- removing the old ------------------------------------------------------------------------------------

    async def retire(self, job: ReindexJob, encode: Encode | None = None) -> ReindexJob:
        """Drop the old index and release writers from keeping it up. Its records stay.

        Where the encoder changes, what was recorded in the old one until then is encoded first.

        Raises
        ------
        ReindexError
            The new index is not in use yet, or some records could not be encoded.
        """
        if job.phase == "retired":
            return job
        check_phase(job, "swapped", "the old index is still asked")
        if job.changes_encoder:
            return await self._retire_encoder(job, encode)
        await self._notes.step(job, None)  # A run that was overtaken must drop nothing.
        # Readers that find it gone ask the new one; writers keep its vectors up until they are told otherwise.
        await self._building.drop(job.source)
        retired = after_retiring(job)
        await self._notes.step(retired, None, self._rule_commands(job.source.encoder_id, Shadow()))
        return retired

    async def _retire_encoder(self, job: ReindexJob, encode: Encode | None) -> ReindexJob:
        """As `retire`, in one step that finds nothing left to encode: nothing is stored that no index holds."""
        old = job.source.encoder_id
        while True:
            if left := len(await self.refused(old)):
                raise ReindexError(
                    f"{left} experiences could not be encoded in {job.target.encoder_id}: without the index of {old} "
                    "they could not be found any more.",
                    remedy=f"Keep the old index, or forget them; {self._family.key('refused', old)} lists them.",
                )
            commands: list[Command] = [
                *self._rule_commands(old, Shadow()),
                ("DEL", *(self._family.key(part, old) for part in ("schema", "todo"))),
                *(("FT.DROPINDEX", name) for name in await self._building.present(job.source)),
                ("DEL", self._family.pairs_key(job.source)),
            ]
            retired = after_retiring(job)
            if await self._notes.step(retired, None, commands, only_where_drained=True):
                return retired
            assert encode is not None
            job = await self.drain(job, encode)

    async def clean(self, job: ReindexJob) -> None:
        """Take away the old vectors, and what a writer that was told late may have left of the old index; the end.

        Raises
        ------
        ReindexError
            The old index was not dropped yet.
        """
        check_phase(job, "retired", "the old vectors are still in use")
        await self._notes.step(job, None)
        old = job.source.encoder_id
        # A client that goes on with an old encoder has begun an index of it anew, which is its own.
        if not job.changes_encoder or await self._indexes.rules(self._family, old) is None:
            await self._building.drop(job.source)
        await self._clean(job)
        await self._notes.step(job, None, [("DEL", self._family.key("refused", old))], ends=True)

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
