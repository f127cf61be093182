"""A sample of all that is remembered, day by day: what base rates are taken from, and which agents see all states.

Of each UTC day one seeded minute in every half-hour is looked at, with all products that had a state then. Half-hours
are what intervals count, so a second minute of one would add little. A day's sample depends on that day's records
alone, as they were known when it ended: it is read once, and a replay that moves on reads one day more at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memory.learning.evidence import BLOCK_MINUTES, ESTIMATE_HORIZONS, OutcomeSample
from memory.retrieval.context import QuestionContext
from memory.retrieval.forward import MS_PER_MINUTE, ForwardReturns, Remembered
from memory.store.answers import check_complete
from memory.store.codec import Body, unpack_body, unpack_features
from memory.store.indexes import IndexSchema
from memory.store.keys import EpisodicKey
from memory.store.scan import FETCH_SIZE, Reader
from memory.tables import TRAILING_VOLATILITY

BASE_DAYS = 30
"""Days before the question that base rates are taken from: some 1,300 half-hours, which leave the mean of log
volatility an error of 0.03."""
ARRIVAL_MINUTES = 60
"""Minutes after its end from which a day counts: inboxes are drained by then."""
SAMPLE_SEED = 20_210_617
KEEP_S = 600.0
"""How long a sample is believed: records of past days may still arrive, or be pruned."""
KEEP_EMPTY_S = 30.0
"""How long an empty day is believed to be empty."""
KEEP_NEWEST_S = 60.0
"""How long the last day with a decision is believed to be the last."""
MAX_DAYS_HELD = 400
LAST_DAY = 40_000
"""Later than any decision: in the year 2079."""
MS_PER_DAY = 86_400_000
_MOST_A_MINUTE = 10_000
"""Experiences of one minute: products times agents."""


@dataclass(frozen=True, slots=True)
class DaySample:
    """What was sampled of one day: outcomes, and how many of its states each set of agents saw."""

    outcomes: OutcomeSample
    seen_by: dict[frozenset[str], int]


@dataclass(slots=True)
class SampleCache:
    """Samples of one client, shared by its questions: by index and day, with the time until which they are believed.

    `newest` is the last day with a decision, likewise.
    """

    days: dict[tuple[str, int], tuple[float, DaySample]] = field(default_factory=dict)
    newest: dict[str, tuple[float, int]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class BaseSampler:
    """Samples of remembered days.

    Parameters
    ----------
    context
        Where to read.
    cache
        What was read before.
    """

    def __init__(self, context: QuestionContext, cache: SampleCache) -> None:
        self._context = context
        self._cache = cache
        self._forward = ForwardReturns(context)

    async def before(self, as_of_ms: int, schema: IndexSchema) -> list[DaySample]:
        """Samples of the `BASE_DAYS` days that had ended, and arrived, by then; days without states are left out.

        Cost: nothing for days that were read; 25 ms for each that was not.
        """
        last = (as_of_ms - ARRIVAL_MINUTES * MS_PER_MINUTE) // MS_PER_DAY
        wanted = range(last - BASE_DAYS, last)
        samples = self._held(schema.name, wanted)
        if len(samples) < len(wanted):
            async with self._cache.lock:
                samples = self._held(schema.name, wanted)
                missing = [day for day in wanted if day not in samples]
                if missing:
                    samples |= await self._read(missing, schema)
        return [samples[day] for day in wanted if len(samples[day].outcomes)]

    async def newest_day(self, schema: IndexSchema) -> int | None:
        """The last UTC day (counted from 1970) with a decision; None without any. Asked anew every minute.

        Cost: some 17 small questions, 0.05 ms each however many records there are.
        """
        held = self._cache.newest.get(schema.name)
        if held is not None and held[0] > time.monotonic():
            return held[1]
        low, high = 0, LAST_DAY
        if not await self._any_since(low, schema):
            return None
        # Decisions lie in [low, high): a span that ends in the future is halved until it is one day.
        while high - low > 1:
            middle = (low + high) // 2
            if await self._any_since(middle, schema):
                low = middle
            else:
                high = middle
        self._cache.newest[schema.name] = (time.monotonic() + KEEP_NEWEST_S, low)
        return low

    async def _any_since(self, day: int, schema: IndexSchema) -> bool:
        # An aggregation ends with the first row; a search would count all of them: 80 ms for two million.
        answer = await self._context.link.execute(
            *("FT.AGGREGATE", schema.name, "@timestamp:[$since +inf]", "LIMIT", 0, 1),
            *("PARAMS", 2, "since", day * MS_PER_DAY, "DIALECT", 2),
        )
        return bool(check_complete(answer)[b"results"])

    def _held(self, index: str, wanted: Iterable[int]) -> dict[int, DaySample]:
        now = time.monotonic()
        held = {day: self._cache.days.get((index, day)) for day in wanted}
        return {day: entry[1] for day, entry in held.items() if entry is not None and entry[0] > now}

    async def _read(self, days: Sequence[int], schema: IndexSchema) -> dict[int, DaySample]:
        """Read some days, and keep them."""
        states, seen_by = await self._states(days, schema)
        horizons = ESTIMATE_HORIZONS
        # Each day by what was known at its own end: then its sample is the same whoever asks, and whenever.
        samples: dict[int, DaySample] = {}
        until = time.monotonic()
        for day in days:
            of_day = states[day]
            returns = await self._forward.of(of_day, horizons, (day + 1) * MS_PER_DAY, schema.name)
            outcomes = OutcomeSample(
                np.array([state.key.timestamp_ms for state in of_day], dtype=np.int64),
                np.array([state.body.regime for state in of_day], dtype=np.int64),
                returns,
                await trailing_volatilities(self._context.reader, [state.body for state in of_day]),
            )
            samples[day] = DaySample(outcomes, seen_by[day])
            self._cache.days[schema.name, day] = (until + (KEEP_S if of_day else KEEP_EMPTY_S), samples[day])
        while len(self._cache.days) > MAX_DAYS_HELD:
            self._cache.days.pop(next(iter(self._cache.days)))
        return samples

    async def _states(
        self, days: Sequence[int], schema: IndexSchema
    ) -> tuple[dict[int, list[Remembered]], dict[int, dict[frozenset[str], int]]]:
        """One experience for each sampled state, and the agents that saw it, by day."""
        commands = [
            (
                *("FT.SEARCH", schema.name, "@timestamp:[$low ($high] -@known_at:[($known +inf]", "NOCONTENT"),
                *("LIMIT", 0, _MOST_A_MINUTE, "PARAMS", 6, "low", minute_ms, "high", minute_ms + MS_PER_MINUTE),
                *("known", (day + 1) * MS_PER_DAY, "DIALECT", 2),
            )
            for day in days
            for minute_ms in sampled_minutes(day)
        ]
        chosen: dict[int, list[EpisodicKey]] = {day: [] for day in days}
        seen_by: dict[int, dict[frozenset[str], int]] = {day: {} for day in days}
        for answer in await self._pipeline(commands):
            keys = [self._context.keys.parse_episodic(row[b"id"]) for row in check_complete(answer)[b"results"]]
            for key, agents in _states_of(keys):
                day = key.timestamp_ms // MS_PER_DAY
                chosen[day].append(key)
                seen_by[day][agents] = seen_by[day].get(agents, 0) + 1
        ordered = [key for day in days for key in chosen[day]]
        bodies = await self._pipeline([("HGET", self._context.keys.episodic(*key), "body") for key in ordered])
        states: dict[int, list[Remembered]] = {day: [] for day in days}
        for key, packed in zip(ordered, bodies, strict=True):
            if packed is not None:
                states[key.timestamp_ms // MS_PER_DAY].append(Remembered(key, unpack_body(packed)))
        return states, seen_by

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(commands), FETCH_SIZE):
            answers += await self._context.link.pipeline(commands[start : start + FETCH_SIZE])
        return answers


def sampled_minutes(day: int) -> list[int]:
    """Beginnings of the minutes of a UTC day (counted from 1970) that are sampled, milliseconds since 1970.

    The last hour is left out, so that the longest horizon ends within the day.
    """
    blocks = (24 * 60 - max(ESTIMATE_HORIZONS)) // BLOCK_MINUTES
    offsets = np.random.default_rng([SAMPLE_SEED, day]).integers(0, BLOCK_MINUTES, blocks)
    return [
        day * MS_PER_DAY + (block * BLOCK_MINUTES + int(offset)) * MS_PER_MINUTE for block, offset in enumerate(offsets)
    ]


def witnesses(samples: Iterable[DaySample]) -> tuple[str, ...]:
    """Few agents that between them saw every sampled state, sorted: most states are shared by all agents.

    Searching what they lived through finds each state once, where searching everybody's finds it once an agent.
    """
    open_sets: dict[frozenset[str], int] = {}
    for sample in samples:
        for agents, count in sample.seen_by.items():
            open_sets[agents] = open_sets.get(agents, 0) + count
    chosen: set[str] = set()
    while open_sets:
        tally: dict[str, int] = {}
        for agents, count in open_sets.items():
            for agent in agents:
                tally[agent] = tally.get(agent, 0) + count
        best = min(tally, key=lambda agent: (-tally[agent], agent))
        chosen.add(best)
        open_sets = {agents: count for agents, count in open_sets.items() if best not in agents}
    return tuple(sorted(chosen))


async def trailing_volatilities(reader: Reader, bodies: Sequence[Body]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Trailing volatility of each record, (n,); NaN where it has none."""
    values = np.full(len(bodies), np.nan)
    for row, body in enumerate(bodies):
        names = await reader.feature_names(body.feature_schema)
        if TRAILING_VOLATILITY in names:
            values[row] = unpack_features(body)[names.index(TRAILING_VOLATILITY)]
    return values


def _states_of(keys: Sequence[EpisodicKey]) -> list[tuple[EpisodicKey, frozenset[str]]]:
    """The first state of each product among the experiences of a minute, with the agents that saw it."""
    first: dict[str, int] = {}
    for key in keys:
        first[key.product_id] = min(key.timestamp_ms, first.get(key.product_id, key.timestamp_ms))
    states = []
    for product_id in sorted(first):
        own = [key for key in keys if (key.product_id, key.timestamp_ms) == (product_id, first[product_id])]
        states.append((min(own, key=lambda key: (key.agent_id, key.memory_id)), frozenset(key.agent_id for key in own)))
    return states
