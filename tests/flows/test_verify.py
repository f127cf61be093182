"""Redis compared with the ledger: nothing to find when all is well, and each kind of damage by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rich.console

import memory
from deployments import running
from flows.rebuild_memory import Parameters as RebuildParameters
from flows.rebuild_memory import rebuild_memory
from flows.verify_memory import Parameters, verify_memory
from memory.errors import NamespaceBusyError
from memory.ledger import Ledger
from memory.records import SemanticType
from memory.store.keys import Keys
from tasks.verification import verify as compare_all

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]


def verify(namespace: str, **parameters: Any) -> dict[str, Any]:
    return verify_memory(Parameters(namespace=namespace, **parameters))


class Damage:
    """What can be done to a memory behind everybody's back; `line`, `encoder` and `pattern` are what it is done to."""

    def __init__(self, namespace: str, servers: Any) -> None:
        self.keys = Keys(namespace)
        self.servers = servers
        self.document = self.documents(SemanticType.PATTERN)[0]
        _, _, _, self.pattern, self.valid_from, self.line = self.document.split(":", 5)
        self.encoder = self.line.split("/")[1]

    def command(self, *arguments: Any) -> Any:
        async def send() -> Any:
            async with memory.connect(redis_url=self.servers.redis_url, namespace=self.keys.namespace) as mem:
                return await mem.link.execute(*arguments)

        return asyncio.run(send())

    def documents(self, kind: SemanticType) -> list[str]:
        return sorted(key.decode() for key in self.command("KEYS", f"{self.keys.semantic_prefix}{kind.value}:*"))


DAMAGES: dict[str, tuple[Callable[[Damage], Any], dict[str, str]]] = {
    "a document that is gone": (
        lambda d: d.command("DEL", d.document),
        {"part": "document", "what": "missing", "kind": "PATTERN"},
    ),
    "a field that was changed": (
        lambda d: d.command("HSET", d.document, "body", b"\x80"),
        {"part": "document", "what": "other", "field": "body"},
    ),
    "a vector that was changed": (
        lambda d: d.command("HSET", d.document, f"concept_vector:{d.encoder}", b"\x00" * 1024),
        {"part": "document", "what": "other", "field": "concept_vector"},
    ),
    "an entry of the list that is gone": (
        lambda d: d.command("HDEL", d.keys.semantic_manifest(d.line), f"PATTERN:{d.pattern}:{d.valid_from}"),
        {"part": "list", "what": "missing"},
    ),
    "a document that nobody lists": (
        lambda d: d.command("COPY", d.document, d.document.replace(d.pattern, "p-stranger")),
        {"part": "document", "what": "extra", "memory_id": "p-stranger"},
    ),
    "a stamp": (
        lambda d: d.command("SET", d.keys.semantic_stamp(d.line), "0" * 32),
        {"part": "stamp", "what": "other"},
    ),
    "the line that is read": (
        lambda d: d.command("HDEL", d.keys.current_line, d.encoder),
        {"part": "current line", "what": "missing"},
    ),
    "an encoder": (
        lambda d: d.command("DEL", d.keys.encoder(d.encoder)),
        {"part": "encoder", "what": "missing"},
    ),
    "the current encoder": (
        lambda d: d.command("DEL", d.keys.current_encoder),
        {"part": "current encoder", "what": "missing"},
    ),
    "an alias": (
        lambda d: d.command("HSET", d.keys.memory_aliases(d.line), "p-old", d.pattern),
        {"part": "aliases", "what": "extra", "memory_id": "p-old"},
    ),
    "a line that the ledger does not know": (
        lambda d: d.command("COPY", d.keys.semantic_manifest(d.line), d.keys.semantic_manifest(f"{d.line}9")),
        {"part": "line", "what": "extra"},
    ),
}


@pytest.fixture
def intact(small_world: Any) -> Iterator[str]:
    """The small world, which is rebuilt after a test."""
    yield small_world.namespace
    rebuild_memory(RebuildParameters(namespace=small_world.namespace))


def test_nothing_differs_after_undisturbed_nights_and_nothing_is_written(small_world: Any, servers: Any) -> None:
    before = small_world.digests()
    found = verify(small_world.namespace, digest=True)
    assert (found["status"], found["differences"]) == ("same", 0)
    assert found["checked"]["documents"] > 0
    assert found["checked"]["archives"] == 2
    assert (found["ledger_digest"], found["redis_digest"]) == before == small_world.digests()


def test_each_damage_is_named_and_undone_by_rebuilding(intact: str, small_world: Any, servers: Any) -> None:
    before = small_world.digests()
    for name, (damage, expected) in DAMAGES.items():
        damage(Damage(intact, servers))
        found = compare_all.fn(intact, digest=True, as_of=None, into=None, limit=50)
        assert running.differs(found), name
        assert any(
            all(value in difference.get(key, "") for key, value in expected.items()) for difference in found["listed"]
        ), (name, found["listed"])
    shown = rich.console.Console(width=200, force_terminal=False)
    with shown.capture() as captured:
        running.show_flow_result(found, shown)
    assert "line extra" in captured.get()
    rebuilt = rebuild_memory(RebuildParameters(namespace=intact))
    assert not running.differs(rebuilt)
    assert small_world.digests() == before
    assert verify(intact)["status"] == "same"


def test_an_archive_that_was_damaged_is_named_with_its_window(small_world: Any) -> None:
    path = sorted((small_world.home / "archive").rglob("states-*.parquet"))[0]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert verify(small_world.namespace)["status"] == "same"
        (difference,) = verify(small_world.namespace, digest=True)["listed"]
        path.unlink()
        (gone,) = verify(small_world.namespace)["listed"]
    finally:
        path.write_bytes(content)
    assert (difference["part"], difference["what"]) == (gone["part"], gone["what"]) == ("archive", "lost")
    assert difference["window"] == gone["window"] == small_world.days[0].isoformat()


def test_what_runs_that_died_left_is_told_with_its_remedy_and_is_no_difference(small_world: Any, servers: Any) -> None:
    damage = Damage(small_world.namespace, servers)
    assert verify(small_world.namespace)["leftovers"] == []
    staged = f"{damage.keys.semantic_staged(damage.line)}:=mark:PATTERN:p-9:0"
    orphan = small_world.home / "archive" / small_world.namespace / "2021-06-17" / ".states-0123.tmp"
    damage.command("HSET", staged, "body", b"1")
    damage.command("SADD", damage.keys.semantic_staged(damage.line), "=mark", staged)
    orphan.write_bytes(b"half")
    try:
        found = verify(small_world.namespace)
    finally:
        damage.command("DEL", staged, damage.keys.semantic_staged(damage.line))
        orphan.unlink()
    assert (found["status"], found["differences"]) == ("same", 0)
    told = {item["what"]: item for item in found["leftovers"]}
    assert told.keys() == {"staged documents", "unknown files"}
    assert (told["staged documents"]["number"], told["staged documents"]["where"]) == (1, damage.line)
    assert (told["unknown files"]["number"], told["unknown files"]["bytes"]) == (1, 4)
    assert "no harm" in told["unknown files"]["remedy"]
    shown = rich.console.Console(width=200, force_terminal=False)
    with shown.capture() as captured:
        running.show_flow_result(found, shown)
    assert "left behind  1 files in the archive that the ledger knows nothing of" in captured.get()


def test_nothing_is_compared_while_a_run_writes(small_world: Any, servers: Any) -> None:
    with Ledger.open(servers.database_url) as ledger:
        run_id = ledger.runs.start("consolidate_memories", small_world.namespace, {}, lease_s=60)
        token = ledger.fence.acquire(small_world.namespace, run_id, flow="consolidate_memories", lease_s=60)
        try:
            with pytest.raises(NamespaceBusyError, match=run_id):
                verify(small_world.namespace)
        finally:
            ledger.fence.release(token)
            ledger.runs.fail(run_id, "a test")
