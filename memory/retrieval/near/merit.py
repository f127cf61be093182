"""Relevance of many rows at once, near enough to tell which of them can be among the best.

Which of those come first is for `ranking.Relevance` to say: nothing here decides between rows that are within `SLACK`
of each other.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from memory.retrieval.near.arena import Columns
from memory.retrieval.near.basis import Floats
from memory.retrieval.ranking import Relevance

SLACK = 4e-6
"""More than the rounding of a score in float32: a few numbers up to 1, each off by at most 2^-24 (an exponential by two
such steps, and by what its argument is off, which is largest where the result is 1/e)."""
LOWEST_EXPONENT = -80.0
"""The exponential of less is 0 in float32."""
_MS_PER_DAY = 86_400_000.0
_STEEPEST = 1e12
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Merit:
    """What relevance adds to the similarity of rows.

    Parameters
    ----------
    relevance
        Scores of the question.
    """

    def __init__(self, relevance: Relevance) -> None:
        weights = relevance.weights
        total = weights.similarity + weights.recency + weights.reward
        self._similarity = np.float32(weights.similarity / total)
        self._recency = np.float32(weights.recency / total)
        self._reward = np.float32(weights.reward / total)
        self._now_us = (relevance.now - _EPOCH) // _MICROSECOND
        self._decay = -min(math.log(2.0) / max(weights.half_life_days * _MS_PER_DAY * 1e3, 1e-300), _STEEPEST)
        self._reward_scale = weights.reward_scale

    def rest(self, columns: Columns) -> Floats:
        """What recency and reward add to the scores of some rows."""
        age_us = np.maximum(self._now_us - columns.timestamp_ms * 1000, 0)
        recency = np.exp(np.maximum(age_us * self._decay, LOWEST_EXPONENT).astype(np.float32))
        luck = columns.luck
        unknown = np.isnan(luck)
        if unknown.any():
            with np.errstate(over="ignore"):  # An endless quotient is squashed like any other.
                scaled = columns.reward[unknown] / self._reward_scale
            luck = luck.copy()
            luck[unknown] = 0.5 + 0.5 * np.tanh(scaled)
        total: Floats = recency * self._recency + luck * self._reward
        return total

    def scores(self, cosines: Floats, rest: Floats) -> Floats:
        """Scores of rows by their cosines, or bounds of the scores by bounds of the cosines."""
        similarity: npt.NDArray[np.float32] = np.minimum(np.maximum(cosines, 0.0), 1.0)
        return similarity * self._similarity + rest
