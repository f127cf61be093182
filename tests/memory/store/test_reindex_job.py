"""Changes of an index that are killed, overtaken or begun twice: nothing in use is dropped, nothing stays behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import memory
from memory import MemoryConnection
from memory.errors import FencedOutError, ReindexError
from memory.records import VECTOR_DIMENSION
from memory.store.reindex_job import ReindexJob
from memory.store.revectoring import Revectoring
from tests.memory.store.changing import NEW, OLD, encode_anew, fields, lived, reindexer, turned

HNSW: Any = {"layout": "single", "algorithm": "HNSW", "vector_type": "FLOAT32"}
HALVED: Any = {"layout": "single", "algorithm": "FLAT", "vector_type": "FLOAT16"}
DIVIDED: Any = {"layout": "partitioned", "algorithm": "HNSW", "vector_type": "FLOAT16"}
AS_BEGUN: Any = {"layout": "partitioned", "algorithm": "HNSW", "vector_type": "FLOAT32"}


async def filled(mem: MemoryConnection, choices: Any, token: int | None = None) -> ReindexJob:
    """A change whose new index is built, and not in use yet."""
    if token is not None:
        await mem.fence.raise_to(token)
    work = reindexer(mem, token)
    job = await work.begin(OLD, **choices)
    assert job is not None
    async for reached in work.fill(job):
        job = reached
    while await work.progress(job) < 1.0:
        await asyncio.sleep(0.02)
    return job


async def noted(mem: MemoryConnection) -> ReindexJob:
    job = await reindexer(mem).job(OLD)
    assert job is not None
    return job


async def all_found(mem: MemoryConnection, make: Any, number: int) -> bool:
    hits = await mem.retrieval.retrieve_similar_experiences(make(7).state_vector, top_k=200)
    return len({hit.memory.memory_id for hit in hits}) == len(hits) == number


def indexes_of(states: Any) -> set[str]:
    return {state.name for state in states if ":episodic:" in state.name}


# --- overtaken -----------------------------------------------------------------------------------------------


async def test_of_two_changes_that_begin_at_once_one_is_refused(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(lived(make))
    outcomes = await asyncio.gather(
        reindexer(mem).begin(OLD, **HNSW), reindexer(mem).begin(OLD, **HALVED), return_exceptions=True
    )
    (refused,) = [outcome for outcome in outcomes if isinstance(outcome, ReindexError)]
    (begun,) = [outcome for outcome in outcomes if isinstance(outcome, ReindexJob)]
    assert "overtaken" in refused.message
    assert await noted(mem) == begun
    rules = await mem.indexes.rules(mem.indexes.experiences, OLD)
    assert rules is not None
    assert rules.shadow == begun.target


async def test_a_run_that_was_overtaken_drops_nothing_of_the_next_change(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    late, newer = reindexer(mem, token=5), reindexer(mem, token=6)
    swapped = await late.swap(await filled(mem, HNSW, token=5))
    await mem.fence.raise_to(6)
    await newer.clean(await newer.retire(swapped))
    begun = await newer.begin(OLD, **HALVED)
    assert begun is not None
    for job in (await noted(mem), swapped):
        with pytest.raises((ReindexError, FencedOutError)):
            await late.retire(job)
        with pytest.raises(ReindexError):
            await late.clean(job)
    assert await all_found(mem, make, len(records))
    assert await noted(mem) == begun


async def test_a_run_that_was_overtaken_drops_no_index_that_is_still_asked(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    late = reindexer(mem, token=5)
    job = await late.swap(await filled(mem, HNSW, token=5))
    await mem.fence.raise_to(6)
    with pytest.raises(FencedOutError):
        await late.retire(job)
    assert {job.source.name, job.target.name} <= indexes_of(await mem.indexes.health())
    retired = await reindexer(mem, token=6).retire(job)
    with pytest.raises(FencedOutError):
        await late.clean(retired)


@pytest.mark.parametrize("choices", [HNSW, HALVED])
async def test_what_is_not_in_use_yet_replaces_nothing(mem: MemoryConnection, make: Any, choices: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    job = await filled(mem, choices)
    with pytest.raises(ReindexError, match="is at filling"):
        await reindexer(mem).retire(job)
    with pytest.raises(ReindexError, match="is at filling"):
        await reindexer(mem).clean(job)
    assert await all_found(mem, make, len(records))


async def test_a_change_that_was_given_up_is_not_gone_on_with(mem: MemoryConnection, make: Any) -> None:
    await mem.episodic.add_many(lived(make))
    job = await filled(mem, HALVED)
    await reindexer(mem).abandon(OLD)
    with pytest.raises(ReindexError, match="ended"):
        await reindexer(mem).swap(job)
    assert await mem.indexes.current_schema(OLD) == job.source


# --- killed --------------------------------------------------------------------------------------------------


async def test_a_change_whose_giving_up_was_killed_leaves_no_trace_in_the_end(
    mem: MemoryConnection, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    before = [await fields(mem, record) for record in records]
    for method in ("drop", "_clean"):
        job = await filled(mem, DIVIDED)
        work = reindexer(mem)

        async def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(work if method == "_clean" else work._building, method, killed)
        with pytest.raises(KeyboardInterrupt):
            await work.abandon(OLD)
        assert (await noted(mem)).phase == "abandoned"
        assert await reindexer(mem).abandon(OLD) is not None
        assert [await fields(mem, record) for record in records] == before
        assert indexes_of(await mem.indexes.health()) == {job.source.name}
        assert await reindexer(mem).job(OLD) is None


async def test_the_next_change_first_takes_away_what_was_given_up(
    mem: MemoryConnection, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    job = await filled(mem, DIVIDED)
    work = reindexer(mem)

    async def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work._building, "drop", killed)
    with pytest.raises(KeyboardInterrupt):
        await work.abandon(OLD)
    begun = await reindexer(mem).begin(OLD, **HNSW)
    assert begun is not None
    assert job.target.vector_field not in await fields(mem, records[0])
    assert not any(name.startswith(job.target.name) for name in indexes_of(await mem.indexes.health()))


async def test_a_step_whose_answer_was_lost_is_done_once(
    mem: MemoryConnection, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mem.episodic.add_many(lived(make))
    job = await filled(mem, HNSW)
    transaction = mem.link.transaction

    async def twice(watched: Any, prepare: Any, **more: Any) -> Any:
        await transaction(watched, prepare, **more)
        return await transaction(watched, prepare, **more)  # As the link does where the answer to EXEC is lost.

    monkeypatch.setattr(mem.link, "transaction", twice)
    job = await reindexer(mem).swap(job)
    assert await mem.indexes.current_schema(OLD) == job.target
    await reindexer(mem).clean(await reindexer(mem).retire(job))
    assert await reindexer(mem).job(OLD) is None


async def test_an_old_encoders_vectors_go_although_the_run_was_killed_before(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    old = await mem.indexes.current_schema(OLD)
    assert old is not None
    await reindexer(mem).retire(await encode_anew(mem))
    again = await reindexer(mem).begin_encoder(OLD, NEW, VECTOR_DIMENSION, **AS_BEGUN)
    assert again is not None
    await reindexer(mem).clean(again)
    assert old.vector_field not in await fields(mem, records[0])
    assert await reindexer(mem).begin_encoder(OLD, NEW, VECTOR_DIMENSION, **AS_BEGUN) is None


# --- clients of an old encoder -------------------------------------------------------------------------------


async def test_what_an_old_client_recorded_until_its_index_went_is_found_in_the_new_encoder(
    servers: Any, mem: MemoryConnection, make: Any
) -> None:
    await mem.episodic.add_many(lived(make))
    job = await encode_anew(mem)
    record = make(400, agent_id="late", encoder_id=OLD)
    await mem.episodic.add(record)
    await reindexer(mem).clean(await reindexer(mem).retire(job, turned))
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace, encoder_id=NEW) as new:
        hits = await new.retrieval.retrieve_similar_experiences(-record.state_vector, agent_id="late")
    assert [hit.memory.memory_id for hit in hits] == [record.memory_id]


async def test_what_is_recorded_again_while_the_list_is_worked_off_is_encoded(
    servers: Any, mem: MemoryConnection, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mem.episodic.add_many(lived(make))
    job = await encode_anew(mem)
    record = make(400, agent_id="late", encoder_id=OLD)
    await mem.episodic.add(record)
    add_vectors, again = Revectoring.add_vectors, [record]

    async def overtaken(self: Revectoring, keys: Any, tally: Any) -> None:
        await add_vectors(self, keys, tally)
        while again:
            await mem.episodic.forget(agent_id="late")
            await mem.episodic.add(again.pop())

    monkeypatch.setattr(Revectoring, "add_vectors", overtaken)
    await reindexer(mem).drain(job, turned)
    assert await reindexer(mem).waiting(OLD) == 0
    assert await mem.episodic.count(agent_id="late", encoder_id=NEW) == 1


async def test_an_old_index_stays_while_something_recorded_in_it_cannot_be_encoded(
    mem: MemoryConnection, make: Any
) -> None:
    await mem.episodic.add_many(lived(make))
    job = await encode_anew(mem)
    await mem.episodic.add(make(400, agent_id="late", encoder_id=OLD, features={}))
    with pytest.raises(ReindexError, match="1 experiences could not be encoded"):
        await reindexer(mem).retire(job, turned)
    assert job.source.name in indexes_of(await mem.indexes.health())


async def test_an_old_client_that_goes_on_keeps_the_index_that_it_began_anew(
    servers: Any, mem: MemoryConnection, make: Any
) -> None:
    await mem.episodic.add_many(lived(make))
    retired = await reindexer(mem).retire(await encode_anew(mem))
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace, encoder_id=OLD) as late:
        record = make(400, agent_id="late", encoder_id=OLD)
        await late.episodic.add(record)
        await reindexer(mem).clean(retired)
        hits = await late.retrieval.retrieve_similar_experiences(record.state_vector)
        assert [hit.memory.memory_id for hit in hits] == [record.memory_id]
