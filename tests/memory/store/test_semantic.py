"""Semantic memory is published in one step, in versions, by the newest run only."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection, SemanticType
from memory.errors import EncoderError, FencedOutError, InvalidQueryError, InvalidRecordError
from memory.records import SemanticBase, to_ms
from memory.store.publishing import Publication

DAY = datetime(2021, 6, 18, tzinfo=UTC)
NIGHT = timedelta(days=1)
LINE = "ns/rff-1/1"
PATTERNS = (SemanticType.PATTERN,)
EVERYTHING = tuple(SemanticType)


def same(one: SemanticBase, other: SemanticBase, ignore: tuple[str, ...] = ("valid_from", "valid_to")) -> bool:
    return type(one) is type(other) and all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        if field.name == "concept_vector"
        else getattr(one, field.name) == getattr(other, field.name)
        for field in dataclasses.fields(one)
        if field.name not in ignore
    )


async def announce(mem: MemoryConnection, token: int) -> None:
    """As a run does that began long ago: what it announced is on the disk."""
    if token > await mem.fence.highest():
        await mem.link.execute("SET", mem.keys.fence, token)


async def publish(mem: MemoryConnection, memories: Any, night: int = 0, token: int = 1, kinds: Any = PATTERNS) -> Any:
    await announce(mem, token)
    return await mem.semantic.publish(memories, line=LINE, kinds=kinds, token=token, valid_from=DAY + night * NIGHT)


async def test_all_kinds_come_back_as_they_were_published(mem: MemoryConnection, build: Any) -> None:
    published = [build["pattern"](), build["regime"](), build["strategy"]()]
    report = await publish(mem, published, kinds=EVERYTHING)
    assert (report.current, report.added) == (3, 3)
    found = await mem.semantic.current()
    assert len(found) == 3
    for one, other in zip(published, found, strict=True):
        assert same(one, other)
        assert (other.valid_from, other.valid_to) == (DAY, None)
    assert await mem.semantic.counts() == {"PATTERN": 1, "REGIME": 1, "STRATEGY": 1, "CORRELATION": 0}


async def test_changed_and_vanished_memories_end_and_unchanged_ones_keep_their_version(
    mem: MemoryConnection, build: Any
) -> None:
    pattern = build["pattern"]
    await publish(mem, [pattern("p-1"), pattern("p-2"), pattern("p-3")])
    report = await publish(mem, [pattern("p-1"), pattern("p-2", support=9)], night=1)
    assert (report.current, report.added, report.closed, report.unchanged) == (2, 1, 2, 1)
    current = {item.memory_id: item for item in await mem.semantic.current(SemanticType.PATTERN)}
    assert sorted(current) == ["p-1", "p-2"]
    assert current["p-1"].valid_from == DAY
    assert current["p-2"].valid_from == DAY + NIGHT
    before = {item.memory_id: item for item in await mem.semantic.as_of(DAY + NIGHT - timedelta(seconds=1))}
    assert sorted(before) == ["p-1", "p-2", "p-3"]
    assert before["p-2"].support == 5
    versions = await mem.semantic.versions("p-2")
    assert [(item.valid_from, item.valid_to, item.support) for item in versions] == [
        (DAY, DAY + NIGHT, 5),
        (DAY + NIGHT, None, 9),
    ]


async def test_nothing_was_known_before_it_was_published(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, [build["pattern"]()])
    assert await mem.semantic.as_of(DAY - timedelta(milliseconds=1)) == []
    assert len(await mem.semantic.as_of(DAY)) == 1


async def test_publishing_the_same_again_changes_nothing(mem: MemoryConnection, build: Any) -> None:
    published = [build["pattern"]("p-1"), build["pattern"]("p-2", seed=2)]
    await publish(mem, published)
    before = await mem.semantic.digest()
    report = await publish(mem, published, token=2)
    assert (report.added, report.closed, report.removed, report.unchanged) == (0, 0, 0, 2)
    assert await mem.semantic.digest() == before


async def test_an_older_night_published_again_leaves_the_later_ones(mem: MemoryConnection, build: Any) -> None:
    pattern = build["pattern"]
    await publish(mem, [pattern("p-1")])
    await publish(mem, [pattern("p-1", support=9)], night=1)
    before = await mem.semantic.digest()
    await publish(mem, [pattern("p-1")], night=0)
    assert await mem.semantic.digest() == before


async def test_a_back_fill_ends_as_a_run_in_order(servers: Any, namespace: str, build: Any) -> None:
    pattern = build["pattern"]
    nights = [
        [pattern("p-1"), pattern("p-2", seed=2)],
        [pattern("p-1", support=6), pattern("p-3", seed=3)],
        [pattern("p-1", support=6), pattern("p-2", seed=2)],
        [],
    ]
    digests = []
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        for number, memories in enumerate(nights):
            await publish(mem, memories, number, token=number + 1)
        digests.append(await mem.semantic.digest())
    async with memory.connect(redis_url=servers.redis_url, namespace=f"{namespace}-b") as mem:
        await publish(mem, nights[0], 0)
        await publish(mem, [pattern("p-9")], 1)
        await publish(mem, nights[2], 2)
        await announce(mem, 3)
        rest = [Publication(DAY + number * NIGHT, nights[number]) for number in (1, 2, 3)]
        await mem.semantic.publish_history(rest, line=LINE, kinds=PATTERNS, token=3, since=DAY + NIGHT)
        digests.append(await mem.semantic.digest())
    async with memory.connect(redis_url=servers.redis_url, namespace=f"{namespace}-c") as mem:
        await publish(mem, [pattern("p-8")], -3)
        await announce(mem, 3)
        every = [Publication(DAY + number * NIGHT, memories) for number, memories in enumerate(nights)]
        await mem.semantic.publish_history(every, line=LINE, kinds=PATTERNS, token=3)
        digests.append(await mem.semantic.digest())
    assert len(set(digests)) == 1


async def test_content_moves_with_its_version_when_the_snapshot_before_it_is_dropped(
    mem: MemoryConnection, build: Any
) -> None:
    kept = build["pattern"]("p-1", seed=5)
    await publish(mem, [kept])
    await publish(mem, [kept, build["pattern"]("p-2")], night=1)
    await publish(mem, [], night=0)
    found = await mem.semantic.versions("p-1")
    assert [(item.valid_from, item.valid_to) for item in found] == [(DAY + NIGHT, None)]
    assert same(found[0], kept)
    hits = await mem.retrieval.retrieve_patterns(build["vector"](5), top_k=1)
    assert hits[0].memory.memory_id == "p-1"


async def test_a_run_that_was_overtaken_publishes_nothing(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, [build["pattern"]()], token=5)
    before = await mem.semantic.digest()
    with pytest.raises(FencedOutError, match=r"token 4.*token 5"):
        await publish(mem, [], token=4)
    assert await mem.semantic.digest() == before
    assert await mem.fence.highest() == 5


async def test_kinds_that_are_not_published_are_not_touched(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, [build["regime"]()], kinds=(SemanticType.REGIME,))
    await publish(mem, [build["pattern"]()], night=1)
    await publish(mem, [], night=2)
    assert [item.memory_id for item in await mem.semantic.current()] == ["regime-QUIET"]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"line": "ns/rff-1/2"}, "line"), ({"memory_id": "a b"}, "memory_id"), ({"support": "many"}, "memory")],
)
async def test_a_malformed_memory_stops_the_whole_publication(
    mem: MemoryConnection, build: Any, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        await publish(mem, [build["pattern"]("p-1"), build["pattern"](**{"name": "p-2", **change})])
    assert caught.value.field == field
    assert await mem.semantic.current() == []


async def test_two_memories_with_one_id_stop_the_publication(mem: MemoryConnection, build: Any) -> None:
    with pytest.raises(InvalidRecordError, match="twice"):
        await publish(mem, [build["pattern"]("p-1"), build["pattern"]("p-1", support=9)])


async def test_lines_do_not_mix_and_the_first_one_is_read_until_another_takes_over(
    mem: MemoryConnection, build: Any
) -> None:
    other = "ns/rff-1/2"
    await publish(mem, [build["pattern"]("p-1")])
    await announce(mem, 2)
    await mem.semantic.publish(
        [build["pattern"]("p-1", line=other, support=9)], line=other, kinds=PATTERNS, token=2, valid_from=DAY
    )
    assert [item.support for item in await mem.semantic.current()] == [5]
    await mem.semantic.set_current_line(other, "rff-1", token=2)
    assert [item.support for item in await mem.semantic.current()] == [9]
    assert [item.support for item in await mem.semantic.current(line=LINE)] == [5]
    hits = await mem.retrieval.retrieve_patterns(build["vector"](0))
    assert [hit.memory.support for hit in hits] == [9]


async def test_patterns_are_retrieved_by_likeness_product_and_regime(mem: MemoryConnection, build: Any) -> None:
    pattern = build["pattern"]
    await publish(
        mem,
        [
            pattern("p-1", seed=1),
            pattern("p-2", seed=2, product_ids=("DOT-USDT",)),
            pattern("p-3", seed=3, regime="VOLATILE"),
            pattern("p-4", seed=4, regime="MIXED"),
        ],
    )
    retrieve = mem.retrieval.retrieve_patterns
    hits = await retrieve(build["vector"](2))
    assert hits[0].memory.memory_id == "p-2"
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert {hit.memory.memory_id for hit in await retrieve(build["vector"](2), product_id="BTC-USDT")} == {
        *("p-1", "p-3", "p-4"),
    }
    only = await retrieve(build["vector"](2), product_id="BTC-USDT", regime="VOLATILE")
    assert [hit.memory.memory_id for hit in only] == ["p-3"]
    assert len(await retrieve(build["vector"](2), regime="MIXED")) == 1
    assert len(await retrieve(build["vector"](2), top_k=2)) == 2


async def test_patterns_are_retrieved_as_of_a_time(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, [build["pattern"]("p-1", seed=1)])
    await publish(mem, [build["pattern"]("p-1", seed=1, support=9)], night=2)
    vector = build["vector"](1)
    retrieve = mem.retrieval.retrieve_patterns
    assert await retrieve(vector, as_of=DAY - timedelta(seconds=1)) == []
    past = await retrieve(vector, as_of=DAY + NIGHT)
    assert [(hit.memory.support, hit.memory.valid_to) for hit in past] == [(5, None)]
    assert [hit.memory.support for hit in await retrieve(vector)] == [9]
    locked = mem.at(DAY + NIGHT)
    assert [hit.memory.support for hit in await locked.retrieval.retrieve_patterns(vector)] == [5]
    assert [item.support for item in await locked.semantic.current()] == [5]
    found = await locked.semantic.get("p-1")
    assert found is not None
    assert found.support == 5  # type: ignore[union-attr]


async def test_a_locked_memory_neither_looks_ahead_nor_publishes(mem: MemoryConnection, build: Any) -> None:
    locked = mem.at(DAY)
    with pytest.raises(InvalidQueryError, match="locked"):
        await locked.semantic.as_of(DAY + NIGHT)
    with pytest.raises(InvalidQueryError, match="locked"):
        await locked.retrieval.retrieve_patterns(build["vector"](0), as_of=DAY + NIGHT)
    with pytest.raises(InvalidRecordError, match="past"):
        await locked.semantic.publish([], line=LINE, kinds=PATTERNS, token=1, valid_from=DAY)
    with pytest.raises(InvalidRecordError, match="past"):
        await locked.semantic.take_over(LINE, "rff-1", current_from=DAY, token=1)
    with pytest.raises(InvalidRecordError, match="past"):
        await locked.semantic.drop_line(LINE, 1)


async def test_an_encoder_of_the_future_is_refused(mem: MemoryConnection, build: Any) -> None:
    await mem.encoders.register("rff-1", fitted_until=DAY + NIGHT, definition={"seed": 1})
    await publish(mem, [build["pattern"]()])
    with pytest.raises(EncoderError, match="fitted on data until 2021-06-19"):
        await mem.retrieval.retrieve_patterns(build["vector"](0), as_of=DAY)


async def test_accesses_are_counted_by_day_and_publication_does_not_touch_them(
    mem: MemoryConnection, build: Any
) -> None:
    await publish(mem, [build["pattern"]("p-1")])
    await mem.semantic.count_access(["p-1"], DAY + timedelta(hours=5))
    await mem.semantic.count_access(["p-1", "p-2"], DAY + NIGHT)
    await mem.retrieval.retrieve_patterns(build["vector"](0), as_of=DAY + NIGHT)
    await mem.access.flush()
    before = await mem.semantic.digest()
    counts = await mem.semantic.access_counts(["p-1", "p-2", "p-3"], DAY + 2 * NIGHT)
    assert [counts[name].count for name in ("p-1", "p-2", "p-3")] == [3, 1, 0]
    assert counts["p-1"].last_day == DAY + NIGHT
    assert counts["p-3"].last_day is None
    assert (await mem.semantic.access_counts(["p-1"], DAY + NIGHT))["p-1"].count == 1
    assert (await mem.semantic.access_counts(["p-1"], DAY + 31 * NIGHT))["p-1"].count == 2
    assert (await mem.semantic.access_counts(["p-1"], DAY + 32 * NIGHT))["p-1"].count == 0
    await publish(mem, [build["pattern"]("p-1", support=9)], night=1)
    assert (await mem.semantic.access_counts(["p-1"], DAY + 2 * NIGHT))["p-1"].count == 3
    await publish(mem, [], night=1)
    await publish(mem, [build["pattern"]("p-1")], night=1)
    assert await mem.semantic.digest() == before


async def test_two_encoders_patterns_keep_to_themselves(servers: Any, mem: MemoryConnection, build: Any) -> None:
    other = "ns/rff-2/1"
    await publish(mem, [build["pattern"]("p-1")])
    await announce(mem, 2)
    await mem.semantic.publish(
        [build["pattern"]("p-2", line=other, encoder_id="rff-2")], line=other, kinds=PATTERNS, token=2, valid_from=DAY
    )
    hits = await mem.retrieval.retrieve_patterns(build["vector"](0))
    assert [hit.memory.memory_id for hit in hits] == ["p-1"]
    async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace, encoder_id="rff-2") as second:
        hits = await second.retrieval.retrieve_patterns(build["vector"](0))
        assert [hit.memory.memory_id for hit in hits] == ["p-2"]


async def test_the_same_knowledge_has_the_same_digest_in_every_namespace_and_any_other_another(
    servers: Any, namespace: str, build: Any
) -> None:
    digests = {}
    for name in (namespace, f"{namespace}-b"):
        line = f"{name}/rff-1/2"
        async with memory.connect(redis_url=servers.redis_url, namespace=name) as mem:
            await announce(mem, 1)
            known = [build["pattern"]("p-1", line=line), build["regime"]("r-1", line=line)]
            report = await mem.semantic.publish(known, line=line, kinds=EVERYTHING, token=1, valid_from=DAY)
            digests[name] = (await mem.semantic.digest(), await mem.semantic.digest(line=line), report.stamp)
    assert digests[namespace] == digests[f"{namespace}-b"]
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
        line, keys = f"{namespace}/rff-1/2", mem.keys
        name = keys.semantic("PATTERN", "p-1", to_ms(DAY), line)
        for change, back in (
            (("HSET", name, "body", b"damaged"), ("HSET", name, "body", await mem.link.execute("HGET", name, "body"))),
            (("HSET", name, "more", "x"), ("HDEL", name, "more")),
            (("HSET", keys.current_line, "rff-1", "x/y"), ("HSET", keys.current_line, "rff-1", line)),
            (("HSET", keys.line_history("rff-1"), "first", line), ("DEL", keys.line_history("rff-1"))),
            (("SET", keys.encoder("rff-1"), "{}"), ("DEL", keys.encoder("rff-1"))),
            (("SET", keys.current_encoder, "rff-2"), ("SET", keys.current_encoder, "rff-1")),
        ):
            await mem.link.execute(*change)
            assert await mem.semantic.digest() != digests[namespace][0], change
            await mem.link.execute(*back)
            assert await mem.semantic.digest() == digests[namespace][0], back
