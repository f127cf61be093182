"""Questions that published knowledge alone answers: of a regime, and of products that move together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from memory.retrieval.arguments import (
    check_flag,
    check_minutes,
    check_number,
    check_path,
    check_product,
    check_regime,
    check_source,
    checked,
)
from memory.retrieval.context import QuestionContext
from memory.retrieval.correlations import CORRELATION_REGIMES, CorrelationHit, CorrelationSearch
from memory.retrieval.knowledge import LARGEST_SHARPE, KnowledgeSearch, RegimeKnowledge
from memory.retrieval.query import check_top_k
from memory.validation import validate_identifier


class KnowledgeQuestions:
    """The questions of `memory.retrieval.service.MemoryRetrievalService` that no experience has to be searched for.

    Parameters
    ----------
    context
        What questions are answered with; a lock to a time lies in it.
    strategy_sharpe
        Annualised Sharpe ratio that a strategy has to exceed where a question says nothing of it.
    """

    def __init__(self, context: QuestionContext, strategy_sharpe: float) -> None:
        self._context = context
        self._knowledge = KnowledgeSearch(context, strategy_sharpe)
        self._correlations = CorrelationSearch(context)

    async def retrieve_regime_knowledge(
        self,
        current_regime: str,
        previous_regimes: Sequence[str] = (),
        top_k: int = 5,
        product_id: str | None = None,
        source: str | None = None,
        as_of: datetime | None = None,
        min_sharpe: float | None = None,
    ) -> RegimeKnowledge:
        """What is known of a regime: its memory, what follows it, and the strategies that have worked there.

        Parameters
        ----------
        current_regime
            The regime.
        previous_regimes
            The regimes before it, oldest first. The last one that differs from the current one counts, where anything
            was seen of that path; the answer says which was used.
        top_k
            Strategies wanted: of those whose annualised Sharpe ratio there, net of costs, exceeds `min_sharpe` over at
            least `memory.retrieval.knowledge.MIN_BLOCKS` blocks, the best. The ratio is that of the shrunk mean, which
            leaves out what luck explains; of a memory that has none, that of the mean as it was.
        product_id
            Product whose regime it is; all products pooled where None, or where nothing is known of it in the product.
        source
            live, replay or backtest: what the knowledge comes from; by default the first of them that knows the regime.
        as_of
            The versions that were valid then, instead of the current ones.
        min_sharpe
            By default COINSWARM_STRATEGY_SHARPE, 1.5.

        Returns
        -------
        What is known; where no strategy qualifies, its `statement` says so and how near they came. Cost: one small
        round trip as long as nothing was published since the last question.

        Raises
        ------
        InvalidQueryError, EncoderError, StoreUnavailableError, PastExpiredError
            As `retrieve_similar_experiences`; the last where what was known as of that time has left Redis.
        """
        as_of = self._context.bounded(as_of)
        current_regime = check_regime(current_regime, "current_regime")
        path = check_path(previous_regimes)
        top_k = check_top_k(top_k, self._context.max_top_k)
        product_id, source = check_product(product_id), check_source(source)
        if min_sharpe is not None:
            min_sharpe = check_number(min_sharpe, "min_sharpe", -LARGEST_SHARPE, LARGEST_SHARPE)
        return await self._knowledge.of_regime(current_regime, path, top_k, product_id, source, as_of, min_sharpe)

    async def retrieve_correlations(
        self,
        product_id: str,
        regime: str | None = None,
        as_of: datetime | None = None,
        bar_minutes: int | None = None,
        claimed_only: bool = False,
    ) -> list[CorrelationHit]:
        """How a product moves with each of the others, strongest first, and who leads.

        Parameters
        ----------
        product_id
            The product.
        regime
            Only over the minutes in which the market was in this regime; ALL names those over all minutes. None: both.
        as_of
            The versions that were valid then, instead of the current ones.
        bar_minutes
            Only of returns over bars of this length.
        claimed_only
            Only those that exceed what chance would show.

        Raises
        ------
        InvalidQueryError, EncoderError, StoreUnavailableError, PastExpiredError
            As `retrieve_similar_experiences`; the last where what was known as of that time has left Redis.
        """
        as_of = self._context.bounded(as_of)
        product = checked(validate_identifier, product_id, "product_id")
        regime = None if regime is None else check_regime(regime, "regime", CORRELATION_REGIMES)
        bar_minutes = None if bar_minutes is None else check_minutes(bar_minutes, "bar_minutes")
        claimed_only = check_flag(claimed_only, "claimed_only")
        return await self._correlations.of_product(product, regime, as_of, bar_minutes, claimed_only=claimed_only)
