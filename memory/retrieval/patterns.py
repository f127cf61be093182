"""Patterns: the recurring kinds of state that a state is most like."""

from __future__ import annotations

from datetime import UTC, datetime

from memory.records import PatternMemory, SemanticType, Vector, to_ms
from memory.retrieval.arguments import check_state
from memory.retrieval.context import QuestionContext
from memory.retrieval.hits import PatternHit
from memory.retrieval.query import Filter, pattern_filter
from memory.retrieval.ranking import PostFilter, Selection
from memory.store.codec import pack_vector
from memory.store.keys import vector_attribute
from memory.store.link import Command
from memory.store.snapshots import StoredVersion

FILTER_CANDIDATES = 4
"""How many times `top_k` a post-filter is given at first."""

CANDIDATES = 4
"""Nearest patterns that are looked at first for one that reaches a state: the nearest does nearly always."""
CANDIDATES_GROWTH = 4


class PatternSearch:
    """Finds the patterns nearest to a state.

    One round trip: the search goes out for the line that was current when last seen, together with the questions which
    line is current and whether anything was published; where that is so, it is asked again. The server gives names and
    distances only: patterns that were found before are known here (`memory.store.snapshots`).
    """

    def __init__(self, context: QuestionContext) -> None:
        self._context = context

    async def nearest(
        self,
        state_vector: Vector,
        product_id: str | None,
        regime: str | None,
        as_of: datetime | None,
        top_k: int,
        post_filter: PostFilter[PatternHit] | None = None,
    ) -> list[PatternHit]:
        """The nearest patterns within checked bounds, nearest first, ties by memory id; each is counted as accessed."""

        async def fetch(count: int) -> list[PatternHit]:
            return await self._search(state_vector, product_id, regime, as_of, count)

        if post_filter is None:
            hits = await fetch(top_k)
        else:
            chosen = Selection(top_k, self._context.max_top_k, FILTER_CANDIDATES, post_filter=post_filter)
            hits = await chosen.best(fetch)
        self._count(hits, as_of)
        return hits

    async def best(
        self,
        state_vector: Vector,
        product_id: str | None,
        regime: str | None,
        as_of: datetime | None,
        min_similarity: float,
    ) -> PatternHit | None:
        """The nearest of the patterns that a state belongs to; counted where it is returned.

        It belongs to those whose cosine is at least `min_similarity` and that reach as far: each as far as nine in ten
        of its own states lie (`PatternMemory.reach`).
        """
        count = CANDIDATES
        while True:
            hits = await self._search(state_vector, product_id, regime, as_of, count)
            near = [hit for hit in hits if hit.score >= min_similarity]
            own = [hit for hit in near if hit.distance <= hit.memory.reach][:1]
            if own or len(near) < count or count >= self._context.max_top_k:
                self._count(own, as_of)
                return own[0] if own else None
            count = min(CANDIDATES_GROWTH * count, self._context.max_top_k)

    # --- internals -------------------------------------------------------------------------------------------

    def _count(self, hits: list[PatternHit], as_of: datetime | None) -> None:
        self._context.access.note([hit.memory.memory_id for hit in hits], as_of or datetime.now(UTC))

    async def _search(
        self, state_vector: Vector, product_id: str | None, regime: str | None, as_of: datetime | None, top_k: int
    ) -> list[PatternHit]:
        context = self._context
        state_vector = await check_state(context, state_vector, "state_vector")
        encoder_id = context.encoder_id or await context.encoder()
        if encoder_id is None:
            return []
        if as_of is not None:
            await context.encoders.check_as_of(encoder_id, as_of)
        vector = pack_vector(state_vector, "FLOAT32")
        as_of_ms = None if as_of is None else to_ms(as_of)

        async def fetch(rows: int) -> list[tuple[float, StoredVersion]]:
            def search(line: str) -> Command:
                condition = pattern_filter(SemanticType.PATTERN, line, product_id, regime, as_of_ms)
                return self._command(encoder_id, condition, vector, rows)

            return await context.semantic.snapshots.found(encoder_id, as_of_ms, search)

        # One more than wanted: where it is as far away as the last one wanted, there may be others that come before it.
        rows = top_k + 1
        found = await fetch(rows)
        while len(found) >= rows and found[top_k - 1][0] == found[-1][0]:
            rows *= 2
            found = await fetch(rows)
        found.sort(key=lambda item: (item[0], item[1].key.memory_id))
        return [_pattern_hit(distance, version, past=as_of is not None) for distance, version in found[:top_k]]

    def _command(self, encoder_id: str, condition: Filter, vector: bytes, top_k: int) -> Command:
        return (
            "FT.SEARCH",
            self._context.keys.semantic_index(encoder_id),
            f"{condition.text}=>[KNN $k @{vector_attribute(encoder_id)} $vector AS distance]",
            *("RETURN", 1, "distance", "SORTBY", "distance", "LIMIT", 0, top_k),
            *("PARAMS", len(condition.parameters) + 4, "k", top_k, "vector", vector, *condition.parameters),
            *("TIMEOUT", int(self._context.link.timeout_s * 1000), "DIALECT", 2),
        )


def _pattern_hit(distance: float, version: StoredVersion, *, past: bool) -> PatternHit:
    memory = version.copy(as_of=past)
    if not isinstance(memory, PatternMemory):
        raise TypeError(f"{memory.memory_id} is stored as a pattern, but is a {type(memory).__name__}")
    return PatternHit(memory, distance, 1.0 - distance, {"similarity": 1.0 - distance})
