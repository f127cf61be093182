"""Ranking: by relevance the exact best, whatever is fetched to find them; what a post-filter may and may not do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import MemoryConnection, Settings
from memory.errors import InvalidQueryError
from memory.records import Action, EpisodicMemory, Side
from memory.retrieval.hits import Hit
from memory.retrieval.ranking import Relevance, RelevanceWeights, Selection
from memory.retrieval.service import MemoryRetrievalService
from tests.thoroughness import examples

DAY = datetime(2021, 6, 17, tzinfo=UTC)
NOW = DAY + timedelta(days=40)
VECTOR = np.eye(256, dtype=np.float32)[0]


def hit(distance: float, reward: float = 0.0, age_days: float = 0.0, name: str = "m", **features: float) -> Hit:
    memory = EpisodicMemory(
        agent_id="a",
        timestamp=NOW - timedelta(days=age_days),
        state_vector=VECTOR,
        action=Action(Side.HOLD),
        reward=reward,
        product_id="BTC-USD",
        regime="QUIET",
        memory_id=name,
        features=features,
    )
    return Hit(memory, distance, 1.0 - distance, {"similarity": 1.0 - distance})


def fetcher(hits: list[Hit], asked: list[int] | None = None) -> Callable[[int], Awaitable[list[Hit]]]:
    """Search over some hits, as the server does it: nearest first, no more than asked for."""
    ordered = sorted(hits, key=lambda found: (found.distance, found.memory.memory_id))

    async def fetch(count: int) -> list[Hit]:
        if asked is not None:
            asked.append(count)
        return ordered[:count]

    return fetch


def names(hits: Any) -> list[str]:
    return [found.memory.memory_id for found in hits]


def by_relevance(hits: list[Hit], weights: RelevanceWeights, top_k: int, most: int = 1000, **more: Any) -> list[Hit]:
    relevance = Relevance(weights, NOW)
    chosen = Selection(top_k, most, weights.over_fetch, relevance.order, relevance.limit, more.get("post_filter"))
    return asyncio.run(chosen.best(fetcher(hits, more.get("asked"))))


# --- relevance -----------------------------------------------------------------------------------------------

POOLS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.7, 1.0, 1.3]),
        st.sampled_from([-5.0, -0.01, 0.0, 0.0005, 0.001, 90.0]),
        st.sampled_from([0.0, 1.0, 30.0, 400.0]),
        st.sampled_from([0.0, 0.0004, 0.01]),
    ),
    max_size=60,
)
WEIGHTS = st.builds(
    RelevanceWeights,
    similarity=st.sampled_from([0.1, 0.8, 3.0]),
    recency=st.sampled_from([0.0, 0.1, 1.0]),
    reward=st.sampled_from([0.0, 0.1, 1.0]),
    half_life_days=st.sampled_from([0.5, 30.0]),
    over_fetch=st.integers(1, 4),
)


def pool_of(drawn: list[tuple[float, float, float, float]]) -> list[Hit]:
    return [
        hit(distance, reward, age, f"m{number:02}", trailing_volatility=volatility)
        for number, (distance, reward, age, volatility) in enumerate(drawn)
    ]


def score(found: Hit, weights: RelevanceWeights) -> float:
    """The formula, written out once more."""
    age_days = (NOW - found.memory.timestamp) / timedelta(days=1)
    scale = found.memory.features["trailing_volatility"] or weights.reward_scale
    total = weights.similarity + weights.recency + weights.reward
    return (
        weights.similarity * max(0.0, 1.0 - found.distance)
        + weights.recency * 0.5 ** (age_days / weights.half_life_days)
        + weights.reward * (1.0 + math.tanh(found.memory.reward / scale)) / 2.0
    ) / total


@given(drawn=POOLS, weights=WEIGHTS, top_k=st.integers(1, 12))
@settings(max_examples=examples(100, 600), deadline=None)
def test_relevance_finds_what_scoring_every_memory_finds(
    drawn: list[tuple[float, float, float, float]], weights: RelevanceWeights, top_k: int
) -> None:
    pool = pool_of(drawn)
    found = by_relevance(pool, weights, top_k)
    scores = {candidate.memory.memory_id: score(candidate, weights) for candidate in pool}
    # Equal formulas may differ in the last bit; which of two equal scores comes first is compared below.
    expected = sorted(scores.values(), reverse=True)[:top_k]
    np.testing.assert_allclose([scores[name] for name in names(found)], expected, rtol=1e-12)
    np.testing.assert_allclose([item.score for item in found], expected, rtol=1e-12)
    everything = Relevance(weights, NOW).order(pool)
    assert names(found) == names(everything)[:top_k]


@given(drawn=POOLS, weights=WEIGHTS, top_k=st.integers(1, 5), most=st.integers(5, 20))
@settings(max_examples=100, deadline=None)
def test_beyond_the_limit_the_answer_is_the_best_of_the_nearest(
    drawn: list[tuple[float, float, float, float]], weights: RelevanceWeights, top_k: int, most: int
) -> None:
    pool = pool_of(drawn)
    asked: list[int] = []
    found = by_relevance(pool, weights, top_k, most, asked=asked)
    nearest = sorted(pool, key=lambda candidate: (candidate.distance, candidate.memory.memory_id))[:most]
    assert names(found) == names(Relevance(weights, NOW).order(nearest))[:top_k]
    assert max(asked) <= most


@given(drawn=POOLS, weights=WEIGHTS)
@settings(max_examples=50, deadline=None)
def test_the_parts_add_up_to_the_score_between_0_and_1(
    drawn: list[tuple[float, float, float, float]], weights: RelevanceWeights
) -> None:
    for found in by_relevance(pool_of(drawn), weights, 60):
        assert list(found.score_parts) == ["similarity", "recency", "reward"]
        assert found.score == sum(found.score_parts.values())
        assert all(part >= 0 for part in found.score_parts.values())
        assert found.score <= 1 + 1e-12


def test_little_is_fetched_where_similarity_decides() -> None:
    pool = [hit(number / 1000, name=f"m{number:03}") for number in range(900)]
    asked: list[int] = []
    found = by_relevance(pool, RelevanceWeights(reward=0.0), 5, asked=asked)
    assert names(found) == [f"m{number:03}" for number in range(5)]
    assert asked == [20]


def test_one_outlier_does_not_win_by_its_size() -> None:
    weights = RelevanceWeights(similarity=1.0, recency=0.0, reward=1.0)
    good, outlier = hit(0.1, 0.004, name="good"), hit(0.1, 400.0, name="outlier")
    parts = {found.memory.memory_id: found.score_parts["reward"] for found in by_relevance([good, outlier], weights, 2)}
    assert parts["outlier"] - parts["good"] < 0.001


def test_the_same_reward_counts_for_more_in_a_quiet_market() -> None:
    weights = RelevanceWeights(similarity=0.0, recency=0.0, reward=1.0)
    pool = [
        hit(0.1, 0.001, name="wild", trailing_volatility=0.01),
        hit(0.1, 0.001, name="calm", trailing_volatility=0.0005),
        hit(0.1, 0.001, name="unknown"),
    ]
    assert names(by_relevance(pool, weights, 3)) == ["calm", "unknown", "wild"]


def test_a_half_life_ago_counts_half() -> None:
    weights = RelevanceWeights(similarity=0.0, recency=2.0, reward=0.0, half_life_days=10.0)
    scores = [
        found.score for found in by_relevance([hit(0.1, age_days=10.0), hit(0.1), hit(0.1, age_days=-3)], weights, 3)
    ]
    assert scores == [1.0, 1.0, pytest.approx(0.5)]


def test_no_experience_is_younger_than_the_end_of_the_span() -> None:
    weights = RelevanceWeights(similarity=0.5, recency=0.5, reward=0.0, half_life_days=1.0)
    bounded = Relevance(weights, NOW, latest=NOW - timedelta(days=3))
    assert bounded.limit(hit(0.2)) == pytest.approx(0.5 * 0.8 + 0.5 * 0.125)
    assert Relevance(weights, NOW).limit(hit(0.2)) == pytest.approx(0.9)


# --- what a post-filter may do -------------------------------------------------------------------------------


@given(drawn=POOLS, weights=WEIGHTS, top_k=st.integers(1, 12), kept=st.sets(st.integers(0, 59)))
@settings(max_examples=100, deadline=None)
def test_a_filter_that_drops_some_still_gets_the_best_of_the_rest(
    drawn: list[tuple[float, float, float, float]], weights: RelevanceWeights, top_k: int, kept: set[int]
) -> None:
    pool = pool_of(drawn)
    wanted = {f"m{number:02}" for number in kept}

    def keep(hits: list[Hit]) -> list[Hit]:
        return [found for found in hits if found.memory.memory_id in wanted]

    found = by_relevance(pool, weights, top_k, post_filter=keep)
    assert names(found) == names(keep(Relevance(weights, NOW).order(pool)))[:top_k]


def test_a_filter_is_given_more_until_enough_are_left() -> None:
    pool = [hit(number / 1000, name=f"m{number:03}") for number in range(300)]
    seen: list[int] = []

    def late(hits: list[Hit]) -> list[Hit]:
        seen.append(len(hits))
        return [found for found in hits if found.memory.memory_id >= "m200"]

    found = asyncio.run(Selection(3, 1000, 4, post_filter=late).best(fetcher(pool)))
    assert names(found) == ["m200", "m201", "m202"]
    assert seen == [12, 24, 48, 96, 192, 300]


def test_a_filter_that_keeps_nothing_is_asked_until_there_is_nothing_more() -> None:
    pool = [hit(number / 1000, name=f"m{number:03}") for number in range(30)]
    assert asyncio.run(Selection(3, 1000, 4, post_filter=lambda _: []).best(fetcher(pool))) == []
    asked: list[int] = []
    assert asyncio.run(Selection(3, 20, 4, post_filter=lambda _: []).best(fetcher(pool, asked))) == []
    assert asked == [12, 20]


def test_a_filter_that_changes_its_list_changes_nothing_else() -> None:
    pool = [hit(number / 10, name=f"m{number}") for number in range(5)]

    def empties(hits: list[Hit]) -> list[Hit]:
        kept = list(hits)
        hits.clear()
        return kept

    assert len(asyncio.run(Selection(5, 1000, 4, post_filter=empties).best(fetcher(pool)))) == 5


@pytest.mark.parametrize(
    ("post_filter", "problem"),
    [
        (lambda hits: [hit(0.0)], "was not given"),
        (lambda hits: [hits[0], hits[0]], "twice"),
        (lambda hits: None, "NoneType"),
        (lambda hits: (found for found in hits), "generator"),
        (lambda hits: "hits", "str"),
        (lambda hits: [found.memory for found in hits], "EpisodicMemory"),
    ],
)
def test_a_filter_returns_what_it_was_given_and_nothing_else(post_filter: Any, problem: str) -> None:
    with pytest.raises(InvalidQueryError, match=problem) as caught:
        asyncio.run(Selection(1, 10, 4, post_filter=post_filter).best(fetcher([hit(0.1), hit(0.2)])))
    assert caught.value.argument == "post_filter"


# --- through the service -------------------------------------------------------------------------------------


async def test_relevance_counts_ages_from_as_of(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(minute, reward=0.001 * (minute % 7)) for minute in range(0, 300, 5)])
    question, as_of = vector(2000), DAY + timedelta(minutes=200)
    weights = RelevanceWeights(similarity=0.2, recency=1.0, reward=0.3, half_life_days=0.1)
    hits = await mem.retrieval.retrieve_similar_experiences(
        question, as_of=as_of, ranking="relevance", weights=weights, top_k=8
    )
    everything = await mem.retrieval.retrieve_similar_experiences(question, as_of=as_of, top_k=100)
    expected = Relevance(weights, as_of).order(everything)[:8]
    assert [(found.memory.step, found.score) for found in hits] == [(item.memory.step, item.score) for item in expected]
    assert all(found.memory.known_at <= as_of for found in hits)
    again = mem.at(as_of).retrieval.retrieve_similar_experiences(
        question, ranking="relevance", weights=weights, top_k=8
    )
    assert names(await again) == names(hits)


async def test_recency_and_reward_can_turn_the_order_round(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(0, reward=-0.01), make(1000, reward=0.01)])
    as_of = DAY + timedelta(days=1)
    retrieve = mem.retrieval.retrieve_similar_experiences
    nearest = await retrieve(vector(0), as_of=as_of)
    relevant = await retrieve(
        vector(0), as_of=as_of, ranking="relevance", weights=RelevanceWeights(similarity=0.1, reward=1.0)
    )
    assert [found.memory.step for found in nearest] == [0, 1000]
    assert [found.memory.step for found in relevant] == [1000, 0]
    assert nearest[0].score_parts == {"similarity": nearest[0].score}


async def test_a_filter_works_with_either_ranking_and_with_next_states(
    mem: MemoryConnection, make: Any, vector: Any
) -> None:
    await mem.episodic.add_many([make(minute, next_state_vector=vector(minute + 1)) for minute in range(50)])

    def odd(hits: list[Hit]) -> list[Hit]:
        assert all(found.memory.next_state_vector is not None for found in hits)
        return [found for found in hits if found.memory.step % 2]

    for ranking in ("similarity", "relevance"):
        hits = await mem.retrieval.retrieve_similar_experiences(
            vector(7), ranking=ranking, post_filter=odd, top_k=20, with_next_state=True
        )
        assert len(hits) == 20
        assert all(found.memory.step % 2 for found in hits)


async def test_what_a_filter_raises_reaches_its_caller_only(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(minute) for minute in range(20)])

    def fails(hits: list[Hit]) -> list[Hit]:
        raise ZeroDivisionError(len(hits))

    retrieve = mem.retrieval.retrieve_similar_experiences
    failed, whole = await asyncio.gather(
        retrieve(vector(0), post_filter=fails), retrieve(vector(0)), return_exceptions=True
    )
    assert isinstance(failed, ZeroDivisionError)
    assert not isinstance(whole, BaseException)
    assert len(whole) == 10


async def test_weights_are_those_of_the_settings_unless_given(mem: MemoryConnection, make: Any, vector: Any) -> None:
    await mem.episodic.add_many([make(minute, reward=0.01 * minute) for minute in range(5)])
    set_to = Settings(relevance_similarity=0.0, relevance_recency=0.0, relevance_reward=2.0)
    service = MemoryRetrievalService(mem.retrieval._context, set_to)
    for asked in (service, service.at(DAY + timedelta(days=2))):
        hits = await asked.retrieve_similar_experiences(vector(0), ranking="relevance")
        assert {part for found in hits for part, value in found.score_parts.items() if value} == {"reward"}


def test_settings_and_defaults_agree() -> None:
    assert RelevanceWeights.of(Settings()) == RelevanceWeights()


@pytest.mark.parametrize(
    ("asked", "argument", "remedy"),
    [
        ({"ranking": "reward"}, "ranking", "similarity, relevance"),
        ({"ranking": None}, "ranking", "similarity, relevance"),
        ({"ranking": "relevance", "weights": (1, 2, 3)}, "weights", "RelevanceWeights"),
        ({"weights": RelevanceWeights()}, "weights", "leave the weights out"),
        ({"post_filter": "odd"}, "post_filter", "plain function"),
        ({"post_filter": asyncio.sleep}, "post_filter", "plain function"),
    ],
)
async def test_a_malformed_ranking_is_refused_before_anything_is_sent(
    mem: MemoryConnection, vector: Any, asked: dict[str, Any], argument: str, remedy: str
) -> None:
    await mem.link.close()
    with pytest.raises(InvalidQueryError, match=remedy) as caught:
        await mem.retrieval.retrieve_similar_experiences(vector(0), **asked)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"similarity": -0.1}, "similarity"),
        ({"recency": math.nan}, "recency"),
        ({"reward": "much"}, "reward"),
        ({"similarity": 0, "recency": 0, "reward": 0}, "all weights"),
        ({"half_life_days": 0}, "half_life_days"),
        ({"reward_scale": -1}, "reward_scale"),
        ({"over_fetch": 0}, "over_fetch"),
        ({"over_fetch": 2.5}, "over_fetch"),
    ],
)
def test_weights_that_cannot_be_are_refused(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidQueryError, match=named) as caught:
        RelevanceWeights(**changed)
    assert caught.value.argument == "weights"
