"""The shared memory pool: what one agent lived through and all can learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from memory.asof import bounded, check_time, replayed_present
from memory.errors import InvalidQueryError
from memory.records import EpisodicMemory, Vector, to_ms
from memory.retrieval.arguments import check_flag
from memory.retrieval.context import QuestionContext
from memory.retrieval.experiences import ExperienceSearch
from memory.retrieval.hits import Hit
from memory.retrieval.query import check_bounds, check_top_k
from memory.store.codec import ms_rounded_up
from memory.store.recording import StoreReport
from memory.store.removal import ForgetReport
from memory.store.shared import SharedStore


class ShareStatus(StrEnum):
    """What became of an experience that was offered to the pool."""

    SHARED = "shared"
    DUPLICATE = "duplicate"
    BELOW_QUALITY = "below quality"
    UNSCORED = "unscored"


@dataclass(frozen=True, slots=True)
class ShareOutcome:
    """What became of one experience that was offered to the pool, and why.

    Attributes
    ----------
    memory_id
        Its id.
    status
        ``shared``: it is new there. ``duplicate``: it was there. ``below quality``, ``unscored``: it was left out.
    quality, min_quality
        Its quality, None where it has none, and the quality that is asked for.
    """

    memory_id: str
    status: ShareStatus
    quality: float | None
    min_quality: float

    @property
    def shared(self) -> bool:
        """Whether it is in the pool."""
        return self.status in (ShareStatus.SHARED, ShareStatus.DUPLICATE)


class SharedMemoryPool:
    """The experiences that agents share with one another.

    Only those of at least COINSWARM_SHARED_MIN_QUALITY (0.7) enter, and none is returned more than
    COINSWARM_SHARED_RETENTION_DAYS (30) after its decision. Both are counted as of the time that is asked about, never
    by the clock of the machine; of questions without a time, only for live experiences is there one: now.

    Parameters
    ----------
    store
        Where they lie.
    context
        What questions are answered with; a lock to a time lies in it.
    """

    def __init__(self, store: SharedStore, context: QuestionContext) -> None:
        self._store = store
        self._context = context
        self._search = ExperienceSearch(context, store.collection)

    def at(self, as_of: datetime) -> SharedMemoryPool:
        """The same pool, for reading, locked to what had been shared at a time."""
        return SharedMemoryPool(self._store, self._context.at(as_of))

    # --- sharing ---------------------------------------------------------------------------------------------

    async def add_shared_experience(
        self, experience: EpisodicMemory, quality: float | None = None, *, shared_at: datetime | None = None
    ) -> ShareOutcome:
        """Share one experience where its quality suffices; sharing it again is a no-op. About 0.4 ms.

        Parameters
        ----------
        experience
            As it was recorded, next state and return included: the same without them is other content. Whose it is
            stays with it, and so does its next state; it need not be recorded itself.
        quality
            0 to 1; by default the experience's own.
        shared_at
            As `add_shared_experiences`.

        Raises
        ------
        InvalidRecordError
            It is malformed. It is in the dead letters with the reason.
        ConflictingRecordError
            Other content is shared under its id. It is in the dead letters.
        InvalidQueryError
            This pool is locked to a time, or `shared_at` is no aware time.
        StoreUnavailableError
            Redis cannot be reached. Sharing it again stores nothing twice.
        """
        offered = experience
        if quality is not None and isinstance(experience, EpisodicMemory):
            offered = replace(experience, quality=quality)
        report = await self.add_shared_experiences([offered], shared_at=shared_at)
        if report.rejections:
            raise report.rejections[0].error
        for ids, status in (
            (report.stored, ShareStatus.SHARED),
            (report.duplicates, ShareStatus.DUPLICATE),
            (report.below_quality, ShareStatus.BELOW_QUALITY),
        ):
            if ids:
                return ShareOutcome(ids[0], status, offered.quality, self._store.min_quality)
        return ShareOutcome(report.unscored[0], ShareStatus.UNSCORED, None, self._store.min_quality)

    async def add_shared_experiences(
        self, experiences: Sequence[EpisodicMemory], *, shared_at: datetime | None = None
    ) -> StoreReport:
        """Share the good ones of a batch whose quality suffices, and say what became of each; 0.1 ms a record.

        Those below the threshold, and those without a quality, are left out and reported as `below_quality` and
        `unscored`: that is no error.

        Parameters
        ----------
        experiences
            In any order.
        shared_at
            When replayed experiences are shared, in the replay's time; they are in the pool from then on, or from
            their own `known_at` where that is later. By default the present of the replay around this call
            (`memory.asof.replaying`), and their own `known_at` outside one. Live ones are shared when they arrive.

        Raises
        ------
        InvalidQueryError, StoreUnavailableError
            As `add_shared_experience`.
        """
        locked_to = self._context.locked_to
        if locked_to is not None:
            raise InvalidQueryError(
                f"this pool is locked to {locked_to.isoformat()}: nothing can be added to the past.",
                remedy="Share through mem.shared, with shared_at where a replay tells the time.",
                argument="experiences",
            )
        present = replayed_present()
        shared_at = present if shared_at is None else check_time(shared_at, "shared_at")
        if present is not None and shared_at is not None and shared_at < present:
            raise InvalidQueryError(
                f"shared_at {shared_at.isoformat()} lies before {present.isoformat()}, the present of the replay.",
                remedy="Share as of the present of the replay: what is shared now was not there before.",
                argument="shared_at",
            )
        return await self._store.add_many(experiences, shared_at=shared_at)

    # --- asking ----------------------------------------------------------------------------------------------

    async def retrieve_shared_experiences(
        self,
        state_vector: Vector,
        product_id: str | None = None,
        regime: str | None = None,
        market_phase: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime | None = None,
        exclude_agent_id: str | None = None,
        min_reward: float | None = None,
        min_quality: float | None = None,
        top_k: int = 10,
        *,
        agent_id: str | None = None,
        with_next_state: bool = False,
    ) -> list[Hit]:
        """The shared experiences whose state was most like this one, best first.

        Filters are exact: fewer than `top_k` come back only where fewer exist. `known_at` of what comes back is when it
        was in the pool.

        Parameters
        ----------
        state_vector
            float32, of length 1 and the encoder's dimension.
        product_id, regime, market_phase
            Only those of this product, regime, third of the day.
        since, until
            Only those decided in [since, until).
        as_of
            Only what was in the pool then, and no `cumulative_return` that was known later.
        exclude_agent_id
            None of this agent: what the others know.
        min_reward, min_quality
            Only those with at least this reward (a fraction of notional), this quality (0 to 1).
        top_k
            Results wanted, at most COINSWARM_MAX_TOP_K.
        agent_id
            Only those of this agent.
        with_next_state
            Fill in `next_state_vector`; no further round trip.

        Raises
        ------
        InvalidQueryError
            An argument cannot be answered; it is named, and nothing was sent.
        EncoderError
            The encoder was fitted on data later than `as_of`.
        StoreUnavailableError
            No whole answer within the deadline.
        """
        as_of = self._context.bounded(as_of)
        bounds = check_bounds(
            agent_id=agent_id,
            product_id=product_id,
            regime=regime,
            market_phase=market_phase,
            since=since,
            until=until,
            as_of=as_of,
            exclude_agent_id=exclude_agent_id,
            min_reward=min_reward,
            min_quality=min_quality,
        )
        top_k = check_top_k(top_k, self._context.max_top_k)
        with_next_state = check_flag(with_next_state, "with_next_state")
        if as_of is None:
            bounds = replace(bounds, live_since_ms=to_ms(datetime.now(UTC) - self._store.retention))
        else:
            oldest_ms = ms_rounded_up(as_of) - self._store.retention // timedelta(milliseconds=1)
            since_ms = oldest_ms if bounds.since_ms is None else max(oldest_ms, bounds.since_ms)
            bounds = replace(bounds, since_ms=since_ms)
        return await self._search.nearest(state_vector, bounds, as_of, top_k, with_next_state=with_next_state)

    async def count(
        self, *, agent_id: str | None = None, product_id: str | None = None, as_of: datetime | None = None
    ) -> int:
        """Number of experiences in the pool, of all encoders, those past their time but not yet pruned included."""
        return await self._store.count(
            agent_id=agent_id, product_id=product_id, as_of=bounded(as_of, self._context.locked_to)
        )

    # --- removing --------------------------------------------------------------------------------------------

    async def forget(self, *, until: datetime, token: int | None = None, dry_run: bool = False) -> ForgetReport:
        """Remove what is past its time at `until` (a window's end); the dry run is the same without the last step.

        Raises
        ------
        FencedOutError
            A newer run than that of `token` has written.
        """
        before = check_time(until, "until") - self._store.retention
        return await self._store.forget(before=before, token=token, dry_run=dry_run)
