"""The best experiences of a search, in the order that a question asked for, after what its post-filter keeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from memory.records import Vector
from memory.retrieval.experiences import ExperienceSearch
from memory.retrieval.hits import Hit
from memory.retrieval.query import Bounds
from memory.retrieval.ranking import PostFilter, Relevance, RelevanceWeights, Selection


@dataclass(frozen=True, slots=True)
class Order:
    """What comes first, and what is left out.

    Attributes
    ----------
    by_relevance
        By relevance; else by similarity alone.
    weights
        How relevance is weighed, and how many candidates a post-filter is given.
    post_filter
        Returns those to keep of the candidates that it is given.
    latest
        No experience later than that is asked for: bounds what recency can still contribute; None for no bound.
    most
        Candidates that are fetched at most.
    """

    by_relevance: bool
    weights: RelevanceWeights
    post_filter: PostFilter[Hit] | None
    latest: datetime | None
    most: int


async def best_experiences(
    search: ExperienceSearch,
    state_vector: Vector,
    bounds: Bounds,
    as_of: datetime | None,
    top_k: int,
    order: Order,
    *,
    with_next_state: bool,
) -> list[Hit]:
    """The first `top_k` experiences in an order; more and more are fetched until nothing else could come among them."""

    async def fetch(count: int) -> list[Hit]:
        return await search.nearest(state_vector, bounds, as_of, count, with_next_state=with_next_state)

    if not order.by_relevance:
        if order.post_filter is None:
            return await fetch(top_k)
        selection = Selection(top_k, order.most, order.weights.over_fetch, post_filter=order.post_filter)
        return await selection.best(fetch)
    now = as_of or datetime.now(UTC)
    relevance = Relevance(order.weights, now, latest=None if order.latest is None else min(order.latest, now))
    if order.post_filter is None:
        held = await search.most_relevant(
            state_vector, bounds, as_of, top_k, relevance, with_next_state=with_next_state
        )
        if held is not None:
            return held
    selection = Selection(
        top_k, order.most, order.weights.over_fetch, relevance.order, relevance.limit, order.post_filter
    )
    return await selection.best(fetch)
