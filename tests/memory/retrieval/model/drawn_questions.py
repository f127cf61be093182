"""Experiences, changes and questions as hypothesis draws them, near each other in all that decides an answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from memory import RelevanceWeights
from memory.records import PHASES, REGIMES, SOURCES
from tests.memory.retrieval.model.experience_model import (
    ASKED,
    DAY,
    FAR,
    KEEPING,
    MINUTE,
    STATES,
    Model,
    Record,
    down,
    up,
)

MS = timedelta(milliseconds=1)

AGENTS = ("a", "a.b", "a-b", "BTC")
PRODUCTS = ("BTC-USD", "BTC", "a")

RECENT_FIRST = RelevanceWeights(similarity=0.3, recency=0.5, reward=0.2, half_life_days=0.2, over_fetch=1)
BEST_FIRST = RelevanceWeights(similarity=0.2, recency=0.0, reward=0.8, reward_scale=0.2, over_fetch=1)

EDGES = (0, 1, 479, 480, 481, 959, 960, 1439)
MOMENTS = st.one_of(st.sampled_from(EDGES), st.sampled_from(EDGES), st.integers(0, 1439)).map(
    lambda minute: DAY + minute * MINUTE
)
BITS = st.sampled_from([timedelta(0), timedelta(0), timedelta(microseconds=1), timedelta(microseconds=1500)])
TIMES = st.builds(lambda time, bit: time + bit, MOMENTS, BITS)
DELAYS = st.sampled_from([timedelta(0), timedelta(microseconds=500), MINUTE, timedelta(hours=1), timedelta(hours=9)])
REWARDS = (-0.5, -0.001, 0.0, 1e-9, 0.1 + 0.2, 0.25)
RECORDS = st.builds(
    Record,
    agent=st.sampled_from(AGENTS),
    product=st.sampled_from(PRODUCTS),
    source=st.sampled_from(["backtest", "replay", "replay", "live"]),
    run=st.sampled_from(["run-1", "run-1", "run-2"]),
    step=st.integers(0, 3),
    timestamp=TIMES,
    regime=st.sampled_from(REGIMES[:3]),
    state=st.sampled_from([0, 0, 0, 1, 2, 2, *range(STATES)]),
    following=st.sampled_from([None, 0, STATES]),
    reward=st.sampled_from(REWARDS),
    delay=DELAYS,
    total=st.sampled_from([None, 0.75]),
    total_delay=DELAYS,
    volatility=st.sampled_from([None, 0.01, 0.3]),
    quality=st.sampled_from([None, 0.3, 0.8]),
)


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Record, int]]:
    """Records, and what becomes of each: 0 leaves it, 1 repeats a stored one, 2 contradicts one, 3 follows the last."""
    return draw(st.lists(st.tuples(RECORDS, st.sampled_from([0, 0, 0, 1, 2, 3, 3])), min_size=4, max_size=16))


EVERYTHING = 500
WANTED = (1, 2, 3, 5, 10, 40, EVERYTHING)
MICROSECOND = timedelta(microseconds=1)
ANCHORS = st.tuples(st.integers(0, 99), st.sampled_from([timedelta(0), timedelta(0), -MS, -MICROSECOND, MICROSECOND]))
"""A stored record, and how far from its own time a question's lies."""
ASPECTS: dict[str, st.SearchStrategy[Any]] = {
    "product_id": st.sampled_from(PRODUCTS),
    "regime": st.sampled_from(REGIMES[:3]),
    "market_phase": st.sampled_from(PHASES),
    "exclude_agent_id": st.sampled_from(AGENTS),
    "since": st.one_of(ANCHORS, TIMES),
    "until": st.one_of(ANCHORS, TIMES),
    "as_of": st.one_of(ANCHORS, ANCHORS, st.sampled_from([DAY - MINUTE, DAY + timedelta(days=2), FAR])),
    "min_reward": st.sampled_from([-1.0, *REWARDS, 0.5]),
    "ranking": st.sampled_from(["similarity", "relevance", "relevance"]),
    "post_filter": st.sampled_from(sorted(KEEPING)),
    "with_next_state": st.booleans(),
}
"""What a question may say beside its state and agent; each says some of it, so that answers are not mostly empty."""


@st.composite
def drawn_questions(draw: st.DrawFn) -> dict[str, Any]:
    named = draw(st.lists(st.sampled_from(sorted(ASPECTS)), max_size=3, unique=True))
    asked = {"question": draw(st.integers(0, len(ASKED) - 1)), "top_k": draw(st.sampled_from(WANTED))}
    if draw(st.booleans()):
        asked["agent_id"] = draw(st.sampled_from(AGENTS))
    asked |= {name: draw(ASPECTS[name]) for name in sorted(named)}
    if asked.get("ranking") == "relevance":
        asked["weights"] = draw(st.sampled_from([None, RECENT_FIRST, BEST_FIRST]))
    return asked


def anchored(model: Model, asked: dict[str, Any]) -> dict[str, Any]:
    """The question with its times as they are: at, just before or just after those of records that are stored."""
    there = sorted(model.records.values(), key=lambda record: record.memory_id)
    times = {}
    for name in ("since", "until", "as_of"):
        value = asked.get(name)
        if isinstance(value, tuple):
            own = DAY
            if there:
                record = there[value[0] % len(there)]
                known_at = up(record.timestamp + record.delay)  # Of live ones what they say, not when they arrived.
                told_at = record.total_known_at or known_at
                own = down(record.timestamp) if name != "as_of" else told_at if value[0] % 2 else known_at
            times[name] = own + value[1]
    asked = {**asked, **times}
    if "since" in asked and "until" in asked:
        asked["since"], asked["until"] = sorted([asked["since"], asked["until"]])
    return asked


QUESTIONS = drawn_questions()
CHANGES = st.one_of(
    st.tuples(st.just("add"), batches()),
    st.tuples(st.just("add"), batches()),
    st.tuples(
        st.just("forget"),
        st.fixed_dictionaries(
            {},
            optional={
                "before": TIMES,
                "agent_id": st.sampled_from(AGENTS),
                "product_id": st.sampled_from(PRODUCTS),
                "run_id": st.sampled_from(["run-1", "run-2"]),
                "source": st.sampled_from(SOURCES),
            },
        ).filter(bool),
    ),
)
STEPS = st.lists(st.tuples(CHANGES, st.booleans(), st.lists(QUESTIONS, min_size=3, max_size=6)), min_size=3, max_size=6)
STANDING: list[dict[str, Any]] = [
    {"question": 0, "agent_id": agent, "top_k": EVERYTHING, "with_next_state": True} for agent in AGENTS
]
"""What is asked after every change: all that there is of each agent."""


def related(model: Model, batch: list[tuple[Record, int]]) -> list[Record]:
    """The batch, some of it repetitions, contradictions or successors of what is stored or stands before it."""
    there = sorted(model.records.values(), key=lambda record: record.memory_id)
    made: list[Record] = []
    for record, how in batch:
        known = [*there, *made]
        if how == 3 and made:
            last = made[-1]
            made[-1] = replace(last, following=record.state)
            record = replace(
                record,
                agent=last.agent,
                product=last.product,
                source=last.source,
                run=last.run,
                step=last.step + 1,
                timestamp=last.timestamp + MINUTE,
            )
        elif how in (1, 2) and known:
            old = known[(record.state * 31 + record.step) % len(known)]
            record = replace(old) if how == 1 else replace(old, reward=old.reward + 1, state=record.state)
        made.append(record)
    return made
