"""Changes published in any portions and any order end as one publication of the history that is kept."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memory
from memory import MemoryConnection, SemanticType
from memory.errors import FencedOutError, InvalidRecordError, PastExpiredError, StoreUnavailableError
from memory.records import to_ms
from memory.store.publishing import Publisher
from memory.store.semantic import SemanticVersion, expected_contents
from memory.store.staging import document_key
from tests.thoroughness import examples

DAY = datetime(2021, 6, 18, tzinfo=UTC)
NIGHT = timedelta(days=1)
LINE = "ns/rff-1/1"
PATTERN = SemanticType.PATTERN
REGIME = SemanticType.REGIME
BOTH = (PATTERN, REGIME)
RETENTION = 3
"""Nights that ended versions are kept."""

History = dict[tuple[SemanticType, str], dict[int, int | None]]
"""Of each memory, what it holds from which night on; None where it vanishes."""

IDS = st.sampled_from([(PATTERN, "p-1"), (PATTERN, "p-2"), (REGIME, "r-1")])
HISTORIES: st.SearchStrategy[History] = st.dictionaries(
    IDS, st.dictionaries(st.integers(0, 9), st.sampled_from([1, 2, None]), min_size=1, max_size=5), max_size=3
)


def night(number: int) -> datetime:
    return DAY + number * NIGHT


def changes(build: Any, history: History, kinds: Any = BOTH, since: int | None = None) -> Iterator[SemanticVersion]:
    """The changes of a history from a night on, memory by memory."""
    for (kind, name), nights in sorted(history.items()):
        for number, value in sorted(nights.items()):
            if kind not in kinds or (since is not None and number < since):
                continue
            memory_ = None
            if value is not None and kind is PATTERN:
                memory_ = build["pattern"](name, seed=value, support=value)
            elif value is not None:
                memory_ = build["regime"](name, spells=value)
            yield SemanticVersion(kind, name, night(number), memory_)


async def send(
    mem: MemoryConnection, build: Any, history: History, kinds: Any = BOTH, since: int | None = None, newest: int = 9
) -> Any:
    return await mem.semantic.publish_versions(
        changes(build, history, kinds, since),
        line=LINE,
        kinds=kinds,
        token=1,
        since=None if since is None else night(since),
        horizon=night(newest - RETENTION),
    )


@pytest.fixture
async def published(mem: MemoryConnection) -> MemoryConnection:
    """An open memory whose fence was raised to 1."""
    await mem.link.execute("SET", mem.keys.fence, 1)
    return mem


async def everything(mem: MemoryConnection) -> tuple[Any, ...]:
    """All that is kept of the line, byte by byte."""
    contents = [(tuple(key), sorted(fields.items())) async for key, fields in mem.semantic.contents(LINE)]
    return contents, await mem.semantic.stamp(LINE), await mem.semantic.orphans(LINE)


@given(before=HISTORIES, other=HISTORIES, back_to=st.integers(0, 9), dynamics_first=st.booleans())
@settings(max_examples=examples(8, 45), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nights_in_order_a_back_fill_and_all_at_once_end_in_the_same_versions(
    servers: Any, build: Any, before: History, other: History, back_to: int, dynamics_first: bool
) -> None:
    after = {
        key: {at: value for at, value in before.get(key, {}).items() if at < back_to}
        | {at: value for at, value in other.get(key, {}).items() if at >= back_to}
        for key in {*before, *other}
    }
    order = [(REGIME,), (PATTERN,)] if dynamics_first else [(PATTERN,), (REGIME,)]

    async def nightly(mem: MemoryConnection, history: History) -> None:
        for number in range(10):
            known = {
                key: {at: value for at, value in nights.items() if at <= number} for key, nights in history.items()
            }
            for kinds in order:
                await surely(mem, known, kinds, number, number)

    async def surely(mem: MemoryConnection, history: History, kinds: Any, since: int, newest: int) -> None:
        horizon = await mem.semantic.horizon(LINE)
        try:
            await send(mem, build, history, kinds, since, newest)
        except InvalidRecordError:
            assert horizon is not None
            assert night(since) <= horizon
            await send(mem, build, history, kinds, None, newest)

    async def in_order(mem: MemoryConnection) -> None:
        await nightly(mem, after)

    async def back_filled(mem: MemoryConnection) -> None:
        await nightly(mem, before)
        for kinds in reversed(order):
            await surely(mem, after, kinds, back_to, 9)

    async def at_once(mem: MemoryConnection) -> None:
        for kinds in order:
            await send(mem, build, after, kinds)
        await check_past(mem, after)

    async def run() -> None:
        ends = []
        for way in (in_order, back_filled, at_once):
            name = f"v-{uuid.uuid4().hex[:10]}"
            async with memory.connect(redis_url=servers.redis_url, namespace=name) as mem:
                await mem.link.execute("SET", mem.keys.fence, 1)
                await way(mem)
                ends.append(await everything(mem))
        assert ends[1] == ends[0]
        assert ends[2] == ends[0]

    asyncio.run(run())


async def check_past(mem: MemoryConnection, history: History) -> None:
    """At every time that is kept the answer is the history's; an earlier one is refused."""
    horizon = await mem.semantic.horizon(LINE)
    for number in range(10):
        wanted = {}
        for (_, name), nights in history.items():
            value = next((nights[at] for at in sorted(nights, reverse=True) if at <= number), None)
            if value is not None:
                wanted[name] = value
        if horizon is not None and night(number) < horizon:
            with pytest.raises(PastExpiredError, match="rebuild_memory"):
                await mem.semantic.as_of(night(number), line=LINE)
            continue
        found = await mem.semantic.as_of(night(number), line=LINE)
        assert {item.memory_id: getattr(item, "support", None) or item.spells for item in found} == wanted  # type: ignore[union-attr]


async def test_what_is_expected_of_a_history_is_what_redis_holds(published: MemoryConnection, build: Any) -> None:
    history: History = {
        (PATTERN, "p-1"): {0: 1, 2: 2, 8: 1},
        (PATTERN, "p-2"): {1: 1, 3: None},
        (REGIME, "r-1"): {0: 1},
    }
    report = await send(published, build, history)
    assert (report.current, report.added, report.expired) == (2, 3, 0)
    assert report.stamp == await published.semantic.stamp(LINE)
    assert report.stamp.endswith(f":{to_ms(night(3))}")
    held = [(key, fields) async for key, fields in published.semantic.contents(LINE)]
    assert held == list(expected_contents(changes(build, history), LINE, night(9 - RETENTION)))
    assert [(key.memory_id, key.valid_from_ms) for key, _ in held] == [
        ("p-1", to_ms(night(2))),
        ("p-1", to_ms(night(8))),
        ("r-1", to_ms(night(0))),
    ]


async def test_the_past_expires_for_all_kinds_with_each_publication(published: MemoryConnection, build: Any) -> None:
    history: History = {(PATTERN, "p-1"): {0: 1}, (REGIME, "r-1"): {0: 1, 1: 2}}
    await send(published, build, history, newest=3)
    assert await published.semantic.horizon(LINE) is None
    history[PATTERN, "p-1"][5] = 2
    report = await send(published, build, history, (PATTERN,), since=5, newest=5)
    assert (report.expired, await published.semantic.horizon(LINE)) == (1, night(1))
    (regime,) = await published.semantic.current(REGIME)
    assert regime.valid_from == night(1)


async def test_publishing_from_within_the_expired_past_is_refused(published: MemoryConnection, build: Any) -> None:
    history: History = {(PATTERN, "p-1"): {0: 1, 2: 2}}
    await send(published, build, history)
    with pytest.raises(InvalidRecordError, match="since=None"):
        await send(published, build, history, since=1)
    with pytest.raises(InvalidRecordError, match="since=None"):
        await published.semantic.publish([], line=LINE, kinds=(PATTERN,), token=1, valid_from=night(1))


async def test_the_last_of_several_changes_at_one_time_counts(published: MemoryConnection, build: Any) -> None:
    same = [
        SemanticVersion(PATTERN, "p-1", night(0), build["pattern"]("p-1", support=1)),
        SemanticVersion(PATTERN, "p-1", night(0), build["pattern"]("p-1", support=2)),
        SemanticVersion(PATTERN, "p-1", night(1), None),
        SemanticVersion(PATTERN, "p-1", night(1), build["pattern"]("p-1", support=2)),
    ]
    await published.semantic.publish_versions(same, line=LINE, kinds=BOTH, token=1, since=None, horizon=None)
    versions = await published.semantic.versions("p-1")
    assert [(item.valid_from, item.valid_to, item.support) for item in versions] == [(night(0), None, 2)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("order", "field"),
    [([("p-1", 1), ("p-1", 0)], "valid_from"), ([("p-1", 0), ("p-2", 0), ("p-1", 1)], "memory_id")],
)
async def test_changes_out_of_order_are_refused_and_leave_nothing(
    published: MemoryConnection, build: Any, order: list[tuple[str, int]], field: str
) -> None:
    await send(published, build, {(PATTERN, "p-1"): {0: 1}})
    before = await everything(published)
    wrong = [SemanticVersion(PATTERN, name, night(at), build["pattern"](name, seed=9 + at)) for name, at in order]
    with pytest.raises(InvalidRecordError) as caught:
        await published.semantic.publish_versions(wrong, line=LINE, kinds=BOTH, token=1, since=None, horizon=None)
    assert caught.value.field == field
    assert await everything(published) == before


async def test_an_id_that_a_memory_had_before_leads_to_it(published: MemoryConnection, build: Any) -> None:
    await published.semantic.publish_versions(
        changes(build, {(PATTERN, "p-1"): {0: 1}}),
        line=LINE,
        kinds=BOTH,
        token=1,
        since=None,
        horizon=None,
        aliases={"p-0": "p-1"},
    )
    found = await published.semantic.get("p-0")
    assert found is not None
    assert found.memory_id == "p-1"
    assert await published.semantic.get("p-9") is None
    assert await published.semantic.aliases(LINE) == {"p-0": "p-1"}
    await send(published, build, {(PATTERN, "p-1"): {0: 1, 1: 2}}, since=1)
    assert await published.semantic.aliases(LINE) == {"p-0": "p-1"}


# --- damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["document", "field", "manifest", "stamp", "orphan"])
async def test_publishing_everything_mends_what_was_damaged(
    published: MemoryConnection, build: Any, damage: str
) -> None:
    history: History = {(PATTERN, "p-1"): {0: 1, 7: 2}, (PATTERN, "p-2"): {1: 1}}
    await send(published, build, history)
    before = await everything(published)
    link, keys = published.link, published.keys
    names = [document_key(keys, key, LINE) async for key, _ in published.semantic.contents(LINE)]
    if damage == "document":
        await link.execute("DEL", names[0])
    elif damage == "field":
        await link.execute("HSET", names[0], "valid_to", 5)
    elif damage == "manifest":
        await link.execute("HDEL", keys.semantic_manifest(LINE), f"PATTERN:p-1:{to_ms(night(0))}")
    elif damage == "stamp":
        await link.execute("DEL", keys.semantic_stamp(LINE))
    else:
        await link.execute("COPY", names[0], keys.semantic(PATTERN, "p-9", 5, LINE))
    assert await everything(published) != before
    await send(published, build, history)
    assert await everything(published) == before


async def test_what_a_killed_publication_left_is_removed_by_the_next(
    published: MemoryConnection, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    history: History = {(PATTERN, f"p-{number}"): {0: 1} for number in range(3)}
    await send(published, build, history)
    before = await everything(published)
    names = await published.link.execute("KEYS", f"{published.namespace}:*")

    async def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memory.store.publishing.Publisher._step", killed)
    changed: History = {(PATTERN, f"p-{number}"): {0: 1, 5: 2} for number in range(3)}
    with pytest.raises(KeyboardInterrupt):
        await send(published, build, changed, since=5)
    monkeypatch.undo()
    assert await everything(published) == before
    assert len(await published.link.execute("KEYS", f"{published.namespace}:*")) > len(names)
    await send(published, build, history, since=9)
    assert await everything(published) == before
    assert sorted(await published.link.execute("KEYS", f"{published.namespace}:*")) == sorted(names)


async def test_a_publication_whose_documents_were_lost_before_the_step_changes_nothing(
    published: MemoryConnection, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    history: History = {(PATTERN, f"p-{number}"): {0: 1} for number in range(3)}
    await send(published, build, history)
    before = await everything(published)
    step = Publisher._step

    async def lost(self: Any, line: str, token: int, held: Any, plan: Any, staging: Any) -> Any:
        (name, *_) = await published.link.execute("KEYS", f"{staging.list_key}:*")
        await published.link.pipeline([("DEL", name), ("SREM", staging.list_key, name)])
        return await step(self, line, token, held, plan, staging)

    monkeypatch.setattr(Publisher, "_step", lost)
    changed: History = {(PATTERN, f"p-{number}"): {0: 1, 5: 2} for number in range(3)}
    with pytest.raises(StoreUnavailableError, match="Publish again"):
        await send(published, build, changed, since=5)
    monkeypatch.undo()
    assert await everything(published) == before
    assert (await send(published, build, changed, since=5)).added == 3


async def test_what_expired_when_a_publication_was_killed_is_removed_by_the_next(
    published: MemoryConnection, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    history: History = {(PATTERN, f"p-{number}"): {0: 1, 1: 2} for number in range(3)}
    await send(published, build, history, newest=2)

    async def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memory.store.publishing.remove_leftovers", killed)
    with pytest.raises(KeyboardInterrupt):
        await send(published, build, history, since=9)
    monkeypatch.undo()
    assert await published.semantic.horizon(LINE) == night(1)
    assert len(await published.semantic.orphans(LINE)) == 3
    assert {item.support for item in await published.semantic.as_of(night(1))} == {2}  # type: ignore[union-attr]
    report = await send(published, build, history, since=9)
    assert (report.expired, report.unchanged) == (0, 3)
    assert await published.semantic.orphans(LINE) == []
    assert await published.link.execute("EXISTS", published.keys.semantic_staged(LINE)) == 0


async def test_two_tasks_of_one_run_that_publish_at_once_leave_one_whole_publication(
    published: MemoryConnection, build: Any
) -> None:
    await send(published, build, {(PATTERN, "p-1"): {0: 1}})
    one: History = {(PATTERN, f"p-{number}"): {0: 2} for number in range(30)}
    other: History = {(PATTERN, f"p-{number}"): {0: 1, 3: 2} for number in range(20)}
    results = await asyncio.gather(send(published, build, one), send(published, build, other), return_exceptions=True)
    held = [(key, fields) async for key, fields in published.semantic.contents(LINE)]
    last = {
        result.stamp: list(expected_contents(changes(build, history), LINE, night(9 - RETENTION)))
        for result, history in zip(results, (one, other), strict=True)
        if not isinstance(result, BaseException)
    }
    stamp = await published.semantic.stamp(LINE)
    assert stamp in last
    assert held == last[stamp]
    assert await published.semantic.orphans(LINE) == []


async def test_a_publication_that_a_killed_server_lost_is_seen_by_the_stamp_and_made_again(
    own_redis: Any, build: Any
) -> None:
    log = own_redis.socket.parent / "appendonlydir"
    async with memory.connect(redis_url=own_redis.url) as mem:
        await mem.fence.raise_to(1)
        await send(mem, build, {(PATTERN, "p-1"): {0: 1}})
        kept = {path: path.stat().st_size for path in log.iterdir()}
        history: History = {(PATTERN, "p-1"): {0: 1, 2: 2}, (PATTERN, "p-2"): {2: 1}}
        report = await send(mem, build, history, since=2)
        whole = await everything(mem)
        own_redis.kill()
        for path, size in kept.items():  # What had not reached the disk when the server died.
            with path.open("r+b") as file:
                file.truncate(size)
        own_redis.start()
        assert await mem.semantic.stamp(LINE) != report.stamp
        assert (await send(mem, build, history)).stamp == report.stamp
        assert await everything(mem) == whole


# --- the fence -----------------------------------------------------------------------------------------------


async def test_an_overtaken_run_writes_nothing_not_even_an_index(mem: MemoryConnection, build: Any) -> None:
    await mem.fence.raise_to(2)
    with pytest.raises(FencedOutError, match=r"token 1.*token 2"):
        await send(mem, build, {(PATTERN, "p-1"): {0: 1}})
    assert await mem.link.execute("KEYS", f"{mem.namespace}:*") == [mem.keys.fence.encode()]
    indexes = [name for name in await mem.link.execute("FT._LIST") if name.startswith(f"{mem.namespace}:".encode())]
    assert indexes == []


async def test_a_run_that_is_overtaken_while_it_publishes_changes_nothing(
    servers: Any, published: MemoryConnection, build: Any
) -> None:
    await send(published, build, {(PATTERN, "p-1"): {0: 1}})
    before = await everything(published)
    many: History = {(PATTERN, f"p-{number}"): {0: 2} for number in range(150)}

    def stream() -> Iterator[SemanticVersion]:
        for number, version in enumerate(changes(build, many)):
            if number == 120:  # 100 documents are written by then.
                with redis.Redis.from_url(servers.redis_url) as newer:
                    newer.set(published.keys.fence, 2)
            yield version

    with pytest.raises(FencedOutError):
        await published.semantic.publish_versions(
            stream(), line=LINE, kinds=BOTH, token=1, since=None, horizon=night(9 - RETENTION)
        )
    assert await everything(published) == before
    staged = f"{published.keys.semantic_staged(LINE)}*"
    assert len(await published.link.execute("KEYS", staged)) == 101
    await published.semantic.publish_versions(
        [], line=LINE, kinds=(REGIME,), token=2, since=night(9), horizon=night(9 - RETENTION)
    )
    assert await everything(published) == before
    assert await published.link.execute("KEYS", staged) == []
