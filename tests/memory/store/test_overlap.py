"""While an encoder is changed, experiences lie in two indexes: they count once and are read once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from memory import MemoryConnection
from memory.errors import InvalidQueryError
from memory.store.link import RedisLink
from memory.store.scan import select
from memory.store.windows import read_window_data
from memory.window import Window
from tests.memory.store.changing import DAY, NEW, OLD, encode_anew, lived, reindexer, turned


async def test_each_experience_counts_once_unless_an_encoder_is_named(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    await encode_anew(mem)
    own = make(300, agent_id="late", encoder_id=NEW)
    await mem.episodic.add(own)  # It was never in the old index.
    assert await mem.episodic.count() == len(records) + 1
    assert await mem.episodic.count(agent_id="late") == 1
    assert await mem.episodic.count(agent_id="hold") == sum(record.agent_id == "hold" for record in records)
    assert await mem.episodic.count(at_least=True) == len(records) + 1  # The new index is the fuller one.
    assert await mem.episodic.count(encoder_id=OLD) == len(records)
    assert await mem.episodic.count(encoder_id=NEW) == len(records) + 1


@pytest.mark.parametrize("most", [None, "live", "replay", "backtest"])
async def test_the_numbers_by_source_are_the_same_whichever_is_not_walked(
    mem: MemoryConnection, make: Any, most: str | None
) -> None:
    records = [make(minute, source="replay" if minute % 3 else "backtest") for minute in range(20)]
    await mem.episodic.add_many(records)
    expected = {"live": 0, "replay": 13, "backtest": 7}
    assert await mem.episodic.count_by_source(most) == expected
    await encode_anew(mem)
    assert await mem.episodic.count_by_source(most) == expected


async def test_a_source_that_is_none_is_refused(mem: MemoryConnection) -> None:
    with pytest.raises(InvalidQueryError, match="most"):
        await mem.episodic.count_by_source("history")


async def test_what_is_not_walked_is_not_searched(
    mem: MemoryConnection, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mem.episodic.add_many(lived(make))
    sent: list[str] = []
    execute = RedisLink.execute

    async def noted(self: RedisLink, *command: Any, **options: Any) -> Any:
        sent.append(" ".join(map(str, command)))
        return await execute(self, *command, **options)

    monkeypatch.setattr(RedisLink, "execute", noted)
    await mem.episodic.count_by_source("replay")
    searches = [command for command in sent if command.startswith("FT.SEARCH")]
    assert len(searches) == 2
    assert not any("replay" in command or " * " in command for command in searches)


async def test_each_experience_counts_once_in_the_middle_of_the_change(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    work = reindexer(mem)
    job = await work.begin_encoder(OLD, NEW, 256, layout="single", algorithm="FLAT", vector_type="FLOAT32")
    assert job is not None
    assert await mem.episodic.count() == len(records)
    async for _ in work.fill(job, turned):
        pass
    assert await mem.episodic.count() == len(records)


async def test_a_window_is_read_once_and_in_the_current_encoder(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    await encode_anew(mem)
    pages = [page async for page in mem.episodic.read_window(DAY, DAY + timedelta(days=1))]
    read = [memory for page in pages for memory in page]
    assert sorted(memory.memory_id for memory in read) == sorted(record.memory_id for record in records)
    assert {memory.encoder_id for memory in read} == {NEW}
    assert len(await read_window_data(mem, Window.containing(DAY))) == 2


async def test_shared_experiences_count_once(mem: MemoryConnection, make: Any) -> None:
    good = [make(minute, quality=0.99) for minute in range(20)]
    assert len((await mem.shared.add_shared_experiences(good)).stored) == len(good)
    pool = reindexer(mem, family=mem.indexes.pool)
    job = await pool.begin_encoder(OLD, NEW, 256, layout="single", algorithm="FLAT", vector_type="FLOAT32")
    assert job is not None
    async for _ in pool.fill(job, turned):
        pass
    for encoder_id in (OLD, NEW):
        schema = await mem.indexes.current_shared_schema(encoder_id)
        assert schema is not None
        assert await mem.reader.count(schema, select()) == len(good)
    assert await mem.shared.count() == len(good)


async def test_an_abandoned_change_of_encoder_leaves_no_vector_behind(mem: MemoryConnection, make: Any) -> None:
    records = lived(make)
    await mem.episodic.add_many(records)
    work = reindexer(mem)
    job = await work.begin_encoder(OLD, NEW, 256, layout="single", algorithm="FLAT", vector_type="FLOAT32")
    assert job is not None
    async for _ in work.fill(job, turned):
        pass
    own = make(300, agent_id="late", encoder_id=NEW)
    await mem.episodic.add(own)
    assert await mem.episodic.count(encoder_id=NEW) == len(records) + 1
    assert await work.abandon(OLD) is not None
    assert await work.job(OLD) is None
    assert await mem.episodic.count(encoder_id=NEW) == 1  # Recorded with it, and with nothing else.
    assert await mem.episodic.count() == len(records) + 1
