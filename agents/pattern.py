"""Which patterns the market is in: matches each state to what was learned, and tells when a pattern begins or ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import memory
from agents.connecting import Feed, check_encoder, each_state
from agents.replay import State
from agents.telling import Teller
from memory import MemoryConnection
from memory.messages import EVERYBODY, AgentMemoryMessage, MessageType
from memory.records import PatternMemory
from memory.retrieval.hits import PatternHit
from memory.validation import validate_identifier, validate_number
from memory.working import WorkingMemory

TOP_K = 5
"""Patterns that a state may be in at once."""
LEAVE_AFTER = timedelta(minutes=5)
"""A pattern that no state was in for so long is left: single minutes outside are no end."""
LEAST_IMPORTANCE = 0.1
"""Importance of a pattern's end, and of a beginning about which nothing is certain."""
OUTSIDE_AT_REACH = 0.1
"""Share of a pattern's states that lie beyond its reach, by the definition of the reach."""


@dataclass(frozen=True, slots=True)
class ActivePattern:
    """A pattern that a state is in.

    Attributes
    ----------
    pattern_id
        The pattern.
    memory
        The version of it that was valid at the time.
    distance
        Cosine distance of the state to the pattern's place.
    confidence
        How sure the match is, 0 to 1; see `match_confidence`.
    """

    pattern_id: str
    memory: PatternMemory
    distance: float
    confidence: float


def match_confidence(distance: float, reach: float) -> float:
    """How sure it is that a state at a distance is of a pattern with a reach: 1 at its place, 0.1 at its reach.

    The share of the pattern's own states that lie at least as far away, were that share to fall off exponentially with
    the cosine distance (half the squared angle, so as around the middle of a normal distribution in two dimensions). At
    the reach it is one in ten by the definition of the reach.
    """
    if reach <= 0.0:
        return 1.0 if distance <= 0.0 else 0.0
    return float(OUTSIDE_AT_REACH ** (max(distance, 0.0) / reach))


def importance_of(match: ActivePattern) -> float:
    """How much a beginning matters: confidence in the match times confidence that the pattern differs from its regime.

    The latter is 1 less the smallest q-value of its outcomes; at least `LEAST_IMPORTANCE`.
    """
    q_values = [outcome.q_value for outcome in match.memory.outcomes if outcome.q_value is not None]
    return max(LEAST_IMPORTANCE, match.confidence * (1.0 - min(q_values, default=1.0)))


@dataclass(slots=True)
class _Spell:
    match: ActivePattern
    since: datetime
    last: datetime


class PatternAgent:
    """Matches states to patterns, as of each state's own time, and broadcasts where one begins or ends.

    Parameters
    ----------
    mem
        An open memory.
    agent_id
        Who tells of it.
    encoder_id
        Encoder of the states; where given, a memory of another one is refused.
    top_k
        Patterns that a state may be in at once.
    min_similarity
        Least cosine with a pattern's place, whatever its reach; by default COINSWARM_PATTERN_SIMILARITY.
    leave_after
        How long no state must have been in a pattern before it has ended.
    broadcast
        Whether PATTERN messages are sent.
    source, run_id
        What messages belong to: live, or a replay's own run.
    """

    def __init__(
        self,
        mem: MemoryConnection,
        *,
        agent_id: str = "pattern",
        encoder_id: str | None = None,
        top_k: int = TOP_K,
        min_similarity: float | None = None,
        leave_after: timedelta = LEAVE_AFTER,
        broadcast: bool = True,
        source: str = "live",
        run_id: str = "live",
    ) -> None:
        self.agent_id = validate_identifier(agent_id, "agent_id")
        self._mem = mem
        self._encoder_id = encoder_id
        self._top_k = top_k
        least = mem.settings.pattern_similarity if min_similarity is None else min_similarity
        self._min_similarity = validate_number(least, "min_similarity", -1.0, 1.0)
        self._leave_after = leave_after
        self._broadcast = broadcast
        self._source, self._run_id = source, run_id
        self._spells: dict[str, dict[str, _Spell]] = {}
        self._checked = encoder_id is None
        self._teller = Teller(mem)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, redis_url: str | None = None, *, agent_id: str = "pattern", namespace: str | None = None
    ) -> AsyncIterator[PatternAgent]:
        """An agent with a memory of its own: ``async with PatternAgent.connect(url) as agent``."""
        async with memory.connect(redis_url=redis_url, namespace=namespace) as mem:
            yield cls(mem, agent_id=agent_id)

    # --- matching --------------------------------------------------------------------------------------------

    async def match(self, state: State, as_of: datetime | None = None) -> tuple[ActivePattern, ...]:
        """The patterns that a state is in, surest first; those alone count as accessed. About 0.3 ms.

        A state is in a pattern where it lies within the pattern's reach, and its cosine is at least `min_similarity`.

        Parameters
        ----------
        state
            A state of the memory's encoder.
        as_of
            Only what was known then; by default the state's own time.

        Raises
        ------
        EncoderError
            The memory's vectors are another encoder's, or it was fitted on later data.
        InvalidQueryError
            `as_of` lies after the present of a replay, or the vector is none (NaN, not of length 1).
        PastExpiredError
            What was known then has left Redis.
        StoreUnavailableError
            No whole answer within the deadline.
        """
        if not self._checked and self._encoder_id is not None:
            self._checked = await check_encoder(self._mem, self._encoder_id)
        hits = await self._mem.retrieval.retrieve_patterns(
            state.vector, as_of=state.timestamp if as_of is None else as_of, top_k=self._top_k, post_filter=self._within
        )
        found = [
            ActivePattern(
                hit.memory.pattern_id, hit.memory, hit.distance, match_confidence(hit.distance, hit.memory.reach)
            )
            for hit in hits
        ]
        return tuple(sorted(found, key=lambda match: (-match.confidence, match.pattern_id)))

    def _within(self, hits: list[PatternHit]) -> list[PatternHit]:
        return [hit for hit in hits if hit.distance <= hit.memory.reach and hit.score >= self._min_similarity]

    async def observe(self, state: State, working: WorkingMemory | None = None) -> tuple[ActivePattern, ...]:
        """Match a state, note in a working memory which patterns are active, and tell of beginnings and ends.

        States of a product come in time order. Errors as `match`; where a message could not be sent, the next state
        tells of it again. One that is dated too far ahead of the server's clock waits (`agents.telling`).
        """
        matches = await self.match(state)
        if working is not None:
            working.activate({match.pattern_id: match.confidence for match in matches})
        spells = dict(self._spells.get(state.product_id, {}))
        messages = []
        for match in matches:
            held = spells.get(match.pattern_id)
            if held is None:
                messages.append(self._message(state, match, None))
            spells[match.pattern_id] = _Spell(match, held.since if held else state.timestamp, state.timestamp)
        for pattern_id, spell in sorted(spells.items()):
            if state.timestamp - spell.last >= self._leave_after:
                messages.append(self._message(state, spell.match, spell))
                del spells[pattern_id]
        if self._broadcast:
            await self._teller.tell(messages, state.timestamp)
        self._spells[state.product_id] = spells
        return matches

    def active(self, product_id: str) -> dict[str, float]:
        """Patterns that a product is in, those that were not seen for a few minutes included, with their
        confidences."""
        return {name: spell.match.confidence for name, spell in sorted(self._spells.get(product_id, {}).items())}

    async def run(self, feed: Feed) -> int:
        """Observe all states of a feed; returns how many there were."""
        return await each_state(feed, self.observe, self.close)

    async def close(self) -> None:
        """Put what it never could send into the dead letters; a feed that was followed to its end does so itself."""
        await self._teller.close()

    # --- telling ---------------------------------------------------------------------------------------------

    def _message(self, state: State, match: ActivePattern, ended: _Spell | None) -> AgentMemoryMessage:
        pattern = match.memory
        happened = "has left" if ended else "has entered"
        return AgentMemoryMessage(
            sender_agent_id=self.agent_id,
            message_type=MessageType.PATTERN,
            insight=f"{state.product_id} {happened} pattern {match.pattern_id}: {pattern.description}"[:2000],
            recipient_agent_ids=(EVERYBODY,),
            memory_id=pattern.memory_id,
            data={
                "product_id": state.product_id,
                "pattern_id": match.pattern_id,
                "entered": ended is None,
                "match_confidence": match.confidence,
                "distance": match.distance,
                "best_action": pattern.best_action,
                "expected_return": pattern.expected_return,
                "pattern_regime": pattern.regime,
                "minutes": (state.timestamp - ended.since).total_seconds() / 60.0 if ended else 0.0,
            },
            importance=LEAST_IMPORTANCE if ended else importance_of(match),
            timestamp=state.timestamp,
            source=self._source,
            run_id=self._run_id,
        )
