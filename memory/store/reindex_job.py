"""A change of index that is under way: what it leads from and to, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import msgspec

from memory.errors import ReindexError
from memory.store.fence import Fence
from memory.store.layout import Family, IndexSchema
from memory.store.link import Command, Read, RedisLink
from memory.store.revectoring import Tally
from memory.typed import json_as

Phase = Literal["filling", "swapped", "retired", "abandoned"]
_FOLLOWING: dict[Phase, frozenset[Phase]] = {
    "filling": frozenset(("filling", "swapped", "abandoned")),
    "swapped": frozenset(("swapped", "retired")),
    "retired": frozenset(("retired",)),
    "abandoned": frozenset(("abandoned",)),
}
"""Phases that a change may be noted in, by the one that it is noted in."""


@dataclass(frozen=True, slots=True)
class ReindexJob:
    """A change of index that is under way; kept in Redis until it is done.

    Attributes
    ----------
    source, target
        The index in use when it began, and the one in its place.
    phase
        The last step that is done; ``abandoned`` while what was built is taken away again.
    cursor, life
        How far the pass over all keys has come, and in which life of the server: in another one it begins again.
    looked_at, converted, next_states_lost, refused
        What the pass has found so far; see `Tally`.
    """

    source: IndexSchema
    target: IndexSchema
    phase: Phase = "filling"
    cursor: str = "0"
    life: str = ""
    complete: bool = False
    looked_at: int = 0
    converted: int = 0
    next_states_lost: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def changes_encoder(self) -> bool:
        """Whether the records are encoded anew."""
        return self.source.encoder_id != self.target.encoder_id

    @property
    def own_vectors(self) -> bool:
        """Whether the new index needs vectors of its own."""
        return self.source.vector_field != self.target.vector_field

    def same_change(self, other: ReindexJob) -> bool:
        """Whether the other is this change, however far either has come."""
        if self.source.name != other.source.name or self.target.encoder_id != other.target.encoder_id:
            return False
        # A successor's index may be changed itself while records are encoded for it.
        return self.changes_encoder or self.target.name == other.target.name


class JobNotes:
    """Where it is noted how far changes of index have come; of one family, for one run.

    Parameters
    ----------
    token
        Fencing token of the run: one that was overtaken notes nothing more.
    """

    def __init__(self, link: RedisLink, family: Family, fence: Fence, token: int | None) -> None:
        self._link = link
        self._family = family
        self._fence = fence
        self._token = token

    async def read(self, encoder_id: str) -> ReindexJob | None:
        """As `read_job`."""
        return await read_job(self._link, self._family, encoder_id)

    async def step(
        self,
        job: ReindexJob,
        in_use: IndexSchema | None,
        commands: Sequence[Command] = (),
        *,
        begins: bool = False,
        ends: bool = False,
        only_where_drained: bool = False,
    ) -> bool:
        """Note how far a job is and run commands, in one step and only while the run holds the namespace.

        Where that very step is noted already, nothing is run: it was done, and the answer to it was lost.

        Parameters
        ----------
        in_use
            Schema that must be the one in use still; any where None.
        begins, ends
            Whether no job may be noted yet; whether none is to be noted any more.
        only_where_drained
            Do nothing, and return False, where records wait to be encoded anew.

        Raises
        ------
        ReindexError, FencedOutError
            Another run was there.
        """
        family, owner = self._family, job.source.encoder_id
        schema_key, job_key, todo_key = (family.key(part, owner) for part in ("schema", "job", "todo"))
        watched = [family.keys.fence, job_key, schema_key, *([todo_key] if only_where_drained else [])]

        async def prepare(read: Read) -> tuple[list[Command], bool]:
            if self._token is not None:
                await self._fence.check(read, self._token)
            packed = await read("GET", job_key)
            noted = None if packed is None else json_as(ReindexJob, packed)
            done = noted is None if ends else noted == job
            if done:
                return [], True
            check_follows(job, noted, begins=begins)
            if in_use is not None:
                packed = await read("GET", schema_key)
                if packed is None or json_as(IndexSchema, packed).name != in_use.name:
                    raise ReindexError(
                        f"the index {in_use.name} is not the one in use any more.",
                        remedy="Another run changed it: look at its result, and start again where it is still needed.",
                    )
            if only_where_drained and int(await read("SCARD", todo_key)):
                return [], False
            note: Command = ("DEL", job_key) if ends else ("SET", job_key, msgspec.json.encode(asdict(job)))
            return [note, *commands], True

        return await self._link.transaction(watched, prepare)


async def read_job(link: RedisLink, family: Family, encoder_id: str) -> ReindexJob | None:
    """The change of an encoder's index that is under way; None where there is none."""
    packed = await link.execute("GET", family.key("job", encoder_id))
    return None if packed is None else json_as(ReindexJob, packed)


def counted(job: ReindexJob, tally: Tally) -> ReindexJob:
    """The job with what was counted so far."""
    return replace(
        job,
        looked_at=tally.looked_at,
        converted=tally.converted,
        next_states_lost=tally.next_states_lost,
        refused=dict(tally.refused),
    )


def after_retiring(job: ReindexJob) -> ReindexJob:
    """The job once its old index was dropped; what cleans up begins from the first key."""
    return replace(job, phase="retired", cursor="0", complete=False)


def taken_up(job: ReindexJob, planned: IndexSchema) -> ReindexJob:
    """The job that is under way, where it leads to what is planned; ReindexError where it leads elsewhere."""
    if job.target.encoder_id == planned.encoder_id and job.target.same_choices(planned):
        return job
    raise ReindexError(
        f"the index of {job.source.encoder_id} is being changed to {job.target.describe()} of encoder "
        f"{job.target.encoder_id} already.",
        remedy="Run reindex_memory with those choices to its end, or abandon that change (abandon=true).",
    )


def check_follows(job: ReindexJob, noted: ReindexJob | None, *, begins: bool) -> None:
    """See that a job goes on from what is noted, or begins where nothing is.

    Raises
    ------
    ReindexError
        Another run ended it, went further with it, or began another change.
    """
    if noted is None and begins:
        return
    if noted is not None and not begins and noted.same_change(job) and job.phase in _FOLLOWING[noted.phase]:
        return
    instead = "ended" if noted is None else f"at {noted.phase}: {text_of(noted)}"
    raise ReindexError(
        f"the change of the index of {job.source.encoder_id} ({text_of(job)}, {job.phase}) was overtaken; it is "
        f"{instead}.",
        remedy="Let the other run finish, look at its result, and start again where it is still needed.",
    )


def check_phase(job: ReindexJob, phase: Phase, what: str) -> None:
    """ReindexError where a job is not at the phase after which something may be done."""
    if job.phase != phase:
        raise ReindexError(
            f"the change of the index of {job.source.encoder_id} ({text_of(job)}) is at {job.phase}: {what}.",
            remedy="Run reindex_memory again: it takes up where it was.",
        )


def text_of(job: ReindexJob) -> str:
    """A line about a job for a person."""
    if job.changes_encoder:
        return f"{job.source.encoder_id} to {job.target.encoder_id}"
    return f"{job.source.describe()} to {job.target.describe()}"
