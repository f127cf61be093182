"""Retrieval: when did we see this before, and what came of it?"""

from __future__ import annotations

from datetime import datetime

from memory.records import Vector
from memory.retrieval.context import QuestionContext
from memory.retrieval.experiences import ExperienceSearch
from memory.retrieval.hits import Hit, PatternHit
from memory.retrieval.patterns import PatternSearch
from memory.retrieval.query import check_bounds, check_pattern_scope, check_top_k


class MemoryRetrievalService:
    """Answers agents' questions: checks them, and hands them to the search that answers their kind.

    Parameters
    ----------
    context
        What questions are answered with; a lock to a time lies in it.
    """

    def __init__(self, context: QuestionContext) -> None:
        self._context = context
        self._experiences = ExperienceSearch(context)
        self._patterns = PatternSearch(context)

    def at(self, as_of: datetime) -> MemoryRetrievalService:
        """The same service, locked to what was known at a time."""
        return MemoryRetrievalService(self._context.at(as_of))

    async def retrieve_similar_experiences(
        self,
        state_vector: Vector,
        agent_id: str | None = None,
        product_id: str | None = None,
        regime: str | None = None,
        market_phase: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime | None = None,
        exclude_agent_id: str | None = None,
        min_reward: float | None = None,
        top_k: int = 10,
        with_next_state: bool = False,
    ) -> list[Hit]:
        """The experiences whose state was most like this one, best first.

        Filters are exact: fewer than `top_k` come back only where fewer exist.

        Parameters
        ----------
        state_vector
            float32, of length 1 and the encoder's dimension.
        agent_id, product_id, regime, market_phase
            Only those of this agent, product, regime, third of the day.
        since, until
            Only those decided in [since, until).
        as_of
            Only what was known then: `known_at` not later, and no `cumulative_return` that was known later.
        exclude_agent_id
            None of this agent.
        min_reward
            Only those with at least this reward, a fraction of notional.
        top_k
            Results wanted, at most COINSWARM_MAX_TOP_K.
        with_next_state
            Fill in `next_state_vector`; a second round trip.

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
            exclude_agent_id=exclude_agent_id,
            since=since,
            until=until,
            as_of=as_of,
            min_reward=min_reward,
        )
        top_k = check_top_k(top_k, self._context.max_top_k)
        return await self._experiences.nearest(state_vector, bounds, as_of, top_k, with_next_state=with_next_state)

    async def retrieve_patterns(
        self,
        state_vector: Vector,
        product_id: str | None = None,
        regime: str | None = None,
        as_of: datetime | None = None,
        top_k: int = 5,
    ) -> list[PatternHit]:
        """The patterns that this state is most like, best first, with what each action brought there.

        Each retrieval is counted, on the day of `as_of` (or today), without waiting for it.

        Parameters
        ----------
        state_vector
            float32, of length 1 and the encoder's dimension.
        product_id
            Only patterns seen in this product.
        regime
            Only patterns of this regime; MIXED names those that were found across the rarer regimes.
        as_of
            The versions that were valid then, instead of the current ones.
        top_k
            Results wanted.

        Raises
        ------
        InvalidQueryError, EncoderError, StoreUnavailableError
            As `retrieve_similar_experiences`.
        """
        as_of = self._context.bounded(as_of)
        product_id, regime = check_pattern_scope(product_id, regime)
        top_k = check_top_k(top_k, self._context.max_top_k)
        return await self._patterns.nearest(state_vector, product_id, regime, as_of, top_k)
