"""A change of index that is under way: what it leads from and to, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from memory.errors import ReindexError
from memory.store.layout import IndexSchema
from memory.store.revectoring import Tally

Phase = Literal["filling", "swapped", "retired"]


@dataclass(frozen=True, slots=True)
class ReindexJob:
    """A change of index that is under way; kept in Redis until it is done.

    Attributes
    ----------
    source, target
        The index in use when it began, and the one in its place.
    phase
        The last step that is done.
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


def counted(job: ReindexJob, tally: Tally) -> ReindexJob:
    """The job with what was counted so far."""
    return replace(
        job,
        looked_at=tally.looked_at,
        converted=tally.converted,
        next_states_lost=tally.next_states_lost,
        refused=dict(tally.refused),
    )


def taken_up(job: ReindexJob, planned: IndexSchema) -> ReindexJob:
    """The job that is under way, where it leads to what is planned; ReindexError where it leads elsewhere."""
    if job.target.encoder_id == planned.encoder_id and job.target.same_choices(planned):
        return job
    raise ReindexError(
        f"the index of {job.source.encoder_id} is being changed to {job.target.describe()} of encoder "
        f"{job.target.encoder_id} already.",
        remedy="Run reindex_memory with those choices to its end, or abandon that change (abandon=true).",
    )


def text_of(job: ReindexJob) -> str:
    """A line about a job for a person."""
    if job.changes_encoder:
        return f"{job.source.encoder_id} to {job.target.encoder_id}"
    return f"{job.source.describe()} to {job.target.describe()}"
