"""A plain Python model of experiences, and what it answers.

Vectors come from a small pool, so that ties are many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from memory import Action, EpisodicMemory, RelevanceWeights, Side
from memory.records import PHASES, experience_id
from memory.tables import TRAILING_VOLATILITY

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

FAR = datetime(2100, 1, 1, tzinfo=UTC)
ARRIVED = datetime(2090, 1, 1, tzinfo=UTC)
"""Stands for the time at which live experiences arrived: after all times that are asked about but FAR."""

STATES = 8


def unit(vector: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


POOL = [unit(np.random.default_rng(seed).standard_normal(256)) for seed in range(STATES)]
NEXT = [*POOL, unit(np.random.default_rng(99).standard_normal(256))]
ASKED = [POOL[0], unit(np.random.default_rng(500).standard_normal(256)), unit(POOL[2] + 0.4 * POOL[3]), -POOL[4]]
COSINES = [[float(np.dot(state.astype(float), asked.astype(float))) for state in POOL] for asked in ASKED]


def up(time: datetime) -> datetime:
    """Rounded up to whole milliseconds, as the times are kept from which on something is known."""
    return time + timedelta(microseconds=-time.microsecond % 1000)


def down(time: datetime) -> datetime:
    """Rounded down to whole milliseconds, as times of decisions are kept."""
    return time - timedelta(microseconds=time.microsecond % 1000)


@dataclass(frozen=True)
class Record:
    """An experience, as plain values; `state` and `following` are positions in the pools."""

    agent: str
    product: str
    source: str
    run: str
    step: int
    timestamp: datetime
    regime: str
    state: int
    following: int | None
    reward: float
    delay: timedelta
    total: float | None
    total_delay: timedelta
    volatility: float | None
    quality: float | None

    @property
    def memory_id(self) -> str:
        return experience_id(self.source, self.run, self.agent, self.product, self.timestamp, self.step)

    @property
    def known_at(self) -> datetime:
        return ARRIVED if self.source == "live" else up(self.timestamp + self.delay)

    @property
    def total_known_at(self) -> datetime | None:
        return None if self.total is None else up(self.timestamp + self.delay + self.total_delay)

    @property
    def phase(self) -> str:
        return PHASES[self.timestamp.hour // 8]

    @property
    def content(self) -> tuple[Any, ...]:
        """What makes two records under one id the same; how good one is may be found out later."""
        known = None if self.source == "live" else self.known_at
        told = (self.regime, self.state, self.following, self.reward, self.total, self.volatility)
        return (*told, known, self.total_known_at)

    def build(self) -> EpisodicMemory:
        known_at = self.timestamp + self.delay
        return EpisodicMemory(
            agent_id=self.agent,
            timestamp=self.timestamp,
            state_vector=POOL[self.state].copy(),
            next_state_vector=None if self.following is None else NEXT[self.following].copy(),
            action=Action(Side.BUY, 0.5),
            reward=self.reward,
            product_id=self.product,
            regime=self.regime,
            encoder_id="rff-1",
            source=self.source,
            run_id=self.run,
            step=self.step,
            known_at=known_at,
            cumulative_return=self.total,
            return_known_at=None if self.total is None else known_at + self.total_delay,
            features={} if self.volatility is None else {TRAILING_VOLATILITY: self.volatility},
            quality=self.quality,
        )

    def seen(self, as_of: datetime | None, *, with_next_state: bool) -> dict[str, Any]:
        """The fields that an answer must show."""
        told = self.total is not None and (as_of is None or (self.total_known_at or FAR) <= as_of)
        fields: dict[str, Any] = {
            "memory_id": self.memory_id,
            "agent_id": self.agent,
            "product_id": self.product,
            "source": self.source,
            "run_id": self.run,
            "step": self.step,
            "timestamp": down(self.timestamp),
            "regime": self.regime,
            "market_phase": self.phase,
            "reward": self.reward,
            "cumulative_return": self.total if told else None,
            "return_known_at": self.total_known_at if told else None,
            "features": {} if self.volatility is None else {TRAILING_VOLATILITY: self.volatility},
            "quality": self.quality,
            "encoder_id": "rff-1",
            "action": Action(Side.BUY, 0.5),
            "state_vector": POOL[self.state],
            "next_state_vector": NEXT[self.following] if with_next_state and self.following is not None else None,
        }
        return fields if self.source == "live" else {**fields, "known_at": self.known_at}


@dataclass
class Model:
    """A memory in plain Python."""

    records: dict[str, Record] = field(default_factory=dict)

    def add(self, batch: Sequence[Record]) -> tuple[list[str], list[str], list[int]]:
        """Ids that are new, ids that were there, positions of those that contradict what is there."""
        stored, duplicates, conflicts = [], [], []
        for position, record in enumerate(batch):
            there = self.records.setdefault(record.memory_id, record)
            if there is record:
                stored.append(record.memory_id)
            elif there.content == record.content:
                duplicates.append(record.memory_id)
            else:
                conflicts.append(position)
        return stored, duplicates, conflicts

    def forget(self, criteria: dict[str, Any]) -> int:
        names = {"agent_id": "agent", "product_id": "product", "run_id": "run", "source": "source"}
        gone = [
            key
            for key, record in self.records.items()
            if all(getattr(record, names[name]) == value for name, value in criteria.items() if name != "before")
            and ("before" not in criteria or down(record.timestamp) < criteria["before"])
        ]
        for key in gone:
            del self.records[key]
        return len(gone)

    def fit(self, asked: dict[str, Any]) -> list[Record]:
        return [
            record
            for record in self.records.values()
            if asked.get("agent_id", record.agent) == record.agent
            and asked.get("product_id", record.product) == record.product
            and asked.get("regime", record.regime) == record.regime
            and asked.get("market_phase", record.phase) == record.phase
            and asked.get("exclude_agent_id") != record.agent
            and asked.get("since", DAY - FAR_BACK) <= down(record.timestamp)
            and down(record.timestamp) < asked.get("until", FAR)
            and ("as_of" not in asked or record.known_at <= asked["as_of"])
            and asked.get("min_reward", -math.inf) <= record.reward
        ]

    def answer(self, question: int, asked: dict[str, Any]) -> tuple[list[Record], Callable[[Record], float]]:
        """All experiences that the question admits, best first, and how good each is."""
        score = scoring(question, asked)
        keep = KEEPING.get(asked.get("post_filter", ""), lambda _: True)
        ordered = sorted(self.fit(asked), key=lambda record: (-score(record), record.memory_id))
        return [record for record in ordered if keep(record)], score


FAR_BACK = timedelta(days=10_000)


def scoring(question: int, asked: dict[str, Any]) -> Callable[[Record], float]:
    if asked.get("ranking") != "relevance":
        return lambda record: COSINES[question][record.state]
    weights = asked["weights"] or RelevanceWeights()
    now = asked.get("as_of", datetime.now(UTC))
    total = weights.similarity + weights.recency + weights.reward

    def relevance(record: Record) -> float:
        similarity = max(COSINES[question][record.state], 0.0)
        age_days = max((now - down(record.timestamp)).total_seconds(), 0.0) / 86_400
        reward = math.tanh(record.reward / (record.volatility or weights.reward_scale)) / 2 + 0.5
        recency = 0.5 ** (age_days / weights.half_life_days)
        return (weights.similarity * similarity + weights.recency * recency + weights.reward * reward) / total

    return relevance


KEEPING: dict[str, Callable[[Any], bool]] = {
    "rewarded": lambda record: record.reward > 0,
    "even": lambda record: record.step % 2 == 0,
    "none": lambda _: False,
    "all": lambda _: True,
}
