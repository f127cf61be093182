"""Questions about experiences against a plain Python model of the same memory, by every way to an answer.

The ways: over the wire, by the near cache, through a memory that is locked to a time, over partitioned indexes, and
batched. Vectors come from a small pool, so that ties are many; all else that decides an answer is drawn too.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import Action, BatchedMemoryRetrieval, EpisodicMemory, Hit, MemoryConnection, RelevanceWeights, Side
from memory.records import PHASES, REGIMES, SOURCES, experience_id
from memory.tables import TRAILING_VOLATILITY

DAY = datetime(2021, 6, 17, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MS = timedelta(milliseconds=1)
FAR = datetime(2100, 1, 1, tzinfo=UTC)
ARRIVED = datetime(2090, 1, 1, tzinfo=UTC)
"""Stands for the time at which live experiences arrived: after all times that are asked about but FAR."""
AGENTS = ("a", "a.b", "a-b", "BTC")
PRODUCTS = ("BTC-USD", "BTC", "a")
STATES = 8
RECENT_FIRST = RelevanceWeights(similarity=0.3, recency=0.5, reward=0.2, half_life_days=0.2, over_fetch=1)
BEST_FIRST = RelevanceWeights(similarity=0.2, recency=0.0, reward=0.8, reward_scale=0.2, over_fetch=1)


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


# --- the model -----------------------------------------------------------------------------------------------


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

# --- what is drawn -------------------------------------------------------------------------------------------

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


# --- the memory itself ---------------------------------------------------------------------------------------


class Doors:
    """One memory behind several doors, and the same content in partitioned indexes."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._name = f"m-{uuid.uuid4().hex[:10]}"

    async def open(self) -> None:
        self.wire = await self._connect(near_cache_mb=0)
        self.near = await self._connect(near_cache_mb=16, near_cache_after=0)
        self.partitioned = await self._connect("-p", near_cache_mb=0, index_layout="partitioned")
        self.batched = await self._stack.enter_async_context(BatchedMemoryRetrieval(self.wire))
        self._stack.push_async_callback(self._drop)

    async def _connect(self, suffix: str = "", **configured: Any) -> MemoryConnection:
        configuration = memory.Settings(redis_url=self._url, namespace=self._name + suffix, **configured)
        return await self._stack.enter_async_context(memory.connect(settings=configuration, encoder_id="rff-1"))

    async def _drop(self) -> None:
        for name in await self.wire.link.execute("FT._LIST"):
            if name.decode().split(":")[0] in (self._name, f"{self._name}-p"):
                await self.wire.link.execute("FT.DROPINDEX", name, "DD")

    async def add(self, batch: Sequence[Record], *, by_another: bool) -> list[Any]:
        writer = self.near if by_another else self.wire
        return [await mem.episodic.add_many([record.build() for record in batch]) for mem in (self.partitioned, writer)]

    async def forget(self, criteria: dict[str, Any]) -> list[int]:
        return [(await mem.episodic.forget(**criteria)).experiences for mem in (self.partitioned, self.wire)]

    async def answers(self, questions: Sequence[dict[str, Any]]) -> list[list[tuple[str, list[Hit]]]]:
        """The answers to each question, by the name of the door.

        The near cache is asked first, before it could hear of what was written in any other way than its own.
        """
        near = [("near", await self._near(self.near.retrieval, arguments(asked))) for asked in questions]
        batched = await asyncio.gather(*(self.batched.retrieve_async(**arguments(asked)) for asked in questions))
        return [
            [one, ("batched", hits), *await self._by_one(arguments(asked))]
            for asked, one, hits in zip(questions, near, batched, strict=True)
        ]

    async def _by_one(self, asked: dict[str, Any]) -> list[tuple[str, list[Hit]]]:
        found = [
            ("wire", await self.wire.retrieval.retrieve_similar_experiences(**asked)),
            ("partitioned", await self.partitioned.retrieval.retrieve_similar_experiences(**asked)),
        ]
        if "as_of" in asked:
            rest = {name: value for name, value in asked.items() if name != "as_of"}
            locked, looser = self.near.at(asked["as_of"]).retrieval, self.near.at(FAR + MINUTE).retrieval
            found += [
                ("wire, locked", await self.wire.at(asked["as_of"]).retrieval.retrieve_similar_experiences(**rest)),
                ("near, locked", await self._near(locked, rest)),
                ("near, locked later", await self._near(looser, asked)),
            ]
        return found

    async def _near(self, retrieval: Any, asked: dict[str, Any]) -> list[Hit]:
        """The answer of the near cache itself, where the question is one for it."""
        cache = self.near.near
        assert cache is not None
        deadline = asyncio.get_running_loop().time() + 15
        while True:
            misses = cache.describe().misses
            hits: list[Hit] = await retrieval.retrieve_similar_experiences(**asked)
            if "agent_id" not in asked or cache.describe().misses == misses:
                return hits
            assert asyncio.get_running_loop().time() < deadline, cache.describe()
            await asyncio.sleep(0.002)


def arguments(asked: dict[str, Any]) -> dict[str, Any]:
    """A drawn question as it is asked."""
    given = {name: value for name, value in asked.items() if name != "question"}
    if "post_filter" in asked:
        keep = KEEPING[asked["post_filter"]]
        given["post_filter"] = lambda hits: [hit for hit in hits if keep(hit.memory)]
    return {"state_vector": ASKED[asked["question"]], **given}


def check(model: Model, asked: dict[str, Any], hits: Sequence[Hit]) -> None:
    """Whether an answer is the model's: the same experiences in the same order, with what was known of them."""
    top_k = asked.get("top_k", 10)
    wanted, score = model.answer(asked["question"], asked)
    by_relevance = asked.get("ranking") == "relevance"
    ids = [hit.memory.memory_id for hit in hits]
    assert len(ids) == len(set(ids)) == min(top_k, len(wanted))
    admitted = {record.memory_id: record for record in wanted}
    for hit, record in zip(hits, wanted, strict=False):
        found = admitted[hit.memory.memory_id]
        # Scores come from distances that were rounded to float32: those closer than that may change places, equal
        # ones may not.
        gap = abs(score(found) - score(record))
        assert found is record or (by_relevance and 0 < gap < 1e-6), (hit.memory.memory_id, record.memory_id, gap)
        assert abs(hit.distance - (1 - COSINES[asked["question"]][found.state])) < 1e-5
        assert abs(hit.score - score(found)) < 1e-5
        assert abs(sum(hit.score_parts.values()) - hit.score) < 1e-9
        expected = found.seen(asked.get("as_of"), with_next_state=asked.get("with_next_state", False))
        for name, value in expected.items():
            shown = getattr(hit.memory, name)
            same = np.array_equal(shown, value) if isinstance(value, np.ndarray) else shown == value
            assert same, (name, shown, value)


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


# --- properties ----------------------------------------------------------------------------------------------


def test_distances_of_the_pool_are_far_enough_apart_to_be_told_apart() -> None:
    for cosines in COSINES:
        ordered = sorted(cosines)
        assert min(later - earlier for earlier, later in itertools.pairwise(ordered)) > 1e-4
        assert min(abs(cosine) for cosine in cosines) > 1e-4


@given(steps=STEPS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_way_to_an_answer_gives_that_of_the_model(servers: Any, steps: list[Any]) -> None:
    async def run() -> None:
        model = Model()
        async with AsyncExitStack() as stack:
            doors = Doors(servers.redis_url, stack)
            await doors.open()
            for (what, details), by_another, drawn in steps:
                if what == "add":
                    batch = related(model, details)
                    stored, duplicates, conflicts = model.add(batch)
                    for report in await doors.add(batch, by_another=by_another):
                        assert sorted(report.stored) == sorted(stored)
                        assert sorted(report.duplicates) == sorted(duplicates)
                        assert [item.position for item in report.conflicts] == conflicts
                else:
                    gone = model.forget(details)
                    assert await doors.forget(details) == [gone, gone]
                questions = [*STANDING, *(anchored(model, asked) for asked in drawn)]
                for asked, answers in zip(questions, await doors.answers(questions), strict=True):
                    for door, hits in answers:
                        try:
                            check(model, asked, hits)
                        except AssertionError as error:
                            raise AssertionError(f"{door}: {error}; asked {asked}") from error

    asyncio.run(run())


@given(
    batch=st.lists(RECORDS, min_size=4, max_size=40),
    moment=ANCHORS,
    questions=st.lists(QUESTIONS, min_size=2, max_size=6),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_not_known_yet_might_as_well_not_exist(
    servers: Any, batch: list[Record], moment: Any, questions: list[dict[str, Any]]
) -> None:
    """A memory in which nothing has happened since gives the same answers as of then, whatever is asked."""
    model = Model()
    model.add(batch)
    as_of = anchored(model, {"as_of": moment})["as_of"]
    known = [record for record in batch if record.known_at <= as_of]
    cut = [
        record if record.total_known_at is None or record.total_known_at <= as_of else replace(record, total=None)
        for record in known
    ]

    async def run() -> None:
        async with AsyncExitStack() as stack:
            full, then = Doors(servers.redis_url, stack), Doors(servers.redis_url, stack)
            for doors, records in ((full, batch), (then, cut)):
                await doors.open()
                await doors.add(records, by_another=False)
            asked_then = [anchored(model, {**asked, "as_of": as_of}) for asked in questions]
            for ours, theirs in zip(await full.answers(asked_then), await then.answers(asked_then), strict=True):
                for (door, hits), (_, expected) in zip(ours, theirs, strict=True):
                    assert [told(hit) for hit in hits] == [told(hit) for hit in expected], door
            for question in ASKED:
                regimes = [
                    await mem.retrieval.retrieve_similar_regimes(question, as_of=as_of)
                    for mem in (full.wire, then.wire, full.partitioned, then.near)
                ]
                assert regimes[0] == regimes[1]
                for other in regimes[2:]:
                    states = [(state.product_id, state.timestamp, state.source) for state in other.states]
                    assert states == [(state.product_id, state.timestamp, state.source) for state in regimes[0].states]
                    np.testing.assert_allclose(list(other.vote.values()), list(regimes[0].vote.values()), rtol=1e-3)

    asyncio.run(run())


def told(hit: Hit) -> tuple[Any, ...]:
    """All that a hit tells but when the server recorded it."""
    values = (getattr(hit.memory, name) for name in EpisodicMemory.__slots__ if name != "recorded_at")
    plain = tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in values)
    return (*plain, hit.distance, hit.score, tuple(hit.score_parts.items()))


# --- batches that were hard to get right ---------------------------------------------------------------------

FIRST = Record(
    agent="a",
    product="BTC",
    source="replay",
    run="run-1",
    step=3,
    timestamp=DAY,
    regime="QUIET",
    state=7,
    following=0,
    reward=0.25,
    delay=MINUTE,
    total=None,
    total_delay=MINUTE,
    volatility=None,
    quality=None,
)
SECOND = replace(FIRST, step=4, timestamp=DAY + MINUTE, state=1, following=None)


async def test_a_contradiction_in_the_next_state_is_one_even_beside_a_contradicted_successor(
    mem: MemoryConnection,
) -> None:
    batch = [FIRST, replace(FIRST, following=1), SECOND, replace(SECOND, state=0)]
    report = await mem.episodic.add_many([record.build() for record in batch])
    assert set(report.stored) == {FIRST.memory_id, SECOND.memory_id}
    assert ([item.position for item in report.conflicts], report.duplicates) == ([1, 3], ())
    stored = await mem.episodic.get(FIRST.memory_id)
    assert stored is not None
    assert np.array_equal(stored.next_state_vector, NEXT[0])


async def test_a_repeated_record_changes_nothing_even_before_a_contradicted_successor(mem: MemoryConnection) -> None:
    await mem.episodic.add_many([FIRST.build()])
    batch = [replace(FIRST, quality=0.3), SECOND, replace(SECOND, state=0)]
    report = await mem.episodic.add_many([record.build() for record in batch])
    assert (report.stored, report.duplicates) == ((SECOND.memory_id,), (FIRST.memory_id,))
    stored = await mem.episodic.get(FIRST.memory_id)
    assert stored is not None
    assert stored.quality is None


async def test_of_records_of_one_millisecond_the_first_of_the_batch_counts(mem: MemoryConnection) -> None:
    batch = [FIRST, replace(FIRST, timestamp=DAY + timedelta(microseconds=7), reward=0.5)]
    report = await mem.episodic.add_many([record.build() for record in batch])
    assert [item.position for item in report.conflicts] == [1]
    stored = await mem.episodic.get(FIRST.memory_id)
    assert stored is not None
    assert stored.reward == FIRST.reward
