"""Retrieval: when did we see this before, and what came of it?"""

from __future__ import annotations

from datetime import datetime

from memory.asof import check_time
from memory.learning.estimates import Estimate
from memory.records import Vector
from memory.retrieval.arguments import check_flag, check_minutes, check_number, check_state
from memory.retrieval.context import QuestionContext
from memory.retrieval.estimates import EstimateSearch
from memory.retrieval.experiences import ExperienceSearch
from memory.retrieval.hits import Hit, PatternHit
from memory.retrieval.knowledge_questions import KnowledgeQuestions
from memory.retrieval.order import Order, best_experiences
from memory.retrieval.patterns import PatternSearch
from memory.retrieval.query import check_bounds, check_pattern_scope, check_top_k
from memory.retrieval.ranking import (
    RELEVANCE,
    SIMILARITY,
    PostFilter,
    RelevanceWeights,
    check_post_filter,
    check_ranking,
)
from memory.retrieval.regimes import RegimeHits, RegimeSearch
from memory.settings import Settings


class MemoryRetrievalService(KnowledgeQuestions):
    """Answers agents' questions: checks them, and hands them to the search that answers their kind.

    Those that published knowledge alone answers are `memory.retrieval.knowledge_questions`.

    Parameters
    ----------
    context
        What questions are answered with; a lock to a time lies in it.
    settings
        What relevance is made of, and what counts as near and as good; those of the environment where None.
    """

    def __init__(self, context: QuestionContext, settings: Settings | None = None) -> None:
        self._settings = settings = settings or Settings()
        super().__init__(context, settings.strategy_sharpe)
        self._experiences = ExperienceSearch(context)
        self._patterns = PatternSearch(context)
        self._regimes = RegimeSearch(context)
        self._estimates = EstimateSearch(context, settings.cost_bp)

    def at(self, as_of: datetime) -> MemoryRetrievalService:
        """The same service, locked to what was known at a time."""
        past = MemoryRetrievalService(self._context.at(as_of), self._settings)
        past._estimates = self._estimates.at(past._context)
        return past

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
        ranking: str = SIMILARITY,
        post_filter: PostFilter[Hit] | None = None,
        weights: RelevanceWeights | None = None,
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
        ranking
            ``similarity``, or ``relevance``: similarity, recency and reward, weighed; see `memory.retrieval.ranking`.
            The near cache compares all experiences at once. The server is asked for more and more of them, until it is
            certain that nothing is missing; of scopes that hold more than COINSWARM_MAX_TOP_K experiences, where that
            much does not settle it, its answer is the best of that many nearest ones.
        post_filter
            Is given candidates, best first (at least `over_fetch` times `top_k` where as many exist), and returns
            those to keep, in the order in which they shall come; see `memory.retrieval.ranking.check_post_filter`.
        weights
            How relevance is weighed; by default as COINSWARM_RELEVANCE_* say.
        with_next_state
            Fill in `next_state_vector`; a second round trip.

        Returns
        -------
        Hits whose `score_parts` add up to their `score`: by similarity the cosine, by relevance what each part
        contributes, its weight applied.

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
        check_ranking(ranking, weights)
        check_post_filter(post_filter)
        with_next_state = check_flag(with_next_state, "with_next_state")

        order = Order(
            by_relevance=ranking == RELEVANCE,
            weights=weights or RelevanceWeights.of(self._settings),
            post_filter=post_filter,
            latest=None if until is None else check_time(until, "until"),
            most=self._context.max_top_k,
        )
        return await best_experiences(
            self._experiences, state_vector, bounds, as_of, top_k, order, with_next_state=with_next_state
        )

    async def retrieve_patterns(
        self,
        state_vector: Vector,
        product_id: str | None = None,
        regime: str | None = None,
        as_of: datetime | None = None,
        top_k: int = 5,
        post_filter: PostFilter[PatternHit] | None = None,
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
        post_filter
            As in `retrieve_similar_experiences`. There is no ranking by outcome: the best of many patterns by what
            they brought is the luckiest one first.

        Raises
        ------
        InvalidQueryError, EncoderError, StoreUnavailableError, PastExpiredError
            As `retrieve_similar_experiences`; the last where what was known as of that time has left Redis.
        """
        as_of = self._context.bounded(as_of)
        product_id, regime = check_pattern_scope(product_id, regime)
        top_k = check_top_k(top_k, self._context.max_top_k)
        check_post_filter(post_filter)
        return await self._patterns.nearest(state_vector, product_id, regime, as_of, top_k, post_filter)

    async def find_similar_pattern(
        self,
        state_vector: Vector,
        product_id: str | None = None,
        regime: str | None = None,
        as_of: datetime | None = None,
        min_similarity: float | None = None,
    ) -> PatternHit | None:
        """The pattern that this state is an occurrence of: the nearest whose `reach` it lies in; None for none.

        Parameters
        ----------
        state_vector, product_id, regime, as_of
            As in `retrieve_patterns`.
        min_similarity
            Least cosine with the pattern's place, whatever its reach; by default COINSWARM_PATTERN_SIMILARITY, 0.88.
            Over the patterns of three nights of the sample, nine tenths of a pattern's own states lie within 0.886 of
            its place in the median pattern, within 0.86 to 0.91 in the middle half of them.

        Raises
        ------
        InvalidQueryError, EncoderError, StoreUnavailableError, PastExpiredError
            As `retrieve_similar_experiences`; the last where what was known as of that time has left Redis.
        """
        as_of = self._context.bounded(as_of)
        product_id, regime = check_pattern_scope(product_id, regime)
        if min_similarity is None:
            min_similarity = self._settings.pattern_similarity
        else:
            min_similarity = check_number(min_similarity, "min_similarity", -1.0, 1.0)
        return await self._patterns.best(state_vector, product_id, regime, as_of, min_similarity)

    async def estimate(
        self,
        state_vector: Vector,
        action: str,
        horizon: int,
        product_id: str | None = None,
        regime: str | None = None,
        as_of: datetime | None = None,
        trailing_volatility: float | None = None,
    ) -> Estimate:
        """What to expect of an action in a state, by the remembered states and the pattern it is like, or "unknown".

        The answer begins at the base rate of the regime and leaves it as far as the evidence carries
        (`memory.learning.estimation`); it names each source and its weight. A pattern that is used counts as accessed.

        Parameters
        ----------
        state_vector
            float32, of length 1 and the encoder's dimension.
        action
            LONG, SHORT or FLAT, of full size, closed again at the horizon.
        horizon
            1, 5, 15 or 60 minutes.
        product_id
            Only what was seen in this product; all products together predict at least as well.
        regime
            Regime of the state: its base rate, and only what was seen in it.
        as_of
            Only what was known then. Neighbours are always at least 240 minutes older. Without it, a state that is
            itself remembered is left out, with all that shares its minutes.
        trailing_volatility
            That of the state (feature ``trailing_volatility``), a fraction. With it returns are compared in their own
            volatility, and the answer says how far the price will typically move.

        Returns
        -------
        The estimate, with 95 % intervals. Cost: two round trips, and 30 microseconds a neighbour; a client's first
        question about a day reads a sample of the 30 days before it, 25 ms for each that it has not read yet.

        Raises
        ------
        InvalidQueryError, EncoderError, StoreUnavailableError, PastExpiredError
            As `retrieve_similar_experiences`; the last where what was known as of that time has left Redis.
        """
        as_of = self._context.bounded(as_of)
        return await self._estimates.estimate(
            state_vector, action, horizon, product_id, regime, as_of, trailing_volatility
        )

    async def retrieve_similar_regimes(
        self,
        feature_vector: Vector,
        top_k: int = 5,
        product_id: str | None = None,
        as_of: datetime | None = None,
        ahead_minutes: int | None = None,
    ) -> RegimeHits:
        """The remembered states that a state is most like, the regimes they were in, and the vote among them.

        Parameters
        ----------
        feature_vector
            The encoded state: float32, of length 1 and the encoder's dimension.
        top_k
            Distinct states wanted: one product at one time counts once, however many agents recorded it.
        product_id
            Only states of this product; regimes' memories are then those of the product where it has them.
        as_of
            Only what was known then.
        ahead_minutes
            Say as well what regime each state was in so many minutes later, where an agent that decides every minute
            recorded it and it was known: a second round trip, 10 microseconds a state.

        Raises
        ------
        InvalidQueryError, EncoderError, StoreUnavailableError, PastExpiredError
            As `retrieve_similar_experiences`; the last where what was known as of that time has left Redis.
        """
        as_of = self._context.bounded(as_of)
        bounds = check_bounds(product_id=product_id, as_of=as_of)
        ahead_minutes = None if ahead_minutes is None else check_minutes(ahead_minutes, "ahead_minutes")
        top_k = check_top_k(top_k, self._context.max_top_k)
        feature_vector = await check_state(self._context, feature_vector, "feature_vector")

        async def fetch(count: int) -> list[Hit]:
            return await self._experiences.nearest(feature_vector, bounds, as_of, count)

        return await self._regimes.nearest(fetch, feature_vector, top_k, bounds.product_id, as_of, ahead_minutes)
