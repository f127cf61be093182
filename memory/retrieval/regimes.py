"""Similar regimes: in which regime the remembered states were that a state is most like."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import numpy as np

from memory.records import REGIMES, RegimeMemory, SemanticType, Vector, experience_id, to_ms
from memory.retrieval.context import QuestionContext
from memory.retrieval.hits import Hit
from memory.retrieval.knowledge import choose_regime
from memory.retrieval.ranking import Fetch
from memory.store.codec import unpack_body

OVER_FETCH = 6
"""Experiences fetched for each state wanted: five agents share a state, and one more shows where the next begins."""
KERNEL_OFFSET = 1e-3
"""Added to distances before their inverse is taken: how exactly a stored distance is known (half precision, as vectors
may be kept), so that a state that is remembered as it is does not silence all the others."""


@dataclass(frozen=True, slots=True)
class RegimeState:
    """A remembered state: one product at one time, however many agents acted on it.

    Attributes
    ----------
    product_id, timestamp, source
        Which state.
    regime
        What the market was then.
    distance
        Cosine distance to the state that was asked about.
    weight
        Its share of the vote.
    regime_ahead
        What the market was the asked number of minutes later; None where that was not asked, or is not known.
    """

    product_id: str
    timestamp: datetime
    source: str
    regime: str
    distance: float
    weight: float
    regime_ahead: str | None = None


@dataclass(frozen=True, slots=True)
class RegimeMemoryHit:
    """A REGIME memory, and how near its mean state is: `score` is the cosine, `distance` one less it."""

    memory: RegimeMemory
    distance: float
    score: float


@dataclass(frozen=True, slots=True)
class RegimeHits:
    """Remembered states like one that was asked about, and what their regimes say about its own.

    Attributes
    ----------
    states
        The nearest distinct states, nearest first.
    vote
        Share of each regime among them, highest first, ties in the order of `Regime`: each state votes with the inverse
        of its distance (plus `KERNEL_OFFSET`), and the shares sum to 1. Empty without states.
    memories
        What is known of each regime, nearest first: that of the product, else of all products pooled.
    vote_ahead
        As `vote`, of the regimes that the states were in later, among those of which that is known.
    """

    states: tuple[RegimeState, ...]
    vote: dict[str, float]
    memories: tuple[RegimeMemoryHit, ...]
    vote_ahead: dict[str, float] = field(default_factory=dict)


class RegimeSearch:
    """Finds remembered states and what their regimes are."""

    def __init__(self, context: QuestionContext) -> None:
        self._context = context

    async def nearest(
        self,
        fetch: Fetch[Hit],
        feature_vector: Vector,
        top_k: int,
        product_id: str | None,
        as_of: datetime | None,
        ahead_minutes: int | None = None,
    ) -> RegimeHits:
        """The nearest distinct states among the experiences that `fetch` gives, and the regimes' memories.

        Cost: one search of `OVER_FETCH` times `top_k` experiences, more where more agents share the states, and beside
        it one small round trip for the memories, which are counted as accessed; with `ahead_minutes` a second one.
        """
        found, memories = await asyncio.gather(
            distinct_states(fetch, top_k, self._context.max_top_k),
            self._memories(feature_vector, product_id, as_of),
        )
        ahead = None if ahead_minutes is None else await self._regimes_ahead(found, ahead_minutes, as_of)
        states = _voting(found, ahead)
        return RegimeHits(states, _vote(states), memories, _vote_ahead(states))

    async def _regimes_ahead(self, hits: Sequence[Hit], minutes: int, as_of: datetime | None) -> list[str | None]:
        """Regimes so many minutes after some states, as far as they were known; in order.

        Where an agent decides every minute, the record of that time has a key that can be told beforehand (its step is
        as many further), and finding it there shows that no minute between is missing. Of others it is not known.
        """
        keys = []
        for hit in hits:
            memory = hit.memory
            later = memory.timestamp + timedelta(minutes=minutes)
            memory_id = experience_id(
                memory.source, memory.run_id, memory.agent_id, memory.product_id, later, memory.step + minutes
            )
            keys.append(self._context.keys.episodic(memory.agent_id, memory.product_id, to_ms(later), memory_id))
        answers = await self._context.link.pipeline([("HMGET", key, "body", "known_at") for key in keys])
        known_until = None if as_of is None else to_ms(as_of)
        return [
            None
            if packed is None or (known_until is not None and int(known) > known_until)
            else REGIMES[unpack_body(packed).regime]
            for packed, known in answers
        ]

    async def _memories(
        self, feature_vector: Vector, product_id: str | None, as_of: datetime | None
    ) -> tuple[RegimeMemoryHit, ...]:
        context = self._context
        encoder_id = context.encoder_id or await context.encoder()
        if encoder_id is None:
            return ()
        if as_of is not None:
            await context.encoders.check_as_of(encoder_id, as_of)
        as_of_ms = None if as_of is None else to_ms(as_of)
        known = (await context.semantic.snapshots.known(encoder_id, (SemanticType.REGIME,), as_of_ms))[
            SemanticType.REGIME
        ]
        hits = []
        for regime in REGIMES:
            chosen = choose_regime(known, regime, product_id, None)
            if chosen is not None:
                memory = cast(RegimeMemory, chosen.copy(as_of=as_of is not None))
                cosine = float(np.dot(memory.concept_vector, feature_vector))
                hits.append(RegimeMemoryHit(memory, 1.0 - cosine, cosine))
        hits.sort(key=lambda hit: (hit.distance, hit.memory.memory_id))
        context.access.note([hit.memory.memory_id for hit in hits], as_of or datetime.now(UTC))
        return tuple(hits)


async def distinct_states(fetch: Fetch[Hit], top_k: int, most: int) -> list[Hit]:
    """One hit for each of the `top_k` nearest distinct states, nearest first.

    Experiences of one product, time and source are one state; the one with the first memory id stands for it. What is
    fetched doubles until the next state, too, is in sight: only then is it certain that none as near is missing. At
    `most` experiences it ends.
    """
    size = min(most, (top_k + 1) * OVER_FETCH)
    while True:
        hits = await fetch(size)
        nearest: dict[tuple[str, datetime, str], Hit] = {}
        for hit in sorted(hits, key=lambda hit: (hit.distance, hit.memory.memory_id)):
            nearest.setdefault((hit.memory.product_id, hit.memory.timestamp, hit.memory.source), hit)
        ordered = sorted(nearest.items(), key=lambda item: (item[1].distance, item[0]))
        states = [hit for _, hit in ordered[:top_k]]
        complete = len(hits) < size or size >= most
        if complete or (len(states) == top_k and hits[-1].distance > states[-1].distance):
            return states
        size = min(most, 2 * size)


def _voting(hits: Sequence[Hit], ahead: Sequence[str | None] | None) -> tuple[RegimeState, ...]:
    weights = [1.0 / (max(hit.distance, 0.0) + KERNEL_OFFSET) for hit in hits]
    total = sum(weights)
    return tuple(
        RegimeState(
            product_id=hit.memory.product_id,
            timestamp=hit.memory.timestamp,
            source=hit.memory.source,
            regime=hit.memory.regime,
            distance=hit.distance,
            weight=weight / total,
            regime_ahead=regime_ahead,
        )
        for hit, weight, regime_ahead in zip(hits, weights, ahead or [None] * len(hits), strict=True)
    )


def _vote(states: Sequence[RegimeState]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for state in states:
        shares[state.regime] = shares.get(state.regime, 0.0) + state.weight
    return _ordered(shares)


def _vote_ahead(states: Sequence[RegimeState]) -> dict[str, float]:
    """Shares of the regimes later, among the states of which one is known."""
    shares: dict[str, float] = {}
    for state in states:
        if state.regime_ahead is not None:
            shares[state.regime_ahead] = shares.get(state.regime_ahead, 0.0) + state.weight
    total = sum(shares.values())
    return _ordered({regime: share / total for regime, share in shares.items()})


def _ordered(shares: dict[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda item: (-item[1], REGIMES.index(item[0]))))
