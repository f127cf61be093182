"""An episode as a whole: what it is made of, and the returns that follow from its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError
from memory.records import EpisodicMemory
from memory.validation import validate_timestamp

if TYPE_CHECKING:
    from memory.store.recording import StoreReport


class SeenState(Protocol):
    """What is needed of a state: `agents.replay.State` has it."""

    @property
    def product_id(self) -> str: ...
    @property
    def timestamp(self) -> datetime: ...
    @property
    def features(self) -> dict[str, float]: ...
    @property
    def vector(self) -> npt.NDArray[np.float32]: ...
    @property
    def price(self) -> float: ...
    @property
    def spread(self) -> float | None: ...
    @property
    def regime(self) -> str: ...
    @property
    def regime_confidence(self) -> float: ...


class TakesExperiences(Protocol):
    """Records one experience without waiting: `agents.recorder.ExperienceRecorder` does."""

    def record(self, experience: EpisodicMemory) -> bool: ...


class _Store(Protocol):
    async def add_many(self, experiences: Sequence[EpisodicMemory]) -> StoreReport: ...


class HoldsExperiences(Protocol):
    """Stores experiences: `memory.MemoryConnection` does."""

    @property
    def episodic(self) -> _Store: ...


def with_returns(
    steps: Sequence[EpisodicMemory], completed_at: datetime | None, *, live: bool
) -> tuple[EpisodicMemory, ...]:
    """Copies of an episode's steps with the sum of rewards from each to the end, which is known with the last reward.

    Parameters
    ----------
    steps
        In the order of time.
    completed_at
        When the last reward was known, where its step does not say so.
    live
        Whether that may be now.

    Raises
    ------
    InvalidRecordError
        It is not known when the last reward was known, or it was before another one's.
    """
    if not steps:
        return ()
    last = steps[-1]
    if completed_at is not None:
        known = validate_timestamp(completed_at, "completed_at")
    elif last.known_at is not None:
        known = validate_timestamp(last.known_at, "known_at")
    elif live:
        known = datetime.now(UTC)
    else:
        raise InvalidRecordError(
            "it is not known when the last reward of this episode was known.",
            remedy="Pass completed_at, or known_at or next_state with the last step.",
            field="completed_at",
        )
    latest = max([last.timestamp, *(step.known_at for step in steps if step.known_at is not None)])
    if known < latest:
        raise InvalidRecordError(
            f"completed_at {known.isoformat()} lies before {latest.isoformat()}, when a reward was known.",
            remedy="An episode is complete when its last reward is known.",
            field="completed_at",
        )
    records: list[EpisodicMemory] = []
    total = 0.0
    for step in reversed(steps):
        total = step.reward + total
        records.append(
            replace(
                step,
                terminal=step is last,
                cumulative_return=total,
                return_known_at=known,
                known_at=known if step is last and step.known_at is None else step.known_at,
            )
        )
    records.reverse()
    return tuple(records)
