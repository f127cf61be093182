"""Estimates: what to expect of a state, by the states and patterns that it is most like.

What is known is gathered here; what to think of it is `learning.estimation`. A warm client takes two round trips: the
nearest states and patterns, then the prices that followed those states.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from redis.exceptions import ResponseError

from memory.errors import InvalidQueryError
from memory.learning.estimates import Estimate
from memory.learning.estimation import (
    EMBARGO_MINUTES,
    ESTIMATE_ACTIONS,
    NEIGHBOURS,
    REACH,
    SAME_STATE,
    estimate_state,
)
from memory.learning.evidence import (
    ESTIMATE_HORIZONS,
    BaseRates,
    Neighbours,
    OutcomeSample,
    PatternEvidence,
    base_rates,
    pattern_evidence,
    published_base_rates,
)
from memory.records import MIXED, RegimeMemory, SemanticType, Vector, to_ms
from memory.retrieval.arguments import check_number, check_product, check_regime, check_state
from memory.retrieval.base_sample import MS_PER_DAY, BaseSampler, SampleCache, trailing_volatilities, witnesses
from memory.retrieval.context import QuestionContext
from memory.retrieval.forward import MS_PER_MINUTE, ForwardReturns, Remembered
from memory.retrieval.knowledge import choose_regime
from memory.retrieval.patterns import PatternSearch
from memory.store.answers import check_complete
from memory.store.codec import pack_vector, unpack_body
from memory.store.indexes import IndexSchema, SearchTarget
from memory.store.keys import scope_tag
from memory.store.link import Command
from memory.store.scan import missing_index

_BASIS_POINT = 1e-4


@dataclass(frozen=True, slots=True)
class _Question:
    """Checked arguments of a question; see `MemoryRetrievalService.estimate`."""

    state_vector: Vector
    action: str
    horizon: int
    product_id: str | None
    regime: str | None
    as_of: datetime | None
    trailing_volatility: float | None


class EstimateSearch:
    """Estimates outcomes of states.

    Parameters
    ----------
    context
        What it asks.
    cost_bp
        Trading cost a side in basis points, beside half the spread.
    cache
        Samples that other questions of this client have read.
    """

    def __init__(self, context: QuestionContext, cost_bp: float, cache: SampleCache | None = None) -> None:
        self._context = context
        self._cost_bp = cost_bp
        self._cache = cache or SampleCache()
        self._patterns = PatternSearch(context)
        self._sampler = BaseSampler(context, self._cache)
        self._forward = ForwardReturns(context)

    def at(self, context: QuestionContext) -> EstimateSearch:
        """The same in another context of this client; what was sampled is shared."""
        return EstimateSearch(context, self._cost_bp, self._cache)

    async def estimate(
        self,
        state_vector: Vector,
        action: str,
        horizon: int,
        product_id: str | None,
        regime: str | None,
        as_of: datetime | None,
        trailing_volatility: float | None,
    ) -> Estimate:
        """The estimate, as of a time that is bounded already; see `MemoryRetrievalService.estimate`."""
        context = self._context
        action, horizon = check_action(action), check_horizon(horizon)
        product_id = check_product(product_id)
        regime = None if regime is None else check_regime(regime)
        if trailing_volatility is not None:
            trailing_volatility = check_number(trailing_volatility, "trailing_volatility", 1e-12, 10.0)
        state_vector = await check_state(context, state_vector, "state_vector")
        question = _Question(state_vector, action, horizon, product_id, regime, as_of, trailing_volatility)
        encoder_id = context.encoder_id or await context.encoder()
        if encoder_id is not None and as_of is not None:
            await context.encoders.check_as_of(encoder_id, as_of)
        schema = None if encoder_id is None else await context.indexes.episodic(encoder_id)
        if schema is None:
            return _nothing(question)
        try:
            return await self._answer(question, schema)
        except ResponseError as error:
            # The index was replaced, or the memory emptied, since this client last looked.
            current = await context.indexes.refreshed(schema)
            if current is None:
                if await context.indexes.current_schema(schema.encoder_id) is None:
                    return _nothing(question)
                raise missing_index(error, schema) from error
        try:
            return await self._answer(question, current)
        except ResponseError as error:
            raise missing_index(error, current) from error

    async def _answer(self, question: _Question, schema: IndexSchema) -> Estimate:
        as_of_ms = await self._present_ms(schema) if question.as_of is None else to_ms(question.as_of)
        samples = await self._sampler.before(as_of_ms, schema)
        states, pattern, published = await asyncio.gather(
            self._nearest(question, witnesses(samples), as_of_ms, schema),
            self._pattern(question),
            self._published(question, schema.encoder_id),
        )
        if question.as_of is None:
            states = _without_itself(states)
        states = states[:NEIGHBOURS]
        returns = await self._forward.of(states, (question.horizon,), as_of_ms, schema.name)
        trailing = await trailing_volatilities(self._context.reader, [state.body for state in states])
        sample = OutcomeSample.joined([sample.outcomes for sample in samples])
        return estimate_state(
            question.action,
            question.horizon,
            _neighbours(states, returns[:, 0], trailing),
            published or base_rates(sample, question.regime, question.horizon),
            pattern,
            trailing_volatility=question.trailing_volatility,
            round_trip_cost=self._round_trip_cost(states),
        )

    async def _present_ms(self, schema: IndexSchema) -> int:
        """Now; of a memory whose last decision is long past, a time by which all of it had become known."""
        now_ms = to_ms(datetime.now(UTC))
        newest = await self._sampler.newest_day(schema)
        return now_ms if newest is None else min(now_ms, (newest + 2) * MS_PER_DAY)

    # --- what is remembered ----------------------------------------------------------------------------------

    async def _nearest(
        self, question: _Question, agents: Sequence[str], as_of_ms: int, schema: IndexSchema
    ) -> list[Remembered]:
        """Distinct states within `REACH`, nearest first, ties by time and product; at least those that are used."""
        # A state that is itself remembered takes its surroundings with it (`_without_itself`).
        count = NEIGHBOURS + 1 + (EMBARGO_MINUTES if question.as_of is None else 0)
        indexes, link = self._context.indexes, self._context.link
        vector = pack_vector(question.state_vector, schema.vector_type)

        def targets() -> list[tuple[str, SearchTarget]]:
            return [
                (agent, target) for agent in agents for target in indexes.targets(schema, agent, question.product_id)
            ]

        def search(agent: str, target: SearchTarget, clause: str) -> Command:
            return _search(question, agent, target, clause, vector, as_of_ms, count, link.timeout_s)

        asked = targets()
        commands = [search(agent, target, target.clause) for agent, target in asked]
        probes = [(agent, indexes.partitions.probe(schema, agent, question.product_id)) for agent in agents]
        probing = next(((agent, probe) for agent, probe in probes if probe is not None), None)
        if probing is None:
            answers = await link.pipeline(commands)
        else:
            # Indexes that others have opened since are learned of beside the search, for all agents at once.
            *answers, size = await link.pipeline([*commands, probing[1]])
            await indexes.missed(schema, probing[0], question.product_id, size)
            more = [place for place in targets() if place not in asked]
            answers += await link.pipeline([search(agent, target, target.clause) for agent, target in more])
            asked += more
        rows: list[tuple[float, dict[bytes, Any]]] = []
        unseen = math.inf
        for (agent, target), answer in zip(asked, answers, strict=True):
            results = check_complete(answer)[b"results"]
            if len(results) < count and target.exact_clause != target.clause:
                # A walk through a graph may end early; comparing all shows whether there are no more.
                again = await link.execute(*search(agent, target, target.exact_clause))
                results = check_complete(again)[b"results"]
            # What expired since the index was asked has no attributes.
            found = [(float(row[b"extra_attributes"][b"distance"]), row) for row in results if row[b"extra_attributes"]]
            if len(results) >= count:
                unseen = min(unseen, max((distance for distance, _ in found), default=0.0))
            rows += found
        # Of states as far as the last one some may have been cut off: by chance, not by order.
        return self._distinct([row for row in rows if row[0] < unseen and b"body" in row[1][b"extra_attributes"]])

    def _distinct(self, rows: list[tuple[float, dict[bytes, Any]]]) -> list[Remembered]:
        """One experience a state: agents that acted in the same minute lived through one market."""
        found = [(distance, self._context.keys.parse_episodic(row[b"id"]), row) for distance, row in rows]
        found.sort(key=lambda item: (item[0], item[1].timestamp_ms, item[1].product_id, item[1].agent_id, item[1]))
        states: dict[tuple[str, int], Remembered] = {}
        for distance, key, row in found:
            place = (key.product_id, key.timestamp_ms)
            if distance <= REACH and place not in states:
                states[place] = Remembered(key, unpack_body(row[b"extra_attributes"][b"body"]), distance)
        return list(states.values())

    async def _pattern(self, question: _Question) -> PatternEvidence | None:
        """The nearest pattern of the regime or across the rarer ones, unless its predictions failed."""
        regimes = (None,) if question.regime is None else (question.regime, MIXED)
        hits = await asyncio.gather(
            *(
                self._patterns.best(question.state_vector, question.product_id, kind, question.as_of, 1.0 - REACH)
                for kind in regimes
            )
        )
        found = sorted((hit for hit in hits if hit is not None), key=lambda hit: (hit.distance, hit.memory.memory_id))
        if not found or found[0].memory.demoted:
            return None
        return pattern_evidence(found[0].memory, found[0].distance, question.horizon)

    async def _published(self, question: _Question, encoder_id: str) -> BaseRates | None:
        """Base rates of the regime that the nightly job knew at that time; None where it knew none."""
        if question.regime is None:
            return None
        as_of_ms = None if question.as_of is None else to_ms(question.as_of)
        known = await self._context.semantic.snapshots.known(encoder_id, (SemanticType.REGIME,), as_of_ms)
        chosen = choose_regime(known[SemanticType.REGIME], question.regime, question.product_id, None)
        if chosen is None or not isinstance(chosen.memory, RegimeMemory):
            return None
        return published_base_rates(chosen.memory.base_rates, question.horizon)

    def _round_trip_cost(self, states: list[Remembered]) -> float:
        """Costs of both sides, with half the spread each: the median of the states' spreads, none where unknown."""
        spreads = [
            state.body.spread / state.body.price
            for state in states
            if state.body.spread is not None and state.body.price
        ]
        return 2.0 * self._cost_bp * _BASIS_POINT + (float(np.median(spreads)) if spreads else 0.0)


def _search(
    question: _Question,
    agent: str,
    target: SearchTarget,
    clause: str,
    vector: bytes,
    as_of_ms: int,
    count: int,
    timeout_s: float,
) -> Command:
    """The nearest states that one agent lived through, beyond the embargo and known by then."""
    parameters = (
        *("scope", scope_tag(agent, question.product_id, question.regime)),
        *("until", as_of_ms - EMBARGO_MINUTES * MS_PER_MINUTE, "as_of", as_of_ms),
        *("k", count, "vector", vector),
    )
    return (
        "FT.SEARCH",
        target.index,
        "(@scope:{$scope} -@timestamp:[($until +inf] -@known_at:[($as_of +inf])"
        f"=>[KNN $k @{target.vector_attribute} $vector{clause} AS distance]",
        *("RETURN", 2, "distance", "body", "SORTBY", "distance", "LIMIT", 0, count),
        *("PARAMS", len(parameters), *parameters, "TIMEOUT", int(timeout_s * 1000), "DIALECT", 2),
    )


def _nothing(question: _Question) -> Estimate:
    """The answer of an empty memory."""
    return estimate_state(question.action, question.horizon, _neighbours([], np.empty(0), np.empty(0)), None, None)


def _without_itself(states: list[Remembered]) -> list[Remembered]:
    """Where the state itself is remembered, without it and what shares its minutes.

    A question without a time may be about a state of the past; its own outcome would then answer it. The latest of
    equal states is taken for the one asked about.
    """
    same = [state.key.timestamp_ms for state in states if state.distance <= SAME_STATE]
    if not same:
        return states
    reach = EMBARGO_MINUTES * MS_PER_MINUTE
    return [state for state in states if abs(state.key.timestamp_ms - max(same)) > reach]


def _neighbours(states: list[Remembered], returns: Any, trailing: Any) -> Neighbours:
    return Neighbours(
        np.array([state.distance for state in states], dtype=np.float64),
        np.array([state.key.timestamp_ms for state in states], dtype=np.int64),
        returns,
        trailing,
    )


# --- arguments -----------------------------------------------------------------------------------------------


def check_action(value: Any) -> str:
    """LONG, SHORT or FLAT, or InvalidQueryError."""
    if not isinstance(value, str) or value not in ESTIMATE_ACTIONS:
        raise InvalidQueryError(
            f"action is {repr(value)[:80]}.", remedy=f"Use {', '.join(ESTIMATE_ACTIONS)}.", argument="action"
        )
    return str(value)


def check_horizon(value: Any) -> int:
    """One of the horizons, minutes, or InvalidQueryError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value not in ESTIMATE_HORIZONS:
        raise InvalidQueryError(
            f"horizon is {repr(value)[:80]}; outcomes are known for {', '.join(map(str, ESTIMATE_HORIZONS))} minutes.",
            remedy="Choose one of them.",
            argument="horizon",
        )
    return int(value)
