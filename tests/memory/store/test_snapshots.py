"""What a process remembers of semantic memory is what lies in Redis, at any time asked for, under any publications."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import MemoryConnection, SemanticType
from memory.asof import ReplayClock, replaying
from memory.errors import InvalidQueryError, StoreUnavailableError
from memory.records import SemanticMemory, to_ms
from memory.store import manifest, snapshots
from memory.store.snapshots import Snapshots

DAY = datetime(2021, 6, 18, tzinfo=UTC)
NIGHT = timedelta(days=1)
LINE = "ns/rff-1/1"
KINDS = (SemanticType.REGIME, SemanticType.STRATEGY)


async def publish(mem: MemoryConnection, memories: Any, night: int = 0) -> None:
    await mem.link.execute("SET", mem.keys.fence, 1)
    await mem.semantic.publish(memories, line=LINE, kinds=tuple(SemanticType), token=1, valid_from=DAY + night * NIGHT)


async def known(reader: Snapshots, as_of: datetime | None = None) -> dict[str, int]:
    """Spells of each regime that is known."""
    found = await reader.known("rff-1", KINDS, None if as_of is None else to_ms(as_of))
    return {version.memory.memory_id: version.memory.spells for version in found[SemanticType.REGIME]}  # type: ignore[union-attr]


NIGHTS = st.lists(
    st.tuples(st.integers(0, 3), st.dictionaries(st.sampled_from(["r-1", "r-2", "r-3"]), st.integers(1, 2))),
    min_size=1,
    max_size=8,
)


@given(nights=NIGHTS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reader_that_remembers_finds_what_a_new_one_finds(
    servers: Any, build: Any, nights: list[tuple[int, dict[str, int]]]
) -> None:
    async def check() -> None:
        name = f"s-{uuid.uuid4().hex[:10]}"
        async with memory.connect(redis_url=servers.redis_url, namespace=name) as mem:
            remembers = mem.semantic.snapshots
            published: dict[int, dict[str, int]] = {}
            for night, regimes in nights:
                published[night] = regimes
                await publish(mem, [build["regime"](key, spells=spells) for key, spells in regimes.items()], night)
                for asked in range(-1, 5):
                    last = max((time for time in published if time <= asked), default=None)
                    model = {} if last is None else published[last]
                    for as_of in (DAY + asked * NIGHT, DAY + asked * NIGHT + timedelta(hours=1)):
                        assert await known(remembers, as_of) == model
                        assert await known(Snapshots(mem.link, mem.keys), as_of) == model
                assert await known(remembers) == published[max(published)]
                current = await mem.semantic.current(SemanticType.REGIME)
                assert {item.memory_id for item in current} == set(published[max(published)])
            for index in await mem.indexes.health():
                await mem.link.execute("FT.DROPINDEX", index.name, "DD")

    asyncio.run(check())


async def test_a_reader_never_sees_half_a_publication(servers: Any, mem: MemoryConnection, build: Any) -> None:
    def memories(number: int) -> list[SemanticMemory]:
        return [
            *(build["regime"](f"r-{name}", spells=number) for name in range(3)),
            build["strategy"]("s-1", description=str(number)),
        ]

    await publish(mem, memories(1))
    done = False

    async def read(as_of_ms: int | None) -> set[int]:
        seen = set()
        async with memory.connect(redis_url=servers.redis_url, namespace=mem.namespace) as reader:
            while not done:
                found = await reader.semantic.snapshots.known("rff-1", KINDS, as_of_ms)
                numbers = {version.memory.spells for version in found[SemanticType.REGIME]}  # type: ignore[union-attr]
                numbers |= {int(version.memory.description) for version in found[SemanticType.STRATEGY]}
                assert len(numbers) == 1
                assert [len(found[kind]) for kind in KINDS] == [3, 1]
                seen |= numbers
        return seen

    readers = [asyncio.create_task(read(None)), asyncio.create_task(read(to_ms(DAY)))]
    for number in range(2, 40):
        await publish(mem, memories(number))
        await asyncio.sleep(0.002)
    done = True
    for seen in await asyncio.gather(*readers):
        assert len(seen) > 3


async def test_lists_longer_than_one_command_are_read_whole(
    mem: MemoryConnection, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "SCAN_SIZE", 10)
    monkeypatch.setattr(snapshots, "READ_SIZE", 50)
    regimes = [build["regime"](f"r-{number}", spells=number) for number in range(700)]
    await publish(mem, regimes)
    assert await known(Snapshots(mem.link, mem.keys)) == {f"r-{number}": number for number in range(700)}
    assert len(await mem.semantic.current()) == 700


async def test_few_spans_of_time_are_kept(mem: MemoryConnection, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOTS_KEPT", 2)
    for night in range(5):
        await publish(mem, [build["regime"]("r-1", spells=night)], night)
    for night in (0, 1, 2, 3, 4, 0, 4):
        assert await known(mem.semantic.snapshots, DAY + night * NIGHT) == {"r-1": night}
    assert [len(history.snapshots) for history in mem.semantic.snapshots._histories.values()] == [2, 1]


async def test_what_was_published_before_there_were_stamps_is_read_as_it_is(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, [build["regime"]("r-1", spells=1)])
    await mem.link.execute("DEL", mem.keys.semantic_stamp(LINE))
    assert await known(mem.semantic.snapshots) == {"r-1": 1}
    await publish(mem, [build["regime"]("r-1", spells=2)])
    await mem.link.execute("DEL", mem.keys.semantic_stamp(LINE))
    assert await known(mem.semantic.snapshots) == {"r-1": 2}
    assert await mem.semantic.counts() == {"PATTERN": 0, "REGIME": 1, "STRATEGY": 0, "CORRELATION": 0}


async def test_publishing_the_same_again_leaves_the_stamp(mem: MemoryConnection, build: Any) -> None:
    stamps = []
    for memories in ([build["regime"]("r-1")], [build["regime"]("r-1")], [], [build["regime"]("r-1")]):
        await publish(mem, memories)
        stamps.append(await mem.link.execute("GET", mem.keys.semantic_stamp(LINE)))
    assert stamps[0] == stamps[1] == stamps[3]
    assert stamps[2] != stamps[0]


# --- the store inside a replay -------------------------------------------------------------------------------


async def test_inside_a_replay_the_store_answers_bounded_questions_only(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, [build["regime"]("r-1")])
    store, locked = mem.semantic, mem.at(DAY).semantic
    with replaying(ReplayClock(DAY)):
        for ask in (store.current, store.counts, lambda: store.get("r-1"), lambda: store.versions("r-1")):
            with pytest.raises(InvalidQueryError, match="future") as caught:
                await ask()
            assert caught.value.argument == "as_of"
        with pytest.raises(InvalidQueryError, match="present of the replay"):
            await store.as_of(DAY + NIGHT)
        with pytest.raises(InvalidQueryError, match="present of the replay"):
            await store.access_counts(["r-1"], DAY + NIGHT)
        assert len(await store.as_of(DAY)) == 1
        assert len(await locked.current()) == 1
        assert await locked.get("r-1") is not None
        assert (await locked.counts())["REGIME"] == 1
    assert len(await store.current()) == 1


async def test_the_end_of_a_version_is_not_known_before_it(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, [build["regime"]("r-1", spells=1)])
    await publish(mem, [build["regime"]("r-1", spells=2)], night=1)
    locked = mem.at(DAY).semantic
    ends = [
        *(await mem.semantic.as_of(DAY)),
        *(await locked.current()),
        *(await locked.versions("r-1")),
        await locked.get("r-1"),
    ]
    assert [item.valid_to for item in ends if item is not None] == [None] * 4
    later = await mem.at(DAY + NIGHT).semantic.versions("r-1")
    assert [item.valid_to for item in later] == [DAY + NIGHT, None]


@pytest.mark.parametrize("name", ["", "*", "a:b", "x" * 10_000, None])
async def test_ids_that_cannot_be_are_refused(mem: MemoryConnection, name: Any) -> None:
    for ask in (mem.semantic.get, mem.semantic.versions):
        with pytest.raises(InvalidQueryError) as caught:
            await ask(name)
        assert caught.value.argument == "memory_id"
    with pytest.raises(InvalidQueryError) as caught:
        await mem.semantic.current("PATTERNS")  # type: ignore[arg-type]
    assert caught.value.argument == "kind"


async def test_a_version_that_got_lost_is_missed(mem: MemoryConnection, build: Any) -> None:
    await publish(mem, [build["regime"]("r-1"), build["regime"]("r-2")])
    lost = mem.keys.semantic("REGIME", "r-1", to_ms(DAY), LINE)
    await mem.link.execute("DEL", lost)
    with pytest.raises(StoreUnavailableError, match=lost):
        await known(mem.semantic.snapshots)
