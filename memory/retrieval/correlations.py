"""Correlations: which products move together with a product, and who leads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from memory.records import REGIMES, CorrelationMemory, SemanticType, to_ms
from memory.retrieval.context import QuestionContext

ALL_REGIMES = "ALL"
"""Regime of correlations over all minutes (`memory.learning.correlations.ALL_REGIMES`)."""
CORRELATION_REGIMES = (*REGIMES, ALL_REGIMES)


@dataclass(frozen=True, slots=True)
class CorrelationHit:
    """How a product moves with another one.

    Attributes
    ----------
    memory
        The correlation, its products in the order in which it was computed.
    product_id, other
        The product that was asked about, and the one that it moves with.
    leader
        The one whose returns come first; None where they move in the same bar.
    lead_minutes
        How far the product that was asked about leads: below 0 where it follows, 0 in the same bar.
    score
        What hits are ordered by: the magnitude of the correlation.
    """

    memory: CorrelationMemory
    product_id: str
    other: str
    leader: str | None
    lead_minutes: int
    score: float


class CorrelationSearch:
    """Finds the correlations of a product."""

    def __init__(self, context: QuestionContext) -> None:
        self._context = context

    async def of_product(
        self,
        product_id: str,
        regime: str | None,
        as_of: datetime | None,
        bar_minutes: int | None,
        *,
        claimed_only: bool,
    ) -> list[CorrelationHit]:
        """The correlations of a product, strongest first, ties by memory id; each is counted as accessed."""
        context = self._context
        encoder_id = context.encoder_id or await context.encoder()
        if encoder_id is None:
            return []
        if as_of is not None:
            await context.encoders.check_as_of(encoder_id, as_of)
        as_of_ms = None if as_of is None else to_ms(as_of)
        known = await context.semantic.snapshots.known(encoder_id, (SemanticType.CORRELATION,), as_of_ms)
        hits = []
        for version in known[SemanticType.CORRELATION]:
            memory = cast(CorrelationMemory, version.memory)
            if (
                product_id in memory.products
                and (regime is None or memory.regime == regime)
                and (bar_minutes is None or memory.bar_minutes == bar_minutes)
                and (memory.claimed or not claimed_only)
            ):
                hits.append(_oriented(cast(CorrelationMemory, version.copy(as_of=as_of is not None)), product_id))
        hits.sort(key=lambda hit: (-hit.score, hit.memory.memory_id))
        context.access.note([hit.memory.memory_id for hit in hits], as_of or datetime.now(UTC))
        return hits


def _oriented(memory: CorrelationMemory, product_id: str) -> CorrelationHit:
    first, second = memory.products
    lead = memory.lag * memory.bar_minutes
    return CorrelationHit(
        memory=memory,
        product_id=product_id,
        other=second if product_id == first else first,
        leader=None if lead == 0 else first if lead > 0 else second,
        lead_minutes=lead if product_id == first else -lead,
        score=abs(memory.correlation),
    )
