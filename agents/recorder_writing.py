"""Writing batches of what an agent lived through: experiences where they belong, the traces of decisions beside them.

Nothing here waits or tries again: what a caller does about a Redis that is away is its own affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from memory.connection import MemoryConnection
from memory.decisions import DecisionTrace
from memory.errors import AccessDeniedError, InvalidRecordError
from memory.records import EpisodicMemory
from memory.store.dead_letters import Refusal
from memory.store.raw import pack_raw
from memory.validation import validate_identifier

Destination = Literal["inbox", "episodic"]
Experience = EpisodicMemory | Mapping[str, Any]

ORIGIN = "recorder"
"""Where the dead letters of recorders come from."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the experiences of a batch: new ones, known ones, and those in the dead letters."""

    written: int = 0
    duplicates: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class TracesWritten:
    """How many traces of a batch are stored now, and how many are not, by reason."""

    stored: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class BatchWriter:
    """Writes batches into a memory; writing the same batch again stores nothing twice.

    Parameters
    ----------
    mem
        An open memory.
    destination
        ``inbox`` or ``episodic``, as `agents.recorder.ExperienceRecorder` says.
    """

    def __init__(self, mem: MemoryConnection, destination: Destination) -> None:
        self._mem = mem
        self._destination: Destination = destination

    async def experiences(self, experiences: Sequence[Experience]) -> Written:
        """Write experiences; those that cannot even be written down go to the dead letters.

        Raises
        ------
        StoreUnavailableError
            Redis cannot be reached. A part may be written.
        ServerUnsuitableError
            Redis refuses it: the user lacks a right, or it has no room.
        """
        good: list[Experience] = []
        refused: list[Refusal] = []
        for item in experiences:
            try:
                _check(item, self._destination)
            except InvalidRecordError as error:
                refused.append(Refusal(item, str(error), error.field))
            else:
                good.append(item)
        if refused:
            await self._mem.dead_letters.add(refused, origin=ORIGIN)
        if self._destination == "inbox":
            await self._mem.inbox.append_many(good)
            return Written(len(good), 0, len(refused))
        report = await self._mem.episodic.add_many([item for item in good if isinstance(item, EpisodicMemory)])
        return Written(len(report.stored), len(report.duplicates), len(report.rejections) + len(refused))

    async def traces(self, traces: Sequence[DecisionTrace]) -> TracesWritten:
        """Store traces, as far as that is possible: an experience does not wait for the trace of its decision.

        Raises
        ------
        StoreUnavailableError
            Redis cannot be reached. A part may be stored.
        """
        if not traces:
            return TracesWritten()
        try:
            report = await self._mem.decisions.add_many(traces)
        except AccessDeniedError as error:
            # A right that the user lacks does not come back by waiting, as a server does.
            return TracesWritten(0, Counter({str(error): len(traces)}))
        reasons = Counter(str(rejection.error) for rejection in report.rejections)
        return TracesWritten(len(report.stored) + len(report.duplicates), reasons)

    async def set_aside(self, experiences: Sequence[Experience], reason: str) -> None:
        """Put experiences into the dead letters; errors as `experiences`."""
        letters = (Refusal(item, reason, "experience") for item in experiences)
        await self._mem.dead_letters.add(letters, origin=ORIGIN)


def _check(experience: Experience, destination: Destination) -> None:
    """InvalidRecordError where it cannot even be written down: a batch is taken whole or not at all."""
    if isinstance(experience, EpisodicMemory):
        if destination == "inbox":
            validate_identifier(experience.agent_id, "agent_id")
            pack_raw(experience)
        return
    if destination == "episodic" or not isinstance(experience, Mapping):
        raise InvalidRecordError(
            f"{type(experience).__name__} is no EpisodicMemory.",
            remedy="Record EpisodicMemory, or fields of one by name into the inbox.",
            field="experience",
        )
    pack_raw(experience)
    validate_identifier(experience.get("agent_id"), "agent_id")
