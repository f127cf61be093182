"""What lies in Redis leaves it as it was at one time, and comes back under another name, ready to be used."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memory
from memory import MemoryConnection
from memory.backup.capture import Capture, server_ms
from memory.backup.comparing import compare_answers, compare_redis
from memory.backup.dropping import drop_marked, held_in, keys_held
from memory.backup.filling import build_indexes, end_restore, fill_redis
from memory.backup.keyspace import Section
from memory.backup.manifest import Manifest
from memory.backup.rows import read_rows
from memory.backup.writing import PART_ROWS
from memory.errors import FencedOutError, RestoreUnfinishedError, SnapshotError
from memory.ledger import Archive, FencingToken, Ledger
from memory.messages import AgentMemoryMessage
from memory.records import SemanticType
from memory.store.unfinished import DRILL, PLACE, SNAPSHOT, RestoreMark, restoring

Take = Callable[..., Awaitable[tuple[Path, Manifest]]]
TOKEN = 9


@dataclass
class Target:
    """A namespace that snapshots are restored into."""

    url: str
    namespace: str = field(default_factory=lambda: f"t-{uuid.uuid4().hex[:12]}")

    def connect(self) -> MemoryConnection:
        return memory.connect(redis_url=self.url, namespace=self.namespace)

    async def restore(self, path: Path, manifest: Manifest, *, end: bool = True) -> dict[str, int]:
        """All steps of a restore that have to do with Redis."""
        with restoring(self.namespace):
            async with self.connect() as mem:
                await mem.fence.raise_to(TOKEN)
                mark = RestoreMark(mem.link, mem.keys, mem.fence, TOKEN)
                await mark.begin({SNAPSHOT: manifest.seal, PLACE: str(path)})
                counts = await fill_redis(mem, TOKEN, path, manifest)
                await build_indexes(mem, TOKEN)
                if end:
                    await end_restore(mem, TOKEN)
        return counts

    async def differences(self, path: Path, manifest: Manifest) -> list[str]:
        """What differs from a snapshot."""
        with restoring(self.namespace):
            async with self.connect() as mem:
                return await compare_redis(mem, path, manifest, await server_ms(mem.link))


@dataclass(frozen=True)
class Untouched:
    """A memory and its restored copy, both open; tests change neither."""

    mem: MemoryConnection
    copy: MemoryConnection
    target: Target
    path: Path
    manifest: Manifest


@pytest.fixture
def target(servers: Any) -> Target:
    return Target(servers.redis_url)


@pytest.fixture(scope="module")
def once(
    servers: Any, everything: Any, take: Take, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Target, Path, Manifest]:
    """A memory, and where it was restored from which snapshot: for tests that leave the copy as it is."""
    namespace, target = f"t-{uuid.uuid4().hex[:12]}", Target(servers.redis_url)

    async def make() -> tuple[Path, Manifest]:
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            await everything(mem)
            path, manifest = await take(mem, tmp_path_factory.mktemp("snapshot"))
        await target.restore(path, manifest)
        return path, manifest

    return namespace, target, *asyncio.run(make())


@pytest.fixture
async def untouched(once: Any, servers: Any) -> AsyncIterator[Untouched]:
    """What was restored once, and what it is a copy of."""
    namespace, target, path, manifest = once
    async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem, target.connect() as copy:
        yield Untouched(mem, copy, target, path, manifest)


@pytest.fixture
async def restored(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path
) -> AsyncIterator[tuple[MemoryConnection, Path, Manifest]]:
    """A restored copy of a memory with something of every kind, and the snapshot that it comes from."""
    await everything(mem)
    path, manifest = await take(mem, tmp_path)
    await target.restore(path, manifest)
    async with target.connect() as copy:
        yield copy, path, manifest


async def test_every_key_is_as_it_was(untouched: Untouched) -> None:
    path, manifest = untouched.path, untouched.manifest
    assert set(manifest.rows("redis")) == set(Section) - {Section.OTHER}
    assert await untouched.target.differences(path, manifest) == []
    assert await untouched.copy.semantic.digest() == manifest.semantic_digest


async def test_searches_find_what_the_files_hold(untouched: Untouched) -> None:
    copy = untouched.copy
    sample = await compare_answers(copy, untouched.path, untouched.manifest, await server_ms(copy.link))
    assert (sample.questions, sample.differences) == (8, ())


async def test_a_memory_that_lacks_a_key_or_holds_another_is_told_from_the_snapshot(
    restored: Any, target: Target
) -> None:
    copy, path, manifest = restored
    (key, *_) = await copy.link.execute("KEYS", f"{target.namespace}:episodic:*")
    await copy.link.execute("HSET", key, "reward", "9")
    await copy.link.execute("DEL", *await copy.link.execute("KEYS", f"{target.namespace}:access:*"))
    found = await target.differences(path, manifest)
    assert [item.partition(":")[0] for item in found] == ["access", "episodic"]
    assert "other content" in found[1]
    # The record that was changed is found by its vector as ever: only keys tell.
    sample = await compare_answers(copy, path, manifest, await server_ms(copy.link))
    assert sample.differences == ()


async def test_a_missing_neighbour_is_told_by_the_sample_of_searches(restored: Any, target: Target) -> None:
    copy, path, manifest = restored
    for key in await copy.link.execute("KEYS", f"{target.namespace}:episodic:hold:*"):
        await copy.link.execute("DEL", key)
    sample = await compare_answers(copy, path, manifest, await server_ms(copy.link))
    assert sample.differences
    assert all("hold" in item for item in sample.differences)


@pytest.mark.parametrize("expired", [False, True])
async def test_the_sample_of_searches_leaves_out_what_expires_meanwhile(
    restored: Any, target: Target, expired: bool
) -> None:
    copy, path, manifest = restored
    read = [row for name in manifest.paths("redis", "episodic") for rows in read_rows(path / name) for row in rows]
    going = [row for row in read if row.expires_ms is not None]
    for row in going if expired else ():
        await copy.link.execute("DEL", f"{target.namespace}:".encode() + row.key)
    sample = await compare_answers(copy, path, manifest, min(row.expires_ms or 0 for row in going) - 1)
    assert (sample.questions, sample.differences) == (8, ())


async def test_what_was_recorded_before_is_a_duplicate_and_new_records_are_found(
    restored: Any, everything: Any
) -> None:
    copy, _, _ = restored
    records = await copy.episodic.count()
    await everything.__globals__["replay_again"](copy)
    assert await copy.episodic.count() == records


async def test_the_drain_goes_on_where_it_was(restored: Any) -> None:
    copy, _, _ = restored
    entries = await copy.inbox.read("drain-2", idle=timedelta(0))
    # Of five one was acknowledged and one refused; two were in the hands of a drain that is gone, one was not read.
    assert [entry.deliveries for entry in entries] == [2, 2, 1]
    assert await copy.inbox.acknowledge(entries) == 3
    assert await copy.dead_letters.count() == 1


async def test_readers_of_messages_go_on_where_they_were_and_none_is_sent_twice(
    restored: Any, mem: MemoryConnection
) -> None:
    copy, _, _ = restored
    (sent,) = [item async for item in _one(mem)]
    assert await copy.messages.send(sent) == sent.message_id
    await copy.messages.send(
        AgentMemoryMessage(sender_agent_id="momentum", message_type="WARNING", insight="warning 4")
    )
    async with copy.messages.read("hold", wait=False) as reader:
        heard = [message.insight async for message in reader]
    assert heard[0] in ("warning 1", "warning 2")
    assert heard[-2:] == ["warning 3", "warning 4"]
    assert reader.report().missed == {}


async def _one(mem: MemoryConnection) -> AsyncIterator[AgentMemoryMessage]:
    async with mem.messages.read("another", wait=False) as reader:
        yield await anext(reader)


async def test_knowledge_is_read_by_its_line_under_the_new_name_as_of_any_time(untouched: Untouched) -> None:
    mem, copy, target = untouched.mem, untouched.copy, untouched.target
    assert await copy.semantic.current_line() == f"{target.namespace}/rff-1/1"
    then = datetime(2021, 6, 17, 12, tzinfo=UTC)
    for as_of in (None, then):
        read = [sorted((item.memory_id, item.description) for item in await _known(one, as_of)) for one in (mem, copy)]
        assert read[0] == read[1] != []
    assert {item.line for item in await copy.semantic.current(SemanticType.PATTERN)} == {f"{target.namespace}/rff-1/1"}


async def _known(mem: MemoryConnection, as_of: datetime | None) -> list[Any]:
    return list(await (mem.semantic.current() if as_of is None else mem.semantic.as_of(as_of)))


async def test_a_trace_names_the_line_of_its_namespace(untouched: Untouched) -> None:
    mem, copy, target = untouched.mem, untouched.copy, untouched.target
    assert untouched.manifest.rows("redis")["decisions"] == 4
    keys = await mem.link.execute("KEYS", f"{mem.namespace}:decision:*")
    decision = keys[0].decode().rpartition(":")[2]
    old, new = await mem.decisions.get(decision), await copy.decisions.get(decision)
    assert old is not None
    assert new is not None
    assert new.line == f"{target.namespace}/rff-1/1"
    assert (new.features, new.timestamp) == (old.features, old.timestamp)


async def test_times_to_live_go_on(untouched: Untouched) -> None:
    path, manifest = untouched.path, untouched.manifest
    lasting = [row for name in manifest.paths("redis", "episodic") for rows in read_rows(path / name) for row in rows]
    (expiring, *_) = [row for row in lasting if row.expires_ms is not None]
    for namespace in (untouched.mem.namespace, untouched.copy.namespace):
        name = f"{namespace}:".encode() + expiring.key
        assert await untouched.copy.link.execute("PEXPIRETIME", name) == expiring.expires_ms


async def test_keys_that_have_expired_since_are_left_out(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await everything(mem)
    path, manifest = await take(mem, tmp_path)
    read = [row for name in manifest.paths("redis", "episodic") for rows in read_rows(path / name) for row in rows]
    end_ms = max(row.expires_ms or 0 for row in read)

    async def later(link: Any) -> int:
        return end_ms + 1

    monkeypatch.setattr("memory.backup.filling.server_ms", later)
    counts = await target.restore(path, manifest)
    assert counts["expired"] >= sum(row.expires_ms is not None for row in read) > 0
    async with target.connect() as copy:
        assert await copy.episodic.count() == sum(row.expires_ms is None for row in read)
        assert await compare_redis(copy, path, manifest, end_ms) == []
        assert await compare_redis(copy, path, manifest, manifest.cut_ms) != []


# --- the cut -------------------------------------------------------------------------------------------------


async def test_what_is_recorded_after_the_cut_is_not_in_it(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path
) -> None:
    await everything(mem)
    before = await keys_held(mem.link, mem.keys)
    lengths = await mem.inbox.length()
    cut_ms = await server_ms(mem.link)
    while await server_ms(mem.link) <= cut_ms:
        pass
    await everything.__globals__["later_on"](mem)
    path, manifest = await take(mem, tmp_path, cut_ms=cut_ms)
    await target.restore(path, manifest)
    async with target.connect() as copy:
        assert await keys_held(copy.link, copy.keys) == before
        assert await copy.inbox.length() == lengths
        assert await copy.dead_letters.count() == 1
        (stream,) = await copy.messages.streams()
        assert stream.length == 4


async def test_agents_record_while_a_snapshot_is_taken_and_nothing_in_it_is_torn(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path
) -> None:
    await everything(mem)
    recorded: list[tuple[int, str]] = []
    stop = asyncio.Event()

    async def record() -> None:
        minute = 1000
        while not stop.is_set():
            made = everything.__globals__["records"].experience(minute)
            await mem.episodic.add(made)
            recorded.append((await server_ms(mem.link), made.memory_id))
            minute += 1

    recording = asyncio.create_task(record())
    await asyncio.sleep(0.05)
    path, manifest = await take(mem, tmp_path)
    stop.set()
    await recording
    await target.restore(path, manifest)
    async with target.connect() as copy:
        held = {key.decode().rpartition(":")[2] for key in await copy.link.execute("KEYS", f"{copy.namespace}:epi*")}
    confirmed_before = {name for when, name in recorded if when <= manifest.cut_ms}
    begun_after = {
        name for number, (_, name) in enumerate(recorded) if number and recorded[number - 1][0] > manifest.cut_ms
    }
    assert confirmed_before <= held
    assert not begun_after & held
    assert begun_after


async def test_names_that_a_scan_gives_twice_are_read_once(
    mem: MemoryConnection, everything: Any, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await everything(mem)
    _, once = await take(mem, tmp_path / "once")
    scan = Capture._scan

    async def twice(self: Capture, pattern: str, cursor: str) -> Any:
        following, names = await scan(self, pattern, cursor)
        return following, [*names, *names]

    monkeypatch.setattr(Capture, "_scan", twice)
    _, again = await take(mem, tmp_path / "twice")
    assert again.rows("redis") == once.rows("redis")


async def test_a_large_section_is_cut_into_files_and_read_as_one(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PART_ROWS > 1000
    monkeypatch.setattr("memory.backup.writing.PART_ROWS", 5)
    monkeypatch.setattr("memory.backup.capture.SCAN_COUNT", 40)
    await everything(mem)
    path, manifest = await take(mem, tmp_path)
    assert len(manifest.paths("redis", "episodic")) > 2
    await target.restore(path, manifest)
    assert await target.differences(path, manifest) == []


async def test_an_entry_that_was_trimmed_while_it_was_in_hand_is_in_nobodys_hand_afterwards(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path
) -> None:
    await everything(mem)
    (stream,) = await mem.link.execute("KEYS", f"{mem.namespace}:inbox:*")
    assert (await mem.link.execute("XINFO", "GROUPS", stream))[0][b"pending"] == 2
    await mem.link.execute("XTRIM", stream, "MAXLEN", 1)
    path, manifest = await take(mem, tmp_path)
    await target.restore(path, manifest)
    assert await target.differences(path, manifest) == []
    async with target.connect() as copy:
        assert [entry.deliveries for entry in await copy.inbox.read("drain-2", idle=timedelta(0))] == [1]


async def test_a_mailbox_and_its_leases_are_of_one_moment_wherever_the_scan_finds_them(
    mem: MemoryConnection, everything: Any, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await everything(mem)
    scan = Capture._scan

    async def apart(self: Capture, pattern: str, cursor: str) -> Any:
        if pattern != "mailbox*":
            return await scan(self, pattern, cursor)
        if cursor == "0":
            return "1", [b"mailbox_leases:" + own]
        await mem.link.execute("DEL", f"{mem.namespace}:mailbox:".encode() + own)
        return "0", [b"mailbox:" + own]

    (lease,) = await mem.link.execute("KEYS", f"{mem.namespace}:mailbox_leases:*")
    own = lease.partition(b":mailbox_leases:")[2]
    monkeypatch.setattr(Capture, "_scan", apart)
    path, manifest = await take(mem, tmp_path)
    rows = [row for name in manifest.paths("redis", "mailboxes") for some in read_rows(path / name) for row in some]
    assert sorted(row.key for row in rows) == [b"mailbox:" + own, b"mailbox_leases:" + own]


# --- half-restored namespaces --------------------------------------------------------------------------------


async def test_a_half_restored_memory_cannot_be_opened_and_says_how_to_complete_it(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path
) -> None:
    await everything(mem)
    path, manifest = await take(mem, tmp_path)
    await target.restore(path, manifest, end=False)
    with pytest.raises(RestoreUnfinishedError, match=f"coinswarm restore {path} --namespace {target.namespace}"):
        await target.connect().open()
    await target.restore(path, manifest)
    async with target.connect() as copy:
        assert await copy.episodic.count()


async def test_what_is_written_twice_is_there_once(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path
) -> None:
    await everything(mem)
    path, manifest = await take(mem, tmp_path)
    await target.restore(path, manifest, end=False)
    with restoring(target.namespace):
        async with target.connect() as half:
            mark = await RestoreMark(half.link, half.keys, half.fence, TOKEN).read()
            done = [name for name in mark if name.startswith("done:")]
            assert len(done) == len(manifest.paths("redis"))
            await half.link.execute("HDEL", half.keys.restoring, *done)
    await target.restore(path, manifest, end=False)
    assert await target.differences(path, manifest) == []


async def test_a_restore_that_was_overtaken_writes_nothing_more(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, tmp_path: Path
) -> None:
    await everything(mem)
    path, manifest = await take(mem, tmp_path)
    async with target.connect() as other:
        await other.fence.raise_to(TOKEN + 1)
        with pytest.raises(FencedOutError):
            await fill_redis(other, TOKEN, path, manifest)
        assert await keys_held(other.link, other.keys) == {}


async def test_a_marked_namespace_is_dropped_wholly_and_no_other(
    mem: MemoryConnection, everything: Any, take: Take, target: Target, ledger: Ledger, tmp_path: Path
) -> None:
    await everything(mem)
    path, manifest = await take(mem, tmp_path)
    await target.restore(path, manifest)
    archive, policies = Archive(f"file://{tmp_path}/archive"), tmp_path / "policies"
    run_id = ledger.runs.start("restore_drill", target.namespace, {}, lease_s=60)
    ledger.fence.advance_past(TOKEN)
    right = ledger.fence.acquire(target.namespace, run_id, flow="restore_drill", lease_s=60)
    async with target.connect() as copy:
        await copy.fence.raise_to(right.value)

        async def drop(token: FencingToken) -> int:
            return await drop_marked(copy, ledger=ledger, archive=archive, policies=policies, token=token, whole=True)

        with pytest.raises(SnapshotError, match="is no drill's"):
            await drop(right)
        await RestoreMark(copy.link, copy.keys, copy.fence, right.value).begin({PLACE: "x", DRILL: "1"})
        assert await held_in(copy, ledger, archive, policies)
        dropped = await drop(right)
        assert dropped > 0
        assert await held_in(copy, ledger, archive, policies) == []
        assert await copy.link.execute("KEYS", f"{target.namespace}:*") == []
        assert [name for name in await copy.link.execute("FT._LIST") if target.namespace.encode() in name] == []
        assert ledger.fence.holder(target.namespace) is None
        assert ledger.runs.list(target.namespace) == []
    assert await keys_held(mem.link, mem.keys)
