"""Questions that cannot be answered are refused: the argument and the remedy are named, and nothing is sent.

What was sent is counted by a server that nobody else talks to.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import (
    BatchedMemoryRetrieval,
    LoadBalancedMemoryRetrieval,
    MemoryRetrievalService,
    RelevanceWeights,
    SharedMemoryPool,
)
from memory.errors import InvalidQueryError
from tests.memory.retrieval.bad_input.asking import QUESTIONS, STATE, VALID, Opened, complaint, count_commands
from tests.memory.retrieval.bad_input.bad_values import BAD, DAY, HOUR, NOT_FINITE, SPECIAL, TIMES, VECTORS
from tests.memory.retrieval.redis_processes import RedisProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(("question", "argument"), QUESTIONS)
async def test_a_bad_argument_is_refused_before_anything_is_sent(opened: Opened, question: str, argument: str) -> None:
    values = SPECIAL.get((question, argument), BAD[argument])
    problems = []
    before = opened.sent()
    for ask in opened.ask(question):
        for value in values:
            shown = f"{argument}={repr(value)[:60]}"
            try:
                await ask(**{**VALID[question], argument: value})
            except InvalidQueryError as error:
                lacking = complaint(error, argument)
                if lacking is not None:
                    problems.append(f"{shown}: the refusal {lacking}")
            except Exception as error:  # noqa: BLE001 - whatever else comes is reported with the value that led to it
                problems.append(f"{shown} raised {type(error).__name__}: {str(error)[:100]}")
            else:
                problems.append(f"{shown} was answered")
    assert problems == []
    assert opened.sent() == before
    for ask in opened.ask(question):
        await ask(**VALID[question])
    assert opened.sent() != before


async def test_every_question_and_every_argument_is_put_to_the_test() -> None:
    public = {
        name
        for holder in (MemoryRetrievalService, BatchedMemoryRetrieval, SharedMemoryPool)
        for name, _ in inspect.getmembers(holder, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    others = {"open", "close", "add_shared_experience", "add_shared_experiences", "count", "forget"}
    assert public - others == set(VALID)
    assert {argument for _, argument in QUESTIONS} == set(BAD)


@pytest.mark.parametrize("question", ["retrieve_similar_experiences", "retrieve_async", "retrieve_shared_experiences"])
async def test_a_span_that_ends_before_it_begins_is_refused(opened: Opened, question: str) -> None:
    before = opened.sent()
    for ask in opened.ask(question):
        with pytest.raises(InvalidQueryError, match=r"since .* lies after until .*\. Swap them\.") as caught:
            await ask(STATE, since=DAY + timedelta(microseconds=1), until=DAY)
        assert caught.value.argument == "since"
    assert opened.sent() == before
    for ask in opened.ask(question):
        assert await ask(STATE, since=DAY, until=DAY) == []


@pytest.mark.parametrize(
    "weights",
    [
        *({name: value} for name in ("similarity", "recency", "reward") for value in (-0.1, *NOT_FINITE)),
        *({name: value} for name in ("half_life_days", "reward_scale") for value in (0.0, -1.0, *NOT_FINITE)),
        *({"over_fetch": value} for value in (0, -1, 1001, 1.0, True, "4", None)),
        {"similarity": 0.0, "recency": 0.0, "reward": 0.0},
        {"similarity": 1e308, "recency": 1e308},
    ],
)
async def test_weights_that_weigh_nothing_are_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        RelevanceWeights(**weights)
    assert complaint(caught.value, "weights") is None


@pytest.mark.parametrize("time", TIMES)
async def test_no_service_can_be_locked_to_what_is_no_time(opened: Opened, time: Any) -> None:
    before = opened.sent()
    for holder in (opened.mem, opened.mem.semantic, *opened.doors):
        with pytest.raises(InvalidQueryError) as caught:
            holder.at(time)
        assert complaint(caught.value, "as_of") is None
    assert opened.sent() == before


async def test_a_lock_can_be_moved_back_but_not_forward(opened: Opened) -> None:
    past = opened.mem.at(DAY)
    batched = next(door for door in opened.doors if isinstance(door, BatchedMemoryRetrieval))
    balanced = next(door for door in opened.doors if isinstance(door, LoadBalancedMemoryRetrieval))
    for service in (past.retrieval, past.semantic, past.shared, batched.at(DAY), balanced.at(DAY)):
        with pytest.raises(InvalidQueryError, match="to which this memory is locked") as caught:
            service.at(DAY + timedelta(microseconds=1))
        assert caught.value.argument == "as_of"
        service.at(DAY - HOUR)


@pytest.mark.parametrize(
    "vector", [value for value in VECTORS if np.shape(value) not in ((255,), (257,), (1,), (512,))]
)
async def test_a_client_that_never_asked_before_sends_nothing_either(server: RedisProcess, vector: Any) -> None:
    settings = memory.Settings(redis_url=server.url, namespace="bad-input", near_cache_mb=0)
    async with memory.connect(settings=settings) as mem:
        before = count_commands(server)
        for ask, argument in (
            (mem.retrieval.retrieve_similar_experiences, "state_vector"),
            (mem.retrieval.retrieve_patterns, "state_vector"),
            (mem.retrieval.find_similar_pattern, "state_vector"),
            (mem.retrieval.retrieve_similar_regimes, "feature_vector"),
            (mem.shared.retrieve_shared_experiences, "state_vector"),
        ):
            with pytest.raises(InvalidQueryError) as caught:
                await ask(vector)
            assert caught.value.argument == argument
        with pytest.raises(InvalidQueryError):
            await mem.retrieval.estimate(vector, "LONG", 5)
        assert count_commands(server) == before
