"""Questions about experiences against a plain Python model of the same memory, by every way to an answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory import EpisodicMemory, Hit, MemoryConnection
from tests.memory.retrieval.model.doors import Doors
from tests.memory.retrieval.model.drawn_questions import ANCHORS, QUESTIONS, RECORDS, STANDING, STEPS, anchored, related
from tests.memory.retrieval.model.experience_model import ASKED, COSINES, DAY, MINUTE, NEXT, Model, Record
from tests.thoroughness import examples


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


def test_distances_of_the_pool_are_far_enough_apart_to_be_told_apart() -> None:
    for cosines in COSINES:
        ordered = sorted(cosines)
        assert min(later - earlier for earlier, later in itertools.pairwise(ordered)) > 1e-4
        assert min(abs(cosine) for cosine in cosines) > 1e-4


@given(steps=STEPS)
@settings(max_examples=examples(10, 60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
@settings(max_examples=examples(4, 24), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
