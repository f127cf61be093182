"""What the near cache knows of each agent, and what it says of itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from memory.retrieval.near.rows import AgentRows
from memory.store.indexes import IndexSchema

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NearCacheState:
    """What the near cache holds and does.

    Attributes
    ----------
    agents, rows, bytes
        Agents that are held whole, their experiences, and the memory that all of it takes.
    budget_bytes
        How much it may take; 0 where the cache is switched off.
    hits, misses
        Questions answered here, and left to the server.
    loading
        Agents that are being loaded, or wait for it.
    reason
        Why nothing is answered here at present; None where that is not so.
    problems
        By agent, why it is not held although it is asked about.
    """

    agents: int
    rows: int
    bytes: int
    budget_bytes: int
    hits: int
    misses: int
    loading: int
    reason: str | None
    problems: dict[str, str]


@dataclass(slots=True, eq=False)
class Space:
    """One agent in one encoder.

    Attributes
    ----------
    agent_id, schema
        Which agent, and the index that its questions are asked in.
    asked, last_asked
        Questions since it was last dropped for want of room; when the last one came (`time.monotonic`).
    rows
        Its experiences; None while the server answers.
    changed, fetching
        Keys to read again, and those that are being read.
    meanwhile
        Keys that change during a load; None while there is none.
    not_before
        No load before that time (`time.monotonic`).
    problem
        Why it is not held; None where nothing is wrong.
    refresh
        Reads what has changed, while there is such.
    """

    agent_id: str
    schema: IndexSchema
    asked: int = 0
    last_asked: float = 0.0
    rows: AgentRows | None = None
    changed: set[bytes] = field(default_factory=set)
    fetching: bool = False
    meanwhile: set[bytes] | None = None
    not_before: float = 0.0
    problem: str | None = None
    refresh: asyncio.Task[None] | None = None

    @property
    def current(self) -> bool:
        """Whether nothing is known to have changed since it was read."""
        return not self.changed and not self.fetching

    def drop(self) -> None:
        """Hold nothing any more."""
        self.rows = None
        self.changed.clear()

    def note(self, problem: str) -> None:
        """Remember why it is not held, and log it where there was no problem before."""
        if self.problem is None:
            _log.warning("The near cache does not hold agent %s: %s", self.agent_id, problem)
        self.problem = problem


class Spaces:
    """All agents that were asked about, and the memory that they may take together.

    Parameters
    ----------
    budget_bytes
        How much that is.
    idle_s
        An agent gives way to another that is to be loaded only after not being asked about for so long: two that do
        not fit together would otherwise push each other out for ever.
    """

    def __init__(self, budget_bytes: int, idle_s: float) -> None:
        self._budget = budget_bytes
        self._idle_s = idle_s
        self._by_agent: dict[bytes, list[Space]] = {}

    def __iter__(self) -> Iterator[Space]:
        return (space for spaces in self._by_agent.values() for space in spaces)

    def of(self, agent: bytes) -> Sequence[Space]:
        """Spaces of an agent, by the bytes of its id."""
        return self._by_agent.get(agent, ())

    def find(self, agent_id: str, schema: IndexSchema) -> Space:
        """The space of an agent and schema; a new one where there is none."""
        agent = agent_id.encode()
        for space in self._by_agent.get(agent, ()):
            if space.schema is schema or space.schema == schema:
                return space
        space = Space(agent_id, schema)
        self._by_agent.setdefault(agent, []).append(space)
        return space

    def discard(self, space: Space) -> None:
        """Forget an agent in one encoder."""
        space.drop()
        held = self._by_agent.get(space.agent_id.encode(), [])
        if space in held:
            held.remove(space)

    def clear(self) -> None:
        """Forget all agents."""
        for space in self:
            space.drop()
        self._by_agent.clear()

    @property
    def nbytes(self) -> int:
        """Memory that all rows take."""
        return sum(space.rows.nbytes for space in self if space.rows is not None)

    def fit(self) -> None:
        """Let the agents go that were not asked about for longest, until the budget is kept."""
        self._shed(0, self._by_last_asked())

    def make_room(self, wanted: Space, needed: int, now: float) -> bool:
        """Let idle agents go until there is room for one more; whether there is."""
        idle = [
            space for space in self._by_last_asked() if space is not wanted and now - space.last_asked >= self._idle_s
        ]
        if self.nbytes + needed - sum(space.rows.nbytes for space in idle if space.rows is not None) > self._budget:
            return False
        self._shed(needed, idle)
        return True

    def _by_last_asked(self) -> list[Space]:
        return sorted((space for space in self if space.rows is not None), key=lambda space: space.last_asked)

    def _shed(self, needed: int, candidates: list[Space]) -> None:
        taken = self.nbytes
        for space in candidates:
            if taken + needed <= self._budget:
                return
            if space.rows is not None:
                taken -= space.rows.nbytes
            space.drop()
            space.asked = 0
