"""Ranking: which of the experiences that resemble a state come first.

``similarity`` orders by cosine alone. ``relevance`` is a weighted mean of three parts, each from 0 to 1:

* **similarity**: the cosine, or 0 where it is negative. The project's encoder is made of random Fourier features, whose
  inner product estimates a Gaussian kernel, a number from 0 to 1 (A. Rahimi and B. Recht, "Random Features for
  Large-Scale Kernel Machines", NIPS 2007): below 0 there is noise, and nothing left to be less similar than.
* **recency**: 2 ** (-age / half-life). The age counts from `as_of` (from now where a question has no bound) back to the
  decision, so that a replay ranks as it would have been ranked then.
* **reward**: (1 + tanh(reward / scale)) / 2: a half for a reward of 0, and never beyond 1, however lucky the outlier.
  The scale is the experience's own trailing volatility (`memory.tables.TRAILING_VOLATILITY`): it is robust to the size
  of the market's moves, and it was known when the decision was taken, as strictly as the state itself; a scale taken
  from other experiences would have to be cut at `as_of` each time anew. Where an experience lacks it, a setting serves.

Search knows similarity only. The candidates are therefore fetched nearest first, more and more of them, until none that
was not fetched can come into the answer: its similarity is at most that of the last one fetched, its other parts are at
most 1. The answer is then the exact one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from memory.errors import InvalidQueryError
from memory.retrieval.arguments import check_number
from memory.retrieval.hits import Hit, PatternHit
from memory.settings import Settings
from memory.tables import TRAILING_VOLATILITY

SIMILARITY, RELEVANCE = "similarity", "relevance"
RANKINGS = (SIMILARITY, RELEVANCE)

_DAY_S = 86_400.0
_MAX_OVER_FETCH = 1000

Found = TypeVar("Found", Hit, PatternHit)
Fetch = Callable[[int], Awaitable[list[Found]]]
"""Gives the k nearest, nearest first; fewer only where fewer exist."""
PostFilter = Callable[[list[Found]], Sequence[Found]]
"""Is given the candidates, best first, and returns those to keep, in the order in which they shall come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelevanceWeights:
    """How relevance is made up. The defaults are those of the settings COINSWARM_RELEVANCE_*.

    Attributes
    ----------
    similarity, recency, reward
        Weights of the three parts, at least 0, one of them above; their sum does not matter.
    half_life_days
        Age at which an experience counts half as recent, days.
    reward_scale
        Reward that counts as large where an experience does not say how volatile its market was; a fraction.
    over_fetch
        How many times `top_k` are fetched at first.

    Raises
    ------
    InvalidQueryError
        A number is out of its range; it is named.
    """

    similarity: float = 0.8
    recency: float = 0.1
    reward: float = 0.1
    half_life_days: float = 30.0
    reward_scale: float = 0.001
    over_fetch: int = 4

    def __post_init__(self) -> None:
        for name in ("similarity", "recency", "reward"):
            _in_range(name, getattr(self, name), 0.0, math.inf)
        total = self.similarity + self.recency + self.reward
        if not total > 0:
            raise InvalidQueryError(
                "all weights of the relevance are 0.", remedy="Give one of them a weight above 0.", argument="weights"
            )
        _in_range("similarity + recency + reward", total, 0.0, math.inf)
        for name in ("half_life_days", "reward_scale"):
            _in_range(name, getattr(self, name), math.ulp(0.0), math.inf)
        if isinstance(self.over_fetch, bool) or not isinstance(self.over_fetch, int):
            raise InvalidQueryError(
                f"weights.over_fetch is {type(self.over_fetch).__name__}.",
                remedy="Pass a whole number.",
                argument="weights",
            )
        _in_range("over_fetch", self.over_fetch, 1, _MAX_OVER_FETCH)

    @classmethod
    def of(cls, settings: Settings) -> RelevanceWeights:
        """Those that are set."""
        return cls(**{item.name: getattr(settings, f"relevance_{item.name}") for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class Relevance:
    """Scores of one question.

    Parameters
    ----------
    weights
        How the parts count.
    now
        What ages are counted from.
    latest
        No experience of the question is younger than this; None where only `now` bounds them.
    """

    weights: RelevanceWeights
    now: datetime
    latest: datetime | None = None

    def parts(self, hit: Hit) -> dict[str, float]:
        """What each part adds to the score of an experience."""
        reward = hit.memory.reward
        scale = hit.memory.features.get(TRAILING_VOLATILITY, 0.0)
        luck = squashed(reward, scale if scale > 0 else self.weights.reward_scale)
        return self._weighed(hit.distance, self._recency(hit.memory.timestamp), luck)

    def limit(self, last: Hit) -> float:
        """The highest score of an experience that is no nearer than another."""
        recency = 1.0 if self.latest is None else self._recency(self.latest)
        return sum(self._weighed(last.distance, recency, 1.0).values())

    def order(self, hits: list[Hit]) -> list[Hit]:
        """The hits with their scores, best first, ties by memory id."""
        scored = [(hit, self.parts(hit)) for hit in hits]
        ranked = [replace(hit, score=sum(parts.values()), score_parts=parts) for hit, parts in scored]
        ranked.sort(key=lambda hit: (-hit.score, hit.memory.memory_id))
        return ranked

    def _weighed(self, distance: float, recency: float, reward: float) -> dict[str, float]:
        weights = self.weights
        total = weights.similarity + weights.recency + weights.reward
        return {
            "similarity": weights.similarity / total * min(max(1.0 - distance, 0.0), 1.0),
            "recency": weights.recency / total * recency,
            "reward": weights.reward / total * reward,
        }

    def _recency(self, timestamp: datetime) -> float:
        age_s = max((self.now - timestamp).total_seconds(), 0.0)
        return math.exp2(-age_s / (self.weights.half_life_days * _DAY_S)) if age_s else 1.0


@dataclass(frozen=True, slots=True)
class Selection(Generic[Found]):
    """How the best of what resembles a state are chosen.

    Attributes
    ----------
    top_k, most
        Results wanted, and the most that can be fetched.
    over_fetch
        How many times `top_k` are fetched at first.
    order
        Gives fetched hits their scores and puts them in order; None leaves them nearest first.
    limit
        The highest score that a hit can have which is no nearer than another; None where `order` is.
    post_filter
        What has the last word; see `check_post_filter`.
    """

    top_k: int
    most: int
    over_fetch: int = 1
    order: Callable[[list[Found]], list[Found]] | None = None
    limit: Callable[[Found], float] | None = None
    post_filter: PostFilter[Found] | None = None

    async def best(self, fetch: Fetch[Found]) -> list[Found]:
        """The best, best first.

        What is fetched doubles until the answer is certain: until as many hits as are needed score above whatever was
        not fetched, or everything was. `most` bounds it: the answer is then the best of the `most` nearest.
        """
        size = min(self.most, self.top_k * self.over_fetch)
        # A filter that drops some is given more than it must return, so that one call mostly does.
        needed = self.top_k if self.post_filter is None else size
        while True:
            hits = await fetch(size)
            complete = len(hits) < size or size >= self.most
            ranked = hits if self.order is None else self.order(hits)
            if not complete and self.limit is not None:
                bar = self.limit(hits[-1])
                ranked = [hit for hit in ranked if hit.score > bar]
            if complete or len(ranked) >= needed:
                kept = ranked if self.post_filter is None else _kept(self.post_filter, ranked)
                if complete or len(kept) >= self.top_k:
                    return kept[: self.top_k]
                needed = 2 * len(ranked)
            size = min(self.most, 2 * size)


def squashed(reward: float, scale: float) -> float:
    """A reward as a part of relevance, from 0 to 1."""
    return 0.5 + 0.5 * math.tanh(reward / scale)


# --- arguments -----------------------------------------------------------------------------------------------


def check_ranking(ranking: Any, weights: Any) -> None:
    """Whether there is such a ranking, and weights only where they count; else InvalidQueryError."""
    if not isinstance(ranking, str) or ranking not in RANKINGS:
        raise InvalidQueryError(
            f"ranking {repr(ranking)[:80]} is not known.",
            remedy=f"Use one of {', '.join(RANKINGS)}.",
            argument="ranking",
        )
    if weights is None:
        return
    if not isinstance(weights, RelevanceWeights):
        raise InvalidQueryError(
            f"weights are {type(weights).__name__}.",
            remedy="Pass RelevanceWeights(similarity=..., recency=..., reward=...), or nothing.",
            argument="weights",
        )
    if ranking != RELEVANCE:
        raise InvalidQueryError(
            f"weights are given, but ranking is {ranking!r}, which has none.",
            remedy=f"Ask with ranking={RELEVANCE!r}, or leave the weights out.",
            argument="weights",
        )


def check_post_filter(post_filter: Any) -> None:
    """Whether a post-filter can be called; else InvalidQueryError.

    A post-filter is a plain function. It is given a list of hits, best first, and returns a sequence of those that
    shall be kept, in the order in which they shall come, and of no others. Where it keeps fewer than `top_k` it is
    called again with a longer list, so it should depend on its argument alone; it must not change the memories, which
    may be shared. What it raises goes to the caller of its question.
    """
    if post_filter is not None and (not callable(post_filter) or inspect.iscoroutinefunction(post_filter)):
        problem = "is a coroutine function" if callable(post_filter) else f"is {type(post_filter).__name__}"
        raise InvalidQueryError(
            f"post_filter {problem}.",
            remedy="Pass a plain function that takes a list of hits and returns those to keep.",
            argument="post_filter",
        )


def _kept(post_filter: PostFilter[Found], candidates: list[Found]) -> list[Found]:
    """What a post-filter keeps of some hits, or InvalidQueryError where that is not some of them."""
    answer: Any = post_filter(list(candidates))
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        if inspect.iscoroutine(answer):
            answer.close()
        raise _misused(f"returned {type(answer).__name__}, not a sequence of hits")
    given = {id(hit) for hit in candidates}
    for hit in answer:
        if id(hit) not in given:
            raise _misused(f"returned {type(hit).__name__} that it was not given, or one hit twice")
        given.remove(id(hit))
    return list(answer)


def _misused(problem: str) -> InvalidQueryError:
    return InvalidQueryError(
        f"post_filter {problem}.",
        remedy="Return a list of the hits to keep, each at most once, and the very objects that were given.",
        argument="post_filter",
    )


def _in_range(name: str, value: Any, low: float, high: float) -> None:
    try:
        check_number(value, f"weights.{name}", low, high)
    except InvalidQueryError as error:
        raise InvalidQueryError(error.message, remedy=error.remedy, argument="weights") from error
